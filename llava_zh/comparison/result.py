"""What a comparison found, to read and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from llava_zh.gates.counts import counted
from llava_zh.gates.html_tables import html_table

#: Words that a reader is shown of each kind; the report has more.
_SHOWN_WORDS = 10
_QUANTILES = {"mean": "mean", "min": "min", "p5": "p5", "p50": "median", "p95": "p95", "max": "max"}
_WHAT = {
    "repetition": "loops, or repeats itself",
    "leak": "betrays the prompt",
    "refusal": "refuses",
    "language": "wrong language",
    "turns": "turns do not alternate",
    "empty": "says nothing",
    "paragraphs": "several paragraphs",
    "reasoning": "reasoning left in",
    "special_tokens": "special tokens",
    "control_characters": "control characters",
}


@dataclass(frozen=True)
class Comparison:
    """Old texts beside new ones.

    Attributes:
        run, other: What was compared: the new rows, and where the old ones are, None for in the same rows.
        rows: Pairs of texts that were compared.
        without_previous: Rows of the run that hold no older text.
        unmatched: With `other`, the rows of each side whose images the other does not have.
        unchanged: `count` and `share` of the pairs whose texts are the same.
        characters: For ``old`` and ``new`` the mean and quantiles of the length of the texts; ``difference``, those of
            new less old, and ``ratio``, those of new to old, pair by pair; ``ratio_of_means``.
        findings: For each reason of curation, how many ``old`` and ``new`` texts have it.
        languages: How many ``old`` and ``new`` texts are written in each language.
        words: Those that most more texts have (``gained``) and most fewer (``lost``), each with the numbers of ``old``
            and ``new`` texts that have it; counts may be too low by ``short_by``, see `comparison.words`.
        samples: Pairs drawn by the seed: id, images, old and new text.
        judge: What a model said, see `comparison.verdicts`; None where none was asked.
        notes: What a reader should know of the rows.
        parameters: What was asked for.
    """

    run: str
    other: str | None
    rows: int
    without_previous: int
    unmatched: dict[str, int]
    unchanged: dict[str, Any]
    characters: dict[str, Any]
    findings: dict[str, dict[str, int]]
    languages: dict[str, dict[str, int]]
    words: dict[str, Any]
    samples: list[dict[str, Any]]
    parameters: dict[str, Any]
    judge: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return asdict(self)

    def table(self) -> list[tuple[str, str, str]]:
        """The measures that both sides have, as rows of a table: what, old, new."""
        old, new = self.characters["old"], self.characters["new"]
        rows = [("", "OLD", "NEW")]
        rows += [(f"characters, {shown}", _number(old[key]), _number(new[key])) for key, shown in _QUANTILES.items()]
        named = [(_WHAT.get(reason, reason), counts) for reason, counts in self.findings.items()]
        named += [(f"written in {language}", counts) for language, counts in self.languages.items()]
        rows += [(what, _share(each["old"], self.rows), _share(each["new"], self.rows)) for what, each in named]
        return rows

    def sentences(self) -> Iterator[str]:
        """What else there is to say, a line each."""
        ratio = self.characters["ratio"]
        if ratio:
            yield (
                f"new to old length: median {ratio['p50']:.2f}, p5 {ratio['p5']:.2f}, p95 {ratio['p95']:.2f}; "
                f"of the means {self.characters['ratio_of_means']:.2f}"
            )
        yield f"unchanged: {_share(self.unchanged['count'], self.rows)}"
        for kind in ("gained", "lost"):
            words = self.words[kind][:_SHOWN_WORDS]
            shown = ", ".join(f"{each['word']} ({each['old']:,} → {each['new']:,})" for each in words)
            yield f"words {kind} (texts that have them): {shown or 'none'}"
        if self.judge is not None:
            yield from _judged(self.judge)
        for note in self.notes:
            yield f"note: {note}"

    @property
    def title(self) -> str:
        what = self.run if self.other is None else f"{self.other} (old), {self.run} (new)"
        return f"{counted(self.rows, 'pairs')} of old and new texts: {what}"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        figures = {what: f"{old} → {new}" for what, old, new in self.table()[1:]}
        figures["unchanged"] = _share(self.unchanged["count"], self.rows)
        if self.judge is not None and self.judge["pairs"]:
            figures["new fits the picture better"] = _interval(self.judge["better"]["new"])
            figures["old fits the picture better"] = _interval(self.judge["better"]["old"])
        return html_table(self.title, figures)

    def __str__(self) -> str:
        rows = self.table()
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        table = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]
        return "\n".join([self.title, *table, *self.sentences()])


def _number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total else "0"


def _judged(judge: dict[str, Any]) -> Iterator[str]:
    yield (
        f"judge {judge['model']}: {judge['pairs']:,} of {counted(judge['asked_for'], 'pairs')} answered in both orders"
        + (f"; answers given up: {_counts(judge['failed'])}" if judge["failed"] else "")
    )
    if judge["failed"]:
        yield f"  {judge['failed_file']} has them; retry_failed=True (--retry-failed) asks again"
    if not judge["pairs"]:
        return
    wins = "; ".join(f"{side} {_interval(judge['better'][side])}" for side in ("new", "old", "tie"))
    yield f"fits the picture better (95 % Wilson intervals): {wins}"
    if judge["better"]["decided"]["of"]:
        yield f"new among the pairs with a winner: {_interval(judge['better']['decided'])}"
    wrong = "; ".join(f"{side} {_interval(judge['not_there'][side])}" for side in ("old", "new"))
    yield f"says something that is not there, in both orders: {wrong}"
    bias = judge["position"]
    yield (
        f"the two orders disagree: {_interval(bias['disagree'])}, counted as ties; the text shown first was chosen in "
        f"{_interval(bias['first'])} of the answers with a choice"
    )


def _interval(rate: dict[str, Any]) -> str:
    if not rate["of"]:
        return "none"
    return f"{rate['rate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
