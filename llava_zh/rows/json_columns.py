"""Whole blocks of JSON lines as Arrow columns, where they give what reading one line after another gives.

Arrow's parser is laxer and less safe than the law in `gates.json_values`: it takes records that run over lines,
takes ``Inf``, ends at a NUL byte, and ends the process where types are nested some thousand levels deep. So it is asked
for blocks only of which one line tells the types, and it has to find no other; the few other blocks that it can help
with are looked through for depth first. Whatever is in doubt is left to the row-by-row way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from ..gates import json_values
from ..gates.limits import DEPTH, LINE
from . import records
from .record_columns import check_names
from .records import Bytes, Ints

# Only the published names are declared, so that a block with none of them still has them.
_TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
_PUBLISHED = {"width": pa.int64(), "height": pa.int64(), "conversations": _TURNS}
# Types that are told from a line are no deeper than this; records of trainers have 3 levels.
_DEPTH = 6
_BYTES_AT_ONCE = 1 << 20


def read(block: bytes | memoryview) -> pa.Table | None:
    """The records of a block of whole lines, or None when the block has to be read line by line."""
    if not len(block):
        return None
    data = np.frombuffer(block, np.uint8)
    starts = _starts_of_records(data)
    if starts is None or np.diff(starts, append=len(data)).max() > LINE.value:
        return None
    table = _parsed(block, data, starts)
    if table is None or len(table) != len(starts) or not _finite(table):
        return None
    # What follows a NUL byte is not parsed; it can hide nowhere but in the last line.
    return None if 0 in data[starts[-1] :] else table


def _starts_of_records(data: Bytes) -> Ints | None:
    """Where the lines of `data` start; None where one does not open with ``{`` and end with ``}``.

    Such lines, if the parser takes them all, hold at least one record each: a record that is not at its end after a
    ``}`` does not go on with a ``{``. So if there are as many records as lines, the lines are the records.
    """
    newlines = np.concatenate(
        [np.flatnonzero(data[at : at + _BYTES_AT_ONCE] == 10) + at for at in range(0, len(data), _BYTES_AT_ONCE)]
    )
    if not len(newlines) or newlines[-1] != len(data) - 1:
        newlines = np.append(newlines, len(data))
    starts = np.append(0, newlines[:-1] + 1)
    last = newlines - 1
    last = last - (data[last] == 13)  # a line may end with \r\n
    if (last <= starts).any() or (data[starts] != ord("{")).any() or (data[last] != ord("}")).any():
        return None
    return starts


def _parsed(block: bytes | memoryview, data: Bytes, starts: Ints) -> pa.Table | None:
    first_line = bytes(block[: starts[1]] if len(starts) > 1 else block)
    try:
        first = json_values.decode(first_line)
    except json_values.NotJson:
        return None
    try:
        schema = _schema_of(first)
        if schema is not None:
            return _valid(_read(block, schema, "error"))
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "conversion" in str(error):  # a number or a text that would be none in any other try as well
            return None
    if not _is_shallow(data, starts):
        return None
    try:
        table = _valid(_read(block, pa.schema(_PUBLISHED), "infer"))
        check_names(table.schema)
        return table
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None


def _read(block: bytes | memoryview, schema: pa.Schema, unexpected: str) -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(block),
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
        pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected),
    )


def _valid(table: pa.Table) -> pa.Table:
    """`table`, or `pa.ArrowInvalid` for text that is not UTF-8, which the parser does not look at.

    Nearly all of a block is the text of turns; where that is plain ASCII, one pass for the highest byte tells.
    """
    turns, others = table["conversations"], table
    if turns.type == _TURNS and turns.num_chunks == 1:
        text = turns.chunk(0).values.field("value").buffers()[2]
        if text is not None and np.frombuffer(text, np.uint8).max(initial=0) < 0x80:
            others = table.drop_columns(["conversations"])  # its roles are compared with the known ones later
    others.validate(full=True)
    return table


# -- types from one record ---------------------------------------------------------------------------------


def _schema_of(record: Any) -> pa.Schema | None:
    """The types of a record's fields, or None where it does not tell them all."""
    if not isinstance(record, Mapping):
        return None
    types: dict[str, pa.DataType | None] = {
        name: _type_of(value, _DEPTH, pa.int64() if name in records.KNOWN_COLUMNS else pa.float64())
        for name, value in record.items()
    }
    types = {**types, **{name: kind for name, kind in _PUBLISHED.items() if types.get(name) is None}}
    return None if any(kind is None for kind in types.values()) else pa.schema(types)


def _type_of(value: Any, depth: int, number: pa.DataType) -> pa.DataType | None:
    """The type of `value`, whose numbers are all to be of one type."""
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, int | float):
        return number
    if not value or not depth:
        return None
    if isinstance(value, list):
        kinds = {_type_of(item, depth - 1, number) for item in value[:8]}
        [kind] = kinds if len(kinds) == 1 else [None]
        return None if kind is None else pa.list_(kind)
    fields = {name: _type_of(item, depth - 1, number) for name, item in value.items()}
    return None if any(kind is None for kind in fields.values()) else pa.struct(list(fields.items()))


# -- what Arrow's parser does not look at ------------------------------------------------------------------


def _is_shallow(data: Bytes, starts: Ints) -> bool:
    """Whether no line has more opening brackets than levels are allowed."""
    brackets = np.concatenate(
        [
            np.flatnonzero((data[at : at + _BYTES_AT_ONCE] | 32) == 0x7B) + at
            for at in range(0, len(data), _BYTES_AT_ONCE)
        ]
    )
    a_line = np.diff(np.searchsorted(brackets, starts), append=len(brackets))
    return bool(a_line.max() <= min(DEPTH.value, DEPTH.default))


def _finite(table: pa.Table) -> bool:
    """Whether no number is NaN or infinite, which are written in ways that are JSON here and in ways that are not."""
    return all(_is_finite(chunk) for column in table.columns if _has_floats(column.type) for chunk in column.chunks)


def _is_finite(array: pa.Array) -> bool:
    if pa.types.is_floating(array.type):
        return pc.all(pc.is_finite(array), min_count=0).as_py() is True
    if pa.types.is_list(array.type):
        return _is_finite(array.flatten())
    if pa.types.is_struct(array.type):
        return all(_is_finite(array.field(i)) for i in range(array.type.num_fields))
    return True


def _has_floats(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_struct(kind):
        return any(_has_floats(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_floating(kind))
