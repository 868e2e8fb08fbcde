"""What a forked child makes anew: its parent's lock may be held by a thread that does not exist in the child."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def in_child(renew: Callable[[], object]) -> None:
    """Call `renew` in every child that is forked from now on; nothing where the system has no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


class Lock:
    """A lock of a module's, new in each forked child; used in a ``with`` block, in which nothing forks."""

    def __init__(self) -> None:
        self._renew()
        in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class RLock:
    """As :class:`Lock`, taken again by the thread that has it. A block in which its own thread forks goes on with it.

    Args:
        mend: Called in a child whose parent has another thread in such a block, which will never end there: puts
            right what the block would have put right at its end.
    """

    def __init__(self, mend: Callable[[], object] = lambda: None) -> None:
        self._lock, self._mend = threading.RLock(), mend
        in_child(self._renew)

    def _renew(self) -> None:
        if self._lock.acquire(blocking=False):  # free, or of this thread, which goes on in the child
            self._lock.release()
        else:
            self._lock = threading.RLock()
            self._mend()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
