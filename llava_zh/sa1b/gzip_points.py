"""Random access into a gzip stream: seek points from one pass of rapidgzip, and reads that start at them.

A seek point is a place between two deflate blocks: the offset in the decompressed stream, the offset in the archive
in bits, and the 32 KiB of output before it that later blocks may refer to (the window). rapidgzip hands windows over
with the bytes that nothing refers to zeroed, zlib-compressed; between JPEG members they shrink to a few hundred bytes.

Arrays kept in the index: ``points_out`` and ``points_bit`` of every point found, ``window_starts`` (one more, into
``windows``). A point without a window only marks where a read may stop; those with one lie before the members.
"""

from __future__ import annotations

import os
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from isal import igzip_lib

from llava_zh.errors import BadArchive
from llava_zh.sa1b.deflate_blocks import shifted
from llava_zh.sa1b.gzip_header import gzip_header_length
from llava_zh.sa1b.index import Scan

if TYPE_CHECKING:
    from llava_zh.sa1b.source import Source

#: Compressed bytes between two points; rapidgzip's speed of the pass and the size of the index both follow from it.
SPACING = 512 << 10
#: A window is kept before every member, and at least this often inside a large one (decompressed bytes).
_WINDOW_SPACING = 4 << 20
_BYTES_A_MEMBER, _BYTES_A_POINT = 20, 24
Points = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[bytes]]
_InflateError: Any = igzip_lib.error
_NO_WINDOW = zlib.compress(b"")
_READ_ON = 1 << 20  # more compressed bytes read when a range turns out too short


class PointReader:
    """Reads ranges of the decompressed stream, each from the seek point before it."""

    def __init__(
        self, arrays: Callable[[str], np.ndarray[Any, Any]], window: Callable[[int, int], bytes] | None = None
    ) -> None:
        """`arrays` gives the index's arrays by name, `window` a window by where it lies in that of windows."""
        self._out = arrays("points_out").data
        self._bit = arrays("points_bit").data
        self._starts = arrays("window_starts").data
        self._unpacked = window or _in_memory(arrays("windows").data)
        starts = arrays("window_starts")
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
        try:
            stop = min(stop, source.size) if stop >= 0 else source.size
            if start >= stop:
                raise EOFError("the index names a place behind the archive's end")
            stream = _Inflate(source, self._bit[row], self._window(row), source.pread(start, stop - start))
            return stream.read(size) if stream.skip(offset - self._out[row]) else b""
        except (zlib.error, _InflateError, EOFError, ValueError, IndexError, OverflowError) as error:
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
        self._source = source
        self._next = bit // 8 + len(data)  # archive offset of what `_data` does not hold yet
        self._data: bytes = shifted(data, bit % 8)
        self._decoder = _raw_decoder(window)

    def skip(self, size: int) -> bool:
        """Go on by `size` bytes; False where the stream ends before."""
        while size > 0:
            passed = len(self._some(min(size, 1 << 24)))
            if not passed:
                return False
            size -= passed
        return True

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
            fed = self._data
            out: bytes = decoder.decompress(fed, size)
            self._data = b""
            if out:
                return out
            if decoder.eof:
                continue
            if decoder.needs_input:
                self._data = self._source.pread(self._next, max(0, min(_READ_ON, self._source.size - self._next)))
                self._next += len(self._data)
                if not self._data:
                    raise EOFError("the archive ends in the middle of it")
            elif not fed:  # it wants no more and gives no more: without this it would be asked for ever
                raise EOFError("the decoder makes nothing of it")

    def _next_stream(self) -> bool:
        """Go on with the gzip stream that follows this one; False at the end of the archive."""
        position = self._next - len(self._decoder.unused_data) + 8  # after CRC-32 and length of the one that ended
        size = self._source.size
        head = self._source.pread(position, max(0, min(_READ_ON, size - position)))
        while head and not any(head) and position + len(head) < size:  # padding between streams, as tapes have it
            position += len(head)
            head = self._source.pread(position, min(_READ_ON, size - position))
        padding = len(head) - len(head.lstrip(b"\0"))
        head, position = head[padding:], position + padding
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


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compressed(window: bytes) -> bytes:
    """A window as the index keeps it: nothing for one that was not learnt, a zlib stream for an empty one."""
    return zlib.compress(window, 9) if window else _NO_WINDOW


def thin(points: Points, scan: Scan, budget: int, needed: Iterable[int] = ()) -> dict[str, Any]:
    """The index arrays for these points: windows where reads may start, the costliest dropped beyond `budget` bytes.

    Those of the rows in `needed` are kept: no read may start before them and go on behind them.
    """
    out, bit, windows = points
    starts = scan.offsets()
    wanted = set((np.searchsorted(out, starts, "right") - 1).tolist())
    last = 0
    for row, offset in enumerate(out.tolist()):
        if row in wanted or offset - last >= _WINDOW_SPACING:
            wanted.add(row)
            last = offset
    left = (
        budget - _BYTES_A_POINT * len(out) - _BYTES_A_MEMBER * len(starts) - 2048
    )  # the header is small, but not nothing
    fixed = set(needed)
    wanted |= fixed
    for row in sorted(wanted, key=lambda row: len(windows[row])):
        left -= len(windows[row])
        if left < 0 and row not in fixed:
            wanted.discard(row)
    # A point that needs no window, such as the start of a gzip stream, gets an empty one to tell it from the others.
    kept = [(window or _NO_WINDOW) if row in wanted else b"" for row, window in enumerate(windows)]
    return point_arrays(out, bit, kept)


def point_arrays(
    out: np.ndarray[Any, Any], bit: np.ndarray[Any, Any], windows: list[bytes]
) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "points_out": out,
        "points_bit": bit,
        "window_starts": np.cumsum([0, *map(len, windows)], dtype="u4"),
        "windows": np.frombuffer(b"".join(windows), "u1"),
    }
