"""The file that an index is kept in: sorted arrays, all of it under checksums and checked before it is believed.

    8 bytes     magic
    u32, u32    length of the header, CRC-32 of that length and of all that follows up to the windows
    header      JSON, padded with spaces to an 8-byte edge: what `Header` says
    arrays      those of `ARRAYS` that the archive has, in that order, each on an 8-byte edge

An index file may come with somebody's archive, or be cut and written over while it is in use. So it is read, not
mapped: a file that shrinks under a map ends the process. The windows of a gzip archive, nearly all of its index, come
last and stay on disk. Each is read when it is needed and held against a CRC-32 of its own, so that a look into the
indexes of a thousand archives does not read gigabytes, and open ones are small and take no descriptor.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import stat
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
import numpy as np
from isal import isal_zlib

from llava_zh.errors import BadIndex
from llava_zh.gates import limits
from llava_zh.gates.counts import counted

MAGIC = b"SA1BIDX2"
DEFLATED = 1 << 63  # in an offset of a zip: the member is deflated
_HEADER_LIMIT = 4 << 20
_TEXT_LIMIT = 1000  # characters kept of a name or a reason in a problem
_PROBLEMS_KEPT = 200
_WINDOW = 32 << 10  # as far as deflate refers back
_BEHIND_END = 1 << 16

#: The arrays and their types. Those of members known by number, of those known by name, and of gzip's seek points.
ARRAYS = {
    "keys": "<u4",
    "offsets": "<u8",
    "sizes": "<u4",
    "packed": "<u4",
    "crcs": "<u4",
    "names": "|u1",
    "name_starts": "<u8",
    "by_base": "<u4",
    "named_offsets": "<u8",
    "named_sizes": "<u8",
    "named_packed": "<u8",
    "named_crcs": "<u4",
    "points_out": "<u8",
    "points_bit": "<u8",
    "window_starts": "<u4",
    "window_crcs": "<u4",
    "windows": "|u1",
}
_SIZES = {name: np.dtype(dtype).itemsize for name, dtype in ARRAYS.items()}
_NONE = {name: np.empty(0, dtype) for name, dtype in ARRAYS.items()}
#: What `safe_name` lets nothing through with, in names that are each ended by a NUL.
_NOT_A_NAME = re.compile(rb"(?:\A|[\0/])\.{0,2}[\0/]|::|://")

Array = np.ndarray[Any, Any]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Offset = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


class State(msgspec.Struct, forbid_unknown_fields=True):
    """What the index remembers of its archive; see `Source.state`."""

    size: _Count
    stamp: str
    ends: str


class Header(msgspec.Struct, forbid_unknown_fields=True):
    """All of an index that is not in arrays."""

    kind: Literal["tar", "gzip", "zip"]
    archive: State
    prefixes: tuple[str | None, str | None]
    end: _Count
    problem_counts: dict[str, _Count]
    problems: list[tuple[str, str, _Offset, str]]
    arrays: dict[str, _Count] = {}


def is_name(name: str) -> bool:
    """Whether `name` can be a member's: nothing that leaves the archive, or that no URL can carry."""
    data = name.encode("utf-8", "surrogateescape")
    return b"\0" not in data and _NOT_A_NAME.search(data + b"\0") is None


def pack(header: dict[str, Any], arrays: dict[str, Array]) -> bytes:
    """The index file of these `arrays` and the fields of a `Header`."""
    assert set(arrays) < set(ARRAYS)
    if len(arrays.get("windows", ())):
        arrays = arrays | {"window_crcs": _window_crcs(arrays["windows"].tobytes(), arrays["window_starts"])}
    kept = {name: arrays[name] for name in ARRAYS if len(arrays.get(name, ()))}
    problems = [_shortened(*problem) for problem in header["problems"][:_PROBLEMS_KEPT]]
    counts = {name: len(array) for name, array in kept.items()}
    text = json.dumps(header | {"problems": problems, "arrays": counts}).encode()
    text += b" " * (-len(text) % 8)
    parts = [len(text).to_bytes(4, "little"), text]
    for name, array in kept.items():
        data = array.astype(ARRAYS[name], copy=False).tobytes()
        parts.append(data + bytes(-len(data) % 8) if name != "windows" else data)
    crc = 0
    for part in parts if "windows" not in kept else parts[:-1]:
        crc = isal_zlib.crc32(part, crc)
    return b"".join((MAGIC, parts[0], crc.to_bytes(4, "little"), *parts[1:]))


def _window_crcs(windows: bytes | memoryview, starts: Array) -> Array:
    view, edges = memoryview(windows), starts.tolist()
    return np.array([isal_zlib.crc32(view[start:stop]) for start, stop in itertools.pairwise(edges)], "<u4")


def _shortened(kind: str, member: str, offset: int, detail: str) -> tuple[str, str, int, str]:
    return kind[:_TEXT_LIMIT], member[:_TEXT_LIMIT], max(-(2**62), min(offset, 2**62)), detail[:_TEXT_LIMIT]


