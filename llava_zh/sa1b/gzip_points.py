"""Random access into a gzip stream: seek points from one pass of rapidgzip, and reads that start at them.

A seek point is a place between two deflate blocks: the offset in the decompressed stream, the offset in the archive
in bits, and the 32 KiB of output before it that later blocks may refer to (the window). rapidgzip hands windows over
with the bytes that nothing refers to zeroed, zlib-compressed; between JPEG members they shrink to a few hundred bytes.

Arrays kept in the index: ``points_out`` and ``points_bit`` of every point found, ``window_starts`` (one more, into
``windows``). A point without a window only marks where a read may stop; those with one lie before the members.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from isal import igzip_lib

from llava_zh.errors import BadArchive
from llava_zh.sa1b.index import Problem, Scan
from llava_zh.sa1b.tar_scan import scan_tar

if TYPE_CHECKING:
    from llava_zh.sa1b.source import Source

#: Compressed bytes between two points; rapidgzip's speed of the pass and the size of the index both follow from it.
SPACING = 512 << 10
#: A window is kept before every member, and at least this often inside a large one (decompressed bytes).
_WINDOW_SPACING = 4 << 20
#: Share of the archive's bytes that the whole index may take, and what a small archive may take in any case.
BUDGET, _LEAST_BUDGET = 0.001, 64 << 10
_BYTES_A_MEMBER = 16
_InflateError: Any = igzip_lib.error
_NO_WINDOW = zlib.compress(b"")
_READ_ON = 1 << 20  # more compressed bytes read when a range turns out too short


def _bits_before(bit: int) -> bytes:
    """Empty deflate blocks whose length is `bit` modulo 8, so that a stream that starts at that bit can follow.

    The last byte is not full: the stream's first byte, with the bits before `bit` cleared, is or-ed into it.
    """
    value, length = 0, 0
    if bit % 2:
        # A dynamic Huffman block of odd length that holds nothing. Code lengths: symbol 18 has 1 bit, 0 and 1 have 2,
        # in a table of all 19 entries. Then 138 + 118 zeros, and length 1 for end-of-block and for one distance.
        order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
        fields = [(0, 1), (2, 2), (0, 5), (0, 5), (15, 4)]
        fields += [({18: 1, 0: 2, 1: 2}.get(symbol, 0), 3) for symbol in order]
        # Huffman codes go most significant bit first: 18 is 0, 0 is 10, 1 is 11.
        fields += [(0, 1), (138 - 11, 7), (0, 1), (118 - 11, 7), (3, 2), (3, 2), (0, 1)]
        for number, width in fields:
            value |= number << length
            length += width
    while length % 8 != bit:
        value |= 2 << length  # fixed Huffman block (01 after a zero bit), end-of-block 0000000
        length += 10
    return value.to_bytes((length + 7) // 8, "little")


_PREFIXES = [_bits_before(bit) for bit in range(8)]


class PointReader:
    """Reads ranges of the decompressed stream, each from the seek point before it."""

    def __init__(
        self, arrays: Callable[..., np.ndarray[Any, Any]], window: Callable[[int, int], bytes] | None = None
    ) -> None:
        """`arrays` gives the index's arrays by name, `window` a window by where it lies in that of windows."""
        self._out = arrays("points_out").data
        self._bit = arrays("points_bit").data
        self._starts = arrays("window_starts", "u4").data
        self._unpacked = window or _in_memory(arrays("windows", "u1").data)
        starts = arrays("window_starts", "u4")
        usable = np.flatnonzero(np.diff(starts)) if len(starts) else np.empty(0, "i8")
        if len(self._out):
            usable = np.union1d(usable, [0])  # before the first block there is nothing to refer to
        self._usable = usable.astype("u4").data
        self._usable_out = arrays("points_out")[usable].astype("u8").data

    def span(self, offset: int, size: int) -> tuple[int, int, int]:
        """The seek point to start from (its row) and the range of archive bytes to read for `size` bytes at `offset`.

        The range's end is a point's byte, or -1 for the end of the archive.
        """
        row = self._usable[bisect_right(self._usable_out, offset) - 1]
        stop = bisect_left(self._out, offset + size)
        last = (self._bit[stop] + 7) // 8 if stop < len(self._bit) else -1
        return row, self._bit[row] // 8, last

    def read(self, source: Source, offset: int, size: int) -> bytes:
        """`size` bytes at `offset` of the decompressed stream, fewer at its end.

        Raises: BadArchive when the compressed data there is damaged.
        """
        if size <= 0:
            return b""
        row, start, stop = self.span(offset, size)
        data = source.pread(start, (stop if stop >= 0 else source.size) - start)
        stream = _Inflate(source, self._bit[row], self._window(row), data)
        try:
            stream.skip(offset - self._out[row])
            return stream.read(size)
        except (zlib.error, _InflateError, EOFError) as error:
            raise BadArchive(
                f"Damaged gzip data in {source.path}, in the compressed bytes from {start:,} on "
                f"(reading {size:,} bytes at offset {offset:,} of the tar stream): {error}.",
                archive=source.path,
                offset=start,
            ) from None

    def _window(self, row: int) -> bytes:
        start, stop = self._starts[row], self._starts[row + 1]
        return self._unpacked(start, stop) if stop > start else b""


