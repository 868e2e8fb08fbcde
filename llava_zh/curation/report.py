"""What a curation did, to read and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llava_zh.gates.counts import counted
from llava_zh.gates.html_tables import html_table

#: Why a row is dropped, in the order of the checks.
REASONS: dict[str, str] = {
    "turns": "turns do not alternate human, gpt",
    "empty": "a gpt turn without text",
    "paragraphs": "several paragraphs where one is asked",
    "leak": "the answer betrays its prompt",
    "refusal": "the model refuses to answer",
    "reasoning": "a block of reasoning is left in the answer",
    "special_tokens": "special tokens of a model are left in the answer",
    "control_characters": "characters that steer a terminal, or stand for lost bytes, are in the answer",
    "language": "the wrong language",
    "repetition": "a loop, or much of it repeats",
    "length": "a length outlier",
    "duplicate": "the same text as an earlier row",
    "near_duplicate": "nearly the text of an earlier row",
}
_EXAMPLES = 3
_EXCERPT = 200
PAIR_EXCERPT = 400


@dataclass
class CurationReport:
    """Figures of one curation.

    Attributes:
        rows, kept, dropped: Numbers of rows; a row is dropped once, for one reason or several.
        reasons: For each key of :data:`REASONS`, the rows that have it (`count`) and the first three of them
            (`examples`: row, id, image, detail and the beginning of the text).
        lengths: For each language (and llava task), the characters of the gpt turns a row: `min`, `p1`, `p50`, `p99`
            and `max` over all rows and over the kept, the `bounds` that applied (`None`: open), and a `histogram`
            (`start`, `width` and the numbers of rows a bar, of `all` and of the `kept`; the last bar has all longer).
        pairs: Some duplicates beside the kept rows that they repeat, at most ten of each kind: `reason`, `detail`,
            `dropped` and `kept`, each of these with row, id, image and the beginning of the text.
        advice: What the checks could not do, and how they can, in sentences.
        dry_run: Whether no rows were written.
        dataset, config: What the rows are of, where that is a dataset with a name.
        parameters: What was asked for.
        seconds: Wall time.
    """

    parameters: dict[str, Any]
    rows: int = 0
    kept: int = 0
    dropped: int = 0
    reasons: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {reason: {"count": 0, "examples": []} for reason in REASONS}
    )
    lengths: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    dry_run: bool = False
    dataset: str | None = None
    config: str | None = None
    seconds: float = 0.0

    def drop(self, position: int, row: Mapping[str, Any], defects: list[str], text: Callable[[], str]) -> None:
        """Count a dropped row; `text` gives what its answers say."""
        self.dropped += 1
        for reason, detail in (defect.split(": ", 1) for defect in defects):
            entry = self.reasons[reason]
            entry["count"] += 1
            if len(entry["examples"]) < _EXAMPLES:
                entry["examples"].append({**about(position, row, text(), _EXCERPT), "detail": detail})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_html_(self) -> str:
        """A table for a notebook."""
        return html_table(
            "Curation",
            {
                "rows": self.rows,
                "kept": self.kept,
                "dropped": self.dropped,
                "reasons": {reason: entry["count"] for reason, entry in self.reasons.items() if entry["count"]},
                "seconds": round(self.seconds, 1),
            },
        )

    def __str__(self) -> str:
        share = self.dropped / self.rows if self.rows else 0
        counts = f"{self.kept:,} kept, {self.dropped:,} dropped ({share:.1%})"
        lines = [f"{counted(self.rows, 'rows')}: {counts} in {self.seconds:,.1f} s"]
        if self.dry_run:
            lines[0] += "; a dry run, so no rows were written"
        for reason, entry in self.reasons.items():
            if entry["count"]:
                example = entry["examples"][0]
                lines.append(f"  {entry['count']:>9,}  {reason:<15} {REASONS[reason]}")
                lines.append(f"{'':13}e.g. row {example['row']}: {example['detail']}")
        for group, figures in self.lengths.items():
            for which in ("all", "kept"):
                if figures[which]:
                    spread = "  ".join(f"{name} {value:,}" for name, value in figures[which].items())
                    lines.append(f"  characters, {group}, {which}: {spread}")
        return "\n".join([*lines, *self.advice])


def about(position: int, row: Mapping[str, Any], text: str, length: int) -> dict[str, Any]:
    """What a report tells of one row."""
    return {"row": position, "id": row.get("id"), "image": row.get("image"), "text": text[:length]}


def rows_to_cut(quantiles: tuple[float, float]) -> int:
    """How many rows a group must have for either of the quantiles to leave its shortest or its longest text out."""
    share = max(quantiles[0], 1 - quantiles[1])
    return math.ceil(round(1 / share, 6)) + 1 if share > 0 else 0


def advice_on(groups: Mapping[str, int], lengths: Mapping[str, Any], quantiles: Any) -> list[str]:
    """The sentence on the groups that are too small for their outliers to be found by quantiles."""
    if not groups:
        return []
    named = ", ".join(f"{name} ({counted(rows, 'rows')})" for name, rows in groups.items())
    shortest = min(lengths[name]["all"]["min"] for name in groups)
    longest = max(lengths[name]["all"]["max"] for name in groups)
    languages = dict.fromkeys(name.split()[0] for name in groups)
    options = " ".join(f"{language}=MIN:MAX" for language in languages if language in ("zh", "en")) or "MIN:MAX"
    low, high = quantiles
    return [
        f"No text was too short or too long for the quantiles {low:g} and {high:g}: they leave nothing out of fewer "
        f"than {counted(rows_to_cut(quantiles), 'rows')}, as in {named}. "
        f"The texts have {shortest:,} to {longest:,} characters. To leave some out, give limits: --length {options} "
        "(in Python, length=)."
    ]
