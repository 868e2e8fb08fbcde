"""What binds a run to its settings: the first row that is finished, or requests that were handed out as files.

Until then the folder takes other settings: a mistyped model or a forgotten image root leaves nothing behind but rows
that were given up, and those are forgotten together with the plan that was made for them.
"""

from __future__ import annotations

import re
from pathlib import Path

from llava_zh.catalog.row_files import BATCH
from llava_zh.regenerate.units import has_rows
from llava_zh.storage.durable import explained, sync_folder

FINISHED, HANDED_OUT = "finished", "handed out"
_PLAN = re.compile(r"plan-\d{4,9}\.log")
#: In this order, so that whatever is left after a crash is a run that began and has finished nothing: a commit counts
#: for nothing without the plan that it is of, and a plan can be read as far as its first segments go.
_LEFT_BEHIND = (
    re.compile(r"\d{6,9}\.r\d{1,6}\.done"),
    re.compile(r"\d{6,9}\.r\d{1,6}\.(a\d{1,9}\.log|rows|failed|keys)"),
    _PLAN,
)


def what_binds(folder: Path) -> str | None:
    """:data:`FINISHED` where rows are, :data:`HANDED_OUT` where only requests are; None for neither."""
    if any(path.stat().st_size for path in (folder / "data").glob("*.jsonl")) or has_rows(folder / "journal"):
        return FINISHED
    if any(path.stat().st_size for path in (folder / BATCH).glob("*.jsonl")):
        return HANDED_OUT
    return None


def forget(journal: Path) -> bool:
    """Remove what a run that nothing binds has written: nothing of it is begun then. Whether it had given up rows."""
    given_up = False
    with explained(journal):
        for kind in _LEFT_BEHIND:
            for path in sorted(journal.iterdir(), reverse=True):
                if kind.fullmatch(path.name):
                    path.unlink()
                    given_up = given_up or kind != _PLAN
            sync_folder(journal)
    return given_up
