"""One file with published rows, and the files of a local folder.

A folder that came from somewhere (a clone, an unpacked archive) is walked with care: each real file is given once,
whatever links lead to it, and a link that leads out of the folder is left out and told of.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ..errors import BadArgument, DataFileNotFound, UnknownName
from ..gates import links, pictures
from ..gates.safe_text import get_logger
from ..sa1b.access import Access
from ..sa1b.urls import SHARD_NAME
from .our_folders import ours

logger = get_logger(__name__)


@dataclass(frozen=True)
class AboutHub:
    """What is known of a hub: the name of its repositories' main branch, its site, and what it is called for short."""

    branch: str
    page: str
    short: str


#: The hubs by their names, the default first.
ABOUT_HUBS = {
    "huggingface": AboutHub("main", "https://huggingface.co", "hf"),
    "modelscope": AboutHub("master", "https://modelscope.cn", "ms"),
}
SOURCES = tuple(ABOUT_HUBS)
MAX_DEPTH = 4  # deeper than any published layout
_told: set[str] = set()


@dataclass(frozen=True)
class DataFile:
    """One published file, local or remote. What it shows holds no credentials: it goes into caches and messages.

    Args:
        name: Path within its folder or repository, with ``/``.
        size: Bytes.
        source: ``"local"``, the hub it is on, or ``"url"``, with the URL as its `repo`.
        path: Where it is on this machine, or None when it has to be read over the network.
        digest: SHA-256 (large files) or git blob id as the hub lists it.
        access: What opens a URL in worker processes, never shown or compared.
    """

    name: str
    size: int
    source: str
    path: str | None = None
    repo: str = ""
    revision: str = ""
    digest: str | None = None
    access: Access = field(default_factory=Access, repr=False, compare=False)

    @property
    def label(self) -> str:
        """How messages call the file."""
        if self.source == "url":
            return self.repo
        return self.path or f"{self.source}:{self.repo}@{self.revision[:12]}/{self.name}"

    @property
    def identity(self) -> str:
        """Text that changes whenever the file's content may have."""
        if self.source == "local":
            assert self.path is not None
            return f"{self.path}:{self.size}:{os.stat(self.path).st_mtime_ns}"
        # A commit says it all, and the digest is not known of a file that was found in the cache.
        digest = "" if is_commit(self.revision) else self.digest or ""
        return f"{self.source}:{self.repo}@{self.revision}/{self.name}:{digest}"


def is_commit(revision: str) -> bool:
    """Whether `revision` is a full commit hash, whose files never change."""
    return len(revision) == 40 and not set(revision) - set("0123456789abcdef")


def local_files(data_dir: str | None, data_files: Any, *, published: bool = False) -> list[DataFile]:
    """The files named by `data_files` (paths or patterns, relative to `data_dir`), or all of `data_dir`; each once.

    A file that `data_files` names is read wherever a link leads: the user named it. Links that are found in a folder
    are followed as :mod:`llava_zh.gates.links` says. Runs, curations, exports and comparisons of ours that lie below
    the folder are left out and told of: their rows were made from the others.

    Args:
        published: The folder is the copy of a repository, of which each file counts.

    Raises:
        DataFileNotFound: The folder or a named file is not there.
        BadArgument: A name that no file can have.
    """
    base = _path(data_dir or ".")
    if data_dir is not None and not base.is_dir():
        if base.is_file():
            raise DataFileNotFound(f"data_dir {str(base)!r} is a file, not a folder. Name it as data_files=.")
        raise DataFileNotFound(
            f"data_dir {str(base)!r} is not a folder. Check the path; published files are fetched into one with "
            "`llava-zh download NAME --output-dir DIR`."
        )
    if data_files is None:
        found = [_local(path, path.relative_to(base).as_posix()) for path in _walk(base, base, 0, (), published)]
    else:
        named = list(flatten(data_files))
        if repeated := next((name for name in named if named.count(name) > 1), None):
            logger.warning(
                "data_files: %s is named more than once and is read once. To have its rows more often, load it by "
                "itself and join them by datasets.concatenate_datasets.", repeated,
            )  # fmt: skip
        found = [file for pattern in named for file in _matching(base / _path(pattern))]
    return _each_once(found)


def _path(name: str) -> Path:
    if "\0" in name:
        raise BadArgument(f"{name[:200]!r} holds a NUL character, which no file's name has.")
    try:
        return Path(name).expanduser()
    except RuntimeError:  # the home of a user who does not exist: there may be a folder that is called so
        return Path(name)


