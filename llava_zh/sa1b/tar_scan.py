"""One walk over the headers of a tar stream: which regular files it holds, where, and what is wrong with it.

The walk reads 512 bytes a member and skips the data. Checksums and names are looked at for a batch at once, which
keeps the walk as fast as the reads themselves. Formats: ustar, GNU (long names) and PAX, as `tarfile` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from llava_zh.sa1b.index import Member, Problem, Scan

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
        self.blocks: list[bytes] = []  # headers of regular files not yet looked at, and
        self.positions: list[int] = []  # where they lie
        self.sizes: list[int] = []
        self.overrides: dict[int, str] = {}  # names from GNU or PAX headers, by row
        self.pax: dict[str, str] = {}

    def run(self, position: int) -> None:
        read_at, blocks, positions, sizes = self.read_at, self.blocks, self.positions, self.sizes
        while True:
            block = read_at(position, BLOCK)
            try:
                plain = len(block) == BLOCK and block[156] in _REGULAR and block[135] in b"\0 " and not self.pax
                size = int(block[124:135], 8) if plain else -1
            except ValueError:
                size = -1
            if size < 0:
                step = self.special(block, position)
                if step is None:
                    break
                position = step
            else:
                blocks.append(block)
                positions.append(position + BLOCK)
                sizes.append(size)
                position += BLOCK + (size + 511) // BLOCK * BLOCK
            if len(blocks) >= _BATCH and not self.flush():
                return
        if self.flush():
            self.check_last(position)

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
        if "size" in pax:
            size = int(pax["size"])
            after = data + (size + 511) // BLOCK * BLOCK
        name = pax.get("path") or _header_name(block)
        shown = safe_name(name) or name
        if any(key.startswith("GNU.sparse") for key in pax):
            kind = 83
        if kind in _REGULAR:
            if name.endswith("/"):  # old tar wrote folders this way
                return after
            self.overrides[len(self.blocks)] = name
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

    def flush(self) -> bool:
        """Check and take over the collected headers; False when one is no header, which ends the walk there."""
        good = len(self.blocks)
        if good:
            headers = np.frombuffer(b"".join(self.blocks), "u1").reshape(-1, BLOCK)
            bad = np.flatnonzero(~_checksums_fit(headers))
            rows = [int(row) for row in bad if not _checksum_fits(self.blocks[row])]
            good = min(rows, default=good)
        damaged_at = self.positions[good] - BLOCK if good < len(self.blocks) else None
        members, overrides = self.scan.members, self.overrides
        for row, (block, offset, size) in enumerate(zip(self.blocks[:good], self.positions, self.sizes, strict=False)):
            name = overrides[row] if row in overrides else _header_name(block)
            if name[:2] == "./" and name[2:3] not in "./":
                name = name[2:]
            elif name[:1] in "./" or "//" in name or "/." in name:
                safe = safe_name(name)
                if safe is None:
                    self.problem("unsafe", name, offset - BLOCK, "its name leaves the archive or is empty")
                    continue
                name = safe
            members.append(Member(name, offset, size, size))
        if good:
            self.scan.end = self.positions[good - 1] + (self.sizes[good - 1] + 511) // BLOCK * BLOCK
        for kept in (self.blocks, self.positions, self.sizes, self.overrides):
            kept.clear()
        if damaged_at is not None:
            self.problem("damaged", "", damaged_at, "no tar header where one is due; nothing after it can be read")
        return damaged_at is None

    def check_last(self, position: int) -> None:
        """A member whose data the stream does not hold in full is no member: name it, and end the whole part there."""
        members = self.scan.members
        if not self.scan.problems or self.scan.problems[-1].kind != "truncated" or not members:
            return
        last = max(members, key=lambda member: member.offset)
        if last.size and len(self.read_at(last.offset + last.size - 1, 1)) < 1:
            members.remove(last)
            self.scan.end = last.offset - BLOCK
            self.scan.problems[-1] = Problem(
                "truncated", last.name, last.offset - BLOCK, f"its {last.size} bytes run past the archive's end"
            )

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
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
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
