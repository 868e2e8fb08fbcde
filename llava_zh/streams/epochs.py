"""How an epoch is cut into parts, in which order each part's rows come, and which rows saved states leave over.

An epoch is the shards in random order, cut into *windows* of some shards. All rows of a window are read and put in
random order; every `stripes`-th of them is one *part*. Parts are dealt to nodes and their workers in turn. All
random numbers come from the seed and the numbers of window and shard, so the order needs no memory of what came
before: a position is the number of parts gone through and of rows taken from the current one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import BadArgument

Indices = np.ndarray[Any, np.dtype[np.int64]]
# What the random numbers of each purpose are drawn with beside the seed, so that they are independent.
_SHARDS, _ROWS, _COPIES, _SOURCES = range(4)
DRAWS = 1024


class Part(NamedTuple):
    """Part `number` of an epoch from its row `start` on."""

    number: int
    start: int = 0


class Step(NamedTuple):
    """One division of parts: every `of`-th, from the `nth` (counted from 0) on."""

    nth: int
    of: int


Division = tuple[Step, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """The order of one stream's rows.

    Args:
        name: What is read, for messages.
        num_shards: Shards of the stream; `window` of them are shuffled together.
        stripes: Parts a window is cut into.
        repeat: How often each row comes in an epoch, on average; a fraction is drawn row by row.
        order: Seed of this epoch's order; `seed` alone decides which rows `repeat` keeps or doubles.
    """

    name: str
    num_shards: int
    window: int
    stripes: int
    repeat: float
    seed: int
    order: int

    @property
    def identity(self) -> str:
        """All that positions depend on, as text to compare and to show."""
        cut = f"{self.num_shards} shards, window={self.window}, {self.num_parts} parts"
        return f"{self.name}, {cut}, repeat={self.repeat:g}"

    @property
    def num_windows(self) -> int:
        return math.ceil(self.num_shards / self.window)

    @property
    def num_parts(self) -> int:
        return self.num_windows * self.stripes

    def at_epoch(self, draw: int) -> Plan:
        """The plan of another epoch, for which `draw` was drawn."""
        return replace(self, order=int(np.random.SeedSequence([self.seed, draw]).generate_state(1, np.uint64)[0]) >> 1)

    def shards_of(self, window: int, order: int, turn: int) -> list[int]:
        """The shards of a window in the `turn`-th time through."""
        shuffled = np.random.default_rng([order, turn, _SHARDS]).permutation(self.num_shards)
        return [int(shard) for shard in shuffled[window * self.window : (window + 1) * self.window]]

    def rows_of(self, part: Part, lengths: Mapping[int, int], order: int, turn: int) -> Indices:
        """Which rows of its window a part has, in order.

        Args:
            lengths: From each shard of the window, in order, to its number of rows.
        """
        window, stripe = divmod(part.number, self.stripes)
        copies = [self._copies(shard, length) for shard, length in lengths.items()]
        rows = np.repeat(np.arange(sum(lengths.values())), np.concatenate(copies)) if copies else np.arange(0)
        shuffled = np.random.default_rng([order, turn, _ROWS, window]).permutation(rows)
        return shuffled[stripe :: self.stripes][part.start :]

    def _copies(self, shard: int, length: int) -> Indices:
        whole = math.floor(self.repeat)
        more = np.random.default_rng([self.seed, _COPIES, shard]).random(length) < self.repeat - whole
        return whole + more.astype(np.int64)


def sources(seed: int, division: Division, block: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The `block`-th :data:`DRAWS` numbers from 0 to 1 that choose the sources of a mixture's rows."""
    flat = [number for step in division for number in step]
    return np.random.default_rng([seed, _SOURCES, block, *flat]).random(DRAWS)


# -- states ------------------------------------------------------------------------------------------------


def divide(parts: Sequence[T], division: Division) -> Sequence[T]:
    """The share of `parts` that one node and worker have."""
    for step in division:
        parts = parts[step.nth :: step.of]
    return parts


def division_text(division: Division) -> str:
    return " ".join(f"{step.nth}/{step.of}" for step in division)


def division_of(text: str) -> Division:
    return tuple(Step(*map(int, step.split("/"))) for step in text.split())


def parts_text(parts: Sequence[Part]) -> str:
    return " ".join(f"{part.number}+{part.start}" for part in parts)


def parts_of(state: Mapping[str, Any], plan: Plan) -> list[Part]:
    """The parts that were divided when `state` was saved: all, or those that an earlier division had left over."""
    if state["left"] is None:
        return [Part(number) for number in range(plan.num_parts)]
    return [Part(*map(int, part.split("+"))) for part in state["left"].split()]


