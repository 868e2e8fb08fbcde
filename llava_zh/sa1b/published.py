"""From the path that a row gives to the URL that is opened: the one place where the two are put together.

A row is someone else's. Its path may name a file below a root and nothing more: it is checked here before it becomes
part of a URL, in which ``::``, a scheme, ``..`` and some other characters would say what is opened.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llava_zh.errors import BadArgument
from llava_zh.gates.places import CONTROL, DRIVE, LONGEST_STEP, steps

SCHEME = "sa1b://"

#: What a path starts with in which some characters are percent-encoded, for fsspec would take them for wildcards.
NAME = "!name/"
#: The same, below a folder of data that came from somewhere: no symbolic link is followed out of it.
DATA = "!data/"
#: What the URL of a path that was refused starts with, after the scheme; the path follows, percent-encoded.
REFUSED = "!refused/"
#: The same for a symbolic link that leads out of its folder.
LINK = "!link/"
#: The same for a row without bytes in a dataset whose rows embed their images.
NO_BYTES = "!no-bytes/"
#: The same for a path that begins like none of those whose place is known.
NOWHERE = "!nowhere/"

_LONGEST_PATH = 4000  # bytes; a path that is only looked up may be longer than one that files are written under
_MARKS = (NAME, DATA, REFUSED, LINK, NO_BYTES, NOWHERE)
_PIECE = 1 << 17
_SUSPECT = tuple(bytes([byte]) for byte in b"\\:!\x7f")
_WILD_BYTES = tuple(bytes([byte]) for byte in b"%*?[]")
_WILD = re.compile(r"[%*?\[\]]")
_DRIVE, _CONTROL = re.compile(DRIVE), re.compile(CONTROL)


def problem(path: str) -> str | None:
    """Why `path` can be no image below a root; None for one that can.

    `gates.places` has the law of names that files are written under. This one reads, so a backslash counts as a slash
    (rows were written on Windows too); and its names become parts of a URL, so ``::`` and a colon at the end do harm.
    """
    path = path.replace("\\", "/")
    parts = path.split("/")
    if not steps(path):
        return "is empty"
    if path.startswith("/"):
        return "is absolute"
    if ".." in parts:
        return "leads out through '..'"
    if "::" in path or path.endswith(":"):
        return "holds '::' or ends in ':', which separates the parts of a chained URL"
    if _DRIVE.search(path):
        return "holds a scheme or a drive"
    if _CONTROL.search(path):
        return "holds a control character"
    if path.startswith("!") and path.startswith(_MARKS):
        return "starts like a mark of ours"
    if len(path) * 4 > LONGEST_STEP:
        sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
        if max(sizes) > LONGEST_STEP or sum(sizes) + len(sizes) > _LONGEST_PATH:
            return "is longer than any file's name"
    return None


def plain(path: str) -> str | None:
    """`path` with slashes only and without ``.`` and empty parts; None if it can be no image below a root."""
    path = path.removeprefix(SCHEME)
    if problem(path) is not None:
        return None
    return "/".join(steps(path.replace("\\", "/")))


def mark(path: str, why: str = REFUSED) -> str:
    """What stands in a URL for a `path` that is not to be opened; opening it says which path that was, and why."""
    return why + quote(path, safe="", errors="surrogatepass").replace(".", "%2E")


def explained(path: str) -> str | None:
    """For a path that :func:`mark` gave, the message of the error; None for any other."""
    if path.startswith(REFUSED):
        name = unquote(path.removeprefix(REFUSED), errors="replace")
        why = problem(name) or "cannot be opened"
        return f"The row's image path {name[:200]!r} {why}, so it names no image below a root; nothing was opened."
    if path.startswith(LINK):
        name = unquote(path.removeprefix(LINK), errors="replace")
        return (
            f"The row's image {name[:200]!r} is reached through a symbolic link that leads out of the data folder; it "
            "was not followed. Pass image_root= to name the folder that images are in, or set "
            "LLAVA_ZH_FOLLOW_LINKS=1 if the links are your own."
        )
    if path.startswith(NO_BYTES):
        name = unquote(path.removeprefix(NO_BYTES), errors="replace")
        return (
            f"The row has no bytes for its image {name[:200]!r}. The rows of this dataset embed their images, and a "
            "path is only a name there, which is not opened. on_missing_image='skip' leaves such rows out."
        )
    if path.startswith(NOWHERE):
        name = unquote(path.removeprefix(NOWHERE), errors="replace")
        begins = f"{name.partition('/')[0]}/" if "/" in name else name[:40]
        return (
            f"It is not known where the row's image {name[:200]!r} is. Pass image_root= as the folder that all paths "
            f"start from, or as a mapping that has {begins!r}; on_missing_image='skip' leaves such rows out."
        )
    return None


def escaped(path: str) -> str:
    """`path` with wildcards percent-encoded, to stand after :data:`NAME` or :data:`DATA`."""
    return _WILD.sub(lambda match: quote(match[0], safe=""), path)


def exact(path: str) -> str:
    """`path` as it may stand in a URL that opens the file of this very name: some openers expand wildcards."""
    return NAME + escaped(path) if _WILD.search(path) else path


def name_of(url: str) -> str:
    """The published path that a URL of ours is about, without scheme, mark and roots; any other text as it is."""
    path = url.removeprefix(SCHEME).split("::", 1)[0] if url.startswith(SCHEME) else url
    for start in _MARKS if path.startswith("!") else ():
        if path.startswith(start):
            return unquote(path.removeprefix(start), errors="replace")
    return path


def checked(paths: pa.Array) -> pa.Array:
    """`paths` (text) cleaned up by :func:`plain`, or replaced by their :func:`mark`; the same object if none changes.

    Nearly always none needs a change, which a few passes over the bytes of all of them tell.
    """
    return paths if not _suspect(*_bytes(paths)) else _cleaned(paths)


def _cleaned(paths: pa.Array) -> pa.Array:
    values = [plain(path) or mark(path) if path else path for path in paths.to_pylist()]
    return pa.array(values, paths.type)


def _bytes(paths: pa.Array) -> tuple[Any, Any]:
    """The bytes of all `paths` (a text array) one after the other, and where each starts and the last ends."""
    data = paths.buffers()[2] if len(paths) else None
    if data is None:
        return np.empty(0, np.uint8), np.zeros(1, np.int32)  # none has a character
    wide = np.int64 if pa.types.is_large_string(paths.type) else np.int32
    offsets = np.frombuffer(paths.buffers()[1], wide, len(paths) + 1, paths.offset * wide().itemsize)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0] if offsets[0] else offsets


def _suspect(data: Any, offsets: Any) -> bool:
    """Whether any path may be one that :func:`plain` changes or refuses."""
    if not len(data):
        return False
    lengths = np.diff(offsets)
    if lengths.max() > LONGEST_STEP or data.min() < 0x20:
        return True
    text = data.tobytes()
    if any(byte in text for byte in _SUSPECT):
        return True
    # '.' and '/' side by side, or at an end: a part that is empty or made of dots. In pieces that fit into the cache.
    for at in range(0, len(data), _PIECE):
        steps = _step(data[at : at + _PIECE + 1])
        if (steps[1:] & steps[:-1]).any():
            return True
    if lengths.min() == 0:
        offsets = offsets[np.append(True, lengths > 0)]
    return bool((data[offsets[:-1]] == ord("/")).any() or _step(data[offsets[1:] - 1]).any())


def _step(data: Any) -> Any:
    """Which bytes are '.' or '/', which are neighbours in ASCII."""
    return (data - np.uint8(ord("."))) < 2


def image_urls(paths: pa.Array, suffix: str) -> pa.Array:
    """The ``sa1b://`` URLs of `paths`, each followed by the hops in `suffix`; null stays null."""
    data, offsets = _bytes(paths)
    if _suspect(data, offsets):
        paths = _cleaned(paths)
        data, _ = _bytes(paths)
    text = data.tobytes()
    if any(byte in text for byte in _WILD_BYTES):
        values = [exact(path) if path and not path.startswith("!") else path for path in paths.to_pylist()]
        paths = pa.array(values, paths.type)
    return pc.binary_join_element_wise(SCHEME, paths, suffix, "")


