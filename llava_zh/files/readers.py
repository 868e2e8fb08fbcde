"""The shards of published files, and the annotations in a shard: JSON Lines, JSON, Parquet and WebDataset tars.

======================  ===================================  ==============================
file                    a shard is                           rows are named in errors by
======================  ===================================  ==============================
``.jsonl``              a byte range                         line and byte
``.jsonl.gz``, ``.zst`` the whole file                       byte, once decompressed
``.json``               the whole file (an array, or lines)  row
``.parquet``            a run of row groups                  row
``.tar`` (also gzip)    the whole archive, a WebDataset      member, and byte within it
======================  ===================================  ==============================

Each format has a module of its own; this one is the door to all.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from ..errors import BadArgument, BadFile, BadRow
from ..gates import json_values
from ..gates.counts import counted
from ..rows import records
from ..rows.columns import USUAL, Columns
from ..rows.records import Expect, Place
from . import json_arrays, jsonl, parquet_files, webdataset
from .compressed import decompressed
from .data_files import DataFile
from .file_streams import reader
from .jsonl import Range
from .kinds import HEAD, check_head
from .kinds import kind_of as kind_of
from .shards import Reading, Record, Shard, Work, row_tables

# Records looked at from a file's start for its keys, until one is good; and where bad rows are left out, of a file with
# many of them, the records and the bytes.
SAMPLED = 100
SAMPLED_PATIENTLY, SAMPLED_BYTES = 100_000, 256 << 20
# Places of a file of lines that are looked at for a row with an image.
SAMPLED_PLACES = 16
_EVERYTHING = Range(0, 1 << 62)


def plan(files: Sequence[DataFile], *, chunk_size: int, num_shards: int | None, token: Any = None) -> list[Shard]:
    """The shards of `files`, in order.

    JSON Lines files are cut as `files.jsonl.plan` says; the number of all shards together is a power of two
    wherever it can be. Parquet files are cut between row groups.
    """
    pieces = {
        file: parquet_files.row_groups(file, chunk_size, token) for file in files if kind_of(file.name) == "parquet"
    }
    cuttable = [file for file in files if kind_of(file.name) == "jsonl"]
    fixed = sum(len(pieces.get(file, [()])) for file in files if file not in cuttable)
    if cuttable:
        wanted, least = num_shards, fixed + len(cuttable)
        if wanted is not None and wanted < least:
            # Asked of the files that are cut by bytes alone, it would be told in numbers that nobody gave.
            files_or_pieces = f"number of files, {least}" if least == len(files) else f"{least} pieces of these files"
            raise BadArgument(f"num_shards={wanted} is less than the {files_or_pieces}; ask for that many.")
        if wanted is None:
            bytes_wanted = sum(file.size for file in cuttable) / chunk_size
            wanted = jsonl.power_of_two(max(bytes_wanted, len(cuttable)) + fixed)
        ranges = jsonl.plan([f.size for f in cuttable], chunk_size=chunk_size, num_shards=wanted - fixed)
        pieces |= dict(zip(cuttable, ranges, strict=True))
    shards = [Shard(file, *piece) for file in files for piece in pieces.get(file, [Range(0, file.size)])]
    return shards if num_shards is None or cuttable else _merge_to(shards, num_shards)


def _merge_to(shards: list[Shard], num_shards: int) -> list[Shard]:
    """Exactly `num_shards` out of files of which none is cut by bytes, or an error that says what can be had."""
    units = [
        Shard(s.file, i, i + 1) for s in shards if kind_of(s.file.name) == "parquet" for i in range(s.start, s.end)
    ]
    if len(units) < num_shards or len({unit.file for unit in units}) > num_shards or len(units) < len(shards):
        if len(shards) == num_shards:
            return shards
        raise BadArgument(_cannot_be_cut(shards, len(units), num_shards))
    files = list(dict.fromkeys(unit.file for unit in units))
    groups = [sum(unit.file == file for unit in units) for file in files]
    # Each file its share of the shards, at least one and at most one a row group.
    counts = [1] * len(files)
    while sum(counts) < num_shards:
        fullest = max((i for i in range(len(files)) if counts[i] < groups[i]), key=lambda i: groups[i] / counts[i])
        counts[fullest] += 1
    return [
        Shard(file, *piece)
        for file, group_count, count in zip(files, groups, counts, strict=True)
        for piece in jsonl.split(Range(0, group_count), count)
    ]


_WHY_WHOLE = {
    "jsonl.gz": "compressed, so it is read from its start and is one shard",
    "jsonl.zst": "compressed, so it is read from its start and is one shard",
    "json": "one JSON array, so it is read from its start and is one shard",
    "tar": "one WebDataset archive, so it is read from its start and is one shard",
    "zip": "an archive, which is one shard",
}


def _cannot_be_cut(shards: list[Shard], groups: int, num_shards: int) -> str:
    """Why `num_shards` cannot be had of files without any that is cut by bytes: for each kind, by its first file."""
    whole = {kind_of(shard.file.name) or "": shard.file for shard in reversed(shards)}
    parquet = whole.pop("parquet", None)
    reasons = [f"{file.label} is {_WHY_WHOLE[kind]}" for kind, file in whole.items()]
    if parquet is not None:
        reasons.append(f"Parquet is cut between row groups, at least one shard a file, and there are {groups} groups")
    files = len({shard.file for shard in shards})
    most = groups + sum(kind_of(shard.file.name) != "parquet" for shard in shards)
    can = f"{files} to {most} shards" if not whole and files < most else counted(most, "shards")
    return (
        f"num_shards={num_shards} cannot be had; what is here can be {can}: {'; '.join(reasons)}. "
        "Write JSON Lines or Parquet (llava-zh export) for more, or leave num_shards out."
    )


def split(shard: Shard, count: int = 2) -> list[Shard]:
    """`shard` cut further: into `count` byte ranges or runs of row groups, or itself where it cannot be cut."""
    kind = kind_of(shard.file.name)
    if kind not in ("jsonl", "parquet") or shard.end - shard.start < count:
        return [shard]
    return [Shard(shard.file, *piece) for piece in jsonl.split(Range(shard.start, shard.end), count)]


def tables(shard: Shard, reading: Reading) -> Iterator[pa.Table]:
    """The annotations in `shard`, as tables of bounded size.

    Raises:
        BadFile: By `reading.on_damage`, when all rows that are there were given: the file is damaged as a whole
            (compression, Parquet, JSON array, tar), or is no such file.
        BadRow: By `reading.on_bad`, for a bad row.
    """
    try:
        yield from _in_order(_READERS[kind_of(shard.file.name) or "jsonl"](shard, reading), reading)
    except BadFile as error:
        reading.on_damage(error)


def sample(
    file: DataFile, token: Any = None, *, patient: bool = False, columns: Columns = USUAL, text_only: bool = False
) -> Mapping[str, Any]:
    """The first good record of a file as it is (keys and values unchanged), empty when it has no rows.

    Args:
        patient: Bad rows are left out, so the first good one may come late.
        columns: The names by which a good one is known.
        text_only: Rows may have no image. The record is then one that has, if one is found in the places that are
            looked at; else the first.

    Raises:
        BadRow: None of the rows near the file's start is good; this is what is wrong with the first.
        BadFile: The file is damaged or no such file.
    """
    kind = kind_of(file.name)
    first = _first_good(_rows_to_look_at(file, token, columns, patient, text_only), kind, columns, patient, text_only)
    if not text_only or not first or columns.has_image(first):
        return first
    with contextlib.suppress(BadFile):  # which is told when the file is read
        for row in _rows_further_on(file, token, columns):
            if isinstance(row, Mapping) and columns.has_image(row):
                return {**first, **row} if kind == "parquet" else row
    return first


def _rows_to_look_at(
    file: DataFile, token: Any, columns: Columns, patient: bool, text_only: bool = False
) -> Iterable[Any]:
    """The rows at the start of a file, or what is wrong with them."""
    kind = kind_of(file.name)
    if kind == "parquet":
        return parquet_files.first_rows(file, token)
    if kind == "tar":
        return webdataset.samples(file, token, columns, text_only=text_only)
    if kind == "json":
        return itertools.chain(json_arrays.first_element(file, token), json_arrays.rows(file, token))
    start = Range(0, min(file.size, SAMPLED_BYTES if patient else jsonl.FIRST_BLOCK))
    return (record for _, record, _ in _records_on_lines(file, token, start))


def _rows_further_on(file: DataFile, token: Any, columns: Columns) -> Iterator[Any]:
    """Rows in which to look for an image, where the first have none: of lines some all over the file."""
    if kind_of(file.name) == "jsonl":
        for whole in jsonl.split(Range(0, file.size), min(SAMPLED_PLACES, max(-(-file.size // jsonl.FIRST_BLOCK), 1))):
            start = Range(whole.start, min(whole.end, whole.start + jsonl.FIRST_BLOCK))
            yield from (record for _, record, _ in _records_on_lines(file, token, start))
        return
    if kind_of(file.name) == "parquet":
        found = parquet_files.raw_records(file, token, columns.names["image"])
    else:
        found = raw_records(file, token, columns, text_only=True)
    yield from itertools.islice((row for _, row, _ in found), SAMPLED_PATIENTLY)


def _first_good(
    rows: Iterable[Any], kind: str | None, columns: Columns, patient: bool, text_only: bool
) -> Mapping[str, Any]:
    """The first of `rows` that is good, empty where there is none.

    Raises:
        BadRow: There are rows, and none is good; this is what is wrong with the first.
    """
    bad, unlike = None, None
    for row in itertools.islice(rows, SAMPLED_PATIENTLY if patient else SAMPLED):
        if isinstance(row, Mapping):
            # All rows of a table have its columns; a line of JSON that has other keys is one more bad row.
            if not patient or kind in ("parquet", "tar") or not columns.missing(row, text_only=text_only):
                return row
            unlike = unlike or row
        bad = bad or row
    if unlike is not None:
        return unlike
    if isinstance(bad, BadRow):
        raise bad
    return {}


def raw_records(
    file: DataFile, token: Any = None, columns: Columns = USUAL, *, text_only: bool = False
) -> Iterator[Record]:
    """All records of a file, one after another: as they are (keys and values unchanged), or what is wrong with them.

    Args:
        columns: The names of fields, by which members of a tar are chosen.
        text_only: Whether a sample of a tar may have no picture.

    Raises:
        BadFile: When all records that are there were given: the file is damaged as a whole.
    """
    kind = kind_of(file.name)
    if kind == "parquet":
        yield from parquet_files.raw_records(file, token)
    elif kind in ("json", "tar"):
        rows: Iterable[Any]
        if kind == "json":
            rows = json_arrays.rows(file, token)
        else:
            rows = webdataset.samples(file, token, columns, text_only=text_only)
        for i, row in enumerate(rows):
            place = Place(file.label, row=i)
            known = isinstance(row, Mapping | BadRow)
            yield place, row if known else records.bad_row(place, "row", "one JSON object", row), None
    elif kind == "zip":
        raise _not_rows(file)
    else:
        yield from _records_on_lines(file, token, Range(0, file.size))


def _records_on_lines(file: DataFile, token: Any, whole: Range) -> Iterator[Record]:
    compressed = kind_of(file.name) in ("jsonl.gz", "jsonl.zst")
    for offset, block in _compressed_blocks(file, token) if compressed else _blocks(file, whole, token):
        yield from _records_in(file, offset, block)


def _records_in(file: DataFile, offset: int, block: jsonl.AnyBlock) -> Iterator[Record]:
    place = Place(file.label, byte=offset)
    if isinstance(block, jsonl.TooLong):
        yield place, jsonl.too_long(place), None
        return
    for at, line in jsonl.lines(offset, block):
        place = Place(file.label, byte=at)
        yield place, jsonl.decode_line(place, line), line


def checked_records(
    file: DataFile, expect: Expect, token: Any = None
) -> Iterator[tuple[Record, list[dict[str, str]] | None]]:
    """As :func:`raw_records`; with the turns of each row that is known to be good, since all near it are usual rows.

    Raises:
        BadFile: As :func:`raw_records`.
    """
    if kind_of(file.name) in ("json", "parquet", "tar", "zip"):
        for record in raw_records(file, token, expect.columns, text_only=expect.text_only):
            yield record, None
        return
    compressed = kind_of(file.name) in ("jsonl.gz", "jsonl.zst")
    whole = Range(0, file.size)
    for offset, block in _compressed_blocks(file, token) if compressed else _blocks(file, whole, token):
        annotations = None if isinstance(block, jsonl.TooLong) else jsonl.columns(block, expect)
        found = [] if annotations is None or isinstance(block, jsonl.TooLong) else list(jsonl.lines(offset, block))
        if annotations is None or len(annotations) != len(found):
            yield from ((record, None) for record in _records_in(file, offset, block))
            continue
        for (at, line), turns in zip(found, annotations["conversations"].to_pylist(), strict=True):
            yield (Place(file.label, byte=at), json_values.decode(line), line), turns


def _in_order(work: Iterator[Work], reading: Reading) -> Iterator[pa.Table]:
    """The table of each piece of work in order, made on threads while the consumer is busy with the tables before.

    A BadFile that `work` raises is passed on when the tables before it were given.
    """

    def done(piece: Work) -> pa.Table:
        return reading.then(piece())

    yield from map(done, itertools.islice(work, 1))
    ahead: deque[Future[pa.Table]] = deque()
    damage = None
    with ThreadPoolExecutor(reading.ahead, thread_name_prefix="llava-zh-parse") as pool:
        try:
            for piece in work:
                ahead.append(pool.submit(done, piece))
                if len(ahead) > reading.ahead:
                    yield ahead.popleft().result()
        except BadFile as error:
            damage = error
        while ahead:
            yield ahead.popleft().result()
    if damage is not None:
        raise damage


# -- one reader a kind -------------------------------------------------------------------------------------


def _jsonl(shard: Shard, reading: Reading) -> Iterator[Work]:
    file, whole = shard.file, Range(shard.start, shard.end)
    if file.path is None:
        return _parsed(file, _blocks(file, whole, reading.token), reading)
    # Each shard looks, as one of any other process may be the only one that is read here.
    check_head(file.label, b"".join(reader(file, reading.token)(0, min(HEAD, file.size))) if file.size else b"")
    return (partial(_read_and_parse, file, part, reading) for part in jsonl.parts(whole))


def _read_and_parse(file: DataFile, part: Range, reading: Reading) -> pa.Table:
    # One read and one block: nothing is copied between the file and the parser.
    tables = [parse() for parse in _parsed(file, _blocks(file, part, reading.token), reading)]
    return pa.concat_tables(tables) if tables else records.empty(reading.expect.schema)


def _compressed_jsonl(shard: Shard, reading: Reading) -> Iterator[Work]:
    return _parsed(shard.file, _compressed_blocks(shard.file, reading.token), reading)


def _parsed(file: DataFile, blocks: Iterable[tuple[int, jsonl.AnyBlock]], reading: Reading) -> Iterator[Work]:
    for offset, block in blocks:
        yield partial(jsonl.parse, file.label, offset, block, reading.expect, reading.on_bad, reading.on_columns)


def _blocks(file: DataFile, whole: Range, token: Any) -> Iterator[tuple[int, jsonl.AnyBlock]]:
    blocks = jsonl.blocks(jsonl.pieces(reader(file, token), whole, file.size), whole)
    return _checked(file, blocks) if whole.start == 0 else blocks


def _compressed_blocks(file: DataFile, token: Any) -> Iterator[tuple[int, jsonl.AnyBlock]]:
    """The lines of a compressed file; those that are whole, and then the error, where it is damaged or cut short."""
    damage: list[BadFile] = []

    def pieces() -> Iterator[bytes]:
        try:
            yield from decompressed(file, token)
        except BadFile as error:
            damage.append(error)

    for offset, block in _checked(file, jsonl.blocks(pieces(), _EVERYTHING)):
        if not damage or isinstance(block, jsonl.TooLong):
            yield offset, block
        elif whole := bytes(block).rpartition(b"\n")[0]:
            yield offset, whole + b"\n"
    if damage:
        raise damage[0]


def _checked(file: DataFile, blocks: Iterator[tuple[int, jsonl.AnyBlock]]) -> Iterator[tuple[int, jsonl.AnyBlock]]:
    """`blocks`, unless the first shows that the file is none of JSON lines."""
    for i, (offset, block) in enumerate(blocks):
        if i == 0 and not isinstance(block, jsonl.TooLong):
            check_head(file.label, bytes(block[:HEAD]))
        yield offset, block


def _json(shard: Shard, reading: Reading) -> Iterator[Work]:
    file = shard.file
    if file.size and not json_arrays.is_array(file, reading.token):
        return _parsed(file, _blocks(file, Range(0, file.size), reading.token), reading)
    return (
        partial(json_arrays.parse, file.label, first, elements, reading.expect, reading.on_bad, reading.on_columns)
        for first, elements in json_arrays.parts(file, reading.token)
    )


def _tar(shard: Shard, reading: Reading) -> Iterator[Work]:
    expect = reading.expect
    rows = webdataset.samples(shard.file, reading.token, expect.columns, text_only=expect.text_only)
    return _row_tables(shard, rows, reading)


def _row_tables(shard: Shard, rows: Iterable[Any], reading: Reading) -> Iterator[Work]:
    return row_tables(((Place(shard.file.label, row=i), row) for i, row in enumerate(rows)), reading)


def _zip(shard: Shard, reading: Reading) -> Iterator[Work]:
    raise _not_rows(shard.file)


def _not_rows(file: DataFile) -> BadFile:
    return BadFile(f"{file.label}: a zip archive holds images here, not rows. Pass the files with rows as data_files=.")


_READERS: dict[str, Callable[[Shard, Reading], Iterator[Work]]] = {
    "jsonl": _jsonl,
    "jsonl.gz": _compressed_jsonl,
    "jsonl.zst": _compressed_jsonl,
    "json": _json,
    "parquet": parquet_files.tables,
    "tar": _tar,
    "zip": _zip,
}
