"""What a root covers: which rows have their images there, and where an image lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_zh.errors import ImageNotFound
from llava_zh.sa1b.contents import ARCHIVE_FILES, chosen
from llava_zh.sa1b.hits import MemberHit
from llava_zh.sa1b.urls import archive_stem, shard_of

if TYPE_CHECKING:
    from llava_zh.sa1b.filesystem import Sa1bFileSystem
    from llava_zh.sa1b.tree import ArchiveInfo


def status(fs: Sa1bFileSystem) -> list[ArchiveInfo]:
    """The archives, extracted folders and flat folders that hold images; no index is built.

    Raises: RootNotFound.
    """
    return chosen(fs, None)


@dataclass
class Coverage:
    """Rows by whether their images are there; a row counts where its worst image does."""

    rows: int = 0
    covered: int = 0  #: all images are there, if the row has any
    unindexed: int = 0  #: the others would be in archives whose members are not known yet
    missing: int = 0  #: an image is not there


def coverage(fs: Sa1bFileSystem, rows: Iterable[Any]) -> Coverage:
    """How many of `rows` the roots of `fs` have the images of, by indexes and listings that are there already.

    Args:
        rows: Arrow arrays of lists of published paths, a list a row, as ``builder.image_paths()`` gives them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    waiting = pa.array([i.name for i in fs.archives() if i.kind in ARCHIVE_FILES and not i.indexed], pa.string())
    total = Coverage()
    for lists in rows:
        if not len(lists):
            continue
        paths = lists.flatten()
        if not len(paths):
            total.rows, total.covered = total.rows + len(lists), total.covered + len(lists)
            continue
        have = fs.have(paths, build=False)
        archives = pc.replace_substring_regex(paths, "/.*", "")
        maybe = have | pc.is_in(archives, value_set=waiting).to_numpy(zero_copy_only=False)
        edges = lists.offsets.to_numpy() - lists.offsets[0].as_py()
        covered, possible = _whole(have, edges), _whole(maybe, edges)
        total.rows += len(lists)
        total.covered += covered
        total.unindexed += possible - covered
        total.missing += len(lists) - possible
    return total


def _whole(there: np.ndarray[Any, np.dtype[np.bool_]], edges: np.ndarray[Any, Any]) -> int:
    """How many rows have no image that is not `there`; `edges` are where the images of each begin and the last end."""
    lacking = np.concatenate([[0], np.cumsum(~there)])
    return int((np.diff(lacking[edges]) == 0).sum())


@dataclass(frozen=True)
class Located:
    """Where an image or its masks lie.

    `offset` counts bytes in the tar stream, after decompression for a gzip tar; in a zip file to the local header.
    """

    path: str  #: in the filesystem
    file: str  #: the archive file, or the image's own file
    kind: str  #: "tar", "gzip", "zip" or "file"
    size: int  #: bytes
    member: str | None = None
    offset: int | None = None


def locate(fs: Sa1bFileSystem, image: int | str) -> Located:
    """Where `image` lies: a path (``sa_000000/sa_1.jpg``), a file name (``sa_1.json``) or an id.

    Raises: ImageNotFound, which names the archive whose ids come nearest; RootNotFound; BadArchive; BadIndex.
    """
    path = f"sa_{int(image)}.jpg" if isinstance(image, int) or image.isdecimal() else image
    try:
        hit = fs.locate(path)
    except ImageNotFound:
        # Folders have no index of ids: an image named without its folder is looked for in each of them.
        if "/" in path:
            raise
        folders = (f"{info.name}/{path}" for info in fs.archives() if info.kind in ("extracted", "folder"))
        found = next((place for place in folders if fs.exists(place)), None)
        if found is None:
            raise
        path, hit = found, fs.locate(found)
    if isinstance(hit, MemberHit):
        source, member = hit.archive.source, hit.member
        if "/" not in path:
            path = f"{archive_stem(source.path.rpartition('/')[2])}/{path}"
        return Located(path, source.path, hit.archive.kind, member.size, member.name, member.offset)
    if "/" not in path and (shard := shard_of(hit.path)) is not None:
        path = f"{shard}/{path}"
    return Located(path, hit.path, "file", hit.size)
