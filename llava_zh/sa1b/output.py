"""Folders that verify, repack and download write into: one process at a time, and enough room before it starts."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from llava_zh.errors import LlavaZhError, OutputError, RunConflict


@contextlib.contextmanager
def output_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """`folder`, made if need be and held until the end; what the system refuses comes out as an OutputError.

    Raises: RunConflict while another process works in it; OutputError.
    """
    path = Path(folder).expanduser().absolute()
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise RunConflict(f"Another process is working in {path}. Wait for it, or end it.") from None
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove what is open; it does no harm there
                (path / ".lock").unlink()
            lock.release()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """A disk that is full or not writable, in our words; errors that already are pass."""
    try:
        yield
    except LlavaZhError:
        raise
    except OSError as error:
        kept = " What was finished is kept: make room and run the same command again."
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or type(error).__name__})."
            + (kept if error.errno == errno.ENOSPC else "")
        ) from error


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise OutputError when `needed` bytes do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free. "
            "Make room, choose another disk, or choose fewer archives."
        )


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
