"""How an image of SA-1B is named: the URL, the search path of roots, the number in ``sa_<id>.jpg``.

A URL is ``sa1b://`` + path, and each root it shall be looked for in follows as one hop of an fsspec chain:

    sa1b://sa_000000/sa_1.jpg                                    the roots that SA1B_ROOT names
    sa1b://sa_000000/sa_1.jpg::/data/sa1b                        one root
    sa1b://sa_000000/sa_1.jpg::/nvme/sa1b::hf://datasets/u/sa1b  a search path, first root first

One hop a root is what lets `fsspec` and `datasets` hand each remote root its own credentials, as they do for any
chained URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from llava_zh.errors import BadArgument, RootNotFound
from llava_zh.gates.places import steps
from llava_zh.gates.safe_text import keep_url_secrets
from llava_zh.sa1b.access import ROOT_VARIABLE, remember

#: A member that is known by its number: no leading zeros, so that the number gives the name back.
SA_NAME = re.compile(r"sa_(0|[1-9][0-9]{0,8})\.(jpg|json)")

#: An archive, or the folder that it was extracted to.
SHARD_NAME = re.compile(r"sa_[0-9]{6}")

#: ``sa_000000`` is also what the mirrors' ``SA-1B-Part-000000`` holds.
_PART_NAME = re.compile(r"SA-1B-Part-([0-9]{6})", re.IGNORECASE)
_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")


def search_path(root: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None) -> list[str]:
    """The roots to look in, first root first.

    `root` is one folder or fsspec URL, several of them in a list, or a string of several separated by commas, which
    is also the form of the environment variable ``SA1B_ROOT`` that is read when `root` is None. (A root whose
    name holds a comma has to be given in a list.) Local roots come back absolute, with ``~`` expanded.

    Raises: RootNotFound when there is no root at all; BadArgument for a root that no URL can carry.
    """
    if root is None:
        root = os.environ.get(ROOT_VARIABLE, "")
    parts = root.split(",") if isinstance(root, str) else [root] if isinstance(root, os.PathLike) else list(root)
    roots = [_absolute(os.fspath(part)) for part in parts if os.fspath(part).strip()]
    if not roots:
        raise RootNotFound(
            f"No SA-1B root. Pass image_root= (on the command line --image-root), or set {ROOT_VARIABLE}, to the "
            "folder or URL that holds sa_000000.tar, sa_000000/ or the like; several are separated by commas."
        )
    return roots


def _absolute(root: str) -> str:
    keep_url_secrets(root)
    root = root.strip()
    if "::" in root:
        raise BadArgument(f"The SA-1B root {root!r} holds '::', which separates the parts of a chained URL.")
    if "\0" in root or (not root.isprintable() and not _utf8(root)):
        raise BadArgument(
            f"The SA-1B root {root!r} holds a NUL or is no UTF-8, so no row's URL can hold it. Rename it."
        )
    if "://" in root:
        return root.rstrip("/") if not root.endswith("://") else root
    return os.path.abspath(os.path.expanduser(root))  # noqa: PTH100, PTH111 (Path would fold 'a/../b' otherwise)


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def url_suffix(root: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None) -> str:
    """What follows the path in the URL of an image: ``::ROOT`` for each root, or nothing for those of SA1B_ROOT.

    Passwords in a root are left out; this process knows them from now on, see :mod:`llava_zh.sa1b.access`.
    """
    return "" if root is None else "".join(f"::{remember(part)}" for part in search_path(root))


def image_url(path: str, root: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None) -> str:
    """The URL of the image at `path` (``sa_000000/sa_1.jpg``), opened by anything that speaks fsspec.

    Raises: BadArgument for a path that would choose what is opened (``..``, ``::``, a scheme), or such a root.
    """
    from llava_zh.sa1b.published import image_path

    return f"sa1b://{image_path(path)}{url_suffix(root)}"


def normalize(path: str) -> str:
    """`path` inside the filesystem: no scheme, no chain, no leading ``./`` or ``/``; ``..`` is refused."""
    if path.startswith("sa1b://"):
        path = path[7:]
    if "::" in path:
        path = path.split("::", 1)[0]
    if "//" in path or "./" in path or path.startswith("/") or path.endswith(("/", "/.", "..")) or path == ".":
        parts = steps(path)
        if ".." in parts:
            raise BadArgument(f"The image path {path!r} leaves its archive through '..'.")
        path = "/".join(parts)
    return path


def archive_names(archives: int | str | Iterable[int | str]) -> list[str]:
    """Archives given by number (``7``, ``range(45)``) or name (``sa_000007``, ``sa_000007.tar``), as names.

    Raises: BadArgument for what is neither.
    """
    names = []
    for item in [archives] if isinstance(archives, int | str) else archives:
        name = item.removesuffix(".tar") if isinstance(item, str) and not item.isdecimal() else f"sa_{int(item):06d}"
        if not SHARD_NAME.fullmatch(name):
            raise BadArgument(
                f"archives: {item!r} is no SA-1B archive; expected a number from 0 to 999 or a name such as sa_000000."
            )
        names.append(name)
    return names


def member_key(name: str) -> int | None:
    """The number under which the member called `name` is indexed, twice the image's id and one more for its masks."""
    match = SA_NAME.fullmatch(name)
    return None if match is None else int(match[1]) * 2 + (match[2] == "json")


def shard_of(path: str) -> str | None:
    """The archive that `path` names right before the file (or its folder ``images``): ``sa_000003``, or None."""
    folders = path.split("/")[:-1]
    if folders and folders[-1] == "images":
        folders.pop()
    return folders[-1] if folders and SHARD_NAME.fullmatch(folders[-1]) else None


def key_name(key: int) -> str:
    """The member name that `key` stands for: ``sa_1.jpg`` for 2, ``sa_1.json`` for 3."""
    return f"sa_{key >> 1}.{'json' if key & 1 else 'jpg'}"


def archive_stem(file_name: str) -> str | None:
    """The name an archive file is addressed by: ``sa_000000`` for ``sa_000000.tar``; None if it is no archive."""
    for suffix in _ARCHIVE_SUFFIXES:
        if file_name.lower().endswith(suffix) and len(file_name) > len(suffix):
            stem = file_name[: -len(suffix)]
            part = _PART_NAME.fullmatch(stem)
            return f"sa_{part[1]}" if part else stem
    return None
