"""The shards of published files, and the annotations in a shard: JSON Lines, JSON, Parquet and WebDataset tars.

======================  ===================================  ==============================
file                    a shard is                           rows are named in errors by
======================  ===================================  ==============================
``.jsonl``              a byte range                         line and byte
``.jsonl.gz``, ``.zst`` the whole file                       byte, once decompressed
``.json``               the whole file (an array, or lines)  row
``.parquet``            a run of row groups                  row
``.tar`` (also gzip)    the whole archive, a WebDataset      row
======================  ===================================  ==============================
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from . import jsonl, record_columns, records
from .errors import BadArgument, BadFile, BadRow, LlavaZhError, UnknownLayout
from .file_kinds import kind_of as kind_of
from .hub import IMAGE_SUFFIXES, DataFile, read
from .json_values import BOM
from .jsonl import Range
from .records import Expect, Place

# Rows with embedded images can have megabytes each; this bounds a table whatever the rows.
TABLE_BYTES = 8 << 20
# Tables made ahead of the consumer. Two keep a consumer of Arrow tables waiting for the parser alone.
PARSE_AHEAD = 2
Work = Callable[[], pa.Table]
# Where a record is, the record or what is wrong with it, and its line without the line end where it has one.
Record = tuple[Place, Mapping[str, Any] | BadRow, bytes | None]
# Records looked at from a file's start for its keys, until one is good.
SAMPLED = 100


@dataclass(frozen=True)
class Shard:
    """A piece of a file: bytes `start` to `end`, or row groups for Parquet; the whole file where it cannot be cut."""

    file: DataFile
    start: int
    end: int


@dataclass(frozen=True)
class Reading:
    """How to read: what rows must be, whom to tell of bad ones and of the columns seen, and the hub's token.

    `then` makes of each table of annotations what comes out, on the thread that parsed it. `ahead` is the number of
    tables that are made ahead of the consumer, each on a thread.
    """

    expect: Expect
    on_bad: Callable[[BadRow], None]
    on_columns: Callable[[Iterable[str]], None]
    token: Any = None
    then: Callable[[pa.Table], pa.Table] = lambda table: table
    ahead: int = PARSE_AHEAD


def plan(files: Sequence[DataFile], *, chunk_size: int, num_shards: int | None, token: Any = None) -> list[Shard]:
    """The shards of `files`, in order.

    JSON Lines files are cut as :func:`llava_zh.jsonl.plan` says; the number of all shards together is a power of two
    wherever it can be. Parquet files are cut between row groups.
    """
    pieces = {file: _row_groups(file, chunk_size, token) for file in files if kind_of(file.name) == "parquet"}
    cuttable = [file for file in files if kind_of(file.name) == "jsonl"]
    fixed = sum(len(pieces.get(file, [()])) for file in files if file not in cuttable)
    if cuttable:
        wanted = num_shards
        if wanted is None:
            bytes_wanted = sum(file.size for file in cuttable) / chunk_size
            wanted = jsonl.power_of_two(max(bytes_wanted, len(cuttable)) + fixed)
        ranges = jsonl.plan([f.size for f in cuttable], chunk_size=chunk_size, num_shards=max(wanted - fixed, 0))
        pieces |= dict(zip(cuttable, ranges, strict=True))
    shards = [Shard(file, *piece) for file in files for piece in pieces.get(file, [Range(0, file.size)])]
    return shards if num_shards is None or cuttable else _merge_to(shards, num_shards)


def _row_groups(file: DataFile, chunk_size: int, token: Any) -> list[Range]:
    """Runs of whole row groups of about `chunk_size` bytes; a power of two of them where there are enough."""
    with _parquet(file, token) as parquet:
        groups = parquet.metadata.num_row_groups
    count = min(jsonl.power_of_two(file.size / chunk_size), max(groups, 1))
    while count & (count - 1):
        count &= count - 1  # fewer groups than wanted: the power of two below
    return jsonl.split(Range(0, groups), count)


def _merge_to(shards: list[Shard], num_shards: int) -> list[Shard]:
    """Exactly `num_shards` out of files that are cut between row groups, or an error that says what can be had."""
    units = [
        Shard(s.file, i, i + 1) for s in shards if kind_of(s.file.name) == "parquet" for i in range(s.start, s.end)
    ]
    if len(units) < num_shards or len({unit.file for unit in units}) > num_shards or len(units) < len(shards):
        if len(shards) == num_shards:
            return shards
        raise BadArgument(
            f"num_shards={num_shards} cannot be had: the files are cut between row groups and have "
            f"{max(len(units), len(shards))}."
        )
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


def split(shard: Shard, count: int = 2) -> list[Shard]:
    """`shard` cut further: into `count` byte ranges or runs of row groups, or itself where it cannot be cut."""
    kind = kind_of(shard.file.name)
    if kind not in ("jsonl", "parquet") or shard.end - shard.start < count:
        return [shard]
    return [Shard(shard.file, *piece) for piece in jsonl.split(Range(shard.start, shard.end), count)]


def tables(shard: Shard, reading: Reading) -> Iterator[pa.Table]:
    """The annotations in `shard`, as tables of bounded size.

    Raises:
        BadFile: The file is damaged as a whole (compression, Parquet, JSON array, tar).
        BadRow: By `reading.on_bad`, for a bad row.
    """
    kind = kind_of(shard.file.name)
    reader = _READERS[kind or "jsonl"]
    yield from _in_order(reader(shard, reading), reading)


def sample(file: DataFile, token: Any = None) -> Mapping[str, Any]:
    """The first good record of a file as it is (keys and values unchanged), empty when there is none near the start."""
    kind = kind_of(file.name)
    rows: Iterable[Any]
    if kind == "parquet":
        with _parquet(file, token) as parquet:
            rows = [
                row for batch in itertools.islice(parquet.iter_batches(batch_size=1), 1) for row in batch.to_pylist()
            ]
    elif kind == "tar":
        rows = _samples(file, token)
    elif kind == "json":
        rows = itertools.chain(_first_element(file, token), _json_rows(file, token))
    else:
        rows = _first_lines(file, token)
    return next((row for row in itertools.islice(rows, SAMPLED) if isinstance(row, Mapping)), {})


def _first_element(file: DataFile, token: Any) -> Iterator[Any]:
    """The first element of a JSON array, if the file is one and its start holds it: the whole may be gigabytes."""
    start = b"".join(read(file, 0, min(file.size, jsonl.FIRST_BLOCK), token)).removeprefix(BOM)
    text = start.decode("utf-8", errors="ignore").lstrip()
    if text.startswith("["):
        with contextlib.suppress(ValueError):
            yield json.JSONDecoder().raw_decode(text[1:].lstrip())[0]


def _first_lines(file: DataFile, token: Any) -> Iterator[Mapping[str, Any] | BadRow]:
    start = Range(0, min(file.size, jsonl.FIRST_BLOCK))
    return (record for _, record, _ in _records_on_lines(file, token, start))


def _records_on_lines(file: DataFile, token: Any, whole: Range) -> Iterator[Record]:
    if kind_of(file.name) in ("jsonl.gz", "jsonl.zst"):
        blocks = jsonl.blocks(_decompressed(file, token), Range(0, 1 << 62))
    else:
        blocks = jsonl.blocks(jsonl.pieces(_read(file, token), whole, file.size), whole)
    for offset, block in blocks:
        if isinstance(block, jsonl.TooLong):
            yield Place(file.label, byte=offset), jsonl.too_long(Place(file.label, byte=offset)), None
            continue
        for at, line in jsonl.lines(offset, block):
            place = Place(file.label, byte=at)
            yield place, jsonl.decode_line(place, line), line


def raw_records(file: DataFile, token: Any = None) -> Iterator[Record]:
    """All records of a file, one after another: as they are (keys and values unchanged), or what is wrong with them.

    Raises:
        BadFile: The file is damaged as a whole.
    """
    kind = kind_of(file.name)
    if kind == "parquet":
        yield from _raw_parquet(file, token)
    elif kind in ("json", "tar"):
        rows: Iterable[Any] = _json_rows(file, token) if kind == "json" else _samples(file, token)
        for i, row in enumerate(rows):
            place = Place(file.label, row=i)
            known = isinstance(row, Mapping | BadRow)
            yield place, row if known else records.bad_row(place, "row", "one JSON object", row), None
    elif kind == "zip":
        raise _not_rows(file)
    else:
        yield from _records_on_lines(file, token, Range(0, file.size))


def _raw_parquet(file: DataFile, token: Any) -> Iterator[Record]:
    with _parquet(file, token) as parquet:
        at = 0
        for batch in parquet.iter_batches(batch_size=_rows_a_table(parquet.metadata), use_threads=False):
            for row in batch.to_pylist():
                yield Place(file.label, row=at), row, None
                at += 1


def _in_order(work: Iterator[Work], reading: Reading) -> Iterator[pa.Table]:
    """The table of each piece of work in order, made on threads while the consumer is busy with the tables before."""

    def done(piece: Work) -> pa.Table:
        return reading.then(piece())

    yield from map(done, itertools.islice(work, 1))
    ahead: deque[Future[pa.Table]] = deque()
    with ThreadPoolExecutor(reading.ahead, thread_name_prefix="llava-zh-parse") as pool:
        for piece in work:
            ahead.append(pool.submit(done, piece))
            if len(ahead) > reading.ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


# -- one reader a kind -------------------------------------------------------------------------------------


def _read(file: DataFile, token: Any) -> jsonl.Read:
    return lambda offset, length: read(file, offset, length, token)


def _jsonl(shard: Shard, reading: Reading) -> Iterator[Work]:
    file, whole = shard.file, Range(shard.start, shard.end)
    if file.path is None:
        stream = jsonl.pieces(_read(file, reading.token), whole, file.size)
        return _parsed(file, jsonl.blocks(stream, whole), reading)
    return (partial(_read_and_parse, file, part, reading) for part in jsonl.parts(whole))


def _read_and_parse(file: DataFile, part: Range, reading: Reading) -> pa.Table:
    # One read and one block: nothing is copied between the file and the parser.
    blocks = _parsed(file, jsonl.blocks(jsonl.pieces(_read(file, reading.token), part, file.size), part), reading)
    tables = [parse() for parse in blocks]
    return pa.concat_tables(tables) if tables else records.empty()


def _compressed_jsonl(shard: Shard, reading: Reading) -> Iterator[Work]:
    stream = _decompressed(shard.file, reading.token)
    return _parsed(shard.file, jsonl.blocks(stream, Range(0, 1 << 62)), reading)


def _parsed(
    file: DataFile, blocks: Iterable[tuple[int, jsonl.Block | jsonl.TooLong]], reading: Reading
) -> Iterator[Work]:
    for offset, block in blocks:
        yield partial(jsonl.parse, file.label, offset, block, reading.expect, reading.on_bad, reading.on_columns)


def _decompressed(file: DataFile, token: Any) -> Iterator[bytes]:
    codec = "zstd" if file.name.lower().endswith(".zst") else "gzip"
    done = 0
    try:
        with pa.CompressedInputStream(pa.PythonFile(_Stream(file, token), mode="r"), codec) as stream:
            while piece := stream.read(jsonl.BLOCK):
                done += len(piece)
                yield piece
    except LlavaZhError:
        raise
    except OSError as error:
        raise BadFile(
            f"{file.label}: {codec} data is damaged or cut short after {done} decompressed bytes "
            f"({error}). Fetch the file again."
        ) from error


def _json(shard: Shard, reading: Reading) -> Iterator[Work]:
    rows = _json_rows(shard.file, reading.token)
    yield from _row_tables(((Place(shard.file.label, row=i), row) for i, row in enumerate(rows)), reading)


def _json_rows(file: DataFile, token: Any) -> Iterator[Any]:
    text = b"".join(read(file, 0, file.size, token)).removeprefix(BOM)
    if not text.lstrip().startswith(b"["):
        for offset, line in jsonl.lines(0, text):
            yield jsonl.decode_line(Place(file.label, byte=offset), line)
        return
    try:
        raw = msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise BadFile(f"{file.label}: not a JSON array of records: {error}. Is the file complete?") from error
    for i, row in enumerate(raw):
        yield jsonl.decode_line(Place(file.label, row=i), bytes(row))


def _parquet_tables(shard: Shard, reading: Reading) -> Iterator[Work]:
    file = shard.file
    with _parquet(file, reading.token) as parquet:
        meta = parquet.metadata
        names = [name for name in parquet.schema_arrow.names if name in records.KNOWN_COLUMNS]
        for field in ("image", "conversations"):
            if not set(names) & set(records.ALIASES[field]):
                raise UnknownLayout(
                    f"{file.label}: no column for {field}. Columns seen: {', '.join(parquet.schema_arrow.names)}. "
                    f"Looked for {', '.join(records.ALIASES[field])}. "
                    "Rename the column, or name other files with data_files=."
                )
        reading.on_columns(parquet.schema_arrow.names)
        row = sum(meta.row_group(i).num_rows for i in range(shard.start))
        batches = parquet.iter_batches(
            batch_size=_rows_a_table(meta, shard.start, shard.end),
            row_groups=list(range(shard.start, shard.end)),
            columns=names,
            use_threads=False,
        )
        for batch in batches:
            yield partial(_parquet_table, file.label, row, batch, reading)
            row += len(batch)


def _rows_a_table(meta: pq.FileMetaData, start: int = 0, end: int | None = None) -> int:
    """Rows of these row groups that make a table of at most :data:`TABLE_BYTES`."""
    groups = [meta.row_group(i) for i in range(start, meta.num_row_groups if end is None else end)]
    mean: int = max(sum(g.total_byte_size for g in groups) // max(sum(g.num_rows for g in groups), 1), 1)
    return max(min(TABLE_BYTES // mean, 10_000), 1)


def _parquet_table(label: str, first: int, batch: pa.RecordBatch, reading: Reading) -> pa.Table:
    annotations = record_columns.from_arrow(pa.Table.from_batches([batch]), reading.expect)
    if annotations is not None:
        return annotations
    places = (Place(label, row=first + i) for i in range(len(batch)))
    return records.from_rows(zip(places, batch.to_pylist(), strict=True), reading.expect, reading.on_bad)


@contextlib.contextmanager
def _parquet(file: DataFile, token: Any) -> Iterator[pq.ParquetFile]:
    try:
        with _opened(file, token) as handle, pq.ParquetFile(handle) as parquet:
            yield parquet
    except LlavaZhError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise BadFile(f"{file.label}: not a readable Parquet file ({error}). Fetch the file again.") from error


def _tar(shard: Shard, reading: Reading) -> Iterator[Work]:
    rows = enumerate(_samples(shard.file, reading.token))
    yield from _row_tables(((Place(shard.file.label, row=i), row) for i, row in rows), reading)


def _samples(file: DataFile, token: Any) -> Iterator[Mapping[str, Any] | BadRow]:
    """The samples of a WebDataset tar: members that share a name up to the first dot of their last part."""
    key: tuple[str, str] | None = None
    sample: dict[str, Any] = {}
    try:
        with _Stream(file, token) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if (folder, stem) != key:
                    if sample:
                        yield sample.get(_BAD, sample)
                    key, sample = (folder, stem), {}
                handle = tar.extractfile(member)
                assert handle is not None  # it is a regular file
                _add_member(sample, file, member.name, f".{suffix.lower()}", handle.read())
    except LlavaZhError:
        raise
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise BadFile(
            f"{file.label}: the tar archive is damaged or cut short ({error}). Fetch the file again."
        ) from error
    if sample:
        yield sample.get(_BAD, sample)


_BAD = "a bad member"  # where a sample under way keeps the error of its JSON


def _add_member(sample: dict[str, Any], file: DataFile, name: str, suffix: str, data: bytes) -> None:
    if suffix.endswith(IMAGE_SUFFIXES):
        # More than one image a sample is a list, in the archive's order.
        before = sample.get("image")
        image = {"bytes": data, "path": name}
        sample["image"] = image if before is None else [*(before if isinstance(before, list) else [before]), image]
    elif suffix.endswith(".json"):
        fields = jsonl.decode_line(Place(f"{file.label}, member {name}", byte=0), data)
        if isinstance(fields, BadRow):
            sample[_BAD] = fields
        else:
            # The picture itself wins over the name that the record has for it.
            sample.update({k: v for k, v in fields.items() if k not in records.ALIASES["image"]})


def _row_tables(rows: Iterable[tuple[Place, Any]], reading: Reading) -> Iterator[Work]:
    """Rows as tables of at most :data:`TABLE_BYTES` of images, or some hundreds of rows."""
    batch: list[tuple[Place, Any]] = []
    size = 0
    for place, row in rows:
        if isinstance(row, Mapping):
            reading.on_columns(row)
        elif not isinstance(row, BadRow):
            row = records.bad_row(place, "row", "one JSON object", row)
        batch.append((place, row))
        image = row.get("image") if isinstance(row, Mapping) else None
        size += sum(
            len(i.get("bytes") or b"")
            for i in (image if isinstance(image, list) else [image])
            if isinstance(i, Mapping)
        )
        if len(batch) >= 512 or size >= TABLE_BYTES:
            yield partial(records.from_rows, batch, reading.expect, reading.on_bad)
            batch, size = [], 0
    if batch:
        yield partial(records.from_rows, batch, reading.expect, reading.on_bad)


def _zip(shard: Shard, reading: Reading) -> Iterator[Work]:
    raise _not_rows(shard.file)


def _not_rows(file: DataFile) -> BadFile:
    return BadFile(f"{file.label}: a zip archive holds images here, not rows. Pass the files with rows as data_files=.")


_READERS = {
    "jsonl": _jsonl,
    "jsonl.gz": _compressed_jsonl,
    "jsonl.zst": _compressed_jsonl,
    "json": _json,
    "parquet": _parquet_tables,
    "tar": _tar,
    "zip": _zip,
}


def _opened(file: DataFile, token: Any) -> io.BufferedIOBase:
    """`file` as a seekable binary file object."""
    if file.path is not None:
        return open(file.path, "rb")
    return io.BufferedReader(_RemoteFile(file, token), buffer_size=1 << 20)


class _Stream(io.RawIOBase):
    """A file from its start to its end, local or remote; a remote one is one request, not one a buffer."""

    def __init__(self, file: DataFile, token: Any) -> None:
        self._pieces, self._piece = read(file, 0, file.size, token), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        length = min(len(buffer), len(self._piece))
        buffer[:length], self._piece = self._piece[:length], self._piece[length:]
        return length


class _RemoteFile(io.RawIOBase):
    """A remote file by range requests, for libraries that want a file object."""

    def __init__(self, file: DataFile, token: Any) -> None:
        self._file, self._token, self._at = file, token, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = max(min(len(buffer), self._file.size - self._at), 0)
        filled = 0
        for piece in read(self._file, self._at, length, self._token):
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        self._at += filled
        return filled