def check_same(state: Mapping[str, Any], plan: Plan) -> None:
    """Raise if `state` was saved by a stream with other rows."""
    if state["source"] != plan.identity:
        raise BadArgument(
            f"The saved state belongs to another stream.\n  saved: {state['source']}\n  here:  {plan.identity}\n"
            "Load the same files with the same chunk_size or num_shards, and shuffle with the same arguments."
        )


def check_division(state: Mapping[str, Any], division: Division) -> None:
    """Raise if `state` was saved by another node or worker, or with another number of them."""
    saved = division_of(state["division"])
    started = state["part"] or state["row"] or state["turn"]
    # A worker that has not given a row yet saves the state of its node, before the division among workers.
    if saved == division or (not started and saved == division[: len(saved)]):
        return
    raise BadArgument(
        f"The saved state is of node or worker {state['division'] or '0/1'!r} (index/number, nodes first), "
        f"this one is {division_text(division) or '0/1'!r}. Resume with as many nodes and workers as before, each with "
        "its own state; or, to change their number, collect the states of all nodes and pass them as continue_from=[…]."
    )


def remaining(states: Sequence[Mapping[str, Any]], plan: Plan) -> tuple[int, list[Part]]:
    """The seed of the order and the parts that the saved `states` of all nodes and workers leave over.

    Raises:
        BadArgument: States are missing, from different epochs or streams, or of streams that began again.
    """
    for state in states:
        check_same(state, plan)
    if len({(state["order"], state["left"]) for state in states}) != 1:
        raise BadArgument("continue_from: the states are of different epochs or runs; pass those saved at one moment.")
    if any(state["turn"] for state in states):
        raise BadArgument(
            "continue_from: a dataset of this mixture has begun again, on some workers before others, so there is no "
            "one epoch to divide the rest of. Resume with as many nodes and workers as before."
        )
    everything = parts_of(states[0], plan)
    left = {part.number: part for part in everything}
    touched: set[int] = set()
    for state in states:
        mine = divide(everything, division_of(state["division"]))
        for part, rows in _taken(state, mine):
            if part.number in touched:
                raise BadArgument(
                    "continue_from: two states have read the same part. Either a state is given twice, or every node "
                    f"reads all rows since the number of nodes does not divide the {plan.num_parts} parts. "
                    "Resume with as many nodes as before."
                )
            touched.add(part.number)
            if rows is None:
                del left[part.number]
            else:
                left[part.number] = Part(part.number, part.start + rows)
    if not _complete([division_of(state["division"]) for state in states]):
        seen = ", ".join(sorted(state["division"] or "(all)" for state in states))
        raise BadArgument(f"continue_from: states of some nodes or workers are missing; given (index/number): {seen}.")
    return int(states[0]["order"]), list(left.values())


def _taken(state: Mapping[str, Any], mine: Sequence[Part]) -> Iterator[tuple[Part, int | None]]:
    """The parts that a state has taken rows from, and how many (None for all)."""
    for part in mine[: state["part"]]:
        yield part, None
    if state["row"]:
        yield mine[state["part"]], state["row"]


def _complete(divisions: Sequence[Division]) -> bool:
    """Whether the divisions are all of a whole; one that is cut less often stands for any one that has not begun."""
    cut = [division for division in divisions if division]
    if not cut:
        return len(divisions) == 1
    of = cut[0][0].of
    by_index: dict[int, list[Division]] = {}
    for division in cut:
        if division[0].of != of:
            return False
        by_index.setdefault(division[0].nth, []).append(division[1:])
    missing = of - len(by_index)
    return missing <= len(divisions) - len(cut) and all(map(_complete, by_index.values()))


def find_states(saved: Any, kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The epochs and states of streams of a `kind` inside what a dataset or a data loader saved."""
    yield from _find(saved, kind, 0)


def _find(saved: Any, kind: str, epoch: int) -> Iterator[tuple[int, dict[str, Any]]]:
    if isinstance(saved, Mapping):
        if saved.get("_steps_since_snapshot"):
            raise BadArgument(
                "continue_from: a data loader saved its workers' states some steps ago; "
                "make it StatefulDataLoader(…, snapshot_every_n_steps=1)."
            )
        if saved.get("type") == kind:
            yield epoch, dict(saved)
            return
        for value in saved.values():
            yield from _find(value, kind, int(saved.get("epoch", epoch)))
    elif isinstance(saved, list | tuple):
        for value in saved:
            yield from _find(value, kind, epoch)
