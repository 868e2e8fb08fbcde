"""Two passes over the rows, in memory that does not grow with their text.

The first looks at each row by itself, spools its line to the output folder's disk and leaves fixed-size facts in
columns. Quantiles and duplicates are found in the columns. The second copies each spooled line to where it belongs.
Memory holds a window of rows, and at most some 60 bytes a row while a column is sorted.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from llava_zh.curation import duplicates
from llava_zh.curation.checks import Checks, Finding
from llava_zh.curation.duplicates import SLOTS, Array, Columns
from llava_zh.curation.kept_file import write_kept
from llava_zh.curation.report import PAIR_EXCERPT, CurationReport, about, rows_to_cut
from llava_zh.curation.source import Row
from llava_zh.curation.spool import Spool
from llava_zh.curation.text import figures
from llava_zh.files import jsonl
from llava_zh.rows import records, said
from llava_zh.rows.records import Place
from llava_zh.storage.durable import explained
from llava_zh.storage.lines import write_lines
from llava_zh.storage.progress import Progress

#: Lowest and highest length; ``None`` is open.
Bounds = tuple[int | None, int | None]
#: Those of all rows, or of each language.
Length = Bounds | Mapping[str, Bounds] | None

#: Pairs of each kind of duplicate that the report shows, and bars of a histogram at most.
PAIRS, BARS = 10, 60

# Rows are sketched in batches of at most so many rows and bytes of lines; windows take 60 times a text's memory.
_BATCH_ROWS = 1024
_BATCH_BYTES = 1 << 20


class Facts:
    """What the first pass leaves: the spool of lines, and facts of each row.

    Attributes:
        spool: The rows.
        threshold: Similarity from which rows are near-duplicates; ``None`` if they are not looked for.
        groups: Names of the groups (language and task) whose lengths are compared.
    """

    def __init__(
        self,
        work: Path,
        checks: Checks,
        threshold: float | None,
        *,
        with_pictures: bool = True,
    ) -> None:
        self.threshold = threshold
        self.columns = Columns(work)
        self.groups: dict[str, int] = {}
        self.spool = Spool(work, with_pictures=with_pictures)
        self._checks = checks
        self._work = work
        self._lengths = array("i")
        self._group = array("H")
        self._sound = array("b")

    def read(self, rows: Iterable[Row]) -> None:
        """The first pass."""
        with Progress("Looking", unit="rows") as progress:
            for batch in _batches(rows):
                findings = [self._checks.look_at(row.fields, row.turns) for row in batch]
                with explained(self._work):
                    self.spool.add(batch, [finding.defects for finding in findings])
                    self._note(findings)
                progress.add(len(batch))
        with explained(self._work):
            self.spool.flush()
            self.columns.flush()

    def _note(self, findings: list[Finding]) -> None:
        for finding in findings:
            group = " ".join(filter(None, (finding.language or "unknown", finding.task)))
            self._group.append(self.groups.setdefault(group, len(self.groups)))
            self._lengths.append(len(finding.text))
            self._sound.append(not finding.defects)
        digests = b"".join(duplicates.text_digest(finding.text) for finding in findings)
        self.columns.append("digest", np.frombuffer(digests, np.uint64))
        if self.threshold is not None:
            bands = duplicates.bands_for(self.threshold)
            told_apart = np.array([figures(finding.text) for finding in findings], np.uint64)
            duplicates.append_sketches(self.columns, [finding.windows for finding in findings], bands, told_apart)

    def said(self, row: Mapping[str, Any]) -> str:
        """What the gpt turns of a published row say, for an excerpt."""
        turns = records.turns_of(Place("row", row=0), row, self._checks.known.columns)
        return said.said((turn["from"], turn["value"]) for turn in turns)

    @property
    def lengths(self) -> Array:
        """Characters of the text of each row."""
        return np.frombuffer(self._lengths, np.intc) if self._lengths else np.zeros(0, np.intc)

    @property
    def group(self) -> Array:
        """Index in :attr:`groups` of each row."""
        return np.frombuffer(self._group, np.ushort) if self._group else np.zeros(0, np.ushort)

    @property
    def sound(self) -> Array:
        """Whether the first pass found nothing wrong, for each row."""
        return np.frombuffer(self._sound, np.bool_) if self._sound else np.zeros(0, np.bool_)

    def close(self) -> None:
        self.spool.close()
        self.columns.close()


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.line) + sum(len(data) for data in row.pictures or () if data is not None)
        if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Verdict:
    """What only all rows together show: length outliers and duplicates; attributes are arrays with a value a row."""

    def __init__(
        self,
        facts: Facts,
        length: Length,
        quantiles: tuple[float, float] | None,
        exact: bool,
    ) -> None:
        self._facts = facts
        self.bounds = {
            name: _bounds(name, facts.lengths[facts.group == index], length, quantiles)
            for name, index in facts.groups.items()
        }
        low, high = (np.array([bounds[side] for bounds in self.bounds.values()]) for side in (0, 1))
        none = np.full(len(facts.lengths), -1, np.int32)
        self.outlier = (
            (facts.lengths < low[facts.group]) | (facts.lengths > high[facts.group]) if len(none) else none.astype(bool)
        )
        sound = facts.sound & ~self.outlier
        self.duplicate_of = duplicates.exact_duplicates(facts.columns, sound) if exact else none
        sound &= self.duplicate_of < 0
        self.near_duplicate_of = (
            none if facts.threshold is None else duplicates.near_duplicates(facts.columns, sound, facts.threshold)
        )
        self.kept = sound & (self.near_duplicate_of < 0)
        self._names = list(facts.groups)
        self._sketches = facts.columns.read("sketch", np.uint8, SLOTS)

    def defects(self, position: int) -> Iterator[str]:
        """What is wrong with a row beside the others, each as ``"reason: detail"``."""
        if self.outlier[position]:
            name = self._names[self._facts.group[position]]
            low, high = (f"{bound:,.0f}" if np.isfinite(bound) else "any" for bound in self.bounds[name])
            yield f"length: {self._facts.lengths[position]:,} characters; {low} to {high} are kept ({name})"
        if (original := self.duplicate_of[position]) >= 0:
            yield f"duplicate: of row {original}"
        if (original := self.near_duplicate_of[position]) >= 0:
            alike = duplicates.similarity(self._sketches[[position]], self._sketches[[original]])[0]
            yield f"near_duplicate: of row {original}, similarity {alike:.2f}"

    def length_figures(self) -> dict[str, dict[str, Any]]:
        """Spread and histogram of the lengths in each group, of all rows and of the kept."""
        figures = {}
        for name, index in self._facts.groups.items():
            inside = self._facts.group == index
            low, high = (int(bound) if np.isfinite(bound) else None for bound in self.bounds[name])
            lengths, kept = self._facts.lengths[inside], self._facts.lengths[inside & self.kept]
            figures[name] = {
                "all": _spread(lengths),
                "kept": _spread(kept),
                "bounds": [low, high],
                "histogram": _histogram(lengths, kept, [low, high]),
            }
        return figures

    def original(self, position: int) -> int | None:
        """The position of the kept row that a duplicate repeats."""
        original = max(int(self.duplicate_of[position]), int(self.near_duplicate_of[position]))
        return original if original >= 0 else None

    def some_duplicates(self) -> list[int]:
        """The positions of some duplicates of each kind, evenly chosen among all."""
        chosen: list[int] = []
        for originals in (self.duplicate_of, self.near_duplicate_of):
            found = np.flatnonzero(originals >= 0)
            chosen += found[np.linspace(0, len(found) - 1, min(PAIRS, len(found))).astype(int)].tolist()
        return chosen

    def too_small(self, quantiles: tuple[float, float] | None, length: Length) -> dict[str, int]:
        """The groups, with their numbers of rows, that lose nothing to `quantiles` and have no limit in `length`."""
        if quantiles is None:
            return {}
        sizes = {
            name: int((self._facts.group == index).sum())
            for name, index in self._facts.groups.items()
            if _given(name, length) is None
        }
        return {name: rows for name, rows in sizes.items() if 1 < rows < rows_to_cut(quantiles)}


def _bounds(group: str, lengths: Array, length: Length, quantiles: tuple[float, float] | None) -> tuple[float, float]:
    """The lowest and highest length that is kept in a group, ``inf`` where it is open."""
    lowest, highest = _given(group, length) or (None, None)
    low, high = -np.inf if lowest is None else float(lowest), np.inf if highest is None else float(highest)
    if quantiles is not None:
        # Rounded outwards: among few rows the shortest and the longest are no outliers by being so.
        low = max(low, float(np.quantile(lengths, quantiles[0], method="lower")))
        high = min(high, float(np.quantile(lengths, quantiles[1], method="higher")))
    return low, high


def _given(group: str, length: Length) -> Bounds | None:
    return length.get(group.split()[0]) if isinstance(length, Mapping) else length


def _spread(lengths: Array) -> dict[str, int]:
    if not len(lengths):
        return {}
    shares = {"min": 0.0, "p1": 0.01, "p50": 0.5, "p99": 0.99, "max": 1.0}
    found = np.quantile(lengths, list(shares.values()), method="nearest")
    return dict(zip(shares, found.tolist(), strict=True))


def _histogram(lengths: Array, kept: Array, bounds: list[int | None]) -> dict[str, Any]:
    """How many texts there are of each length: `width` characters a bar from `start` on, the last bar for all longer.

    The bars reach well beyond the limits and what is usual, and not to one endless text.
    """
    if not len(lengths):
        return {}
    shortest, longest = int(lengths.min()), int(lengths.max())
    usual = int(np.quantile(lengths, 0.99, method="nearest"))
    longest = min(longest, max(usual + (usual - shortest) // 2, *(bound * 5 // 4 for bound in bounds if bound), 1))
    width = max(1, math.ceil((longest - shortest + 1) / BARS))
    bars = (longest - shortest) // width + 1
    counted = {
        name: np.bincount(np.minimum((values - shortest) // width, bars - 1), minlength=bars).tolist()
        for name, values in (("all", lengths), ("kept", kept))
    }
    return {"start": shortest, "width": width, **counted}


def judge(facts: Facts, verdict: Verdict, report: CurationReport) -> None:
    """The figures to `report`, without a row written."""
    for _ in _judged(facts, verdict, report):
        pass


def split_rows(folder: Path, facts: Facts, verdict: Verdict, report: CurationReport) -> None:
    """The second pass: the kept and the dropped rows to their files, the figures to `report`."""
    with explained(folder):
        (folder / "data").mkdir(exist_ok=True)
    write_kept(folder / "data", lambda: facts.spool.chosen(verdict.kept), facts.spool)
    dropped = _judged(facts, verdict, report)
    write_lines(folder / "dropped.jsonl", (msgspec.json.encode(row) + b"\n" for row in dropped))


def _judged(facts: Facts, verdict: Verdict, report: CurationReport) -> Iterator[dict[str, Any]]:
    """The dropped rows with what is told of each; the figures and some of the rows go to `report` on the way."""
    report.rows, report.kept = len(verdict.kept), int(verdict.kept.sum())
    report.lengths = verdict.length_figures()
    shown = set(verdict.some_duplicates())
    with facts.spool.lines() as line_of:
        for position, defects, _, line in facts.spool.chosen(~verdict.kept):
            row = _decoded(position, line)
            defects += verdict.defects(position)
            report.drop(position, row, defects, partial(facts.said, row))
            told = {**row, "row": position, "reasons": defects}
            if (original := verdict.original(position)) is not None:
                other = _decoded(original, line_of(original))
                told["repeats"] = about(original, other, facts.said(other), PAIR_EXCERPT)
                if position in shown:
                    mine = about(position, row, facts.said(row), PAIR_EXCERPT)
                    reason, detail = defects[-1].split(": ", 1)
                    report.pairs.append({"reason": reason, "detail": detail, "dropped": mine, "kept": told["repeats"]})
            yield told


def _decoded(position: int, line: bytes) -> Mapping[str, Any]:
    row = jsonl.decode_line(Place("row", row=position), line)
    assert isinstance(row, Mapping)  # it was read before
    return row
