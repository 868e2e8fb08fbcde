"""Whole columns of published records as annotations, for files in which every row has the usual types.

Faster than `rows.records.from_rows`, and never another verdict: as soon as anything is out of the ordinary,
the answer is None and the rows are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..gates import places
from ..gates.limits import SAMPLE_IMAGES
from ..images import written_paths
from .arrays import one_array
from .columns import PREVIOUS, REGENERATED
from .records import ALIASES, FACTS, MARK, ROLE_KEYS, ROLES, TEXT_KEYS, TURN, Expect, Ints, count_byte, text_bytes

# A path that may leave the image root, or a picture that is written into the row in place of its path.
_NO_PLAIN_PATH = rf"{places.UNSAFE}|^[dD][aA][tT][aA]:"
_RENAMED = np.array([published != name for published, name in ROLES.items()])


def from_arrow(table: pa.Table, expect: Expect) -> pa.Table | None:
    """The annotations of `table`, or None when a row needs a closer look (bad, or merely unusual)."""
    names_of = expect.columns.names
    columns = {name: column for name in ALIASES if (column := _column(table, names_of[name])) is not None}
    if len(columns) < len(ALIASES):
        return None
    rows = len(table)
    ids = _ids(columns["id"])
    images = _images(columns["image"], expect)
    sizes = [_lists(columns[name]) for name in ("width", "height")]
    turns = _turns(columns["conversations"])
    task = columns["task"]
    if ids is None or images is None or turns is None or sizes[0] is None or sizes[1] is None:
        return None
    paths, embedded = images
    if not _is_text(task.type):
        return None
    if not _images_fit(paths, embedded, turns, expect):
        return None
    if expect.task_of is not None and task.null_count < rows:
        task = _map_strings(task, expect.task_of)
    arrays = [ids, paths, embedded, sizes[0], sizes[1], turns, task.cast(pa.string())]
    if expect.facts:
        facts = _facts(table)
        if facts is None:
            return None
        arrays += facts
    assert all(len(array) == rows for array in arrays)
    return pa.Table.from_arrays(arrays, schema=expect.schema)


def check_names(fields: Any) -> None:
    """Raise `UnicodeDecodeError` for a name in a schema or a type that is not UTF-8, as pyarrow does."""
    for field in fields:
        assert isinstance(field.name, str)
        if pa.types.is_nested(field.type):
            check_names([field.type.field(i) for i in range(field.type.num_fields)])


def _column(table: pa.Table, names: tuple[str, ...]) -> pa.Array | None:
    """The one column among `names` that has values; all null when none has; None when two have, or one lies deeper."""
    if any("." in name and name.partition(".")[0] in table.column_names for name in names):
        return None
    found = [table[name] for name in names if name in table.column_names]
    found = [column for column in found if column.null_count < len(column)]
    if len(found) > 1:
        return None
    if not found:
        return pa.nulls(len(table))
    return one_array(found[0])


def _ids(column: pa.Array) -> pa.Array | None:
    return column.cast(pa.string()) if _is_text(column.type) or pa.types.is_integer(column.type) else None


def _one_each(values: pa.Array) -> pa.Array:
    """Lists of one element each; null where the value is null."""
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32))
    mask = values.is_null() if values.null_count else None
    return pa.ListArray.from_arrays(offsets, values, mask=mask)


def _lists(column: pa.Array) -> pa.Array | None:
    """Widths or heights as lists of int64, from integers or from lists of them."""
    if pa.types.is_null(column.type):
        return column.cast(pa.list_(pa.int64()))
    if pa.types.is_integer(column.type):
        return _one_each(column.cast(pa.int64()))
    if pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type):
        return None if column.flatten().null_count else column.cast(pa.list_(pa.int64()))
    return None


def _images(column: pa.Array, expect: Expect) -> tuple[pa.Array, pa.Array] | None:
    """Image paths and embedded bytes as lists, from text, ``{bytes, path}``, binary, or lists of one of them."""
    if (column.null_count or pa.types.is_null(column.type)) and not expect.text_only:
        return None
    lists = _without_nulls(column) if column.null_count else column
    lists = lists if pa.types.is_list(lists.type) else _one_each(lists)
    values = lists.flatten()
    if len(values) != lists.offsets[-1].as_py() - lists.offsets[0].as_py():
        return None
    kind = values.type
    if pa.types.is_struct(kind) and {field.name for field in kind} <= {"bytes", "path"}:
        names = [field.name for field in kind]
        paths = values.field("path") if "path" in names else pa.nulls(len(values))
        data = values.field("bytes") if "bytes" in names else pa.nulls(len(values))
        if values.null_count or not (_is_binary(data.type) and _is_text(paths.type)):
            return None
    elif _is_binary(kind):
        paths, data = pa.nulls(len(values)), values
    elif _is_text(kind):
        paths, data = values, pa.nulls(len(values))
    else:
        return None
    if not pa.types.is_null(paths.type):
        paths = paths.cast(pa.string())
        published = written_paths.published_column(paths, expect.around)
        # Of an embedded image the path is only a name.
        paths = published if data.null_count == len(data) else pc.if_else(pc.is_null(data), published, paths)
    offsets = pc.subtract(lists.offsets, lists.offsets[0])
    return (
        pa.ListArray.from_arrays(offsets, paths.cast(pa.string())),
        pa.ListArray.from_arrays(offsets, data.cast(pa.binary())),
    )


def _without_nulls(column: pa.Array) -> pa.ListArray:
    """Images, or lists of them, as lists, of which those are empty where `column` is null."""
    there = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_list(column.type):
        there = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    offsets = np.zeros(len(column) + 1, np.int32)
    np.cumsum(there, out=offsets[1:])
    values = column.flatten() if pa.types.is_list(column.type) else column.drop_null()
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind))


def _turns(column: pa.Array) -> pa.Array | None:
    """Turns as lists of ``{from, value}`` with LLaVA's role names; None when any is missing or unknown."""
    kind = column.type
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type) or column.null_count:
        return None
    if len(column) and pc.min(pc.list_value_length(column)).as_py() == 0:
        return None
    turns = column.flatten()
    names = [field.name for field in kind.value_type]
    role = _coalesce([turns.field(name) for name in ROLE_KEYS if name in names])
    text = _coalesce([turns.field(name) for name in TEXT_KEYS if name in names])
    if role is None or text is None or role.null_count or text.null_count or turns.null_count:
        return None
    index = pc.index_in(role, value_set=pa.array(list(ROLES)))
    if index.null_count:
        return None
    if np.any(_RENAMED[index.to_numpy()]):
        role = pa.array(list(ROLES.values())).take(index)
    offsets = pc.subtract(column.offsets, column.offsets[0])
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([role, text], fields=list(TURN)))


