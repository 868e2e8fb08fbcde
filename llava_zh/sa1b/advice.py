"""What to do next: about an archive that is not whole, and ahead of archives that nobody has indexed yet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_zh.gates import sizes
from llava_zh.gates.safe_text import get_logger
from llava_zh.sa1b import store
from llava_zh.sa1b.urls import SHARD_NAME

if TYPE_CHECKING:
    from llava_zh.sa1b.layout import Root

_log = get_logger(__name__)

#: Kinds of problems that another copy of the archive would not have.
_LOST = frozenset(("damaged", "lost", "truncated", "checksum"))
#: Compressed bytes a second that one pass indexes on one core, measured on JPEGs in gzip tars.
_RATE = 150_000_000
#: Seconds that indexing all of a root takes, from which on it is told of.
WORTH_TELLING = 30.0
#: Seconds for which nobody is told again, so that of the workers of one training run one tells it.
_TOLD = 3600


def about(names: Sequence[str], problems: Collection[str]) -> str:
    """What mends the archives called `names`, which have the same `problems`; empty where nothing of them is lost.

    Args:
        names: ``sa_000003``, or any other name.
        problems: Their kinds, of :data:`~llava_zh.sa1b.index.PROBLEM_KINDS`.
    """
    lost = set(problems) & _LOST
    if not lost:
        return ""
    again = "delete it and fetch it again"
    numbers = [str(int(name[3:])) for name in names if SHARD_NAME.fullmatch(name)]
    if numbers:
        again += f": llava-zh sa1b download --archives {','.join(numbers)} --links LIST --output-dir ROOT"
    arriving = "if nothing is fetching it any more, " if lost == {"truncated"} else ""
    return (
        "what is whole is read as it is, and `llava-zh sa1b repack` writes it to a plain tar; to have all of it, "
        f"{arriving}{again}"
    )


def before_first_index(root: Root, path: str) -> None:
    """Log, once an hour for each root, how many archives have no index when the one at `path` is about to be indexed.

    Indexing them takes minutes each, which a training run should not be surprised by.
    """
    places = [place for paths in root.stems().values() for place in paths]
    missing = [place for place in places if not _may_have_index(root, place)]
    source = root.source(path)
    seconds = source.size / _RATE if store.detect(source) == "gzip" else 0  # a plain tar takes a moment
    if len(missing) < 2 or len(missing) * seconds < WORTH_TELLING or _told_lately(root):
        return
    _log.warning(
        "%s of the %s archives in %s have no index yet. Each is indexed when its first image is wanted: about %s for "
        "one of %s, on one core about %s for all. To do it ahead: llava-zh sa1b index --image-root %s",
        f"{len(missing):,}", f"{len(places):,}", root.name, _duration(seconds), sizes.show(source.size),
        _duration(len(missing) * seconds), root.name,
    )  # fmt: skip


def _may_have_index(root: Root, path: str) -> bool:
    """Whether an index lies in the cache or beside the archive, good or not; costs no read of the archive."""
    folder, _, name = path.rpartition("/")
    return f"{name}{store.SUFFIX}" in root.listing(folder).files or store.cached_path(root.full_name(path)).exists()


def _told_lately(root: Root) -> bool:
    mark = store.cached_path(root.full_name("")).with_suffix(".told")
    with contextlib.suppress(OSError):
        if time.time() - mark.stat().st_mtime < _TOLD:
            return True
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        Path(mark).touch()
    return False


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
