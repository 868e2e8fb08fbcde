"""Files of JSON lines that survive a crash at any byte."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from llava_zh.gates.limits import LINE
from llava_zh.storage.atomic import atomic
from llava_zh.storage.durable import explained, open_regular


class AppendFile:
    """A file of JSON lines that is only appended to, by one process at a time.

    :meth:`append` collects lines, :meth:`flush` hands them to the operating system, after which a killed process loses
    none, and :meth:`sync` puts them beyond the reach of a power cut. What a crash left unfinished is dropped when the
    file is opened: a line is there whole or not at all. JSON needs no checksum for this, since both a missing end and a
    block of zeros, all that an interrupted append leaves behind, are no JSON.
    """

    def __init__(
        self, path: Path, each: Callable[[bytes], None] = lambda line: None, *, exclusive: bool = False
    ) -> None:
        """Open `path`, made if need be, and give every whole line already there to `each`.

        Args:
            exclusive: The file must not be there yet.

        Raises:
            OutputError: A link, a pipe or a folder stands at `path`, or it cannot be written.
        """
        self.path = path
        self._dirty = False
        self._lines: list[bytes] = []
        if exclusive:
            with explained(path):
                self._descriptor = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
            self._size = 0
            return
        with explained(path):
            torn = False
            for line in read_lines(path):
                if is_whole(line):
                    each(line)
                else:
                    torn = True
            if torn:
                write_lines(path, (line for line in read_lines(path) if is_whole(line)))
            self._descriptor = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            self._size = os.fstat(self._descriptor).st_size

    def append(self, line: bytes) -> None:
        """Add one line, which ends in a newline."""
        self._lines.append(line)

    def flush(self) -> None:
        """Write the lines appended so far; on a full disk the file stays as it was."""
        if not self._lines:
            return
        data = b"".join(self._lines)
        self._lines.clear()
        self._dirty = True
        with explained(self.path):
            try:
                written = os.write(self._descriptor, data)
                while written < len(data):  # only a disk that fills up writes less than asked
                    written += os.write(self._descriptor, data[written:])
            except OSError:
                os.ftruncate(self._descriptor, self._size)
                raise
        self._size += len(data)

    def sync(self) -> None:
        """Make every line flushed so far survive a power cut."""
        if self._dirty:
            self._dirty = False
            with explained(self.path):
                os.fsync(self._descriptor)

    def close(self) -> None:
        self._dirty = False
        os.close(self._descriptor)


def read_lines(path: Path, size: int | None = None) -> Iterator[bytes]:
    """The lines of a file as bytes, newline included; none if there is no file.

    Of a line longer than `gates.limits.LINE` only the start comes, without a newline: it is no whole line.

    Args:
        size: Read only so many bytes of the file.

    Raises:
        OutputError: A link, a pipe or a folder stands at `path`.
    """
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    most = LINE.value
    with os.fdopen(descriptor, "rb") as file:
        left = os.fstat(descriptor).st_size if size is None else size
        while left > 0 and (line := file.readline(min(most, left))):
            left -= len(line)
            yield line
            while not line.endswith(b"\n") and left > 0 and (line := file.readline(min(most, left))):
                left -= len(line)


def is_whole(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        msgspec.json.decode(line, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Write a whole file so that it is either there complete or not at all; its size in bytes.

    A link at `path` is replaced, never followed.
    """
    with explained(path), atomic(path) as file:
        file.writelines(lines)
        return file.tell()