def _facts(table: pa.Table) -> list[pa.Array] | None:
    """What rows were before they were regenerated, and how they were; None where they say it in an unusual way."""
    nothing = pa.nulls(len(table))
    found, beside = (
        one_array(table[name]) if name in table.column_names else nothing for name in (REGENERATED, PREVIOUS)
    )
    if pa.types.is_null(found.type):
        return [nothing.cast(pa.list_(TURN)), nothing.cast(pa.struct(list(FACTS.items())))]
    if not pa.types.is_struct(found.type):
        return None
    given = {field.name: pc.struct_field(found, field.name) for field in found.type}
    values = [given.get(name, nothing) for name in FACTS]
    for value, kind in zip(values, FACTS.values(), strict=True):
        if not (_is_text(value.type) if kind == pa.string() else _is_signed(value.type)):
            return None
    arrays = [value.cast(kind) for value, kind in zip(values, FACTS.values(), strict=True)]
    facts = pa.StructArray.from_arrays(arrays, fields=[pa.field(*each) for each in FACTS.items()], mask=found.is_null())
    previous = given.get(PREVIOUS, nothing)
    if beside.null_count < len(beside):
        if previous.null_count < len(previous):
            return None
        previous = beside
    turns = _turns_if_any(previous, found.is_valid())
    return None if turns is None else [turns, facts]


