"""Which member of which archive a published path names, where rows do not say the archive.

LLaVA's rows say ``gqa/images/1.jpg``, and the picture is ``images/1.jpg`` in ``images.zip``. An archive may have been
meant to be unpacked where it lies, or into a folder called like it, so a member's full path is one of

    <folder of the archive>/<member>        <folder of the archive>/<stem of the archive>/<member>

and the member whose full path has the longest ending in common with the row's path is the one it names. Several with
equally long endings are no answer unless they hold equal bytes, for a picture is its bytes; neither is a file name
alone where the row names folders, for ``1.jpg`` is in every set. ``sa_<id>.jpg`` is one image in all of SA-1B: its name
says it all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llava_zh.errors import BadArchive, BadImage, BadIndex
from llava_zh.sa1b import finding
from llava_zh.sa1b.index import Member
from llava_zh.sa1b.layout import Root
from llava_zh.sa1b.published import plain, problem
from llava_zh.sa1b.urls import archive_stem, member_key


class _Place(NamedTuple):
    """An archive: what it is addressed by, and the two folders that its members may have been meant for."""

    address: str
    path: str
    here: tuple[str, ...]
    own: tuple[str, ...]


class _Candidate(NamedTuple):
    common: int
    url: str
    path: str  # of the archive
    member: Member


#: Members are compared in pieces of this many bytes.
_PIECE = 1 << 20


def match(roots: Sequence[Root], paths: Sequence[str | None]) -> list[str | None]:
    """See `Sa1bFileSystem.find_members`."""
    for root in roots:
        _look_anew(root)
    known: dict[str, str | None] = {}
    for path in paths:
        if path is not None and path not in known:
            known[path] = _first(roots, path)
    return [None if path is None else known[path] for path in paths]


def _first(roots: Sequence[Root], path: str) -> str | None:
    cleaned = plain(path)
    if cleaned is None:
        return None
    return next((found for root in roots if (found := _named(root, cleaned)) is not None), None)


def _named(root: Root, path: str) -> str | None:
    if member_key(path.rpartition("/")[2]) is not None:
        return _numbered(root, path)
    try:
        if _a_file(root, path):
            return path
    except BadImage:
        return None
    best = _best(root, path)
    return best[0].url if best and all(_same_bytes(root, best[0], other) for other in best[1:]) else None


def _a_file(root: Root, path: str) -> bool:
    """Whether a file lies at `path` itself, of a folder that was unpacked."""
    stem, slash, _ = path.partition("/")
    listing = root.listing()
    return (stem in (listing.folders if slash else listing.files)) and root.file(path) is not None


def _numbered(root: Root, path: str) -> str | None:
    try:
        hit = finding.find(root, path)
    except (BadArchive, BadIndex, BadImage):
        return None
    if hit is not None:
        return path
    base = path.rpartition("/")[2]
    for stem, archive_paths in root.stems().items():
        for archive_path in archive_paths:
            try:
                members = root.archive(archive_path).index.find_base(base)
            except (BadArchive, BadIndex, BadImage):
                continue
            if members:
                return f"{stem}/{members[0].name}"
    return None


def _best(root: Root, path: str) -> list[_Candidate]:
    """The members with the longest ending in common with `path`: none, one, or several different ones."""
    wanted = path.split("/")
    found = [candidate for candidate in _candidates(root, wanted) if candidate.common >= min(2, len(wanted))]
    longest = max((candidate.common for candidate in found), default=0)
    return list({candidate.url: candidate for candidate in reversed(found) if candidate.common == longest}.values())[
        ::-1
    ]


def _same_bytes(root: Root, one: _Candidate, other: _Candidate) -> bool:
    """Whether two members hold the same picture; what cannot be read is like no other."""
    size = one.member.size
    if size != other.member.size:
        return False
    if one.member.crc is not None and other.member.crc is not None:
        return one.member.crc == other.member.crc
    try:
        archives = root.archive(one.path), root.archive(other.path)
        for start in range(0, size, _PIECE):
            stop = min(start + _PIECE, size)
            if archives[0].read(one.member, start, stop) != archives[1].read(other.member, start, stop):
                return False
    except (BadArchive, BadIndex, OSError):
        return False
    return True


def _candidates(root: Root, wanted: list[str]) -> Iterator[_Candidate]:
    """The members called as the last of the parts `wanted`, with how much of the rest they have in common."""
    for place, member in _table(root).called(wanted[-1]):
        name = member.name
        parts = name.split("/")
        common = max(_common((*place.here, *parts), wanted), _common((*place.own, *parts), wanted))
        url = f"{place.address}/{name}"
        if problem(url) is None:
            yield _Candidate(common, url, place.path, member)


def _common(parts: Sequence[str], wanted: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(parts), reversed(wanted), strict=False):
        if one != other:
            break
        count += 1
    return count


def near_misses(roots: Sequence[Root], path: str) -> str:
    """For an error: which members are called like `path` and are not taken for it; empty if there are none."""
    cleaned = plain(path)
    if cleaned is None or member_key(cleaned.rpartition("/")[2]) is not None:
        return ""
    found = [candidate for root in roots if root.local for candidate in _candidates(root, cleaned.split("/"))]
    if not found:
        return ""
    longest = max(candidate.common for candidate in found)
    urls = sorted({candidate.url for candidate in found if candidate.common == longest})
    shown = ", ".join(urls[:3]) + (f" and {len(urls) - 3} more" if len(urls) > 3 else "")
    if longest == 1 and "/" in cleaned:
        return f" Of that file name alone there is {shown}, which may be another picture."
    return f" It could be {shown}; nothing tells which." if len(urls) > 1 else f" There is {shown}."


# -- file names of all members -----------------------------------------------------------------------------


class Table:
    """The file names of all members that have no number, as sorted hashes: 10 bytes a member, whatever the names."""

    def __init__(self, root: Root, state: Any) -> None:
        self._root, self.state = root, state
        self.places: list[_Place] = []
        hashes, owners = [], []
        for address, paths in root.stems().items():
            for path in paths:
                try:
                    names = root.archive(path).index.names()
                except (BadArchive, BadIndex, OSError):
                    continue
                folder, _, file = path.rpartition("/")
                here = tuple(folder.split("/")) if folder else ()
                hashes.append(np.fromiter((hash(_base(name)) for name in names), np.int64, len(names)))
                owners.append(np.full(len(names), len(self.places), np.uint16))
                self.places.append(_Place(address, path, here, (*here, archive_stem(file) or file)))
        every: Any = np.concatenate(hashes) if hashes else np.empty(0, np.int64)
        order = np.argsort(every, kind="stable")
        self._hashes = every[order]
        self._owners = np.concatenate(owners)[order] if owners else np.empty(0, np.uint16)

    def called(self, base: str) -> Iterator[tuple[_Place, Member]]:
        """The archive of each member whose file name is `base`, and the member."""
        first = np.searchsorted(self._hashes, hash(base), "left")
        last = np.searchsorted(self._hashes, hash(base), "right")
        for owner in dict.fromkeys(self._owners[first:last].tolist()):
            place = self.places[owner]
            try:
                members = self._root.archive(place.path).index.find_base(base)
            except (BadArchive, BadIndex, OSError):
                continue
            for member in members:
                yield place, member


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _state(root: Root) -> Any:
    """Changes when archives come, go or change."""
    paths = [path for paths in root.stems().values() for path in paths]
    if not root.local:
        return root.generation, tuple(paths)
    state = []
    for path in paths:
        try:
            status = os.stat(root.join(path))
        except OSError:
            continue
        state.append((path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(state)


def _look_anew(root: Root) -> None:
    """Drop the table of `root` if its archives are not those of the table any more; once a call, not once a path."""
    table = root.members
    if table is not None and table.state != _state(root):
        root.members = None


def _table(root: Root) -> Table:
    if root.members is None:
        root.members = Table(root, _state(root))
    table: Table = root.members
    return table
