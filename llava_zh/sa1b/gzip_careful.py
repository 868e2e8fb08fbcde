"""A damaged gzip archive from end to end: every stretch of it that decodes, with what is wrong and seek points.

A stretch ends where the compressed data makes no sense. The next one starts at the next deflate block or gzip stream
that does. Its first 32 KiB of history are lost; two decodes, with windows of zeros and of 0xFF, tell which of the bytes
come out of it. Offsets count on from stretch to stretch, as if they were one stream.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from isal import isal_zlib

from llava_zh.sa1b.deflate_blocks import (
    PROBES,
    WINDOW,
    block_starts,
    decodes_from,
    output_up_to,
    shifted,
    sparse,
    unresolved,
)
from llava_zh.sa1b.gzip_header import gzip_header_length

if TYPE_CHECKING:
    from llava_zh.sa1b.source import Source

#: Compressed bytes between two seek points.
SPACING = 1 << 20
#: Compressed bytes that are looked through for the next block or stream: behind one fault, and behind all of them.
SEARCH, SEARCH_ALL = 64 << 20, 1 << 30
#: Faults in one archive, behind the last of which nothing is read.
MAX_FAULTS = 1000
#: Bytes before a block behind a fault that may come out of lost history.
MAX_HISTORY = 16 << 20
_FEED, _FINE = 128 << 10, 4 << 10
_MAX_HEADER = 1 << 16
_MOST = 4 << 20  # decompressed bytes in a piece


class Fault(NamedTuple):
    """What is wrong at `offset` of the stream: "damaged", "truncated", "lost" or "checksum".

    For a checksum, `offset` is where the gzip stream ends that it is of, `start` where that starts, `bit` where its
    data starts in the archive, and `packed` how many bytes that takes.
    """

    kind: str
    offset: int
    detail: str
    start: int = 0
    bit: int = 0
    packed: int = 0


class Start(NamedTuple):
    """Where a stretch starts: a bit of the archive, and the offset in the decompressed stream."""

    bit: int
    out: int
    of_stream: bool  #: of a gzip stream, which has no history


class Careful:
    """One pass over `source`; `faults`, `unknown` and the points fill up as it goes."""

    def __init__(self, source: Source, progress: Callable[[int], object] | None = None) -> None:
        self.source, self.progress = source, progress
        self.faults: list[Fault] = []
        #: Offsets of bytes that come out of lost history, ascending.
        self.unknown: list[np.ndarray[Any, Any]] = []
        #: Ranges that may be wrong.
        self.distrusted: list[tuple[int, int]] = []
        self.points: list[tuple[int, int, bytes]] = []  # offset, bit, window
        self.starts: list[Start] = []
        self._searched = 0
        self._failed_at: int | None = None  # byte of the archive where the last stretch broke off

    def first(self) -> Start | None:
        """The first stretch."""
        head = self.source.pread(0, min(self.source.size, _MAX_HEADER))
        length = gzip_header_length(head)
        if length is None:
            self._failed_at = 0
            return self.next(0)
        return Start(8 * length, 0, True)

    def next(self, out: int) -> Start | None:
        """The stretch after the one that ended at offset `out`, None if there is no other."""
        at, self._failed_at = self._failed_at, None
        if at is None:
            return None
        if len(self.faults) >= MAX_FAULTS:
            self.faults.append(Fault("damaged", out, f"more than {MAX_FAULTS:,} faults: the rest is not read"))
            return None
        found = self._search(at)
        if found is None:
            detail = f"compressed bytes from {at:,} on hold nothing more that can be read"
            self.faults.append(Fault("lost", out, detail))
            return None
        return Start(found[0], out, found[1])

    # -- one stretch -------------------------------------------------------------------------------------------

    def pieces(self, start: Start) -> Iterator[bytes]:
        """The decompressed bytes from `start` on, to where they break off."""
        self.starts.append(start)
        out, bit = start.out, start.bit
        window = b"" if start.of_stream else bytes(WINDOW)
        self.points.append((out, bit, window))
        if not start.of_stream and not self._learn_unknown(start):
            detail = "what follows all comes out of the history that is lost"
            self.faults.append(Fault("damaged", out, detail))
            self._failed_at = bit // 8 + MAX_HISTORY
            return
        stream_start: int | None = out if start.of_stream else None  # None: its first part is lost
        crc, length, history = 0, 0, window
        inflater = _Inflater(window)
        data = shifted(self.source.pread(bit // 8, _FEED), bit % 8)
        position = min(bit // 8 + _FEED, self.source.size)  # of what is not read yet
        point_at = bit // 8 + SPACING
        while True:
            for piece in inflater.feed(data):
                crc, length = isal_zlib.crc32(piece, crc), length + len(piece)
                history = (history + piece)[-WINDOW:] if len(piece) < WINDOW else piece[-WINDOW:]
                out += len(piece)
                yield piece
            if self.progress is not None:
                self.progress(position)
            at = position - len(inflater.left)
            if inflater.failed is not None:
                self._failed_at = max(at, bit // 8 + 1)
                self.faults.append(Fault("damaged", out, f"compressed byte {at:,}: {inflater.failed}"))
                return
            if inflater.decoder.eof:
                if not self._trailer(at, crc, length, out, stream_start, bit):
                    return
                following = self._following(at + 8, out)
                if following is None:
                    return
                bit = 8 * following
                self.points.append((out, bit, b""))
                stream_start, crc, length, history, inflater = out, 0, 0, b"", _Inflater(b"")
                data, position = self.source.pread(following, _FEED), min(following + _FEED, self.source.size)
                point_at = following + SPACING
                continue
            if position >= self.source.size:
                self.faults.append(Fault("truncated", out, "the archive ends in the middle of the compressed data"))
                return
            data = self.source.pread(position, _FEED)
            if position >= point_at:
                point = self._point(inflater.decoder, data, position, out, history)
                if point is not None:
                    self.points.append(point)
                    point_at = position + SPACING
            position += len(data)

    def _trailer(self, end: int, crc: int, length: int, out: int, stream_start: int | None, bit: int) -> bool:
        """Hold a stream that ended at byte `end` against its checksum; False where the archive ends before it."""
        trailer = self.source.pread(end, min(8, max(0, self.source.size - end)))
        if len(trailer) < 8:
            missing = f"the last {8 - len(trailer)} bytes, of its checksum and length, are missing"
            self.faults.append(Fault("truncated", out, missing))
            return False
        expected = crc.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little")
        if stream_start is not None and trailer != expected:
            what = "checksum" if trailer[:4] != expected[:4] else "length"
            detail = f"the decompressed bytes {stream_start:,} to {out:,} do not fit their {what}"
            self.faults.append(Fault("checksum", out, detail, stream_start, bit, end - bit // 8))
        return True

    def _following(self, at: int, out: int) -> int | None:
        """Where the deflate data of the gzip stream that follows at byte `at`, or behind zeros, starts."""
        size = self.source.size
        while at < size:
            head = self.source.pread(at, min(_MAX_HEADER, size - at))
            rest = head.lstrip(b"\0")
            at += len(head) - len(rest)
            if not rest:
                continue
            if len(rest) < len(head):
                rest = self.source.pread(at, min(_MAX_HEADER, size - at))
            length = gzip_header_length(rest)
            if length is not None:
                return at + length
            self.faults.append(Fault("lost", out, f"what follows from compressed byte {at:,} on is no gzip stream"))
            self._failed_at = at
            return None
        return None

    # -- seek points -------------------------------------------------------------------------------------------

    def _point(
        self, decoder: Any, data: bytes, position: int, out: int, history: bytes
    ) -> tuple[int, int, bytes] | None:
        """A seek point in `data`, which lies at byte `position` and comes next for `decoder`."""
        for bit, stored in block_starts(data[: _FEED // 2]):
            for earlier in range(8 if stored else 1):  # where stored bytes' three bits of zeros are is not known
                if bit < earlier:
                    break
                before = output_up_to(decoder, data, bit - earlier)
                if before is None:
                    continue
                at = position * 8 + bit - earlier
                window = (history + before)[-WINDOW:]
                return out + len(before), at, self._needed(at, window)
        return None

    def _needed(self, bit: int, window: bytes) -> bytes:
        """`window` without what nothing behind `bit` refers to."""
        if len(window) < WINDOW:
            return window
        data = shifted(self.source.pread(bit // 8, _FEED), bit % 8)
        outputs = []
        for probe in PROBES:
            inflater = _Inflater(probe)
            outputs.append(b"".join(inflater.feed(data))[: 8 * WINDOW])
        rows = unresolved((outputs[0], outputs[1]))
        if len(rows) and len(outputs[0]) - rows[-1] <= WINDOW and not inflater.decoder.eof:
            return window
        return sparse(window, tuple(outputs))

    # -- behind a fault ----------------------------------------------------------------------------------------

    def _search(self, at: int) -> tuple[int, bool] | None:
        """The bit at which the next block or gzip stream from byte `at` on starts, and whether it is a stream."""
        stop = min(self.source.size, at + SEARCH)
        while at < stop and self._searched < SEARCH_ALL:
            data = self.source.pread(at, min(1 << 20, self.source.size - at))
            step = min(len(data), (1 << 20) - (256 << 10)) if at + len(data) < self.source.size else len(data)
            self._searched += step
            stream = self._next_stream(data, step)
            for bit, _ in block_starts(data[: step + 512]):
                if bit >= 8 * step or (stream is not None and bit >= 8 * stream):
                    break
                if decodes_from(data, bit):
                    return at * 8 + bit, False
            if stream is not None:
                return (at + stream) * 8, True
            at += max(1, step)
        return None

    def _next_stream(self, data: bytes, step: int) -> int | None:
        """Where the deflate data of the first gzip stream in the first `step` bytes starts, of one that decodes."""
        at = data.find(b"\x1f\x8b\x08")
        while 0 <= at < step:
            length = gzip_header_length(data[at : at + _MAX_HEADER])
            if length is not None and not data[at + 3] & 0xE0 and decodes_from(data, 8 * (at + length)):
                return at + length
            at = data.find(b"\x1f\x8b\x08", at + 1)
        return None

    def _learn_unknown(self, start: Start, history: bytes = b"") -> bool:
        """Note which bytes behind `start` come out of what is lost; False if there is no end to them.

        Of `history`, the bytes before `start`, only those that are distrusted are lost; without it all is.
        """
        wild = np.ones(WINDOW, bool)
        window = np.frombuffer(history.rjust(WINDOW, b"\0"), "u1")
        if history:
            places = np.arange(WINDOW, dtype="u8") + np.uint64(start.out)  # WINDOW too far, so that none is below 0
            wild = ~self.known(places, np.ones(WINDOW, "u8"), WINDOW)
            if not wild.any():
                return True
        pair = [_Inflater(np.where(wild, value, window).astype("u1").tobytes()) for value in (0, 255)]
        position, out, clean = start.bit // 8, start.out, start.out
        while out - start.out < MAX_HISTORY:
            data = self.source.pread(position, min(_FEED, max(0, self.source.size - position)))
            if not data:
                return True
            if position == start.bit // 8:
                shifted_data = shifted(data, start.bit % 8)
            else:
                shifted_data = data
            position += len(data)
            outputs = [b"".join(inflater.feed(shifted_data)) for inflater in pair]
            rows = unresolved((outputs[0], outputs[1]))
            if len(rows):
                self.unknown.append(rows + out)
                clean = out + int(rows[-1]) + 1
            out += len(outputs[0])
            if out - clean > WINDOW or pair[0].decoder.eof or pair[0].failed is not None:
                return True
        return False

    def distrust(
        self, start: int, stop: int, behind: int | None = None, bit: int | None = None, moved: bool = False
    ) -> None:
        """Take the bytes from `start` to `stop` for wrong, and all that repeats them.

        The fault is before `behind`, by default `stop`: what comes after the block in which that is was not hit itself.
        `bit` is where the block starts of which the byte at `behind` is the first, if that is known. `moved` says that
        bytes are missing or too many: what is before the fault is then not as far before what is behind it as it was.
        """
        self.distrusted.append((start, stop))
        behind = stop if behind is None else behind
        if bit is None:
            after, history = self._block_behind(behind)
        else:
            after, history = Start(bit, behind, False), self._history(behind)
        if after is None:
            return
        self.distrusted.append((start, after.out))
        if not self._learn_unknown(after, b"" if moved else history):
            self.distrusted.append((after.out, after.out + MAX_HISTORY))

    def _history(self, offset: int) -> bytes:
        """The bytes before `offset`, as many as a block there may refer to."""
        out, bit, window = self.points[self._row(max(0, offset - 1))]
        inflater, history, position = _Inflater(window), window, bit // 8
        while out < offset and position < self.source.size and not inflater.decoder.eof and not inflater.failed:
            data = self.source.pread(position, min(_FEED, self.source.size - position))
            fed = shifted(data, bit % 8) if position == bit // 8 else data
            position += len(data)
            for piece in inflater.feed(fed):
                part = piece[: max(0, offset - out)]
                history, out = (history + part)[-WINDOW:], out + len(piece)
        return history

    def _row(self, offset: int) -> int:
        """The last seek point at or before `offset`."""
        return max((row for row, point in enumerate(self.points) if point[0] <= offset), default=0)

    def point_before(self, offset: int) -> tuple[int, int]:
        """Offset and bit of the last seek point before `offset`."""
        return self.points[self._row(offset)][:2]

    def _block_behind(self, offset: int) -> tuple[Start | None, bytes]:
        """The first block that starts at or behind `offset`, as far as it can be told, and the bytes before it."""
        row = self._row(offset)
        out, bit, window = self.points[row]
        stop = self.points[row + 1][1] // 8 + 1 if row + 1 < len(self.points) else self.source.size
        inflater, history, position = _Inflater(window), window, bit // 8
        while position < stop:
            data = self.source.pread(position, min(_FINE, self.source.size - position))
            if out >= offset:
                ahead = self.source.pread(position, min(_FEED, self.source.size - position))
                point = self._point(inflater.decoder, ahead, position, out, history)
                if point is not None:
                    return Start(point[1], point[0], False), self._history(point[0])
            fed = shifted(data, bit % 8) if position == bit // 8 else data
            position += len(data)
            for piece in inflater.feed(fed):
                history, out = (history + piece)[-WINDOW:], out + len(piece)
            if inflater.decoder.eof or inflater.failed is not None:
                break
        if row + 1 < len(self.points) and self.points[row + 1][0] >= offset:
            return Start(self.points[row + 1][1], self.points[row + 1][0], False), b""
        return None, b""

    def known(self, offsets: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any], ahead: int = 0) -> np.ndarray[Any, Any]:
        """For ranges at these offsets, all `ahead` too high, and of these sizes: whether all their bytes are right."""
        rows = np.sort(np.concatenate([np.empty(0, "i8"), *self.unknown])).astype("u8") + np.uint64(ahead)
        known: np.ndarray[Any, Any] = np.searchsorted(rows, offsets) == np.searchsorted(rows, offsets + sizes)
        for start, stop in self.distrusted:
            known &= (offsets >= stop + ahead) | (offsets + sizes <= start + ahead)
        return known


class _Inflater:
    """A decoder that tells to the byte where its data makes no sense, with all that comes before."""

    def __init__(self, window: bytes) -> None:
        self.decoder: Any = zlib.decompressobj(-15, zdict=window) if window else zlib.decompressobj(-15)
        self.failed: str | None = None
        self.left = b""  #: of the data last fed: what lies behind the stream's end, or the failure

    def feed(self, data: bytes) -> Iterator[bytes]:
        step, full = len(data), False
        while (data or full) and not self.decoder.eof:
            before = self.decoder.copy()
            try:
                piece = self.decoder.decompress(data[:step], _MOST)
            except zlib.error as error:
                self.decoder = before
                if step == 1:
                    self.failed = str(error).rpartition(": ")[2]  # without the decompressor's own number
                    break
                step = max(1, min(step, len(data)) // 2)
                continue
            data, full = self.decoder.unconsumed_tail + data[step:], len(piece) == _MOST
            if piece:
                yield piece
        self.left = self.decoder.unused_data + data
