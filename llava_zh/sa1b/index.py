"""The index of one archive: where each member's bytes lie. Look-ups are searches in sorted arrays.

    keys u4, offsets u8, sizes u4           members called sa_<id>.jpg or .json, sorted by key: 16 bytes a member
    names, name_starts, by_base, named_...  all other members, sorted by name; each name ends with a NUL
    packed, named_packed                    zip only: bytes in the archive; the top bit of an offset marks deflate
    crcs, named_crcs                        gzip and zip only, u4: CRC-32 of a member's bytes, 0 where not known
    points_out, points_bit, window_starts   gzip only: see `gzip_points`
    window_crcs, windows                    gzip only: zlib streams, and the CRC-32 of each

The file is described in `index_file`. Nothing here knows where index files live or how archives are read: see `store`
and `archive`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from llava_zh.errors import BadIndex
from llava_zh.sa1b import index_file
from llava_zh.sa1b.index_file import DEFLATED
from llava_zh.sa1b.urls import SA_NAME, key_name, member_key

MAX_KEYED_SIZE = 2**32 - 1

Buffer = bytes | memoryview
Array = np.ndarray[Any, Any]


class Member(NamedTuple):
    """Where a member's data is: `offset` counts in the tar stream (after any gzip), or in the zip file."""

    name: str
    offset: int
    size: int
    packed: int  # bytes it takes in a zip file; elsewhere the same as size
    deflated: bool = False
    crc: int | None = None  # CRC-32 of its bytes; None where it is not known, as in plain tars, whose data is not read


#: The kinds of Problem, and what each says of the archive.
PROBLEM_KINDS = {
    "duplicate": "several members have one name; the last of them is used",
    "link": "a hard or symbolic link, which is not followed",
    "device": "a device, a FIFO or a member of unknown type, which is not opened",
    "sparse": "a sparse file, which is not read",
    "unreadable": "a member that is encrypted, or packed in a way that is not read",
    "unsafe": "a name that would leave the archive, or that no URL can carry",
    "damaged": "bytes that are not what they should be: no header where one is due, or a member that cannot be read",
    "lost": "bytes that were passed over, or a member in them; what follows is read again",
    "truncated": "the archive ends before its end marker",
    "checksum": "bytes that can be read but do not fit their checksum",
}
#: Kinds that keep no member from being read.
HARMLESS_PROBLEMS = frozenset(("duplicate",))


class Problem(NamedTuple):
    """Something in an archive that keeps a member, or what follows, from being read; `offset` as in Member."""

    kind: str  # one of PROBLEM_KINDS
    member: str
    offset: int
    detail: str


class Numbered(NamedTuple):
    """Members called `prefix` + sa_<id>, as arrays in the order of the archive."""

    prefix: str
    keys: Array
    offsets: Array
    sizes: Array
    crcs: Array | None = None  # u4, CRC-32 of each member's bytes, 0 where it is not known; None where none is

    def members(self) -> Iterator[Member]:
        """The same members one by one."""
        columns = (self.keys, self.offsets, self.sizes, self.known_crcs())
        for key, offset, size, crc in zip(*(column.tolist() for column in columns), strict=True):
            yield Member(f"{self.prefix}{key_name(key)}", offset, size, size, crc=crc or None)

    def known_crcs(self) -> Array:
        """`crcs`, zeros where there are none."""
        return np.zeros(len(self.keys), "u4") if self.crcs is None else self.crcs

    def rows(self, rows: Array) -> Numbered:
        """The members in these `rows` alone."""
        crcs = None if self.crcs is None else self.crcs[rows]
        return Numbered(self.prefix, self.keys[rows], self.offsets[rows], self.sizes[rows], crcs)


@dataclass
class Scan:
    """What one pass over an archive found: its members, what is wrong, and where the whole part ends."""

    listed: list[Member] = field(default_factory=list)
    numbered: list[Numbered] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    end: int = 0
    points: dict[str, Any] = field(default_factory=dict)

    def members(self) -> list[Member]:
        """All members in the order of the archive."""
        if not self.numbered:
            return list(self.listed)
        every = [*self.listed, *(member for batch in self.numbered for member in batch.members())]
        return sorted(every, key=lambda member: member.offset)

    def offsets(self) -> Array:
        """Where the data of each member starts, ascending."""
        listed = np.array([member.offset for member in self.listed], "u8")
        return np.sort(np.concatenate([listed, *(batch.offsets.astype("u8") for batch in self.numbered)]))


