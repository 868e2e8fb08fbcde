"""Python rows from Arrow tables, by a function written for the shape that the rows of a table share.

`RecordBatch.to_pylist` makes every value by itself, each ``"human"`` and each ``None`` of each row too. Nearly always
all rows of a table have as many turns and parts as each other, with the same roles, so that a row is one dict display
with a few values to fill in. Python runs that in two thirds of the time, and as each row is made when it is asked for,
it takes the memory of the one before. The rows are the same as `to_pylist`'s, and no row shares a dict or a list with
another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..rows.records import Ints, text_bytes

# Rows whose values are made at once. More are no faster, and a resumed stream has to make the whole batch again.
ROWS_AT_ONCE = 64

Row = dict[str, Any]


def python_rows(table: pa.Table) -> Iterator[Row]:
    """The rows of `table`, as `to_pylist` makes them."""
    return chain.from_iterable(chain.from_iterable(map(_rows_at_once, table.to_batches())))


def _rows_at_once(batch: pa.RecordBatch) -> Iterator[Iterator[Row]]:
    """The rows of `batch`, some at a time."""
    if len(batch) <= ROWS_AT_ONCE:  # too few to pay for looking at their shape
        yield iter(batch.to_pylist())
        return
    shape = _Shape(len(batch))
    [source] = shape.dicts(batch.schema, batch.columns, 1)
    make = _function(source, len(shape.constants), len(shape.varying))
    for first in range(0, len(batch), ROWS_AT_ONCE):
        size = min(ROWS_AT_ONCE, len(batch) - first)
        made = [array.slice(first * step, size * step).to_pylist() for array, step in shape.arrays]
        yield make(size, *shape.constants, *(made[i][at::step] for i, at, step in shape.varying))


@lru_cache
def _function(source: str, constants: int, varying: int) -> Callable[..., Iterator[Row]]:
    """A function of the number of rows, their constants ``c0…`` and lists of values ``v0…``, that makes them."""
    names = [f"v{i}" for i in range(varying)]
    parameters = ", ".join(["rows", *(f"c{i}" for i in range(constants)), *names])
    code = (
        f"def make({parameters}):\n"
        f"    for {', '.join(['_', *names])} in zip({', '.join(['range(rows)', *names])}):\n"
        f"        yield {source}\n"
    )
    scope: dict[str, Any] = {}
    exec(code, scope)
    function: Callable[..., Iterator[Row]] = scope["make"]
    return function


class _Shape:
    """The source of a row, found by descending into the columns; what it needs is gathered on the way.

    Every method takes an array with `step` values a row, and gives the source of each of a row's.

    Attributes:
        constants: What is the same in all rows.
        arrays: Arrays whose values are not, and how many of them a row has.
        varying: Which values of a row those are: number of the array, place among the row's, how many a row has.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.constants: list[Any] = []
        self.arrays: list[tuple[pa.Array, int]] = []
        self.varying: list[tuple[int, int, int]] = []

    def sources(self, array: pa.Array, step: int) -> list[str]:
        """Of values of any type. Dicts and lists that are null here and there are left to `to_pylist`."""
        if pa.types.is_struct(array.type) and not array.null_count:
            return self.dicts(array.type, [array.field(i) for i in range(array.type.num_fields)], step)
        if pa.types.is_list(array.type) and not array.null_count:
            return self._lists(array, step)
        return self._leaves(array, step)

    def dicts(self, names: Any, fields: list[pa.Array], step: int) -> list[str]:
        """Of dicts with the names of a schema or a struct type."""
        values = zip(*(self.sources(field, step) for field in fields), strict=True)
        keys = [repr(names.field(i).name) for i in range(len(fields))]
        return ["{" + ", ".join(f"{key}: {of}" for key, of in zip(keys, value, strict=True)) + "}" for value in values]

    def _lists(self, array: pa.Array, step: int) -> list[str]:
        """Of lists: displays, where all rows have lists of the same lengths."""
        offsets = array.offsets.to_numpy()
        lengths = np.diff(offsets)
        if not _repeats(lengths, step):
            return self._leaves(array, step)
        a_row = lengths[:step].tolist()
        inner = iter(self.sources(array.values.slice(offsets[0], offsets[-1] - offsets[0]), sum(a_row)))
        return ["[" + ", ".join(next(inner) for _ in range(length)) + "]" for length in a_row]

    def _leaves(self, array: pa.Array, step: int) -> list[str]:
        """Of values that `to_pylist` makes: constants where that is soon seen, and variables elsewhere."""
        constant = self._constant(array, step)
        if not all(constant):
            self.arrays.append((array, step))
        return [self._constant_name(array[i]) if constant[i] else self._variable_name(i, step) for i in range(step)]

    def _constant_name(self, value: pa.Scalar) -> str:
        self.constants.append(value.as_py())
        return f"c{len(self.constants) - 1}"

    def _variable_name(self, place: int, step: int) -> str:
        self.varying.append((len(self.arrays) - 1, place, step))
        return f"v{len(self.varying) - 1}"

    def _constant(self, array: pa.Array, step: int) -> list[bool]:
        """Whether all rows have the same in each place: null everywhere, texts that repeat row after row, or ``""``."""
        if array.null_count == len(array):
            return [True] * step
        if array.null_count or not pa.types.is_string(array.type):
            return [False] * step
        lengths = pc.binary_length(array).to_numpy()
        if _repeats(lengths, step):
            text = text_bytes(array)[0].tobytes()
            if text == text[: len(text) // self.rows] * self.rows:
                return [True] * step
        return [not lengths[place::step].any() for place in range(step)]


def _repeats(numbers: Ints, step: int) -> bool:
    """Whether all rows have the same numbers, `step` each."""
    return bool(np.all(numbers[step:] == numbers[: len(numbers) - step]))
