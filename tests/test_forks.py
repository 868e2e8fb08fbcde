"""A forked child never waits for a thread of its parent."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from PIL import ImageFile

from llava_zh import forks
from llava_zh.catalog import registry
from llava_zh.errors import BadImage
from llava_zh.gates import pictures
from llava_zh.regenerate import images

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")

LOCK, AGAIN = forks.Lock(), forks.RLock()


def failed_in_child(check: Callable[[], bool], seconds: float = 20) -> int:
    """The status of a forked child: 0 if `check` said so in time."""
    child = os.fork()
    if child == 0:
        said: list[bool] = []
        checking = threading.Thread(target=lambda: said.append(check()), daemon=True)
        checking.start()
        checking.join(seconds)
        os._exit(said != [True])
    return os.waitpid(child, 0)[1]


def taken(lock: Any) -> bool:
    with lock:
        return True


@pytest.fixture
def elsewhere() -> Any:
    """Runs something in another thread, which stays in its block until the test ends."""
    done, threads = threading.Event(), []

    def run(block: Any, inside: Callable[[], object] = lambda: None) -> None:
        held = threading.Event()

        def hold() -> None:
            with block:
                inside()
                held.set()
                done.wait(60)

        threads.append(threading.Thread(target=hold))
        threads[-1].start()
        held.wait(60)

    yield run
    done.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("lock", [LOCK, AGAIN, pictures._strictly, registry._lock, images._KEEPING])
def test_a_lock_that_a_thread_of_the_parent_holds_is_free_in_the_child(lock: Any, elsewhere: Any) -> None:
    elsewhere(lock)
    assert failed_in_child(lambda: taken(lock)) == 0


def test_a_block_goes_on_in_the_child_that_it_forks_itself() -> None:
    with AGAIN, AGAIN:
        child = os.fork()
    if child == 0:
        os._exit(not taken(AGAIN))
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_has_what_its_program_told_pillow_though_a_picture_was_being_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    begun, go_on = threading.Event(), threading.Event()

    class Slow(bytes):
        def __getitem__(self, key: Any) -> Any:
            begun.set()
            go_on.wait(60)
            return super().__getitem__(key)

    def decode() -> None:
        with contextlib.suppress(BadImage):
            pictures._decode(Slow(b"BM"), "it")

    thread = threading.Thread(target=decode)
    thread.start()
    begun.wait(60)
    told = ImageFile.LOAD_TRUNCATED_IMAGES
    status = failed_in_child(lambda: ImageFile.LOAD_TRUNCATED_IMAGES)
    go_on.set()
    thread.join()
    assert (told, status, ImageFile.LOAD_TRUNCATED_IMAGES) == (False, 0, True)