def assemble(kind: str, scan: Scan, archive: dict[str, Any]) -> bytes:
    """The index file for a `scan` of an archive of this `kind` ("tar", "gzip", "zip") and state `archive`."""
    problems = list(scan.problems)
    uniform = _uniform(scan)
    prefixes: list[str | None]
    if uniform is not None:
        arrays, prefixes = _from_arrays(uniform, problems), [uniform.prefix] * 2
        named = _last(scan.listed, problems)
    else:
        keyed, named, prefixes = _by_number(_last(scan.members(), problems))
        arrays = {
            "keys": np.array(list(keyed), "<u4"),
            "offsets": np.array([_marked(member) for member in keyed.values()], "<u8"),
            "sizes": np.array([member.size for member in keyed.values()], "<u4"),
            "crcs": _crcs(keyed.values()),
        }
        if kind == "zip":
            arrays["packed"] = np.array([member.packed for member in keyed.values()], "<u4")
    refused = [named.pop(name) for name in list(named) if not index_file.is_name(name)]
    problems += [Problem("unsafe", one.name, one.offset, "its name cannot stand in a URL") for one in refused]
    if named:
        arrays |= _named_arrays(named, kind)
    for name in ("crcs", "named_crcs"):
        if not arrays.get(name, np.empty(0)).any():
            arrays.pop(name, None)
    header = {
        "kind": kind,
        "archive": archive,
        "prefixes": prefixes,
        "end": scan.end,
        "problem_counts": dict(Counter(problem.kind for problem in problems)),
        "problems": problems,
    }
    return index_file.pack(header, arrays | scan.points)


def _uniform(scan: Scan) -> Numbered | None:
    """All numbered members as one batch, if they share a folder and no listed member has such a name too."""
    if len({batch.prefix for batch in scan.numbered}) != 1 or not _is_folder(scan.numbered[0].prefix):
        return None
    if any(SA_NAME.fullmatch(member.name.rpartition("/")[2]) for member in scan.listed):
        return None
    columns = [(batch.keys, batch.offsets, batch.sizes, batch.known_crcs()) for batch in scan.numbered]
    return Numbered(scan.numbered[0].prefix, *(np.concatenate(column) for column in zip(*columns, strict=True)))


def _is_folder(prefix: str) -> bool:
    return prefix == "" or index_file.is_name(prefix[:-1])


def _from_arrays(batch: Numbered, problems: list[Problem]) -> dict[str, Array]:
    keys, from_behind = np.unique(batch.keys[::-1], return_index=True)  # the first row met is the archive's last
    rows = len(batch.keys) - 1 - from_behind
    if len(keys) < len(batch.keys):
        unused = batch.rows(np.setdiff1d(np.arange(len(batch.keys)), rows))
        problems += [_duplicate(member) for member in unused.members()]
    return {
        "keys": keys.astype("<u4"),
        "offsets": batch.offsets[rows].astype("<u8"),
        "sizes": batch.sizes[rows].astype("<u4"),
        "crcs": batch.known_crcs()[rows].astype("<u4"),
    }


def _last(members: list[Member], problems: list[Problem]) -> dict[str, Member]:
    """Members by name; of several with one name the last, as every reader takes it; the others become `problems`."""
    last = {member.name: member for member in members}
    if len(last) < len(members):
        problems += [_duplicate(member) for member in members if last[member.name] is not member]
    return last


def _duplicate(member: Member) -> Problem:
    return Problem("duplicate", member.name, member.offset, "a later member has the same name; the last one is used")


def _by_number(members: dict[str, Member]) -> tuple[dict[int, Member], dict[str, Member], list[str | None]]:
    """Members by number, sorted, the others by name, and the folders that the numbers leave out.

    Numbers stand for the names in one folder of the archive, the first that is met, for images and for masks each;
    members of that form in any other folder keep their names, so that no two members share a key.
    """
    keyed: dict[int, Member] = {}
    named: dict[str, Member] = {}
    prefixes: list[str | None] = [None, None]
    for name, member in members.items():
        folder, slash, base = name.rpartition("/")
        key = member_key(base)
        if key is not None and member.size <= MAX_KEYED_SIZE and member.packed <= MAX_KEYED_SIZE:
            if prefixes[key & 1] is None and _is_folder(folder + slash):
                prefixes[key & 1] = folder + slash
            if prefixes[key & 1] == folder + slash:
                keyed[key] = member
                continue
        named[name] = member
    return dict(sorted(keyed.items())), named, prefixes