def _in_memory(windows: memoryview) -> Callable[[int, int], bytes]:
    return lambda start, stop: zlib.decompress(windows[start:stop])


class _Inflate:
    """The decompressed stream from a bit offset on, across the seams of concatenated gzip streams."""

    def __init__(self, source: Source, bit: int, window: bytes, data: bytes) -> None:
        prefix = _PREFIXES[bit % 8]
        self._source = source
        self._next = bit // 8 + len(data)  # archive offset of what `_data` does not hold yet
        if bit % 8:
            data = b"".join((prefix[:-1], bytes([prefix[-1] | (data[0] >> bit % 8 << bit % 8)]), memoryview(data)[1:]))
        self._data: bytes = data
        self._decoder = _raw_decoder(window)

    def skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._some(min(size, 1 << 24)))

    def read(self, size: int) -> bytes:
        first = self._some(size)
        if len(first) == size:
            return first
        parts = [first]
        missing = size - len(first)
        while missing:
            parts.append(self._some(missing))
            if not parts[-1]:
                break
            missing -= len(parts[-1])
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        """Up to `size` bytes, none only at the stream's end."""
        while True:
            decoder = self._decoder
            if decoder.eof:
                if not self._next_stream():
                    return b""
                continue
            out: bytes = decoder.decompress(self._data, size)
            self._data = b""
            if out:
                return out
            if decoder.needs_input and not decoder.eof:
                self._data = self._source.pread(self._next, min(_READ_ON, self._source.size - self._next))
                self._next += len(self._data)
                if not self._data:
                    raise EOFError("the archive ends in the middle of it")

    def _next_stream(self) -> bool:
        """Go on with the gzip stream that follows this one; False at the end of the archive."""
        position = self._next - len(self._decoder.unused_data) + 8  # after CRC-32 and length of the one that ended
        head = self._source.pread(position, min(_READ_ON, self._source.size - position))
        length = gzip_header_length(head)
        if length is None:
            return False
        self._decoder = _raw_decoder(b"")
        self._data = head[length:]
        self._next = position + len(head)
        return True


def _raw_decoder(window: bytes) -> Any:
    if window:
        return igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE, zdict=window)
    return igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)


def gzip_header_length(head: bytes) -> int | None:
    """Bytes of the gzip header that `head` starts with (RFC 1952), or None if it is none."""
    if head[:3] != b"\x1f\x8b\x08" or len(head) < 10:
        return None
    flags, length = head[3], 10
    if flags & 4:
        length += 2 + int.from_bytes(head[10:12], "little")
    for flag in (8, 16):  # file name, comment
        if flags & flag:
            length = head.find(b"\0", length) + 1
            if length == 0:
                return None
    return length + (2 if flags & 2 else 0)


