"""Symbolic links in a folder of data that came from somewhere: a clone can hold one that leads to anything.

Links inside the folder are followed, and those of the Hugging Face cache (``snapshots/<revision>/x`` leads to
``blobs/<hash>``). One that leads out is not, unless ``LLAVA_ZH_FOLLOW_LINKS=1`` says that the links are the user's
own. A root that a user names himself (``image_root=``, ``SA1B_ROOT``) is not looked at this way: people lay shard
folders out over volumes by links.
"""

from __future__ import annotations

import os
from pathlib import Path

from .places import within

VARIABLE = "LLAVA_ZH_FOLLOW_LINKS"


def followed() -> bool:
    """Whether links that lead out of a data folder are followed."""
    return os.environ.get(VARIABLE, "").lower() in ("1", "true", "yes")


def lead_out(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> bool:
    """Whether `path` is reached from `folder` through a link that leads out of it and is not to be followed."""
    if followed() or within(folder, path):
        return False
    blobs = _blobs(Path(os.path.abspath(folder)))  # noqa: PTH100 (links are what this is about)
    return blobs is None or not within(blobs, path)


def _blobs(folder: Path) -> Path | None:
    """Where the files of a snapshot in the Hugging Face cache really are."""
    for place in (folder, *folder.parents):
        if place.parent.name == "snapshots" and (place.parent.parent / "blobs").is_dir():
            return place.parent.parent / "blobs"
    return None
