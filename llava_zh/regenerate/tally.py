"""What is counted of finished rows, small enough to be kept for every unit of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

#: Lengths are counted in steps of so many characters.
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


class Tally(msgspec.Struct):
    """Sums over rows; two tallies add up."""

    rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    asked: int = 0
    lengths_before: dict[int, int] = msgspec.field(default_factory=dict)
    lengths_after: dict[int, int] = msgspec.field(default_factory=dict)

    def add(self, line: Line) -> None:
        facts = line.regenerated
        self.rows += 1
        self.prompt_tokens += facts.prompt_tokens
        self.completion_tokens += facts.completion_tokens
        self.asked += facts.asked
        _count(self.lengths_after, answer_length(line.conversations))
        if facts.previous:
            _count(self.lengths_before, answer_length(facts.previous))

    def merge(self, other: Tally, sign: int = 1) -> None:
        """Add `other`, or take it away with a `sign` of -1."""
        self.rows += sign * other.rows
        self.prompt_tokens += sign * other.prompt_tokens
        self.completion_tokens += sign * other.completion_tokens
        self.asked += sign * other.asked
        for mine, theirs in (
            (self.lengths_before, other.lengths_before),
            (self.lengths_after, other.lengths_after),
        ):
            for length, count in theirs.items():
                mine[length] = mine.get(length, 0) + sign * count


def answer_length(conversations: Iterable[Turn]) -> int:
    """Characters of the model's turns."""
    return sum(len(turn.value or turn.text) for turn in conversations if turn.speaker == "gpt")


def _count(lengths: dict[int, int], length: int) -> None:
    step = length // STEP * STEP
    lengths[step] = lengths.get(step, 0) + 1


def quantiles(lengths: Mapping[int, int]) -> dict[str, Any] | None:
    """Mean and quantiles, in characters, to within :data:`STEP`; None of no rows."""
    total = sum(lengths.values())
    if not total:
        return None
    wanted = {"min": 0.0, "p5": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}
    result: dict[str, Any] = {"rows": total}
    result["mean"] = round(sum((length + STEP / 2) * count for length, count in lengths.items()) / total)
    steps = sorted(length for length, count in lengths.items() if count)
    for name, share in wanted.items():
        below = 0
        for length in steps:
            below += lengths[length]
            if below >= max(1, share * total):
                result[name] = length
                break
    return result
