"""A stream that is gone through once, read at offsets that ascend, with the CRC-32 of all of it and of parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from isal import isal_zlib

#: Bytes that can be gone back, from the end of what was read.
BACK = 2 << 20

Buffer = bytes | memoryview


class Forward:
    """Ranges of the stream that `pieces` make up; `crc` and `end` are those of the bytes gone through so far."""

    def __init__(self, pieces: Iterator[Buffer], start: int = 0) -> None:
        """`start` is the offset of the first piece."""
        self._pieces = pieces
        self._kept: deque[tuple[int, Buffer]] = deque()
        self.end = start
        self.crc = 0

    def _next(self) -> bool:
        piece = next(self._pieces, b"")
        if not piece:
            return False
        self.crc = isal_zlib.crc32(piece, self.crc)
        self._kept.append((self.end, piece))
        self.end += len(piece)
        while len(self._kept) > 1 and self._kept[1][0] < self.end - BACK:
            self._kept.popleft()
        return True

    def parts(self, offset: int, size: int) -> Iterator[memoryview]:
        """The bytes from `offset` on in the pieces they come in, fewer at the stream's end."""
        stop = offset + size
        if offset < self.end:
            for start, piece in list(self._kept):
                if start + len(piece) > offset and start < stop:
                    yield memoryview(piece)[max(0, offset - start) : stop - start]
        while self.end < stop and self._next():
            start, piece = self._kept[-1]
            if start + len(piece) > offset:
                yield memoryview(piece)[max(0, offset - start) : stop - start]

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, which lies at most `BACK` bytes before `end`; fewer at the stream's end."""
        if self._kept:
            start, piece = self._kept[-1]
            if start <= offset and offset + size <= self.end:
                return bytes(piece[offset - start : offset - start + size])
        return b"".join(self.parts(offset, size))

    def crc_of(self, offset: int, size: int) -> int | None:
        """The CRC-32 of `size` bytes at `offset`, None where the stream ends before."""
        crc = 0
        for part in self.parts(offset, size):
            crc = isal_zlib.crc32(part, crc)
            size -= len(part)
        return None if size else crc

    def finish(self) -> None:
        """Go on to the end."""
        while self._next():
            pass
