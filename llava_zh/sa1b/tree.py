"""The roots as a tree to look at: which archives there are, what is in one, for listings and for status."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llava_zh.errors import BadArchive, ImageNotFound
from llava_zh.sa1b import store
from llava_zh.sa1b.index import ArchiveIndex
from llava_zh.sa1b.layout import Root
from llava_zh.sa1b.source import not_permitted
from llava_zh.sa1b.urls import SHARD_NAME, key_name, member_key

_EFFECTIVE = os.access in os.supports_effective_ids
#: Folders that hold archives or flat images rather than being one archive's.
_CONTAINERS = frozenset(("data", "sam", "images"))


@dataclass(frozen=True)
class ArchiveInfo:
    """One archive of a root, or one folder that stands for an archive."""

    name: str  #: what paths start with, ``sa_000000``; "" for a flat folder
    kind: str  #: "tar", "gzip", "zip", "extracted", "folder" (of any other name), "flat", "unusable"
    root: str  #: the root, without credentials
    path: str  #: of the archive file or folder, under the root
    size: int | None = None  #: bytes of the archive file
    indexed: bool = False
    members: int | None = None  #: how many, once indexed
    ids: tuple[int, int] | None = None  #: lowest and highest image id
    end: int | None = None  #: where the whole part of a tar ends, counted before compression
    problems: dict[str, int] = field(default_factory=dict)  #: how many of each kind
    problem: str | None = None  #: why it is unusable


def archives(root: Root) -> Iterator[ArchiveInfo]:
    """What `root` holds, without building an index."""
    for name, paths in root.stems().items():
        for path in paths:
            yield archive_info(root, name, path)
    for name, place in _folders(root):
        kind = "extracted" if SHARD_NAME.fullmatch(name) else "folder"
        if root.local and not os.access(root.join(place), os.R_OK | os.X_OK, effective_ids=_EFFECTIVE):
            denied = str(not_permitted(root.show(place)))
            yield ArchiveInfo(name, "unusable", root.name, place, problem=denied)
        else:
            yield ArchiveInfo(name, kind, root.name, place, indexed=True)
    for folder in root.flat_folders():
        keys = root.listing(folder).keys
        if len(keys):
            ids = (int(keys[0]) >> 1, int(keys[-1]) >> 1)
            yield ArchiveInfo("", "flat", root.name, folder, indexed=True, members=len(keys), ids=ids)


def _folders(root: Root) -> Iterator[tuple[str, str]]:
    """The folders that stand for an archive: those called like one, wherever they are, and others of the top."""
    shards = [(name, place) for name, places in root.found.shards.items() for place in places]
    yield from sorted(shards, key=lambda shard: (shard[1].count("/"), shard[1]))
    for parent in ("", "data"):
        if parent and parent not in root.found.looked_at:
            continue
        for name in sorted(root.listing(parent).folders):
            place = f"{parent}/{name}".lstrip("/")
            if not SHARD_NAME.fullmatch(name) and place not in _CONTAINERS and place not in root.found.holders:
                yield name, place


def archive_info(root: Root, name: str, path: str) -> ArchiveInfo:
    """What is known of the archive file at `path` under `root`."""
    try:
        archive = root.load_index(path)
        if archive is None:
            source = root.source(path)
            return ArchiveInfo(name, store.detect(source), root.name, path, source.size)
    except (BadArchive, OSError) as error:
        return ArchiveInfo(name, "unusable", root.name, path, problem=str(error))
    index = archive.index
    return ArchiveInfo(
        name,
        index.kind,
        root.name,
        path,
        archive.source.size,
        True,
        len(index),
        index.id_range(),
        index.end,
        index.problem_counts,
    )


def children(root: Root, path: str) -> Iterator[dict[str, Any]]:
    """The entries of the folder `path`, as fsspec's `ls` gives them."""
    if not path:
        yield from _top(root)
        return
    stem, _, rest = path.partition("/")
    for place in root.extracted_folders(stem):
        yield from _extracted(root, path, f"{place}/{rest}".rstrip("/"), top=not rest)
    for archive_path in root.archive_paths(stem):
        yield from _members(root.archive(archive_path).index, path, rest)


def _top(root: Root) -> Iterator[dict[str, Any]]:
    names = set(root.stems()) | {name for name, _ in _folders(root)}
    archives = {_last(path) for paths in root.stems().values() for path in paths}
    if "images" in root.listing().folders and root.listing("images").files - archives:
        names.add("images")  # what is neither an archive nor a flat image is not listed elsewhere
    for name in names:
        yield {"name": name, "size": 0, "type": "directory"}
    for folder in root.flat_folders():
        for key in root.listing(folder).keys.tolist():
            hit = root.file(f"{folder}/{key_name(key)}".lstrip("/"))
            if hit is not None:
                yield {"name": key_name(key), "size": hit.size, "type": "file"}


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _extracted(root: Root, path: str, place: str, top: bool) -> Iterator[dict[str, Any]]:
    try:
        entries = root.entries(place)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        name = _last(entry["name"].rstrip("/"))
        if top and name == "images" and entry["type"] == "directory" and len(root.listing(f"{place}/images").keys):
            for image in root.entries(f"{place}/images"):
                base = _last(image["name"])
                if member_key(base) is not None:
                    yield {"name": f"{path}/{base}", "size": image["size"], "type": "file"}
        else:
            kind = "directory" if entry["type"] == "directory" else "file"
            yield {"name": f"{path}/{name}", "size": entry["size"] or 0 if kind == "file" else 0, "type": kind}


def _members(index: ArchiveIndex, path: str, rest: str) -> Iterator[dict[str, Any]]:
    if not rest:
        for key in index.keys.tolist():
            member = index.by_key(key)
            if member is not None:
                yield {"name": f"{path}/{key_name(key)}", "size": member.size, "type": "file"}
    skip = len(rest) + 1 if rest else 0
    folders: set[str] = set()
    for member in index.under(rest):
        head, slash, _ = member.name[skip:].partition("/")
        if not slash:
            yield {"name": f"{path}/{head}", "size": member.size, "type": "file"}
        elif head not in folders:
            folders.add(head)
            yield {"name": f"{path}/{head}", "size": 0, "type": "directory"}


def folder_exists(root: Root, path: str) -> bool:
    """Whether `path` is an archive or a folder in one."""
    try:
        if "/" not in path and (root.archive_paths(path) or path in root.listing().folders):
            return True
        return next(children(root, path), None) is not None
    except ImageNotFound:
        return False