def own_archive(paths: pa.Array) -> pa.Array:
    """The archive that each path names itself, right before the file or its folder ``images``, or null."""
    if not pa.types.is_string(paths.type):
        paths = paths.cast(pa.string())
    if pc.all(pc.match_substring_regex(paths, r"^sa_[0-9]{6}/(?:images/)?[^/]*$")).as_py():  # as published
        return pc.binary_slice(paths.cast(pa.binary()), 0, 9).cast(pa.string())
    # A file of the root called so has the same form, and no folder.
    found = pc.struct_field(pc.extract_regex(paths, r"(?:^|/)(?P<name>sa_[0-9]{6})(?:/images)?/[^/]*$"), "name")
    return pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found)


def data_url(path: str, folder: str) -> str:
    """The URL of the image at `path` below a `folder` of data; `path` is checked, and may be a mark."""
    return SCHEME + path if path.startswith("!") else f"{SCHEME}{DATA}{escaped(path)}::{folder}"


def image_path(path: str) -> str:
    """`path`, given by a caller, as it may stand in a URL.

    Raises: BadArgument for one that would choose what is opened.
    """
    path = path.removeprefix(SCHEME).lstrip("/")
    why = problem(path)
    if why is not None:
        raise BadArgument(f"The image path {path[:200]!r} {why}, so no URL can be made of it.")
    return exact(path)
