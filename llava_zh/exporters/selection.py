"""Which rows an export takes: by task and length, at random, or the first so many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import BadArgument
from ..rows.arrays import one_array

Keys = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(frozen=True)
class Selection:
    """What a row must be to be exported.

    Args:
        task: The llava-instruct task it has.
        min_length, max_length: Characters of its answers together, at least and at most.
        sample: So many rows drawn at random without replacement, each as likely as any other; `seed` decides which.
        limit: So many rows from the front.
    """

    task: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    sample: int | None = None
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_length", "max_length", "sample", "limit", "seed"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise BadArgument(f"{name}={value!r}: expected a whole number, 0 or more.")
        if self.sample is not None and self.limit is not None:
            raise BadArgument("sample= draws rows at random and limit= takes the first ones; give one of them.")

    def fitting(self, annotations: pa.Table) -> pa.Table:
        """The rows of the task and of the length."""
        return self.fitting_counted(annotations, lambda what, number: None)

    def fitting_counted(self, annotations: pa.Table, count: Callable[[str, int], None]) -> pa.Table:
        """The rows of the task and of the length; `count` is told what is left out, in words, and of how many rows."""
        if self.task is not None:
            rows = len(annotations)
            annotations = annotations.filter(pc.fill_null(pc.equal(annotations["task"], self.task), False))
            count(f"rows of other tasks than {self.task} left out", rows - len(annotations))
        if self.min_length is None and self.max_length is None:
            return annotations
        length = answer_lengths(annotations)
        short, long = length < (self.min_length or 0), length > (np.inf if self.max_length is None else self.max_length)
        count(f"rows with answers of fewer than {self.min_length or 0:,} characters left out", int(short.sum()))
        count(f"rows with answers of more than {self.max_length or 0:,} characters left out", int(long.sum()))
        return annotations.filter(pa.array(~(short | long)))

    @property
    def counts_first(self) -> bool:
        """Whether all rows have to be seen before it is known which are taken."""
        return self.sample is not None or self.limit is not None


def answer_lengths(annotations: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Characters in the answers of each row, all rounds together."""
    turns = one_array(annotations["conversations"])
    flat = turns.flatten()
    lengths = pc.utf8_length(flat.field("value")).to_numpy().astype(np.int64)
    lengths[~pc.equal(flat.field("from"), "gpt").to_numpy(zero_copy_only=False)] = 0
    before = np.concatenate([[0], np.cumsum(lengths)])
    offsets = turns.offsets.to_numpy() - turns.offsets[0].as_py()
    result: np.ndarray[Any, np.dtype[np.int64]] = np.diff(before[offsets])
    return result


class Draw:
    """The random numbers of one piece's fitting rows: the n-th row of a piece always has the same."""

    def __init__(self, seed: int, config: int, piece: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, config, piece]))

    def keys(self, rows: int) -> Keys:
        """The numbers of the next `rows` rows."""
        numbers: Keys = np.asarray(self._bits.random_raw(rows), dtype=np.uint64).reshape(rows)
        return numbers


@dataclass(frozen=True)
class Count:
    """What the first pass over a piece found: fitting rows, and the smallest of their random numbers."""

    rows: int
    smallest: Keys


def count(tables: Iterable[pa.Table], selection: Selection, draw: Draw) -> Count:
    """Go over the annotations of one piece. No more numbers are kept than the sample has rows."""
    rows, smallest = 0, np.zeros(0, np.uint64)
    for table in tables:
        fitting = len(selection.fitting(table))
        rows += fitting
        if selection.sample is not None:
            smallest = _smallest(np.concatenate([smallest, draw.keys(fitting)]), selection.sample)
    return Count(rows, smallest)


def _smallest(keys: Keys, number: int) -> Keys:
    return np.partition(keys, number - 1)[:number] if 0 < number < len(keys) else keys[: min(number, len(keys))]


@dataclass(frozen=True)
class Taken:
    """What the first pass decided: rows whose number is at most `threshold`, or `quotas` of first rows by piece."""

    threshold: int | None = None
    quotas: dict[str, int] | None = None
    fitting: int | None = None

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.quotas is None) or any(n < 0 for n in (self.quotas or {}).values()):
            raise ValueError("it says neither which rows are drawn nor how many there are of each piece")

    @classmethod
    def decide(cls, selection: Selection, counts: Iterator[tuple[str, Count]]) -> Taken:
        """From the counts of the pieces, in order; for a limit no more of them are asked for than needed."""
        if selection.limit is not None:
            quotas, left = {}, selection.limit
            for piece, found in counts if left else ():
                quotas[piece] = min(found.rows, left)
                left -= quotas[piece]
                if not left:
                    break
            return cls(quotas=quotas)
        assert selection.sample is not None
        smallest, rows = np.zeros(0, np.uint64), 0
        for _, found in counts:
            rows += found.rows
            smallest = _smallest(np.concatenate([smallest, found.smallest]), selection.sample)
        # Rows whose number is at most the largest of the smallest: a sample without replacement, all subsets alike.
        return cls(threshold=int(smallest.max()) if len(smallest) else -1, fitting=rows)

    def rows(self, tables: Iterable[pa.Table], piece: str, selection: Selection, draw: Draw) -> Iterator[pa.Table]:
        """The rows of a piece that are taken."""
        left = None if self.quotas is None else self.quotas.get(piece, 0)
        if left == 0:
            return
        for table in tables:
            fitting = selection.fitting(table)
            if self.threshold is not None:
                fitting = fitting.filter(pa.array(_at_most(draw.keys(len(fitting)), self.threshold)))
            if left is not None:
                fitting = fitting.slice(0, left)
                left -= len(fitting)
            if len(fitting):
                yield fitting
            if left == 0:
                return


def _at_most(keys: Keys, threshold: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    none: np.ndarray[Any, np.dtype[np.bool_]] = np.zeros(len(keys), bool)
    return none if threshold < 0 else keys <= np.uint64(threshold)
