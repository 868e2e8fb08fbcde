"""How far long work is: one line on standard error, with what is done, how fast, and the time left."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from ..gates.safe_text import one_line

# It says nothing about work that is over sooner.
_SECONDS = 1.0


class Progress:
    """A line that is shown while work goes on for longer than a second; used in a ``with`` block, from any thread.

    In a notebook it is a bar of the notebook's own. It is quiet where standard error is no terminal, and where the
    Hub's or datasets' bars are switched off (``HF_HUB_DISABLE_PROGRESS_BARS``, ``HF_DATASETS_DISABLE_PROGRESS_BARS`` or
    their functions). Where the first of the two is set to 0 it is shown everywhere.

    Args:
        what: What is done.
        total: How much there is to do, where that is known.
        unit: What is counted: ``"B"`` for bytes, which get prefixes, or the plural of a thing.
        done: How much was done before.
        show: Whether it is wanted at all.
    """

    def __init__(
        self, what: str, total: int | None = None, *, unit: str = "B", done: int = 0, show: bool = True
    ) -> None:
        from huggingface_hub.utils.tqdm import tqdm

        self._done, self._show = done, show
        self._lock = threading.Lock()
        bar: Any = tqdm
        self._bar = bar(
            desc=one_line(what), total=total, initial=done, unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B", delay=_SECONDS, disable=_disable() if show else True,
            name="llava_zh", file=sys.stderr,
        )  # fmt: skip

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, count: int) -> None:
        """So much more is done; below nothing, so much less."""
        with self._lock:
            self._done += count
            self._bar.update(count)

    def reach(self, done: int) -> None:
        """So much is done now."""
        with self._lock:
            self._bar.update(done - self._done)
            self._done = done

    def note(self, text: str) -> None:
        """Show `text` at the end of the line from its next change on."""
        self._bar.set_postfix_str(text, refresh=False)

    def say(self, line: str) -> None:
        """Put a line for the reader above, which stays; also where the line itself is quiet, unless none is wanted."""
        if self._show:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """End the line."""
        self._bar.close()


def _disable() -> bool | None:
    """What tqdm takes: None leaves it to whether there is a terminal. The Hub's class of bars knows its own switch."""
    from huggingface_hub import constants

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is False:
        return False
    if os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS", "").upper() in ("1", "ON", "YES", "TRUE"):
        return True
    utils = sys.modules.get("datasets.utils")  # which is not imported for this
    disabled = getattr(utils, "are_progress_bars_disabled", None)
    if disabled is not None and disabled():
        return True
    return False if in_notebook() else None


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which has no terminal and shows bars all the same.

    `tqdm.auto`, which the Hub's bars are made of, knows it by the same module.
    """
    return "ipykernel.zmqshell" in sys.modules
