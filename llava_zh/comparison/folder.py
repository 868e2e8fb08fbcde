"""The folder of a comparison: nobody else's, held by one process, and no part of rows that are loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from llava_zh.catalog.row_files import COMPARED
from llava_zh.comparison.pairs import Compared
from llava_zh.errors import BadArgument, RunConflict
from llava_zh.files.our_folders import ours
from llava_zh.storage.durable import check_kind, explained
from llava_zh.storage.held import held

REPORT, PAIRS, JUDGE = "report.json", "pairs.jsonl", "judge"
_WRITTEN = {REPORT, PAIRS, JUDGE}
_LOCK = ".comparing.lock"


def folder_of(given: str | os.PathLike[str] | None, run: Compared, other: Compared | None) -> Path:
    """The folder of a comparison with a judge: the one given, or ``compare`` in that of the run.

    Raises:
        BadArgument: None is given, and there is no run whose it would be.
    """
    if given is not None:
        return Path(given).expanduser()
    if other is not None or run.run is None:
        raise BadArgument(
            "output_dir is needed with a judge, unless one run is compared: name a folder for its answers."
        )
    return run.run.folder / COMPARED


def check_outside(folder: Path, side: Compared) -> None:
    """Refuse a folder inside of rows that are compared: its files would be taken for rows when those are loaded.

    Raises:
        RunConflict: It is one. ``compare`` in the folder of a run is none: loading leaves it out.
    """
    if side.folder is None:
        return
    top, own = side.folder.resolve(), folder.resolve()
    if own != top and top not in own.parents:
        return
    if side.run is None or own.relative_to(top).parts[:1] != (COMPARED,):
        better = f"{side.folder / COMPARED}, or a folder outside" if side.run is not None else "a folder outside"
        where = "is what is compared" if own == top else f"is in {side.folder}, which is compared"
        raise RunConflict(
            f"output_dir: {folder} {where}: its rows could not be loaded any more, or its report would be lost. "
            f"Choose {better}."
        )


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the folder of a comparison, made if need be.

    Raises:
        RunConflict: It holds something that no comparison wrote, or another comparison works in it.
        OutputError: It cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with explained(folder):
            check_kind(folder, folder=True)
            _check_ours(folder)
            if not folder.exists():
                folder.mkdir(parents=True)
                stack.callback(_leave, folder)
            busy = f"{folder} is in use by another comparison. Wait for it or end it."
            stack.enter_context(held(folder / _LOCK, lambda: busy, remove=True))
        yield


def _leave(folder: Path) -> None:
    """Remove a folder that was made for nothing."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _check_ours(folder: Path) -> None:
    if not folder.is_dir():
        return
    there = {entry.name.removesuffix(".tmp") for entry in folder.iterdir()} - {_LOCK}
    found = ours(folder)
    if there - _WRITTEN or (REPORT in there and (found is None or found.kind != "comparison")):
        raise RunConflict(
            f"{folder} holds something that no comparison wrote: {', '.join(sorted(there - _WRITTEN or there)[:5])}. "
            "Choose a new or empty output_dir."
        )