class IndexFile:
    """A file that was read and found good: its `header`, and its arrays but for the windows."""

    header: Header
    arrays: dict[str, Array]

    def __init__(self, file: BinaryIO, size: int, windows: _Windows) -> None:
        """
        Raises: ValueError when anything in the `size` bytes of `file` is not as it has to be.
        """
        if size > limits.INDEX.value:
            raise ValueError(limits.INDEX.exceeded(size))
        fixed = _exactly(file, 16)
        if fixed[:8] != MAGIC:
            raise ValueError(f"it starts with {fixed[:8]!r} instead of {MAGIC!r}")
        length = int.from_bytes(fixed[8:12], "little")
        if length > min(_HEADER_LIMIT, size - 16) or length % 8:
            raise ValueError(f"a header of {length:,} bytes")
        text = _exactly(file, length)
        crc = isal_zlib.crc32(text, isal_zlib.crc32(fixed[8:12]))
        self.header = _header(text)
        places, end = _places(self.header.arrays)
        if 16 + length + end != size:
            raise ValueError(f"{size:,} bytes instead of {16 + length + end:,}")
        inner = places["windows"][0] if "windows" in places else end
        body = _exactly(file, inner)
        crc = isal_zlib.crc32(body, crc)
        if crc != int.from_bytes(fixed[12:16], "little"):
            raise ValueError("its checksum does not fit")
        self.arrays = _NONE | {
            name: np.frombuffer(body, ARRAYS[name], count, offset)
            for name, (offset, count) in places.items()
            if name != "windows"
        }
        _check(self)
        self._windows, self._first_window = windows, 16 + length + inner
        self._starts, self._crcs = self.arrays["window_starts"], self.arrays["window_crcs"]
        self._edges = self._starts.data

    def window(self, start: int, stop: int) -> bytes:
        """The window that lies at `start` to `stop` in the array of that name, decompressed.

        Raises: ValueError or OSError when the file is no longer what was read.
        """
        packed = self._windows.read(self._first_window + start, stop - start)
        row = bisect_right(self._edges, start) - 1
        if len(packed) != stop - start or isal_zlib.crc32(packed) != self._crcs[row]:
            raise ValueError("a window does not fit its checksum")
        decoder = zlib.decompressobj()
        with contextlib.suppress(zlib.error):
            window = decoder.decompress(packed, _WINDOW)
            # Its end may come after the last byte of output.
            if decoder.eof or (not decoder.decompress(decoder.unconsumed_tail, 1) and decoder.eof):
                return window
        raise ValueError("a window is no zlib stream of 32 KiB at most")

    def prove(self) -> None:
        """Raise ValueError or OSError unless all windows fit their checksums."""
        if len(self._crcs):
            windows = self._windows.read(self._first_window, int(self._starts[-1]))
            if not np.array_equal(_window_crcs(windows, self._starts), self._crcs):
                raise ValueError("a window does not fit its checksum")


