"""Whole files that appear under their name all at once, however many processes write them and are killed."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path

from .durable import explained, open_regular, sync_folder
from .held import held

try:
    import fcntl
except ImportError:  # Windows, where a file that is open can be neither renamed nor removed
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def atomic(
    path: Path, temporary: Path | None = None, *, shared: bool = False, sync_name: bool = True
) -> Iterator[BufferedRandom]:
    """A new file to write and read, which is synced and takes the name `path` at the end.

    On an error, and where the process is killed, what was at `path` is still there. A link at `path` is replaced, never
    followed. Until the end the file's name is ``file.name``.

    Args:
        temporary: The name that the file has meanwhile, on the same disk. Only one process may use it at a time; what
            an earlier one left there is removed. By default ``<path>.tmp``.
        shared: Others may write `path` at the same time: the file has a name of its own meanwhile, and the folder is
            made. What killed writers left is removed.
        sync_name: Make the name survive a power cut as well. Without it the caller does, once for many files.

    Raises:
        OSError: It cannot be written.
    """
    with _unfinished(path, temporary, shared) as file:
        yield file
        _sync(file)
        if fcntl is None:
            file.close()
        give_name(Path(file.name), path, sync_name=sync_name)  # while `shared` still holds its lock


def give_name(finished: Path, path: Path, *, sync_name: bool = True) -> None:
    """Rename a file that is written and synced, so that the name survives a power cut as well."""
    finished.replace(path)
    if sync_name:
        sync_folder(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file that others may write at the same time; see :func:`atomic`."""
    # An index or a cached image that a power cut takes is made again, so its name is not waited for.
    with atomic(path, shared=True, sync_name=False) as file:
        file.write(data)


def add_atomically(path: Path, data: bytes, temporary: Path) -> bool:
    """Write a whole file unless there is one of this name, even if another process writes one at the same time.

    Args:
        temporary: As for :func:`atomic`.

    Returns:
        Whether it was written. A file that is there is left as it is, whatever it holds.

    Raises:
        OutputError: The file cannot be written.
    """
    if path.exists():
        return False
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(path, temporary) as file:
            file.write(data)
            _sync(file)
            if fcntl is None:
                file.close()
            return _took_name(temporary, path)


def _took_name(part: Path, path: Path) -> bool:
    try:
        os.link(part, path)  # fails where there is such a file; a rename would replace it
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        with held(part.parent / "names.lock"):
            if path.exists():
                return False
            part.replace(path)
    return True


@contextlib.contextmanager
def _unfinished(path: Path, temporary: Path | None, shared: bool = False) -> Iterator[BufferedRandom]:
    """A new file that is to become `path`; what still has its temporary name at the end is removed."""
    file = _of_our_own(path) if shared else _new(temporary or path.with_name(path.name + ".tmp"))
    try:
        with file:
            yield file
    finally:
        with contextlib.suppress(OSError):
            os.unlink(file.name)  # noqa: PTH108 (one call of the system for each of millions of pictures)


def _new(temporary: Path) -> BufferedRandom:
    """A new file of this name; a file or link that a crash or another left there is removed, not written to."""
    temporary.unlink(missing_ok=True)
    return open(temporary, "x+b", opener=open_regular)


def _of_our_own(path: Path) -> BufferedRandom:
    """A new file beside `path` that is locked as long as its writer lives: the system takes the lock from the dead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        remove_if_left(leftover)
    while True:
        file = _new(path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp"))
        if fcntl is None:
            return file
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)  # waits for one who is looking whether it is a leftover
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another writer took it for a leftover before it was locked


def _sync(file: BufferedRandom) -> None:
    file.flush()
    os.fsync(file.fileno())


def remove_if_left(temporary: Path) -> None:
    """Remove a temporary file of a shared :func:`atomic` whose writer is gone."""
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
