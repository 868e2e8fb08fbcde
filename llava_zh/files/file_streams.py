"""Published files, local or remote, in the forms that parsers want: by ranges, from start to end, as a file object."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from . import jsonl
from .data_files import DataFile
from .hub import read


def reader(file: DataFile, token: Any) -> jsonl.Read:
    """A function of an offset and a length that gives those bytes of `file`."""
    return lambda offset, length: read(file, offset, length, token)


def whole(file: DataFile, token: Any) -> Iterator[bytes]:
    """All bytes of `file` in pieces; a remote file is one request."""
    return read(file, 0, file.size, token)


def opened(file: DataFile, token: Any) -> io.BufferedIOBase:
    """`file` as a seekable binary file object."""
    if file.path is not None:
        return open(file.path, "rb")
    return io.BufferedReader(_RemoteFile(file, token), buffer_size=1 << 20)


class Stream(io.RawIOBase):
    """A file from its start to its end, local or remote; a remote one is one request, not one a buffer."""

    def __init__(self, file: DataFile, token: Any) -> None:
        self._pieces, self._piece = whole(file, token), memoryview(b"")

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