def scan_gzip(source: Source, threads: int = 0, progress: Callable[[int], object] | None = None) -> Scan:
    """Members and seek points of the gzip tar `source` in one pass of rapidgzip with `threads` threads (0: all cores).

    `progress` is called with the archive bytes consumed so far. A truncated or damaged archive gives what is whole.
    """
    with source.open_file() as file, _open_pass(file, threads) as stream:
        reader = _PassReader(stream, progress)
        scan = scan_tar(reader.read_at)
        if reader.damage is None:
            try:
                points = _export(stream)
            except (RuntimeError, ValueError) as error:
                reader.damage = str(error)
        if reader.damage is not None:
            blocks = sorted(stream.available_block_offsets())
    if reader.damage is not None:
        points, scan = _scan_damaged(source, blocks, reader.damage)
    scan.points = _thin(*points, scan=scan, budget=max(int(source.size * BUDGET), _LEAST_BUDGET))
    return scan


def _open_pass(file: Any, threads: int) -> Any:
    import rapidgzip

    return rapidgzip.RapidgzipFile(file, parallelization=threads or cores(), chunk_size=SPACING)


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _PassReader:
    """`read_at` for `scan_tar` over the running pass; damage ends the stream and is remembered."""

    def __init__(self, stream: Any, progress: Callable[[int], object] | None) -> None:
        self.stream, self.progress, self.damage = stream, progress, None

    damage: str | None

    def read_at(self, offset: int, size: int) -> bytes:
        if self.damage is not None:
            return b""
        try:
            self.stream.seek(offset)
            data: bytes = self.stream.read(size)
        except (RuntimeError, ValueError) as error:
            self.damage = str(error)
            return b""
        if self.progress is not None:
            self.progress(self.stream.tell_compressed() // 8)
        return data


Points = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[bytes]]


def _export(stream: Any) -> Points:
    """The points of a finished pass: decompressed offsets, bit offsets, compressed windows."""
    import rapidgzip

    file = io.BytesIO()
    stream.export_index(file, rapidgzip.IndexFormat.GZTOOL)
    data = file.getbuffer()
    # gztool's layout, big-endian: 8 zeros, magic, two counts; then a point after the other.
    if bytes(data[8:16]) != b"gzipindx":
        raise RuntimeError(f"rapidgzip exported an index with magic {bytes(data[8:16])!r}")
    out, bit, windows = [], [], []
    position = 32
    for _ in range(int.from_bytes(data[16:24], "big")):
        out.append(int.from_bytes(data[position : position + 8], "big"))
        byte = int.from_bytes(data[position + 8 : position + 16], "big")
        bits = int.from_bytes(data[position + 16 : position + 20], "big")
        length = int.from_bytes(data[position + 20 : position + 24], "big")
        bit.append(byte * 8 - bits)
        windows.append(bytes(data[position + 24 : position + 24 + length]))
        position += 24 + length
    return np.array(out, "u8"), np.array(bit, "u8"), windows


def _thin(
    out: np.ndarray[Any, Any], bit: np.ndarray[Any, Any], windows: list[bytes], *, scan: Scan, budget: int
) -> dict[str, Any]:
    """The index arrays for these points: windows where reads may start, the costliest dropped beyond `budget` bytes."""
    starts = scan.offsets()
    wanted = set((np.searchsorted(out, starts, "right") - 1).tolist())
    last = 0
    for row, offset in enumerate(out.tolist()):
        if row in wanted or offset - last >= _WINDOW_SPACING:
            wanted.add(row)
            last = offset
    left = budget - 20 * len(out) - _BYTES_A_MEMBER * len(starts) - 2048  # the header is small, but not nothing
    for row in sorted(wanted, key=lambda row: len(windows[row])):
        left -= len(windows[row])
        if left < 0:
            wanted.discard(row)
    # A point that needs no window, such as the start of a gzip stream, gets an empty one to tell it from the others.
    kept = [(window or _NO_WINDOW) if row in wanted else b"" for row, window in enumerate(windows)]
    return _arrays(out, bit, kept)


