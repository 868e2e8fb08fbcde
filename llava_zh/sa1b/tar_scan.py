"""One walk over the headers of a tar stream: which regular files it holds, where, and what is wrong with it.

The walk reads 512 bytes a member and skips the data. Checksums and names are looked at for a batch at once, which
keeps the walk as fast as the reads themselves. Formats: ustar, GNU (long names) and PAX, as `tarfile` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from llava_zh.sa1b.index import MAX_KEYED_SIZE, Member, Numbered, Problem, Scan

BLOCK = 512
_BATCH = 4096
_REGULAR = frozenset((0, 48, 55))  # NUL, '0', '7' (contiguous)
_REFUSED = {
    49: ("link", "a hard link"),
    50: ("link", "a symbolic link"),
    51: ("device", "a character device"),
    52: ("device", "a block device"),
    54: ("device", "a FIFO"),
    83: ("sparse", "a sparse file"),
}
_NUMBERED = re.compile(rb"((?:[^/\0]+/)*)sa_[0-9]")
_PAX_RECORD = re.compile(rb"([0-9]{1,20}) ([^=]+)=")

ReadAt = Callable[[int, int], bytes]


def scan_tar(read_at: ReadAt, start: int = 0, scan: Scan | None = None) -> Scan:
    """Walk the tar stream that ``read_at(offset, n)`` gives, from the header at offset `start`.

    A stream that ends or breaks before its end marker gives the members that are whole, and a Problem that says where.
    `read_at` may give fewer bytes than asked only at the stream's end. An earlier, broken off `scan` is continued.
    """
    scan = scan or Scan(end=start)
    walk = _Walk(read_at, scan)
    walk.run(start)
    return scan


class _Walk:
    def __init__(self, read_at: ReadAt, scan: Scan) -> None:
        self.read_at = read_at
        self.scan = scan
        self.blocks: list[bytes] = []  # headers of regular files not yet looked at,
        self.positions: list[int] = []  # where their data lies, and
        self.sizes: list[int] = []  # how much of it there is
        self.overrides: dict[int, str] = {}  # names from GNU or PAX headers, by that position
        self.pax: dict[str, str] = {}

    def run(self, position: int) -> None:
        read_at, blocks, positions, sizes = self.read_at, self.blocks, self.positions, self.sizes
        while True:
            block = read_at(position, BLOCK)
            size = -1
            if len(block) == BLOCK and block[156] in _REGULAR and block[135] in b"\0 " and not self.pax:
                try:  # not suppress(): this runs for every member
                    size = int(block[124:135], 8)
                except ValueError:
                    size = -1
            if size < 0:
                step = self.special(block, position)
                if step is None:
                    break
                position = step
                continue
            blocks.append(block)
            position += BLOCK
            positions.append(position)
            sizes.append(size)
            position += (size + 511) & ~511
            if len(blocks) > _BATCH and not self.flush(len(blocks) - 1):
                return
        self.drop_cut_member()
        self.flush(len(blocks))

    def special(self, block: bytes, position: int) -> int | None:
        """Deal with any header that is not a plain file's; the offset of the next one, or None at the end."""
        if len(block) < BLOCK:
            self.problem("truncated", "", position + len(block), "the archive ends without an end marker")
            return None
        if not any(block):
            self.scan.end = position
            return None
        if not _checksum_fits(block):
            self.problem("damaged", "", position, "no tar header where one is due; nothing after it can be read")
            return None
        size = _number(block[124:136])
        kind, data = block[156], position + BLOCK
        if kind in (75, 76, 88, 103, 120) and size > 1 << 20:
            self.problem("damaged", "", position, f"an extended header of {size} bytes; nothing after it can be read")
            return None
        after = data + (size + 511) // BLOCK * BLOCK
        if kind in (76, 88, 120):  # GNU long name, PAX header: they speak of the next member
            payload = self.read_at(data, size)
            if kind == 76:
                self.pax["path"] = payload.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            else:
                self.pax |= _pax_records(payload)
            return after
        if kind in (75, 103):  # GNU long link target; global PAX header (never carries a path that matters)
            return after
        pax, self.pax = self.pax, {}
        if pax.get("size", "").isdecimal():
            size = int(pax["size"])
            after = data + (size + 511) // BLOCK * BLOCK
        name = pax.get("path") or _header_name(block)
        shown = safe_name(name) or name
        if any(key.startswith("GNU.sparse") for key in pax):
            kind = 83
        if kind in _REGULAR:
            if name.endswith("/"):  # old tar wrote folders this way
                return after
            self.overrides[data] = name
            self.blocks.append(block)
            self.positions.append(data)
            self.sizes.append(size)
            return after
        if kind in _REFUSED:
            what, described = _REFUSED[kind]
            self.problem(what, shown, position, f"it is {described}, which is not followed or opened")
            return after + self.sparse_headers(block, data) if what == "sparse" else data
        if kind == 53:  # a folder, whatever its size field says
            return data
        self.problem("device", shown, position, f"unknown member type {bytes([block[156]])!r}")
        return after

    def sparse_headers(self, block: bytes, position: int) -> int:
        """Bytes of further headers that an old GNU sparse member puts before its data."""
        length = 0
        extended = block[156] == 83 and block[482]
        while extended:
            more = self.read_at(position + length, BLOCK)
            length += BLOCK
            extended = len(more) == BLOCK and more[504]
        return length

    def flush(self, count: int) -> bool:
        """Check and take over the first `count` headers; False when one is no header, which ends the walk there."""
        if count == 0:
            return True
        headers = np.frombuffer(b"".join(self.blocks[:count]), "u1").reshape(-1, BLOCK)
        odd = np.flatnonzero(~_checksums_fit(headers)).tolist()
        good = min((row for row in odd if not _checksum_fits(self.blocks[row])), default=count)
        if good:
            self.take(headers[:good])
            self.scan.end = self.positions[good - 1] + (self.sizes[good - 1] + 511) // BLOCK * BLOCK
        if good < count:
            damaged_at = self.positions[good] - BLOCK
            self.scan.problems = [problem for problem in self.scan.problems if problem.offset < damaged_at]
            self.problem("damaged", "", damaged_at, "no tar header where one is due; nothing after it can be read")
        for kept in (self.blocks, self.positions, self.sizes):
            del kept[:count]
        return good == count

    def take(self, headers: np.ndarray[Any, Any]) -> None:
        """Add the members of these good `headers` to the scan: numbered ones as arrays, the others one by one."""
        offsets = np.array(self.positions[: len(headers)], "u8")
        sizes = np.array(self.sizes[: len(headers)], "u8")
        prefix, keys, fits = _numbers(headers)
        fits &= sizes <= MAX_KEYED_SIZE
        if self.overrides:
            fits &= ~np.isin(offsets, np.array(list(self.overrides), "u8"))
        if fits.any():
            self.scan.numbered.append(Numbered(prefix, keys[fits], offsets[fits], sizes[fits]))
        for row in np.flatnonzero(~fits).tolist():
            offset, size = self.positions[row], self.sizes[row]
            name = self.overrides.pop(offset, None) or _header_name(self.blocks[row])
            safe = safe_name(name)
            if safe is None:
                self.problem("unsafe", name, offset - BLOCK, "its name leaves the archive or is empty")
            else:
                self.scan.listed.append(Member(safe, offset, size, size))

    def drop_cut_member(self) -> None:
        """A member whose data the stream does not hold in full is no member: name it in the problem, and forget it."""
        problems = self.scan.problems
        if not self.blocks or not problems or problems[-1].kind != "truncated" or not _checksum_fits(self.blocks[-1]):
            return
        offset, size = self.positions[-1], self.sizes[-1]
        if size and len(self.read_at(offset + size - 1, 1)) < 1:
            name = self.overrides.pop(offset, None) or _header_name(self.blocks[-1])
            detail = f"its {size} bytes run past the archive's end"
            problems[-1] = Problem("truncated", safe_name(name) or name, offset - BLOCK, detail)
            self.scan.end = offset - BLOCK
            for kept in (self.blocks, self.positions, self.sizes):
                del kept[-1]

    def problem(self, kind: str, member: str, offset: int, detail: str) -> None:
        self.scan.problems.append(Problem(kind, member, offset, detail))


