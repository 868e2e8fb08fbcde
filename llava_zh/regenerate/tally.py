"""What is counted of finished rows, small enough to be kept for every unit of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

#: The longest length that is counted exactly.
EXACT = 20_000
#: Lengths of units that version 0.1 has finished are counted in steps of so many characters.
STEP = 10


class Turn(msgspec.Struct):
    """One turn of a row; published files name the text of some turns ``text``."""

    value: str = ""
    text: str = ""
    speaker: str = msgspec.field(default="", name="from")


class Facts(msgspec.Struct):
    """The ``regenerated`` object of a row: how its new conversation came to be, and what it replaced."""

    position: int
    key: str
    model: str
    prompt: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    asked: int  # times the model was asked, this answer included
    previous: list[Turn] | None = None


class Line(msgspec.Struct):
    """What is read back of a line of a journal or data file."""

    conversations: list[Turn]
    regenerated: Facts


class Lengths(msgspec.Struct):
    """How many answers have each length, in characters; two of them add up.

    Lengths are exact up to :data:`EXACT`. Longer ones, which no usual ``max_tokens`` allows, are counted by their first
    three digits, so that the counts stay some thousands however long answers are. The sum is exact for all.
    """

    characters: int = 0
    counts: dict[int, int] = msgspec.field(default_factory=dict)

    def add(self, length: int) -> None:
        self.characters += length
        if length > EXACT:
            unit = 10 ** (len(str(length)) - 3)
            length = length // unit * unit
        self.counts[length] = self.counts.get(length, 0) + 1

    def merge(self, other: Lengths, sign: int) -> None:
        self.characters += sign * other.characters
        _merge(self.counts, other.counts, sign)


class Tally(msgspec.Struct):
    """Sums over rows; two tallies add up.

    `lengths_before` and `lengths_after` are those of units that version 0.1 has finished, in steps of ten characters.
    """

    rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    asked: int = 0
    before: Lengths = msgspec.field(default_factory=Lengths)
    after: Lengths = msgspec.field(default_factory=Lengths)
    lengths_before: dict[int, int] = msgspec.field(default_factory=dict)
    lengths_after: dict[int, int] = msgspec.field(default_factory=dict)

    def add(self, line: Line) -> None:
        facts = line.regenerated
        self.rows += 1
        self.prompt_tokens += facts.prompt_tokens
        self.completion_tokens += facts.completion_tokens
        self.asked += facts.asked
        self.after.add(answer_length(line.conversations))
        if facts.previous:
            self.before.add(answer_length(facts.previous))

    def merge(self, other: Tally, sign: int = 1) -> None:
        """Add `other`, or take it away with a `sign` of -1."""
        self.rows += sign * other.rows
        self.prompt_tokens += sign * other.prompt_tokens
        self.completion_tokens += sign * other.completion_tokens
        self.asked += sign * other.asked
        self.before.merge(other.before, sign)
        self.after.merge(other.after, sign)
        _merge(self.lengths_before, other.lengths_before, sign)
        _merge(self.lengths_after, other.lengths_after, sign)


def answer_length(conversations: Iterable[Turn]) -> int:
    """Characters of the model's turns."""
    return sum(len(turn.value or turn.text) for turn in conversations if turn.speaker == "gpt")


def _merge(mine: dict[int, int], theirs: Mapping[int, int], sign: int) -> None:
    for length, count in theirs.items():
        mine[length] = mine.get(length, 0) + sign * count


def figures(lengths: Lengths, by_tens: Mapping[int, int]) -> dict[str, Any] | None:
    """Rows, mean, smallest, largest and quantiles of lengths in characters; None of no rows.

    A quantile is the smallest length that so large a share of the rows does not exceed.

    Args:
        by_tens: More lengths, in steps of ten. How many rows they are is said too, since those are not exact.
    """
    counts = dict(lengths.counts)
    _merge(counts, by_tens, 1)
    total, rough = sum(counts.values()), sum(by_tens.values())
    if not total:
        return None
    characters = lengths.characters + sum((length + STEP / 2) * count for length, count in by_tens.items())
    result: dict[str, Any] = {"rows": total, "mean": round(characters / total, 2)}
    wanted = {"min": 0.0, "p5": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}
    found = sorted(length for length, count in counts.items() if count)
    for name, share in wanted.items():
        below = 0
        for length in found:
            below += counts[length]
            if below >= max(1, share * total):
                result[name] = length
                break
    return result | ({"to_within_ten": rough} if rough else {})
