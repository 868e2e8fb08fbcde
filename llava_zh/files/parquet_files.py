"""Parquet files: shards between row groups, and tables that are bounded whatever the file says of itself.

A Parquet file of a megabyte may hold gigabytes: a text that is stored once, in a dictionary, can be a value of every
row. So the first rows and the dictionaries of a row group are looked at, and columns that could come to too much are
read as dictionaries and spelled out some rows at a time.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import BadFile, BadRow, LlavaZhError, UnknownLayout
from ..gates.limits import LINE, SAMPLE_BYTES, Limit
from ..rows import record_columns, records
from ..rows.columns import PREVIOUS, REGENERATED
from ..rows.record_columns import check_names
from ..rows.records import Place
from . import jsonl
from .data_files import DataFile
from .file_streams import opened
from .jsonl import Range
from .kinds import other_encoding
from .shards import TABLE_BYTES, Reading, Record, Shard, Work

# Rows that are looked at first, and that are read at once at most.
_FIRST_ROWS, _MOST_ROWS = 64, 10_000
# What a column of a row group may come to if each of its values were the longest of its dictionary.
_SPELLED_OUT = 512 << 20
# A longer text in a dictionary is looked out for, however few values there are said to be.
_LONG = 64 << 10


def row_groups(file: DataFile, chunk_size: int, token: Any) -> list[Range]:
    """Runs of whole row groups of about `chunk_size` bytes; a power of two of them where there are enough."""
    with _opened(file, token) as parquet:
        groups = parquet.metadata.num_row_groups
    count = min(jsonl.power_of_two(file.size / chunk_size), max(groups, 1))
    while count & (count - 1):
        count &= count - 1  # fewer groups than wanted: the power of two below
    return jsonl.split(Range(0, groups), count)


def tables(shard: Shard, reading: Reading) -> Iterator[Work]:
    """The annotations in a run of row groups.

    Raises:
        UnknownLayout: There are rows, and no column for their images or conversations.
        BadFile: The file is damaged.
    """
    file = shard.file
    with _opened(file, reading.token) as parquet:
        if not parquet.metadata.num_rows:
            return  # an empty part, such as Spark writes first; it may have no columns either
        check_names(parquet.schema_arrow)
        if twice := [name for name, count in Counter(parquet.schema_arrow.names).items() if count > 1]:
            raise BadFile(f"{file.label}: several columns have one name: {', '.join(twice)}. Rename them.")
        columns = reading.expect.columns
        read = columns.known | {PREVIOUS} if reading.expect.facts else columns.known - {REGENERATED}
        names = [name for name in parquet.schema_arrow.names if name in read]
        for field in columns.missing(names, text_only=reading.expect.text_only):
            raise UnknownLayout(
                f"{file.label}: no column for {field}. Columns seen: {', '.join(parquet.schema_arrow.names)}. "
                f"Looked for {', '.join(columns.names[field])}. Rename the column, or name other files with "
                "data_files=."
            )
        reading.on_columns(parquet.schema_arrow.names)
        row = sum(parquet.metadata.row_group(i).num_rows for i in range(shard.start))
        for batch in _batches(file, reading.token, parquet, names, range(shard.start, shard.end)):
            yield partial(_table, file.label, row, batch, reading)
            row += len(batch)


def raw_records(file: DataFile, token: Any, of: Collection[str] | None = None) -> Iterator[Record]:
    """All rows as they are, or what is wrong with them.

    Args:
        of: Names of columns (with a dot, of a key in one) to which rows are cut down; no row where there are none.
    """
    at = 0
    with _opened(file, token) as parquet:
        names = parquet.schema_arrow.names
        if of is not None:
            names = [name for name in names if name in {one.partition(".")[0] for one in of}]
            if not names:
                return
        for batch in _batches(file, token, parquet, names, range(parquet.metadata.num_row_groups)):
            for place, row in _rows(file.label, at, batch):
                yield place, row, None
            at += len(batch)


def first_rows(file: DataFile, token: Any) -> Iterator[Mapping[str, Any] | BadRow]:
    """The first rows as they are, or what is wrong with them; of a file without rows one with its columns, all None."""
    empty = True
    for _, row, _ in raw_records(file, token):
        empty = False
        yield row
    if empty:
        with _opened(file, token) as parquet:
            yield dict.fromkeys(parquet.schema_arrow.names)


# -- rows --------------------------------------------------------------------------------------------------


def _table(label: str, first: int, batch: pa.RecordBatch, reading: Reading) -> pa.Table:
    if not _is_odd(batch):
        annotations = record_columns.from_arrow(pa.Table.from_batches([batch]), reading.expect)
        if annotations is not None:
            return annotations
    return records.from_rows(_rows(label, first, batch), reading.expect, reading.on_bad)


def _is_odd(batch: pa.RecordBatch) -> bool:
    """Whether a row is larger than any may be, or holds text that is not UTF-8, which the reader does not look at."""
    smallest = min(LINE.value, SAMPLE_BYTES.value)
    if _size(batch) > smallest and any(_too_large(batch.slice(i, 1)) for i in range(len(batch))):
        return True
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return True
    return False


def _rows(label: str, first: int, batch: pa.RecordBatch) -> Iterator[tuple[Place, Mapping[str, Any] | BadRow]]:
    rows = None
    with contextlib.suppress(ValueError, OverflowError):  # a date that Python has not, found one by one below
        rows = None if _is_odd(batch) else batch.to_pylist()
    for i in range(len(batch)):
        place = Place(label, row=first + i)
        yield place, _odd_row(place, batch.slice(i, 1)) if rows is None else rows[i]


def _odd_row(place: Place, row: pa.RecordBatch) -> Mapping[str, Any] | BadRow:
    if limit := _too_large(row):
        return records.bad_row(place, "row", f"at most {limit.value:,} {limit.unit}", "more", limit.exceeded())
    try:
        [values] = row.to_pylist()
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x}: {error.object[:40]!r}"
        return records.bad_row(place, "row", "text in UTF-8", found, other_encoding(error.object))
    except (ValueError, OverflowError) as error:
        return records.bad_row(place, "row", "values that Python has", str(error))
    record: Mapping[str, Any] = values
    return record


def _too_large(row: pa.RecordBatch) -> Limit | None:
    """The limit that a batch of one row exceeds, if any."""
    leaves = [leaf for column in row.columns for leaf in _leaves(column)]
    if sum(_bytes_in(leaf) for leaf in leaves if not _is_binary(leaf)) > LINE.value:
        return LINE
    return SAMPLE_BYTES if sum(_bytes_in(leaf) for leaf in leaves if _is_binary(leaf)) > SAMPLE_BYTES.value else None


# -- batches of bounded size -------------------------------------------------------------------------------


def _batches(
    file: DataFile, token: Any, parquet: pq.ParquetFile, names: list[str], groups: range
) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups and columns, in batches of about :data:`TABLE_BYTES` at most."""
    for group in groups:
        rows, heavy = _looked_at(file, token, names, group)
        if not heavy:
            for batch in _of_group(parquet, group, names, rows):
                yield from _cut(batch)
            continue
        with _opened(file, token, read_dictionary=heavy) as as_dictionaries:
            for batch in _of_group(as_dictionaries, group, names, rows):
                yield from map(_spelled_out, _cut(batch))


