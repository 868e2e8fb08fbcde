"""What rows written by this library put around the published path of an image, and how it is taken off again.

An export names an image by a URL or by an absolute path, for those who read it without this library. Read back, a row
still does not choose what is opened: only below a place that the caller named, or below the folder of the rows
themselves, is such a name believed, and what is left of it is checked as any published path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from ..sa1b.published import DATA, NAME, SCHEME
from ..sa1b.urls import SA_NAME
from .locations import ArchivedImages, FolderImages, Images, Sa1bImages
from .prefixed import PrefixedImages


class Around(NamedTuple):
    """What stands before and after a published path, and what that path begins with which is not written."""

    before: str
    after: str
    cut: str = ""


SA1B = Around(SCHEME, "")


def around(images: Images) -> tuple[Around, ...]:
    """What rows may have around the paths of these images, to be tried in this order."""
    return tuple(dict.fromkeys((*_around(images), SA1B)))


def _around(images: Images) -> Iterator[Around]:
    if isinstance(images, PrefixedImages):
        yield from _around_parts(images)
    elif isinstance(images, Sa1bImages):
        from ..sa1b import url_suffix

        roots = images.roots or ()
        yield Around(SCHEME, url_suffix(images.roots))
        yield from (Around(f"{place}/", "") for root in roots for place in places_of(root))
    elif isinstance(images, ArchivedImages):
        yield from (Around(SCHEME, f"::{place}") for place in places_of(images.folder))
    elif isinstance(images, FolderImages):
        inner = f"{images.written}/" if images.written else ""
        base = images.base.removesuffix(f"/{images.written}") if images.written else images.base
        yield from (Around(f"{place}/{inner}", "") for place in places_of(base))
        yield Around(SCHEME, f"::{images.base}")
        if inner:
            yield Around(inner, "")


def _around_parts(images: PrefixedImages) -> list[Around]:
    """The same for images told apart by prefix: of places in each other the inner one first, and folders before SA-1B.

    SA-1B finds an image by its name in whatever folder, so that its files need the prefix alone to be told apart.
    """
    folders, sa1b = [], []
    for part in images.parts:
        theirs = () if part.images is None else _around(part.images)
        if not isinstance(part.images, Sa1bImages):
            folders += [one._replace(cut=part.prefix if part.cut else "") for one in theirs]
            continue
        for one in theirs:
            local = one.before != SCHEME
            sa1b += [Around(one.before + part.prefix, one.after, part.prefix)] if local and part.prefix else []
            sa1b.append(one._replace(cut=part.prefix) if local else one)
    return sorted([*folders, *sa1b], key=lambda one: -len(one.before + one.after))


def places_of(root: str) -> Iterator[str]:
    """The ways to write a folder that the caller named: as it is called and where its links lead; a URL as it is."""
    if "://" in root:
        yield root.rstrip("/")
    else:
        for place in (os.path.abspath(root), os.path.realpath(root)):  # noqa: PTH100
            yield place.rstrip("/")


def published(path: str, around: tuple[Around, ...]) -> str:
    """`path` without what a row of ours has around it."""
    for before, after, cut in around:
        if len(path) > len(before) + len(after) and path.startswith(before) and path.endswith(after):
            return cut + _unescaped(path[len(before) : len(path) - len(after)])
    return path


def sa1b_name(path: str) -> str:
    """The name of the image of SA-1B that a URL ends in, whatever server it names; any other path as it is."""
    if not path.startswith(("http://", "https://")):
        return path
    name = path.partition("?")[0].rpartition("/")[2]
    return name if SA_NAME.fullmatch(name) else path


def _unescaped(inner: str) -> str:
    """The path in a URL of ours, where some characters of it may be written in another way."""
    mark = next((mark for mark in (NAME, DATA) if inner.startswith(mark)), None)
    return inner if mark is None else unquote(inner.removeprefix(mark))


def published_column(paths: pa.Array, around: tuple[Around, ...]) -> pa.Array:
    """As :func:`published`, for a column of text."""
    result = paths
    open_ = None
    for before, after, cut in around:
        theirs = pc.starts_with(paths, before)
        if after:
            theirs = pc.and_(theirs, pc.ends_with(paths, after))
        if not pc.any(theirs).as_py():
            continue
        theirs = pc.and_(theirs, pc.greater(pc.utf8_length(paths), len(before) + len(after)))
        theirs = theirs if open_ is None else pc.and_(theirs, open_)
        inner = pc.utf8_slice_codeunits(paths, len(before), -len(after) if after else None)
        if pc.any(pc.starts_with(inner, "!")).as_py():
            inner = pa.array([None if one is None else _unescaped(one) for one in inner.to_pylist()], pa.string())
        if cut:
            inner = pc.binary_join_element_wise(cut, inner, "")
        result = pc.if_else(theirs, inner, result)
        open_ = pc.invert(theirs) if open_ is None else pc.and_(open_, pc.invert(theirs))
    return result