class _Windows:
    """Parts of an index in memory."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._data[offset : offset + size])


class _WindowsOnDisk(_Windows):
    """Parts of an index file, which is opened for each and has to be the one that was checked."""

    def __init__(self, path: Path, status: os.stat_result) -> None:
        self._path, self._identity = path, _identity(status)

    def read(self, offset: int, size: int) -> bytes:
        with self._path.open("rb", buffering=0) as file:
            if _identity(os.fstat(file.fileno())) != self._identity:
                raise ValueError("it was replaced or written to")
            file.seek(offset)
            return file.read(size)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def from_bytes(data: bytes | memoryview, source: str) -> IndexFile:
    """The index in `data`, which messages call `source`. Raises: BadIndex."""
    with _explained(source):
        return IndexFile(io.BytesIO(data), len(data), _Windows(data))


def from_path(path: Path) -> IndexFile:
    """The index file at `path`. Raises: BadIndex when it is none; OSError when it cannot be read."""
    # A planted FIFO would be waited for.
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags), "rb", buffering=0) as file, _explained(str(path)):
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        return IndexFile(file, status.st_size, _WindowsOnDisk(path, status))


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, msgspec.ValidationError, RecursionError) as error:  # the last of JSON that nests
        raise BadIndex(f"Damaged SA-1B index {source}: {error}.") from None


def _exactly(file: BinaryIO, size: int) -> bytes:
    parts = []
    while size > 0:
        part = file.read(size)
        if not part:
            raise ValueError("it ends early")
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _header(text: bytes) -> Header:
    try:
        return msgspec.convert(json.loads(text), Header)
    except UnicodeDecodeError:
        raise ValueError("its header is no text") from None


def _places(counts: dict[str, int]) -> tuple[dict[str, tuple[int, int]], int]:
    """Where each array starts and how many numbers it has, and where the last one ends."""
    if not set(counts) <= set(ARRAYS):
        raise ValueError("unknown arrays")
    places, end = {}, 0
    for name, width in _SIZES.items():
        if name in counts:
            places[name] = end, counts[name]
            size = counts[name] * width
            end += size if name == "windows" else (size + 7) // 8 * 8
    return places, end


def _check(file: IndexFile) -> None:
    """Raise ValueError unless lookups in these arrays stay inside them, and the members inside the archive."""
    header, arrays = file.header, file.arrays
    counts = {name: header.arrays.get(name, 0) for name in ARRAYS}
    zipped = header.kind == "zip"
    keyed, named = counts["keys"], counts["named_offsets"]
    lengths = {
        "offsets": keyed,
        "sizes": keyed,
        "packed": keyed if zipped else 0,
        "crcs": keyed if counts["crcs"] else 0,
        "name_starts": named + 1 if named else 0,
        "by_base": named,
        "named_sizes": named,
        "named_packed": named if zipped else 0,
        "named_crcs": named if counts["named_crcs"] else 0,
    }
    for name, count in lengths.items():
        if counts[name] != count:
            raise ValueError(f"the array {name} has {counted(counts[name], 'entries')} instead of {count:,}")
    if keyed + named > limits.MEMBERS.value:
        raise ValueError(limits.MEMBERS.exceeded(keyed + named))
    _check_keyed(header, arrays)
    if named:
        _check_named(arrays)
    for prefix in ("", "named_"):
        if counts[f"{prefix}offsets"]:
            _check_places(header, *(arrays[f"{prefix}{name}"] for name in ("offsets", "sizes", "packed")))
    _check_points(header, arrays, counts)


def _check_keyed(header: Header, arrays: dict[str, Array]) -> None:
    for prefix in header.prefixes:
        if prefix and (not prefix.endswith("/") or not is_name(prefix[:-1])):
            raise ValueError(f"a folder called {prefix[:_TEXT_LIMIT]!r}")
    keys = arrays["keys"]
    if len(keys):
        if not (keys[:-1] < keys[1:]).all():
            raise ValueError("numbers of members that do not ascend")
        if any(prefix is None and (keys % 2 == kind).any() for kind, prefix in enumerate(header.prefixes)):
            raise ValueError("members without a folder")


def _check_named(arrays: dict[str, Array]) -> None:
    """Names are unique bytes behind each other, each ended by a NUL, and none that leaves the archive."""
    names, starts = arrays["names"], arrays["name_starts"]
    ends = np.flatnonzero(names == 0)
    if not (starts[0] == 0 and np.array_equal(ends + 1, starts[1:]) and starts[-1] == len(names)):
        raise ValueError("starts of names that do not fit the names")
    if _NOT_A_NAME.search(names.tobytes()):
        raise ValueError("a member whose name leaves the archive or is no name")
    if arrays["by_base"].max() >= len(starts) - 1:
        raise ValueError("an order of names beyond the names")


def _check_places(header: Header, marked: Array, sizes: Array, packed: Array) -> None:
    zipped = header.kind == "zip"
    offsets, taken = (marked & np.uint64(DEFLATED - 1), packed) if zipped else (marked, sizes)
    # What deflate packs best shrinks to a 1,032nd; a gzip's offsets count before compression.
    whole = header.archive.size
    unpacked = min(whole * 1032 + _BEHIND_END, 2**62)
    limit = unpacked if header.kind == "gzip" else whole
    # The first two keep the sum below 2**64.
    if offsets.max() > limit or taken.max() > limit or (offsets + taken).max() > limit:
        raise ValueError("a member that lies outside the archive")
    if zipped and sizes.max() > unpacked:
        raise ValueError("a member larger than its archive can hold")


_OF_POINTS = ("points_out", "points_bit", "window_starts", "window_crcs", "windows")


def _check_points(header: Header, arrays: dict[str, Array], counts: dict[str, int]) -> None:
    points = counts["points_out"]
    if header.kind != "gzip":
        if any(counts[name] for name in _OF_POINTS):
            raise ValueError("seek points outside a gzip archive")
        return
    edges, crcs = (points + 1 if points else 0), (points if counts["windows"] else 0)
    if (counts["points_bit"], counts["window_starts"], counts["window_crcs"]) != (points, edges, crcs):
        raise ValueError("seek points that do not fit each other")
    if not points:
        if counts["keys"] or counts["named_offsets"]:
            raise ValueError("no seek point")
        return
    out, bit, starts = arrays["points_out"], arrays["points_bit"], arrays["window_starts"]
    if out[0] != 0 or any((column[:-1] > column[1:]).any() for column in (out, bit, starts)):
        raise ValueError("seek points that do not ascend")
    if max(int(out[-1]), int(bit[-1])) > 2**62 or starts[0] != 0 or starts[-1] != counts["windows"]:
        raise ValueError("seek points outside the archive")
