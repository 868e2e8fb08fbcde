"""What rows written by this library put around the published path of an image, and how it is taken off again.

An export names an image by a URL or by an absolute path, for those who read it without this library. Read back, a row
still does not choose what is opened: only below a place that the caller named, or below the folder of the rows
themselves, is such a name believed, and what is left of it is checked as any published path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from ..sa1b.published import DATA, NAME, SCHEME
from ..sa1b.urls import SA_NAME
from .locations import ArchivedImages, FolderImages, Images, Sa1bImages
from .prefixed import PrefixedImages

#: What stands before and after a published path.
Around = tuple[str, str]

SA1B: Around = (SCHEME, "")


def around(images: Images) -> tuple[Around, ...]:
    """What rows may have around the paths of these images, to be tried in this order."""
    return tuple(dict.fromkeys((*_around(images), SA1B)))


def _around(images: Images) -> Iterator[Around]:
    if isinstance(images, PrefixedImages):
        for part in images.parts:
            yield from _around(part.images) if part.images is not None and not part.cut else ()
    elif isinstance(images, Sa1bImages):
        from ..sa1b import url_suffix

        roots = images.roots or ()
        yield SA1B[0], url_suffix(images.roots)
        yield from ((f"{place}/", "") for root in roots for place in places_of(root))
    elif isinstance(images, ArchivedImages):
        yield from ((SA1B[0], f"::{place}") for place in places_of(images.folder))
    elif isinstance(images, FolderImages):
        inner = f"{images.written}/" if images.written else ""
        base = images.base.removesuffix(f"/{images.written}") if images.written else images.base
        yield from ((f"{place}/{inner}", "") for place in places_of(base))
        yield SCHEME, f"::{images.base}"
        if inner:
            yield inner, ""


def places_of(root: str) -> Iterator[str]:
    """The ways to write a folder that the caller named: as it is called and where its links lead; a URL as it is."""
    if "://" in root:
        yield root.rstrip("/")
    else:
        for place in (os.path.abspath(root), os.path.realpath(root)):  # noqa: PTH100
            yield place.rstrip("/")


def published(path: str, around: tuple[Around, ...]) -> str:
    """`path` without what a row of ours has around it."""
    for before, after in around:
        if len(path) > len(before) + len(after) and path.startswith(before) and path.endswith(after):
            return _unescaped(path[len(before) : len(path) - len(after)])
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
    for before, after in around:
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
        result = pc.if_else(theirs, inner, result)
        open_ = pc.invert(theirs) if open_ is None else pc.and_(open_, pc.invert(theirs))
    return result