def _header_name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    if block[345] and block[257:263] == b"ustar\0":
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def safe_name(name: str) -> str | None:
    """`name` without leading and doubled ``/`` and ``./``; None if it is empty or goes through ``..``."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts or not parts else "/".join(parts)


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU base-256
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return max(0, int(field.split(b"\0", 1)[0].strip() or b"0", 8))
    except ValueError:
        return 0


def _pax_records(payload: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    position = 0
    while match := _PAX_RECORD.match(payload, position):
        end = match.start() + int(match[1])
        if end <= match.end():
            break
        records[match[2].decode("utf-8", "surrogateescape")] = payload[match.end() : end - 1].decode(
            "utf-8", "surrogateescape"
        )
        position = end
    return records


def _checksum_fits(block: bytes) -> bool:
    stored = _number(block[148:156])
    summed = block[:148] + block[156:]
    unsigned = 256 + sum(summed)
    # Some old writers summed the bytes as signed numbers.
    return stored == unsigned or stored == unsigned - 256 * sum(byte > 127 for byte in summed)


def _checksums_fit(headers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which rows of `headers` carry their sum in the usual form of six octal digits."""
    sums = headers.sum(axis=1, dtype="u4") - headers[:, 148:156].sum(axis=1, dtype="u4") + 256
    digits = headers[:, 148:154].astype("i4") - 48
    stored = digits @ (8 ** np.arange(5, -1, -1))
    fits: np.ndarray[Any, Any] = (stored == sums) & ((digits >= 0) & (digits < 8)).all(axis=1)
    return fits


def _numbers(headers: np.ndarray[Any, Any]) -> tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The folder of the first header's name, the keys of all members sa_<id> in it, and which rows those are."""
    none = "", np.zeros(len(headers), "u4"), np.zeros(len(headers), bool)
    match = _NUMBERED.match(headers[0, :100].tobytes())
    if match is None or match.end(1) > 80:
        return none
    folder, start = safe_name(match[1].decode("utf-8", "surrogateescape")), match.end(1) + 3
    if folder is None and match[1] not in (b"", b"./"):
        return none
    fits = (headers[:, :start] == headers[0, :start]).all(axis=1)
    # A ustar name may be continued in the prefix field.
    fits &= (headers[:, 345] == 0) | (headers[:, 257:263] != np.frombuffer(b"ustar\0", "u1")).any(axis=1)
    tail = headers[:, start : start + 16].astype("i4") - 48
    length = ((tail < 0) | (tail > 9)).argmax(axis=1)  # of the number
    fits &= (length >= 1) & (length <= 9) & ((tail[:, 0] != 0) | (length == 1))
    ids = np.zeros(len(headers), "i8")
    for digit in range(9):
        ids = np.where(digit < length, ids * 10 + tail[:, digit], ids)
    suffix = np.take_along_axis(tail, length[:, None].clip(max=10) + np.arange(6), axis=1) + 48
    images = (suffix[:, :5] == np.frombuffer(b".jpg\0", "u1")).all(axis=1)
    masks = (suffix == np.frombuffer(b".json\0", "u1")).all(axis=1)
    fits &= images | masks
    keys = np.where(fits, ids * 2 + masks, 0).astype("u4")
    return f"{folder}/" if folder else "", keys, fits
