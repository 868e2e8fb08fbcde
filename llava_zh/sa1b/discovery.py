"""Where the archives, the folders of archives and the flat folders of a root are: a search, breadth first, by looking.

    archives    ROOT/sa_000000.tar, ROOT/data, ROOT/dataset, ROOT/OpenDataLab___SA-1B/raw, …
    shards      ROOT/sa_000000/, ROOT/images/sa_000000/, …: folders called like an archive, links to other volumes too
    flat        ROOT/sa_1.jpg, ROOT/images, ROOT/sam/images, …: images of all archives side by side

The search never goes into a folder of images, nor into a shard's; it looks at a bounded number of folders, at most
`DEPTH` below the root, and at each only once, so that a circle of links ends.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from llava_zh.gates import pictures
from llava_zh.gates.links import lead_out
from llava_zh.gates.safe_text import get_logger
from llava_zh.sa1b.published import problem
from llava_zh.sa1b.urls import SHARD_NAME, archive_stem

if TYPE_CHECKING:
    from llava_zh.sa1b.layout import Listing, Root

DEPTH = 4
#: Folders looked at; on a remote root each is a request.
MOST_LOCAL = 2000
MOST_REMOTE = 64

_PEEKED = 400  # entries of a folder that show what it holds
_FIRST = ("data", "images", "sam")
_log = get_logger(__name__)


@dataclass
class Found:
    """What a search found; all paths are relative to the root."""

    archives: list[tuple[str, str]] = field(default_factory=list)  #: folder and file name
    shards: dict[str, list[str]] = field(default_factory=dict)  #: by name, ``sa_000000``
    flat: list[str] = field(default_factory=list)
    holders: set[str] = field(default_factory=set)  #: folders with any of these in or below them
    watched: list[str] = field(default_factory=list)  #: folders where more may appear
    looked_at: set[str] = field(default_factory=set)  #: each real folder once

    def __bool__(self) -> bool:
        return bool(self.archives or self.shards or self.flat)


def discover(root: Root) -> Found:
    """Search `root`; every folder that is listed on the way stays listed there."""
    found, queue, seen = Found(), deque([("", 0)]), set()
    left = most = MOST_LOCAL if root.local else MOST_REMOTE
    while queue and left:
        folder, depth = queue.popleft()
        if root.local:
            try:
                status = os.stat(root.join(folder))
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        left -= 1
        found.looked_at.add(folder)
        listing, flat = _look(root, folder, depth)
        if flat:
            found.flat.append(folder)
            _hold(found, folder)
        if listing is None:
            continue
        if depth < 2:
            found.watched.append(folder)
        images = _take(root, found, folder, listing)
        if depth < DEPTH and (depth == 0 or not images):
            names = sorted(listing.folders, key=lambda name: (name not in _FIRST, name))
            queue += [(_join(folder, name), depth + 1) for name in names if _to_look_at(root, folder, name)]
    found.watched += sorted(found.holders - set(found.watched))[:64]
    if queue:
        _log.info("%s: only %d folders were looked at for archives and images", root.name, most)
    return found


def _take(root: Root, found: Found, folder: str, listing: Listing) -> bool:
    """Note what `folder` holds; whether that is mostly images."""
    shards = [name for name in listing.folders if SHARD_NAME.fullmatch(name)]
    for name in shards:
        found.shards.setdefault(name, []).append(_join(folder, name))
    archives = [name for name in sorted(listing.files) if archive_stem(name) is not None]
    for name in archives:
        path = _join(folder, name)
        if problem(path) is not None:
            _log.warning("%s: the archive %r is left out: no URL can hold its name. Rename it.", root.name, path)
        elif root.guarded and lead_out(root.path, root.join(path)):
            _log.warning("%s: the archive %s is left out: a symbolic link leads out of the folder", root.name, path)
        else:
            found.archives.append((folder, name))
    if shards or archives:
        _hold(found, folder)
    images = sum(name.lower().endswith(pictures.SUFFIXES) for name in listing.files)
    return len(listing.keys) + images > len(archives) + len(listing.folders)


def _hold(found: Found, folder: str) -> None:
    while folder:
        found.holders.add(folder)
        folder = folder.rpartition("/")[0]


def _look(root: Root, folder: str, depth: int) -> tuple[Listing | None, bool]:
    """What is in `folder`, and whether it is flat; no listing for a folder of images with very many of them."""
    if not root.local:
        if depth > 1 and folder.endswith("/images"):
            return None, True  # a bucket may hold millions there; they are asked for by name
        listing = root.listing(folder)
        return listing, bool(len(listing.keys))
    if folder and folder not in root.listed:
        try:
            with os.scandir(root.join(folder)) as entries:
                names = [entry.name for entry in islice(entries, _PEEKED)]
        except OSError:
            return None, False
        images = [name for name in names if name.lower().endswith(pictures.SUFFIXES)]
        if len(names) == _PEEKED and len(images) > len(names) // 4:
            return None, any(name.startswith("sa_") for name in images)
    listing = root.listing(folder)
    return listing, bool(len(listing.keys))


def _to_look_at(root: Root, folder: str, name: str) -> bool:
    if SHARD_NAME.fullmatch(name) or name.startswith("."):
        return False
    return not (root.guarded and lead_out(root.path, root.join(_join(folder, name))))


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
