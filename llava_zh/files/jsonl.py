"""Cut JSON Lines files into byte ranges, and read the whole lines that a range owns.

A range owns every line that *starts* inside it. A reader begins one byte before the range, drops up to the
first newline, and reads on past the end to finish the last line it owns. Any cut of any file therefore gives
every line exactly once, in order, whatever the line lengths, with ``\\r\\n``, a byte-order mark or no final newline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from ..errors import BadArgument, BadRow
from ..gates import json_values
from ..gates.json_values import BOM
from ..gates.limits import LINE
from ..rows import json_columns, record_columns, records
from ..rows.records import Expect, Place
from .kinds import other_encoding, recognised, what_it_may_be

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


def blocks(stream: Iterable[bytes], whole: Range) -> Iterator[tuple[int, AnyBlock]]:
    """The lines that `whole` owns, as ``(offset of the first byte, whole lines)`` blocks.

    Args:
        stream: The file's bytes from one byte before the range on (from its first byte when the range starts there).

    Every block ends with a newline, but for the last one of a file without a final newline. A line that is longer than
    the limit comes as :class:`TooLong`, and what follows it as ever.
    """
    start, end = whole
    if start >= end:
        return
    offset = at = max(start - 1, 0)
    dropping = start > 0  # the line that began before this range belongs to the one before
    held: list[memoryview] = []
    wanted, longest = FIRST_BLOCK, LINE.value
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
        if cut:
            yield from _without_bom(offset, [*held, view[begin:cut]])
            if at >= end:
                return
            offset, held = base + cut, [view[cut:]]
            wanted = BLOCK
            continue
        held.append(view[begin:])
        if at - offset > max(longest, wanted):
            # At most this one line is not at its end: those before it go their way, and it is dropped if too long.
            *before, (offset, line) = _last_line_apart(offset, b"".join(held))
            yield from before
            held = [memoryview(line)]
            if at - offset > longest:
                yield offset, TooLong()
                if at >= end:
                    return
                dropping, held = True, []
    if not dropping and offset < end:
        yield from _without_bom(offset, held)


def _last_line_apart(offset: int, data: bytes) -> Iterator[tuple[int, Block]]:
    """The whole lines of `data`, if any, and its unfinished last one."""
    cut = data.rfind(b"\n") + 1
    if cut:
        yield from _without_bom(offset, [memoryview(data)[:cut]])
    yield offset + cut, data[cut:]


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


@dataclass(frozen=True)
class TooLong:
    """In place of a block: a line that is longer than :data:`llava_zh.gates.limits.LINE`, of which no more was read."""


AnyBlock = Block | TooLong


def parse(
    file: str,
    offset: int,
    block: AnyBlock,
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
        A table with the schema :data:`llava_zh.rows.records.ANNOTATIONS`.
    """
    if isinstance(block, TooLong):
        on_bad(too_long(Place(file, byte=offset)))
        return records.empty(expect.schema)
    annotations = columns(block, expect, on_columns)
    if annotations is not None:
        return annotations
    return records.from_rows(_decode(file, offset, block, on_columns), expect, on_bad)


def columns(
    block: Block, expect: Expect, on_columns: Callable[[Iterable[str]], None] = lambda names: None
) -> pa.Table | None:
    """The annotations of a block in which every row is good and has the usual types; None where rows need a look."""
    table = json_columns.read(block)
    if table is None:
        return None
    on_columns(table.column_names)
    return record_columns.from_arrow(table, expect)


def too_long(place: Place) -> BadRow:
    """The error for a line that is longer than the limit."""
    return records.bad_row(place, "line", f"at most {LINE.value:,} bytes", "more", LINE.exceeded())


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
    if len(line) > LINE.value:
        return too_long(place)
    if b"\0" in line:
        where = f"{line.count(0)} NUL bytes, the first at byte {place.byte_at(line.index(0))}"
        hint = recognised(line) or "The file was not written to its end; fetch it again."
        return records.bad_row(place, "line", "JSON text", where, hint)
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        around = line[max(error.start - 20, 0) : error.start + 8]
        found = f"byte 0x{line[error.start]:02x} at {place.byte_at(error.start)}: {around!r}"
        return records.bad_row(place, "line", "UTF-8 text", found, recognised(line) or other_encoding(line))
    try:
        row = json_values.decode(line)
    except json_values.NotJson as error:
        shown = line.decode("utf-8")
        shown = shown if len(shown) <= 100 else f"{shown[:60]} … {shown[-40:]}"
        return records.bad_row(place, "line", "one JSON object", f"{error}: {shown}", what_it_may_be(line))
    if not isinstance(row, dict):
        return records.bad_row(place, "line", "one JSON object", f"{type(row).__name__}: {row!r}")
    return row