def _named_arrays(members: dict[str, Member], kind: str) -> dict[str, Array]:
    blobs = sorted((name.encode("utf-8", "surrogateescape"), member) for name, member in members.items())
    bases = [name.rpartition(b"/")[2].decode("utf-8", "surrogateescape") for name, _ in blobs]
    arrays: dict[str, Array] = {
        "names": np.frombuffer(b"".join(name + b"\0" for name, _ in blobs), "u1"),
        "name_starts": np.cumsum([0, *(len(name) + 1 for name, _ in blobs)], dtype="<u8"),
        "by_base": np.array(sorted(range(len(bases)), key=bases.__getitem__), "<u4"),
        "named_offsets": np.array([_marked(member) for _, member in blobs], "<u8"),
        "named_sizes": np.array([member.size for _, member in blobs], "<u8"),
        "named_crcs": _crcs(member for _, member in blobs),
    }
    if kind == "zip":
        arrays["named_packed"] = np.array([member.packed for _, member in blobs], "<u8")
    return arrays


def _crcs(members: Iterable[Member]) -> Array:
    return np.array([member.crc or 0 for member in members], "<u4")


def _marked(member: Member) -> int:
    return member.offset | (DEFLATED if member.deflated else 0)


class ArchiveIndex:
    """A parsed index file. Look-ups take microseconds."""

    def __init__(self, data: Buffer | Path, source: str = "index") -> None:
        """Read and check the index file at the path `data`, or the one whose bytes are `data`, called `source`.

        Raises: BadIndex when anything in it is not as it has to be; OSError when the file cannot be read.
        """
        file = index_file.from_path(data) if isinstance(data, Path) else index_file.from_bytes(data, source)
        self._file = file
        self.source = str(data) if isinstance(data, Path) else source
        header = file.header
        self.kind: str = header.kind
        self.archive: dict[str, Any] = msgspec.to_builtins(header.archive)
        self.prefixes: tuple[str | None, str | None] = header.prefixes
        self.end = header.end
        self.problem_counts = header.problem_counts
        self.problems = [Problem(*problem) for problem in header.problems]
        self._arrays = file.arrays
        self.keys = self.array("keys")
        # bisect on a memoryview is several times as fast as numpy for one value.
        self._keys, self._offsets, self._sizes = (self.array(name).data for name in ("keys", "offsets", "sizes"))
        self._crcs, self._named_crcs = self.array("crcs").data, self.array("named_crcs").data
        self._blob = self.array("names").data
        self._starts = self.array("name_starts").data
        self._named = max(0, len(self._starts) - 1)
        #: Gives another index of the same archive when the file of this one is no longer what was read.
        self.renew: Callable[[], ArchiveIndex | None] = lambda: None

    def window(self, start: int, stop: int) -> bytes:
        """The window at `start` to `stop` in the array of windows, decompressed: at most 32 KiB.

        Raises: BadIndex when the index file is no longer what was read.
        """
        try:
            return self._file.window(start, stop)
        except (ValueError, OSError) as error:
            raise BadIndex(f"The SA-1B index {self.source} cannot be read any more: {error}.") from None

    def prove(self) -> None:
        """Check the windows too, which are otherwise checked as they are used. Raises: BadIndex."""
        try:
            self._file.prove()
        except (ValueError, OSError) as error:
            raise BadIndex(f"Damaged SA-1B index {self.source}: {error}.") from None

    def scan(self) -> Scan | None:
        """What a pass found that went as far as the last whole member, to be continued from there.

        None if more is wrong with the archive than that it was cut off, or was found than the index keeps.
        """
        known = {"truncated", "duplicate", "link", "device", "sparse", "unsafe"}
        if set(self.problem_counts) - known or sum(self.problem_counts.values()) > len(self.problems):
            return None
        listed = sorted(self.under(""), key=lambda member: member.offset)
        everything = Numbered("", self.keys, self.array("offsets"), self.array("sizes"))
        numbered = []
        for kind, prefix in enumerate(self.prefixes):
            same = self.prefixes[0] == self.prefixes[1]
            rows = np.flatnonzero((self.keys % 2 == kind) | same)
            rows = rows[np.argsort(everything.offsets[rows])]
            if len(rows) and not (same and kind):
                numbered.append(everything.rows(rows)._replace(prefix=prefix or ""))
        ends = [member.offset + member.size for member in listed]
        ends += [int((batch.offsets + batch.sizes).max()) for batch in numbered]
        end = (max(ends, default=0) + 511) // 512 * 512
        problems = [problem for problem in self.problems if problem.kind != "truncated" and problem.offset < end]
        return Scan(listed, numbered, problems, end)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """The array called `name` (of `index_file.ARRAYS`), empty if this archive has none."""
        return self._arrays[name]

    def __len__(self) -> int:
        return len(self._keys) + self._named

    def id_range(self) -> tuple[int, int] | None:
        """The lowest and highest image id, or None when no member is called sa_<id>."""
        return (self._keys[0] >> 1, self._keys[-1] >> 1) if len(self._keys) else None

    def by_key(self, key: int) -> Member | None:
        """The member with the number `key` (see `urls.member_key`)."""
        row = bisect_left(self._keys, key)
        if row == len(self._keys) or self._keys[row] != key:
            return None
        offset, size = self._offsets[row], self._sizes[row]
        packed = int(self._arrays["packed"][row]) if self.kind == "zip" else size
        crc = (self._crcs[row] or None) if self._crcs else None
        name = f"{self.prefixes[key & 1]}{key_name(key)}"
        return Member(name, offset & ~DEFLATED, size, packed, offset >= DEFLATED, crc)

    def find(self, name: str) -> Member | None:
        """The member at path `name`; one known by number is also found without the archive's own folder prefix."""
        folder, slash, base = name.rpartition("/")
        key = member_key(base)
        if key is not None and self.prefixes[key & 1] == folder + slash:
            member = self.by_key(key)
            if member is not None:
                return member
        member = self._by_name(name) if self._named else None
        return self.by_key(key) if member is None and key is not None and not slash else member

    def _by_name(self, name: str) -> Member | None:
        row = bisect_left(range(self._named), name.encode("utf-8", "surrogateescape"), key=self._name)
        return self._row(row) if row < self._named and self._text(row) == name else None

    def find_base(self, path: str) -> list[Member]:
        """The members whose path ends in `path` (whole segments); with none, those that share its last segment."""
        base = path.rpartition("/")[2]
        member = self.find(base) if SA_NAME.fullmatch(base) else None
        found = [] if member is None else [member]
        order = self.array("by_base")
        row = bisect_left(order, base, key=lambda r: self._text(r).rpartition("/")[2])
        while row < len(order) and self._text(order[row]).rpartition("/")[2] == base:
            found.append(self._row(int(order[row])))
            row += 1
        return [m for m in found if m.name == path or m.name.endswith("/" + path)] or found

    def _name(self, row: int) -> bytes:
        return bytes(self._blob[self._starts[row] : self._starts[row + 1] - 1])

    def _text(self, row: int) -> str:
        return self._name(row).decode("utf-8", "surrogateescape")

    def _row(self, row: int) -> Member:
        offset, size = int(self._arrays["named_offsets"][row]), int(self._arrays["named_sizes"][row])
        packed = int(self._arrays["named_packed"][row]) if self.kind == "zip" else size
        crc = (self._named_crcs[row] or None) if self._named_crcs else None
        return Member(self._text(row), offset & ~DEFLATED, size, packed, offset >= DEFLATED, crc)

    def under(self, folder: str) -> Iterator[Member]:
        """The members not known by number whose paths start with ``folder + "/"``, sorted; all of them for ""."""
        prefix = f"{folder}/".encode("utf-8", "surrogateescape") if folder else b""
        for row in range(bisect_left(range(self._named), prefix, key=self._name), self._named):
            if not self._name(row).startswith(prefix):
                break
            yield self._row(row)

    def names(self) -> list[str]:
        """The paths of the members that are not known by number, sorted."""
        return [self._text(row) for row in range(self._named)]

    def members(self) -> Iterator[Member]:
        """All members: those known by number in the order of their ids, then the others in the order of their names."""
        for key in self._keys:
            member = self.by_key(key)
            assert member is not None
            yield member
        yield from self.under("")

    def short_name(self, member: Member) -> str:
        """The name that `member` is usually asked for by: without its folder if it is known by its number."""
        base = member.name.rpartition("/")[2]
        key = member_key(base)
        return base if key is not None and self.by_key(key) == member else member.name


def contains(keys: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which of `wanted` are among the sorted member `keys`, as an array of bool."""
    rows = np.searchsorted(keys, wanted)
    rows[rows == len(keys)] = 0
    found: np.ndarray[Any, Any] = keys[rows] == wanted
    return found
