"""Files that are seen whole or not at all: written to a temporary name, synced, renamed; and how they are read back.

Nothing that stands in the way is followed or waited for: files are made anew, and only files are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from io import BufferedRandom, BufferedReader
from pathlib import Path

from ..errors import OutputError, RunConflict
from ..storage.atomic import add_atomically, atomic
from ..storage.durable import explained, open_regular


@contextlib.contextmanager
def appearing(path: Path, temporary: Path) -> Iterator[BufferedRandom]:
    """A new file in the folder `temporary` to write to; it is moved to `path` at the end, or removed on an error.

    Raises:
        OutputError: The file cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The names of data files are synced once, at the end of the export.
        with atomic(path, _part(path, temporary), sync_name=False) as file:
            yield file


def _part(path: Path, temporary: Path) -> Path:
    return temporary / f"{os.getpid()}-{path.name[-100:]}"


def write_bytes(path: Path, data: bytes, temporary: Path) -> None:
    """Write a whole file; see :func:`appearing`."""
    with appearing(path, temporary) as file:
        file.write(data)


def add_bytes(path: Path, data: bytes, temporary: Path) -> bool:
    """Write a whole file unless there is one; see :func:`~llava_zh.storage.atomic.add_atomically`."""
    return add_atomically(path, data, _part(path, temporary))


def read_kept(path: Path) -> bytes:
    """What an export keeps of itself in this file.

    Raises:
        RunConflict: It is a pipe, a link, a device or a folder.
        FileNotFoundError, OSError: It is not there, or cannot be read.
    """
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            return file.read()
    except OutputError as error:
        raise RunConflict(str(error)) from None


def digest_of(file: BufferedRandom | BufferedReader) -> str:
    """The SHA-256 of all that is in a file that is open to be read; leaves it at its end."""
    file.flush()
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def same(path: Path, size: int, digest: str) -> bool:
    """Whether there is a file of this size and digest; it is read to its end if the size fits."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            return os.fstat(file.fileno()).st_size == size and digest_of(file) == digest
    except OSError:
        return False