def _arrays(
    out: np.ndarray[Any, Any], bit: np.ndarray[Any, Any], windows: list[bytes]
) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "points_out": out,
        "points_bit": bit,
        "window_starts": np.cumsum([0, *map(len, windows)], dtype="u4"),
        "windows": np.frombuffer(b"".join(windows), "u1"),
    }


class _EndedEarly(io.RawIOBase):
    """`file` up to a bit between two deflate blocks, where an empty last block and a checksum of zeros end it."""

    def __init__(self, file: Any, bit: int) -> None:
        self._file, self._cut, self._position = file, bit // 8, 0
        file.seek(self._cut)
        first = file.read(1)
        low = (first[0] if first else 0) & ((1 << bit % 8) - 1)
        # Last block, fixed Huffman codes, end-of-block: 1, 01, 0000000 from the bit on.
        self._tail = (low | 3 << bit % 8).to_bytes(3, "little")[: (bit % 8 + 10 + 7) // 8] + bytes(8)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._cut + len(self._tail))[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        if self._position < self._cut:
            self._file.seek(self._position)
            data = self._file.read(min(len(view), self._cut - self._position))
        else:
            data = self._tail[self._position - self._cut :][: len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def _points_up_to(source: Source, bit: int) -> Points | None:
    """The points of the blocks before `bit`; None if that is no place between two blocks."""
    with source.open_file() as file, _open_pass(_EndedEarly(file, bit), 1) as stream:
        try:
            # The checksum cannot fit, which raises ValueError, but all blocks are then known.
            with contextlib.suppress(ValueError):
                while stream.seek(1 << 20, os.SEEK_CUR) and stream.read(1):
                    pass
            return _export(stream)
        except (RuntimeError, ValueError):
            return None


def _scan_damaged(source: Source, blocks: list[int], reason: str) -> tuple[Points, Scan]:
    """Points and members up to the damage: a second pass up to the last of the `blocks` (bit offsets) that rapidgzip
    could decode, and from there on by plain inflate as far as it goes."""
    start = 8 * (gzip_header_length(source.pread(0, min(source.size, 1 << 16))) or 0)
    # The last offset may be the end of a stream and not the start of a block; one before it will do.
    later = (_points_up_to(source, bit) for bit in blocks[-1:-4:-1] if bit > start)
    first: Points = (np.array([0], "u8"), np.array([start], "u8"), [b""])
    points = next((found for found in later if found is not None), first)
    out, bit, windows = points
    arrays = _arrays(out, bit, [window or _NO_WINDOW for window in windows])
    reader = PointReader(lambda name, dtype="u8": arrays[name])
    whole = _decodable(source, reader, int(out[-1]))

    def read_at(offset: int, size: int) -> bytes:
        return reader.read(source, offset, min(size, max(0, whole - offset)))

    scan = scan_tar(read_at)
    reason = re.sub(r"\[[^\]]*\]", "", reason).strip()
    if scan.problems and scan.problems[-1].kind == "truncated":
        cut = scan.problems.pop()
        detail = f"{cut.detail}; decompression stops at {whole:,}: {reason}"
        scan.problems.append(Problem("truncated", cut.member, cut.offset, detail))
    else:
        scan.problems.append(Problem("checksum", "", whole, f"all members are there, but rapidgzip says: {reason}"))
    return points, scan


def _decodable(source: Source, reader: PointReader, offset: int) -> int:
    """How far the stream can be decompressed, counted from the seek point at `offset` on."""
    step = 1 << 20
    while step:
        try:
            got = len(reader.read(source, offset, step))
        except BadArchive:
            got = 0
        if got:
            offset += got
        if got < step:
            step //= 2
    return offset
