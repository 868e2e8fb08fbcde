"""A forked child never waits for a thread of its parent."""

from __future__ import annotations

import os
import threading

import pytest

from llava_zh import forks

LOCK = forks.Lock()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_lock_that_a_thread_of_the_parent_holds_is_free_in_the_child() -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with LOCK:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        taken = threading.Thread(target=LOCK.__enter__, daemon=True)
        taken.start()
        taken.join(20)
        os._exit(taken.is_alive())
    status = os.waitpid(child, 0)[1]
    done.set()
    thread.join()
    assert status == 0
