"""Files that appear under their name all at once, however many processes and threads write them and are killed."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name of this writer's own, sync, rename.

    What earlier writers of `path` left when they were killed is removed. A living one holds a lock on its file, which
    the system takes from it when it dies.

    Raises: OSError when it cannot be written; what was at `path` is then still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        remove_if_left(leftover)
    temporary, file = _temporary(path)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                temporary.replace(path)  # while the lock is held
        if fcntl is None:
            temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        file = temporary.open("xb")
        if fcntl is None:
            return temporary, file
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # another writer took it for a leftover before it was locked


def remove_if_left(temporary: Path) -> None:
    """Remove a temporary file of `write_atomically` whose writer is gone."""
    with contextlib.suppress(OSError):
        if fcntl is None:
            temporary.unlink()
            return
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
        finally:
            os.close(descriptor)
