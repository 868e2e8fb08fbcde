"""Folders and files that one process works on at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import RunConflict
from .durable import check_kind


@contextlib.contextmanager
def held(lock: Path, busy: Callable[[], str] | None = None, *, remove: bool = False) -> Iterator[None]:
    """Hold the file `lock`, made if need be, that stands for what is worked on; the system takes it from the dead.

    Args:
        busy: Gives the message where another process holds it. Without one, its end is waited for.
        remove: Remove the file at the end.

    Raises:
        RunConflict: Another process holds it.
        OutputError, OSError: Something else stands there, or it cannot be made.
    """
    import filelock

    check_kind(lock)
    taken = filelock.FileLock(lock, timeout=-1 if busy is None else 0)
    try:
        taken.acquire()
    except filelock.Timeout:
        raise RunConflict("" if busy is None else busy()) from None
    try:
        yield
    finally:
        if remove:
            with contextlib.suppress(OSError):  # Windows does not remove what is open; it does no harm there
                lock.unlink()
        taken.release()