def _matching(path: Path) -> list[DataFile]:
    """The file at `path`, or those that it is a pattern for; ``**`` stands for folders in folders, and files in them.

    Below ``**``, what `_walk` leaves out is left out as well.
    """
    if path.is_file():
        return [_local(path, path.name)]
    if path.name == "**":
        path = path / "*"
    if glob.has_magic(str(path.parent)):
        base = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        found = sorted(match for match in base.glob(str(path.relative_to(base))) if match.is_file())
        if "**" in path.parts:
            found = [match for match in found if not _in_ours(base, match) and not _is_picture(match.name)]
        return [_local(match, match.relative_to(base).as_posix()) for match in found] or _no_file(path)
    walked = _walk(path.parent, path.parent, MAX_DEPTH, ()) if path.parent.is_dir() else ()
    matches = [_local(match, match.name) for match in walked if fnmatch.fnmatch(match.name, path.name)]
    return matches or _no_file(path)


def _in_ours(base: Path, file: Path) -> bool:
    """Whether a folder between `base` and `file` is one of ours."""
    return any(_is_ours(folder) for folder in file.parents if base in folder.parents)


def _no_file(path: Path) -> NoReturn:
    raise DataFileNotFound(
        f"data_files: no file {str(path)!r}. Relative paths start at data_dir, or the current folder."
    )


def _each_once(files: list[DataFile]) -> list[DataFile]:
    """`files` without those that are another one of them by a link.

    Two names for one blob of the Hugging Face cache are two files: the repository has the same content twice.
    """
    kept: dict[str, DataFile] = {}
    for file in sorted(files, key=lambda file: Path(file.path or "").is_symlink()):
        real = os.path.realpath(file.path or "")
        kept.setdefault(file.path or "" if Path(real).parent.name == "blobs" else real, file)
    chosen = set(kept.values())
    return [file for file in dict.fromkeys(files) if file in chosen]


def flatten(data_files: Any) -> Iterator[str]:
    """The names and patterns in `data_files`: one, a list of them, or a mapping with the split ``train``."""
    if isinstance(data_files, str | os.PathLike):
        yield os.fspath(data_files)
    elif isinstance(data_files, Mapping):
        if set(map(str, data_files)) != {"train"}:
            other = next((str(split) for split in data_files if str(split) != "train"), "")
            raise UnknownName(
                f"Unknown split {other!r} in data_files: these datasets have one, {{'train': …}}; found "
                f"{', '.join(map(repr, map(str, data_files))) or 'no split'}. Load the files of each other split by a "
                "call of its own, data_files=[…]."
            )
        yield from flatten(next(iter(data_files.values())))
    else:
        for item in data_files:
            yield from flatten(item)


def _walk(base: Path, folder: Path, depth: int, above: tuple[str, ...], published: bool = False) -> Iterator[Path]:
    """Files below `folder` in the order of their names, but for hidden ones, deep folders, those of ours and images:
    the last may be millions, and are looked up by the paths that rows give. `above` are the real folders on the way,
    against circles.
    """
    above = (*above, os.path.realpath(folder))
    names = (e for e in os.scandir(folder) if not e.name.startswith(".") and not _is_picture(e.name))
    for entry in sorted(names, key=lambda e: e.name):
        if entry.is_symlink() and links.lead_out(base, entry.path):
            logger.warning(
                "%s is a symbolic link that leads out of the data folder, and was left out. Name the file by "
                "data_files=, or set %s=1 if the link is your own.", entry.path, links.VARIABLE,
            )  # fmt: skip
        elif entry.is_file():
            yield Path(entry.path)
        elif depth < MAX_DEPTH and _is_to_be_walked(entry, above) and (published or not _is_ours(entry.path)):
            yield from _walk(base, Path(entry.path), depth + 1, above, published)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(pictures.SUFFIXES)


def _is_ours(folder: str | Path) -> bool:
    """Whether a folder in one with rows is a run's or another of ours, which is told of once."""
    found = ours(folder)
    if found is not None and (where := os.path.realpath(folder)) not in _told:
        _told.add(where)
        logger.warning(
            "%s holds %s that llava-zh wrote, and was left out of the rows around it. To read it, name it by itself.",
            folder, {"run": "a run", "export": "an export"}.get(found.kind, f"a {found.kind}"),
        )  # fmt: skip
    return found is not None


def _is_to_be_walked(entry: os.DirEntry[str], above: tuple[str, ...]) -> bool:
    # A folder of SA-1B holds 11,000 images and as many masks, whose names end in .json.
    if not entry.is_dir() or SHARD_NAME.fullmatch(entry.name):
        return False
    return not entry.is_symlink() or os.path.realpath(entry.path) not in above


def _local(path: Path, name: str) -> DataFile:
    return DataFile(name=name, size=path.stat().st_size, source="local", path=str(path.absolute()))
