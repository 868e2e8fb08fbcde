"""Files that are seen whole or not at all: written to a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from ..durable import explained


@contextlib.contextmanager
def appearing(path: Path, temporary: Path) -> Iterator[Path]:
    """A name in the folder `temporary` to write to; the file is moved to `path` at the end, or removed on an error.

    Raises:
        OutputError: The file cannot be written.
    """
    part = _part(path, temporary)
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with open(part, "rb+") as handle:
                os.fsync(handle.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _part(path: Path, temporary: Path) -> Path:
    return temporary / f"{os.getpid()}-{path.name[-100:]}"


def write_bytes(path: Path, data: bytes, temporary: Path) -> None:
    """Write a whole file; see :func:`appearing`."""
    with appearing(path, temporary) as part:
        part.write_bytes(data)


def add_bytes(path: Path, data: bytes, temporary: Path) -> bool:
    """Write a whole file unless there is one of this name, even if another process writes one at the same time.

    Returns:
        Whether it was written. A file that is there is left as it is, whatever it holds.

    Raises:
        OutputError: The file cannot be written.
    """
    if path.exists():
        return False
    part = _part(path, temporary)
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            return _took_name(part, path)
    finally:
        part.unlink(missing_ok=True)


def _took_name(part: Path, path: Path) -> bool:
    try:
        os.link(part, path)  # fails where there is such a file; a rename would replace it
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        with FileLock(part.parent / "names.lock"):
            if path.exists():
                return False
            part.replace(path)
    return True
