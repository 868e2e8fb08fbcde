"""Cut JSON Lines files into byte ranges, and read the whole lines that a range owns.

A range owns every line that *starts* inside it. A reader begins one byte before the range, drops up to the
first newline, and reads on past the end to finish the last line it owns. Any cut of any file therefore gives
every line exactly once, in order, whatever the line lengths, with ``\\r\\n``, a byte-order mark or no final newline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.json

from . import records
from .errors import BadArgument, BadRow
from .records import Expect, Place

BOM = b"\xef\xbb\xbf"
# The first block is small, so that the first row of a stream comes early; the others are of a size that parses fast.
FIRST_BLOCK = 256 << 10
BLOCK = 2 << 20
# A range is asked for with this much more than its own bytes, which finishes its last line without a second
# request unless the line is longer (a mean published line has 0.8 to 2 kB).
SLACK = 16 << 10

# (offset, length) -> those bytes of the file in pieces of any size; raises when it cannot give all of them.
Read = Callable[[int, int], Iterator[bytes]]
# Whole lines; a view of what was read where no two pieces had to be joined.
Block = bytes | memoryview


class Range(NamedTuple):
    """Bytes `start` (included) to `end` (excluded) of a file."""

    start: int
    end: int


def power_of_two(at_least: float) -> int:
    """The smallest power of two that is not less than `at_least` (1 for anything up to 1)."""
    count = 1
    while count < at_least:
        count *= 2
    return count


def plan(sizes: Sequence[int], *, chunk_size: int, num_shards: int | None = None) -> list[list[Range]]:
    """Cut files of these `sizes` into ranges of about `chunk_size` bytes.

    Args:
        sizes: Bytes of each file.
        chunk_size: Bytes a range is meant to have. The total number of ranges is rounded up to a power of two, so
            that it divides among the nodes of most clusters; it depends on nothing but the sizes and this.
        num_shards: Exactly this many ranges instead, at least one a file.

    Returns:
        For each file its consecutive ranges, which together cover it.

    Raises:
        BadArgument: Fewer ranges were asked for than there are files, or `chunk_size` is not positive.
    """
    if chunk_size < 1:
        raise BadArgument(f"chunk_size must be at least 1 byte, not {chunk_size}.")
    total = sum(sizes)
    count = power_of_two(max(total / chunk_size, len(sizes))) if num_shards is None else num_shards
    if count < len(sizes):
        raise BadArgument(f"num_shards={count} is less than the number of files, {len(sizes)}; ask for that many.")
    spare = count - len(sizes)
    # Every file gets its share of what is left; the largest remainders take what rounding left over.
    exact = [spare * size / total if total else spare / len(sizes) for size in sizes]
    counts = [1 + int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (int(exact[i]) - exact[i], i))
    for i in by_remainder[: count - sum(counts)]:
        counts[i] += 1
    return [split(Range(0, size), n) for size, n in zip(sizes, counts, strict=True)]


def split(whole: Range, count: int) -> list[Range]:
    """Cut `whole` into `count` consecutive ranges whose lengths differ by at most one byte."""
    length = whole.end - whole.start
    edges = [whole.start + length * i // count for i in range(count + 1)]
    return [Range(a, b) for a, b in pairwise(edges)]


def parts(whole: Range) -> Iterator[Range]:
    """`whole` in ranges of a block each, for reading each in one go."""
    start, size = whole.start, FIRST_BLOCK
    while start < whole.end:
        end = min(start + size, whole.end)
        yield Range(start, end)
        start, size = end, BLOCK


def pieces(read: Read, whole: Range, size: int) -> Iterator[bytes]:
    """A file of `size` bytes from one byte before `whole` on: first what the range should need, then ever more.

    The consumer stops when it has seen the end of its last line.
    """
    at = max(whole.start - 1, 0)
    step, length = SLACK, min(whole.end + SLACK, size) - at
    while length > 0:
        for piece in read(at, length):
            yield piece
            at += len(piece)
        step *= 2
        length = min(step, size - at)


def blocks(stream: Iterable[bytes], whole: Range) -> Iterator[tuple[int, Block]]:
    """The lines that `whole` owns, as ``(offset of the first byte, whole lines)`` blocks.

    Args:
        stream: The file's bytes from one byte before the range on (from its first byte when the range starts there).

    Every block ends with a newline, but for the last one of a file without a final newline.
    """
    start, end = whole
    if start >= end:
        return
    offset = at = max(start - 1, 0)
    dropping = start > 0  # the line that began before this range belongs to the one before
    held: list[memoryview] = []
    wanted = FIRST_BLOCK
    for piece in stream:
        view, base, begin = memoryview(piece), at, 0
        at += len(piece)
        if dropping:
            begin = piece.find(b"\n") + 1
            if not begin and at < end:
                continue
            if not begin:
                return
            dropping, offset = False, base + begin
        if offset >= end:
            return
        cut = 0
        if at >= end:
            # The last line that starts before `end` is finished by the first newline at or after `end - 1`.
            cut = piece.find(b"\n", max(end - 1 - base, begin)) + 1
        elif at - offset >= wanted:
            cut = piece.rfind(b"\n", begin) + 1
        if not cut:
            held.append(view[begin:])
            continue
        yield from _without_bom(offset, [*held, view[begin:cut]])
        if at >= end:
            return
        offset, held = base + cut, [view[cut:]]
        wanted = BLOCK
    if not dropping and offset < end:
        yield from _without_bom(offset, held)


def _without_bom(offset: int, parts: Sequence[memoryview]) -> Iterator[tuple[int, Block]]:
    full = [part for part in parts if len(part)]
    block: Block = full[0] if len(full) == 1 else b"".join(full)
    if offset == 0 and block[: len(BOM)] == BOM:
        offset, block = len(BOM), block[len(BOM) :]
    if len(block):
        yield offset, block


def lines(offset: int, block: Block) -> Iterator[tuple[int, bytes]]:
    """The lines of a block with their offsets, without their line ends; blank lines are left out."""
    for line in bytes(block).split(b"\n"):
        stripped = line.rstrip(b"\r")
        if stripped.strip():
            yield offset, stripped
        offset += len(line) + 1


# Only the published names are declared, so that a block with none of them still has them; whatever else there is gets
# inferred, and told of. (A field that comes out of that as anything but the plain type it should have, such as
# a text taken for a date, is left to the row-by-row way.)
_TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
_SCHEMA = pa.schema([("width", pa.int64()), ("height", pa.int64()), ("conversations", _TURNS)])


def parse(
    file: str,
    offset: int,
    block: Block,
    expect: Expect,
    on_bad: Callable[[BadRow], None],
    on_columns: Callable[[Iterable[str]], None] = lambda names: None,
) -> pa.Table:
    """A block of whole lines as annotations.

    Args:
        file: Name of the file for messages, and `offset`, the block's place in it.
        on_bad: Called with each bad line's error, which it raises or counts.
        on_columns: Called with the names of the block's keys.

    Returns:
        A table with the schema :data:`llava_zh.records.ANNOTATIONS`.
    """
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pyarrow.json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="infer"),
        )
        _check_utf8(table)
    except pa.ArrowInvalid:
        table = None
    # The parser also takes a record broken over two lines, or two on one; the lines must be the rows.
    if table is not None and (len(table) == _newlines(block) or len(table) == sum(1 for _ in lines(0, block))):
        on_columns(table.column_names)
        annotations = records.from_arrow(table, expect)
        if annotations is not None:
            return annotations
    return records.from_rows(_decode(file, offset, block, on_columns), expect, on_bad)


def _check_utf8(table: pa.Table) -> None:
    """Raise `pa.ArrowInvalid` for text that is not UTF-8, which the parser does not look at.

    Nearly all of a block is the text of turns; where that is plain ASCII, one pass for the highest byte tells.
    """
    turns = table["conversations"]
    if turns.type == _TURNS and turns.num_chunks == 1:
        text = turns.chunk(0).values.field("value").buffers()[2]
        if text is not None and np.frombuffer(text, np.uint8).max(initial=0) < 0x80:
            table = table.drop_columns(["conversations"])  # its roles are compared with the known ones later
    table.validate(full=True)


def _newlines(block: Block) -> int:
    return records.count_byte(np.frombuffer(block, np.uint8), "\n") + (block[-1] != ord("\n"))


def _decode(
    file: str, offset: int, block: Block, on_columns: Callable[[Iterable[str]], None]
) -> Iterator[tuple[Place, Mapping[str, Any] | BadRow]]:
    for start, line in lines(offset, block):
        place = Place(file, byte=start)
        row = decode_line(place, line)
        if isinstance(row, Mapping):
            on_columns(row)
        yield place, row


def decode_line(place: Place, line: bytes) -> Mapping[str, Any] | BadRow:
    """The record on `line`, or the error that says why it is none."""
    if b"\0" in line:
        where = f"{line.count(0)} NUL bytes, the first at byte {place.byte_at(line.index(0))}"
        return records.bad_row(
            place, "line", "JSON text", where, "The file was not written to its end; fetch it again."
        )
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        around = line[max(error.start - 20, 0) : error.start + 8]
        found = f"byte 0x{line[error.start]:02x} at {place.byte_at(error.start)}: {around!r}"
        return records.bad_row(place, "line", "UTF-8 text", found)
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        shown = line.decode("utf-8")
        hint = "" if shown.rstrip().endswith("}") else "The line is cut short; is the file complete?"
        shown = shown if len(shown) <= 100 else f"{shown[:60]} … {shown[-40:]}"
        return records.bad_row(place, "line", "one JSON object", f"{error}: {shown}", hint)
    if not isinstance(row, dict):
        return records.bad_row(place, "line", "one JSON object", f"{type(row).__name__}: {row!r}")
    return row
