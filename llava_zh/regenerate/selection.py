"""What a run means by "available", "missing" and "bad": settled when it begins, and widened only on request."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from llava_zh.errors import RunConflict
from llava_zh.gates.safe_text import get_logger, one_line
from llava_zh.regenerate.ledger import Ledger
from llava_zh.regenerate.plan import Selection
from llava_zh.regenerate.source import Source

logger = get_logger(__name__)

_HOW = "widen=True (--widen) takes in"


def open_ledger(
    folder: Path, source: Source, unit_rows: int, manifest: dict[str, Any], widen: bool
) -> tuple[Ledger, list[str]]:
    """The ledger of a run whose rows are settled, and notes for the reader; see :func:`settle`."""
    ledger = Ledger(folder, unit_rows, manifest)
    try:
        notes = settle(source, ledger, widen)
    except BaseException:
        ledger.close()
        raise
    notes = [*ledger.notes, *notes]
    for note in notes:
        logger.warning("%s: %s", folder, note)
    return ledger, notes


def settle(source: Source, ledger: Ledger, widen: bool) -> list[str]:
    """Make the source select what the run means; what a reader should know of how that differs from what is there now.

    A new run writes down what is asked for and what that means today. From the first row that it finishes, later
    sessions go on with that, whatever has come or gone. With `widen` the rows that are selected today and were not
    before are appended to the run.

    Raises:
        RunConflict: Other archives are asked for, or another treatment of missing images, without `widen`.
    """
    now = source.selection()
    selections = ledger.plan.selections
    notes: list[str] = []
    same = bool(selections) and msgspec.structs.replace(selections[-1], number=0) == now
    if not selections:
        ledger.select(now)
    elif widen:
        if not same:
            ledger.select(msgspec.structs.replace(now, number=len(selections)))
    elif not same and ledger.begin_anew():
        ledger.select(now)
        notes = ["no row was finished yet, so the run begins anew with the archives and images that are there now"]
        selections = ledger.plan.selections
    else:
        _check_asked(ledger, selections[-1], now)
        notes = _changes(selections[-1], now)
    if source.published is not None:
        source.published.use(selections[-1], now)
    return notes


def _check_asked(ledger: Ledger, before: Selection, now: Selection) -> None:
    lines = []
    if before.archives != now.archives:
        lines.append(f"  archives: {_asked(before.archives)} in the run, {_asked(now.archives)} now")
    if before.on_missing_image != now.on_missing_image:
        lines.append(f"  on_missing_image: {before.on_missing_image} in the run, {now.on_missing_image} now")
    if lines:
        raise RunConflict(
            f"{ledger.folder} was begun with other rows than are asked for now:\n"
            + "\n".join(lines)
            + f"\nAsk for the same to go on; {_HOW} the rows that are new, after those of the run; or choose another "
            "output_dir."
        )


def _changes(before: Selection, now: Selection) -> list[str]:
    notes = []
    if before.available is not None and now.available is not None:
        arrived = sorted(set(now.available) - set(before.available))
        gone = sorted(set(before.available) - set(now.available))
        if arrived:
            which = _count(arrived, "archive has", "archives have")
            notes.append(f"{which} arrived since the run began; {_HOW} their rows")
        if gone:
            which = _count(gone, "archive is", "archives are")
            notes.append(f"{which} gone since the run began; their rows will fail")
    if before.contents != now.contents:
        notes.append(f"images have come or gone since the run began, which keeps its rows; {_HOW} rows that are new")
    bad, good = set(now.bad_images) - set(before.bad_images), set(before.bad_images) - set(now.bad_images)
    if bad or good:
        notes.append(
            f"bad_images: {len(bad)} more and {len(good)} fewer than when the run began, which keeps its rows; "
            f"{_HOW} rows whose images are not bad any more"
        )
    return notes


def _asked(archives: Iterable[str] | str | None) -> str:
    if archives is None or isinstance(archives, str):
        return str(archives or "all")
    return _count(sorted(archives), "archive", "archives")


def _count(names: list[str], one: str, many: str) -> str:
    shown = one_line(", ".join(names[:3])) + (" …" if len(names) > 3 else "")
    noun, _, verb = (one if len(names) == 1 else many).partition(" ")
    return f"{len(names)} {noun} ({shown}) {verb}".rstrip()