def _of_group(parquet: pq.ParquetFile, group: int, names: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    batches: Iterator[pa.RecordBatch] = parquet.iter_batches(rows, row_groups=[group], columns=names, use_threads=False)
    return batches


def _looked_at(file: DataFile, token: Any, names: list[str], group: int) -> tuple[int, list[str]]:
    """How many rows of a row group make a table, by its first rows, and the columns to be read as dictionaries.

    Nothing is asked of the metadata of columns: where that is damaged, pyarrow ends the process.
    """
    with _opened(file, token) as parquet:
        meta = parquet.metadata.row_group(group)
        declared, length = meta.total_byte_size / max(meta.num_rows, 1), meta.num_rows
        columns = [parquet.schema.column(i) for i in range(len(parquet.schema))]
    paths = [column.path if column.physical_type == "BYTE_ARRAY" else None for column in columns]
    most = _MOST_ROWS
    try:
        first = _first_rows(file, token, names, group, [path for path in paths if path is not None])
    except BadFile as error:
        if "ot yet implemented" not in str(error.__cause__):  # an OSError of pyarrow, with no class of its own
            raise
        # An encoding in which each value may repeat most of the one before, which can be read as no dictionary.
        first, most = _first_rows(file, token, names, group, []), _FIRST_ROWS
    if first is None or not len(first):
        return most, []
    heavy = []
    of_field = _columns_of_fields(first.schema, parquet.schema_arrow)
    for name, array in zip(first.schema.names, first.columns, strict=True):
        for number, leaf in zip(of_field[name], _leaves(array), strict=True):
            path = paths[number]
            if path is not None and pa.types.is_dictionary(leaf.type) and len(leaf):
                # Where all of a dictionary is in the first rows, their mean size tells how many rows there may be.
                unseen = len(leaf.dictionary) > len(leaf.indices.unique().drop_null())
                longest = pc.max(pc.binary_length(leaf.dictionary)).as_py() or 0
                values = length * max(len(leaf) // len(first), 1)
                if unseen and (longest > _LONG or longest * values > _SPELLED_OUT):
                    heavy.append(path)
    mean = max(declared, _size(first) / len(first), 1)
    return max(min(int(TABLE_BYTES / mean), most), 1), heavy


def _first_rows(
    file: DataFile, token: Any, names: list[str], group: int, as_dictionary: list[str]
) -> pa.RecordBatch | None:
    """The first rows, read through a small buffer, so that no whole column is fetched for them."""
    with _opened(file, token, read_dictionary=as_dictionary, buffer_size=64 << 10) as parquet:
        return next(_of_group(parquet, group, names, _FIRST_ROWS), None)


def _columns_of_fields(read: pa.Schema, stored: pa.Schema) -> dict[str, list[int]]:
    """The numbers of the columns in which a file stores each of the fields that were `read`."""
    numbers: dict[str, list[int]] = {}
    at = 0
    for field in stored:
        count = len(_leaves(pa.nulls(0, field.type)))
        numbers[field.name] = list(range(at, at + count))
        at += count
    return {name: numbers[name] for name in read.names}


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """`batch` in pieces of at most :data:`TABLE_BYTES`, or of one row."""
    if len(batch) <= 1 or _size(batch) <= 2 * TABLE_BYTES:
        yield batch
        return
    half = len(batch) // 2
    yield from _cut(batch.slice(0, half))
    yield from _cut(batch.slice(half))


def _spelled_out(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` with texts in place of dictionaries; as it is where that would be larger than a row may be."""
    if len(batch) == 1 and _too_large(batch):
        return batch
    arrays = [_plain(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _plain(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_dictionary(kind):
        return array.cast(kind.value_type)
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        fields = [_plain(array.field(i)) for i in range(len(names))]
        return pa.StructArray.from_arrays(fields, names, mask=array.is_null() if array.null_count else None)
    if pa.types.is_list(kind):
        values = _plain(array.flatten())
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        return pa.ListArray.from_arrays(offsets, values, mask=array.is_null() if array.null_count else None)
    return array


def _size(batch: pa.RecordBatch) -> int:
    """The bytes of a batch when its dictionaries are spelled out."""
    return sum(_bytes_in(leaf) for column in batch.columns for leaf in _leaves(column))


def _bytes_in(leaf: pa.Array) -> int:
    if pa.types.is_dictionary(leaf.type):
        lengths = pc.binary_length(leaf.dictionary).take(leaf.indices)
        return int(pc.sum(lengths, min_count=0).as_py())
    return int(leaf.nbytes)


def _leaves(array: pa.Array) -> list[pa.Array]:
    """The arrays of values within an array, in the order in which Parquet has columns."""
    kind = array.type
    if pa.types.is_struct(kind):
        return [leaf for field in array.flatten() for leaf in _leaves(field)]
    if pa.types.is_map(kind):
        return [leaf for part in (array.keys, array.items) for leaf in _leaves(part)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _leaves(array.flatten())
    return [array]


def _is_binary(leaf: pa.Array) -> bool:
    kind = leaf.type.value_type if pa.types.is_dictionary(leaf.type) else leaf.type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@contextlib.contextmanager
def _opened(file: DataFile, token: Any, **options: Any) -> Iterator[pq.ParquetFile]:
    try:
        with opened(file, token) as handle, pq.ParquetFile(handle, **options) as parquet:
            yield parquet
    except LlavaZhError:
        raise
    except (pa.ArrowException, OSError, OverflowError, KeyError, MemoryError, UnicodeDecodeError) as error:
        raise BadFile(f"{file.label}: not a readable Parquet file ({error}). Fetch the file again.") from error