def _turns_if_any(column: pa.Array, known: pa.Array) -> pa.Array | None:
    """As :func:`_turns`; null where there are none, and in rows that are not `known`."""
    if pa.types.is_null(column.type):
        return column.cast(pa.list_(TURN))
    if not pa.types.is_list(column.type):
        return None
    there = pc.and_(known, pc.fill_null(pc.greater(pc.list_value_length(column), 0), False))
    turns = _turns(column.filter(there))
    if turns is None:
        return None
    index = pc.subtract(pc.cumulative_sum(there.cast(pa.int64())), 1)
    return turns.take(pc.if_else(there, index, pa.scalar(None, pa.int64())))


def _is_signed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_signed_integer(kind) or pa.types.is_null(kind))


def _coalesce(candidates: list[pa.Array]) -> pa.Array | None:
    """The candidate that has all values (the usual case costs nothing), else the first value of each row."""
    present = [column for column in candidates if column.null_count < len(column)]
    if any(not pa.types.is_string(column.type) for column in present):
        return None
    if len(present) <= 1:
        return present[0] if present else None
    return pc.coalesce(*present)


def _images_fit(paths: pa.Array, embedded: pa.Array, turns: pa.Array, expect: Expect) -> bool:
    """Whether every row has images of the expected number, safe paths, and marks in its text that match them."""
    if not len(paths):
        return True
    counts = pc.list_value_length(paths).to_numpy()
    if counts.min() < (0 if expect.text_only else 1) or counts.max() > (
        1 if expect.images == "one" else SAMPLE_IMAGES.value
    ):
        return False
    # Of an embedded image the path is only a name; of all others it must be there and safe.
    named = paths.flatten().filter(pc.is_null(embedded.flatten()))
    if named.null_count or (_may_be_unsafe(named) and pc.any(pc.match_substring_regex(named, _NO_PLAIN_PATH)).as_py()):
        return False
    marks = _marks(pc.struct_field(turns.values, "value"), turns.offsets.to_numpy())
    return marks is not None and bool(np.all((marks == 0) | (marks == counts)))


def _may_be_unsafe(paths: pa.Array) -> bool:
    """Whether any path has what every unsafe one has; spares nearly all of them the expression."""
    data, offsets = text_bytes(paths)
    text = data.tobytes()
    if np.any(offsets[1:] == offsets[:-1]) or any(part in text for part in (b":", b"\\", b"..", b"\x7f")):
        return True
    first = data[offsets[:-1]]
    return bool(data.min(initial=255) < 0x20 or np.any(first == ord("/")) or np.any(first == ord(".")))


def _marks(values: pa.Array, offsets: np.ndarray[Any, np.dtype[np.int32]]) -> Ints | None:
    """Image marks a row; None when ``<img>`` may be one, which needs a look at the row.

    Counting a substring in every text would cost more than parsing it. A mark nearly always opens the first
    turn and no other ``<`` occurs, which one pass over the text buffer for that byte tells.
    """
    angle_brackets = count_byte(text_bytes(values)[0], "<")
    opening = pc.starts_with(values, MARK).to_numpy(zero_copy_only=False)
    if angle_brackets == int(np.count_nonzero(opening)):
        per_turn = opening.astype(np.int64)
    else:
        if pc.any(pc.match_substring(values, "<img>")).as_py():
            return None
        per_turn = pc.count_substring(values, MARK).to_numpy().astype(np.int64)
    return np.add.reduceat(per_turn, offsets[:-1]) if len(offsets) > 1 else np.zeros(0, np.int64)


def _map_strings(column: pa.Array, to: Callable[[str], str | None]) -> pa.Array:
    """`column` with `to` applied to each distinct value."""
    encoded = column.cast(pa.string()).dictionary_encode()
    mapped = pa.array([to(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return mapped.take(encoded.indices)
