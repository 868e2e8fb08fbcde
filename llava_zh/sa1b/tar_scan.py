"""One walk over the headers of a tar stream: which regular files it holds, where, and what is wrong with it.

The walk reads 512 bytes a member and skips the data, or reads it once to keep its CRC-32. Formats: ustar, GNU (long
names) and PAX, as `tarfile` reads them.

The end of a tar is its end marker, zeros, and then nothing but zeros to the end of the file. Whatever else follows is
walked on into, as ``tar -i`` does; where no header is due where one should be, the walk looks for the next one. Both
are problems: "lost" for zeros and what is no tar, "damaged" for a header that is not one, with the bytes passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from llava_zh.gates import limits
from llava_zh.sa1b.index import MAX_KEYED_SIZE, Member, Numbered, Problem, Scan
from llava_zh.sa1b.tar_header import (
    BLOCK,
    REGULAR,
    Pax,
    checksum_fits,
    checksums_fit,
    header_name,
    is_header,
    number,
    numbers,
    safe_name,
    with_records,
)
from llava_zh.sa1b.tar_proof import leave_out_suspects

_BATCH = 4096
#: Bytes that the search for a header reads at once; a reader that only goes forward keeps as many.
PIECE = 1 << 20
#: What looks like a header and is none is looked at this often in one archive.
_MAX_CANDIDATES = 1_000_000
#: Bytes that damage adds or takes away at most, as far as a header is searched for before its place.
MOST_SHIFT = 64 << 10
#: Extended headers of one member, together.
_MAX_EXTENDED = 1 << 20
#: Problems of one kind that are kept one by one; the others are counted.
_MAX_PROBLEMS = 10_000
#: `tar` writes records of 20 blocks: an archive of no members is as long. Many more zeros than that are no archive.
_EMPTY_TAR = 2 * 20 * BLOCK
#: Zeros at the end that are padding, in the largest records and blocks that tapes have.
_PADDING = 16 << 20
_REFUSED = {
    49: ("link", "a hard link"),
    50: ("link", "a symbolic link"),
    51: ("device", "a character device"),
    52: ("device", "a block device"),
    54: ("device", "a FIFO"),
    83: ("sparse", "a sparse file"),
}
_EXTENDED = frozenset((76, 88, 120))  # GNU long name, PAX header (Solaris' and POSIX'): they speak of the next member
_SKIPPED = frozenset((75, 103))  # GNU long link target; global PAX header (never carries a path that matters)

ReadAt = Callable[[int, int], bytes]
#: The CRC-32 of `size` bytes at an offset; None where the stream ends before.
CrcOf = Callable[[int, int], int | None]


def scan_tar(
    read_at: ReadAt,
    start: int = 0,
    scan: Scan | None = None,
    *,
    crc_of: CrcOf | None = None,
    searching: bool = False,
    aligned: bool = True,
    missed: list[tuple[int, int, int]] | None = None,
) -> Scan:
    """Walk the tar stream that ``read_at(offset, n)`` gives, from the header at offset `start`.

    A stream that ends or breaks before its end marker gives the members that are whole, and a Problem that says where.
    `read_at` may give fewer bytes than asked only at the stream's end.

    Args:
        read_at: With `crc_of`, it is asked for offsets that ascend, but for the last 2 `PIECE` bytes.
        start: Where the first header is, or the search for it begins.
        scan: An earlier, broken off one, which is continued.
        crc_of: Gives the CRC-32 of each member's data.
        searching: Whether the first header is searched for.
        missed: Takes where the data before a missed header starts, where that was missed, and where the next one was
            found (0: nowhere).
        aligned: Whether headers that are searched for lie a multiple of 512 bytes from where they are missed.
    """
    scan = scan or Scan(end=start)
    walk = _Walk(read_at, scan, crc_of, aligned, missed)
    first = walk.search(start) if searching else start
    if first is not None:
        walk.run(first)
    if walk.faults and crc_of is None:  # of a gzip stream, `gzip_scan` knows more
        leave_out_suspects(scan, walk.faults, read_at)
    return scan


class _Walk:
    def __init__(
        self,
        read_at: ReadAt,
        scan: Scan,
        crc_of: CrcOf | None,
        aligned: bool,
        missed: list[tuple[int, int, int]] | None,
    ) -> None:
        self.missed = [] if missed is None else missed
        self.faults: list[int] = []  # where headers are missed
        self.read_at = read_at
        self.scan = scan
        self.crc_of = crc_of
        self.aligned = aligned
        self.blocks: list[bytes] = []  # headers of regular files not yet looked at,
        self.positions: list[int] = []  # where their data lies,
        self.sizes: list[int] = []  # how much of it there is, and
        self.crcs: list[int] = []  # its CRC-32, with `crc_of`
        self.overrides: dict[int, str] = {}  # names from GNU or PAX headers, by that position
        self.pax = Pax()
        self.careful = crc_of is not None  # look at each header at once: there is no way back, or one was bad
        self.members = 0
        self.met = bool(scan.listed or scan.numbered)  # any header
        self.candidates = 0
        self.counts = Counter(problem.kind for problem in scan.problems)
        self.largest = limits.MEMBERS.value

    def run(self, start: int) -> None:
        position: int | None = start
        while position is not None:
            position = self.walk(position)
            if position is None:
                self.drop_cut_member()
                position = self.flush(len(self.blocks))
            if position is not None:  # a bad header, found late
                position = self.lost(position, "no tar header where one is due")
        self.sum_up()

    def walk(self, position: int) -> int | None:
        """Go from header to header to the end (None), or to where a bad header turns out to have been passed."""
        read_at, blocks, positions, sizes = self.read_at, self.blocks, self.positions, self.sizes
        while True:
            block = read_at(position, BLOCK)
            size = -1
            if len(block) == BLOCK and block[156] in REGULAR and block[135] in b"\0 " and not self.pax:
                try:  # not suppress(): this runs for every member
                    size = int(block[124:135], 8)
                except ValueError:
                    size = -1
            if size < 0 or (self.careful and not checksum_fits(block)):
                step = self.special(block, position)
                if step is None:
                    return None
                position = step
            else:
                blocks.append(block)
                position += BLOCK
                positions.append(position)
                sizes.append(size)
                if self.crc_of is not None:
                    self.crcs.append(self.crc_of(position, size) or 0)
                position += (size + 511) & ~511
            if len(blocks) > _BATCH:
                bad = self.flush(len(blocks) - 1)
                if bad is not None:
                    return bad
                if self.members > self.largest:
                    self.problem("damaged", "", position, f"{limits.MEMBERS.exceeded()} The rest is not read.")
                    return None

    def special(self, block: bytes, position: int) -> int | None:
        """Deal with any header that is not a plain file's; the offset of the next one, or None at the end."""
        if len(block) < BLOCK:
            self.problem("truncated", "", position + len(block), "the archive ends without an end marker")
            return None
        if not any(block):
            return self.zeros(position)
        if not checksum_fits(block):
            return self.lost(position, "no tar header where one is due")
        self.met = True
        kind, data = block[156], position + BLOCK
        size = number(block[124:136])
        if size is None:
            return self.lost(position, "its size is no number", member=_shown(header_name(block)))
        after = data + (size + 511) // BLOCK * BLOCK
        if kind in _EXTENDED:
            self.extended(kind, data, size, position)
            return after
        if kind in _SKIPPED:
            return after
        pax, self.pax = self.pax, Pax()
        name = header_name(block) if pax.name is None else pax.name
        if pax.size is not None:
            if pax.size < 0:
                return self.lost(position, "its size is no number", member=_shown(name))
            size = pax.size
            after = data + (size + 511) // BLOCK * BLOCK
        if pax.refused:
            self.problem("damaged", _shown(name), position, "its extended headers are too large to be read")
            return after
        return self.member(83 if pax.sparse else kind, name, block, data, size, after)

    def member(self, kind: int, name: str, block: bytes, data: int, size: int, after: int) -> int:
        if kind in REGULAR:
            if name.endswith("/"):  # old tar wrote folders this way
                return after
            self.overrides[data] = name
            self.blocks.append(block)
            self.positions.append(data)
            self.sizes.append(size)
            if self.crc_of is not None:
                self.crcs.append(self.crc_of(data, size) or 0)
            return after
        if kind in _REFUSED:
            what, described = _REFUSED[kind]
            detail = f"it is {described}, which is not followed or opened"
            self.problem(what, _shown(name), data - BLOCK, detail)
            return after + self.sparse_headers(block, data) if what == "sparse" else data
        if kind == 53:  # a folder, whatever its size field says
            return data
        self.problem("device", _shown(name), data - BLOCK, f"unknown member type {bytes([block[156]])!r}")
        return after

    def extended(self, kind: int, data: int, size: int, position: int) -> None:
        """Take what an extended header says of the next member, if it and those before it are of a decent size."""
        if self.pax.refused or self.pax.taken + size > _MAX_EXTENDED:
            self.pax = Pax(refused=True, taken=1)
            return
        payload = self.read_at(data, size)
        if kind == 76:
            name = payload.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            self.pax = self.pax._replace(name=name, taken=self.pax.taken + max(1, len(payload)))
        else:
            self.pax = with_records(self.pax, payload)

    def sparse_headers(self, block: bytes, position: int) -> int:
        """Bytes of further headers that an old GNU sparse member puts before its data."""
        length = 0
        extended = block[156] == 83 and block[482]
        while extended:
            more = self.read_at(position + length, BLOCK)
            length += BLOCK
            extended = len(more) == BLOCK and more[504]
        return length

    # -- what is no header -------------------------------------------------------------------------------------

    def zeros(self, position: int) -> int | None:
        """Go on behind zeros: to the header that follows them, or to the end."""
        self.scan.end = position
        at = position
        faults = len(self.faults)
        self.faults.append(position)
        while not (rest := (piece := self.read_at(at, PIECE)).lstrip(b"\0")):
            at += len(piece)
            if len(piece) < PIECE:
                del self.faults[faults:]
                self.ends_in_zeros(position, at - position)
                return None
        at += (len(piece) - len(rest)) // BLOCK * BLOCK
        if checksum_fits(self.read_at(at, BLOCK).ljust(BLOCK, b"\0")):
            self.passed("lost", "", position, at, "zeros where a header is due")
            return at
        return self.lost(position, "zeros, and then bytes that are no tar header", at)

    def ends_in_zeros(self, position: int, size: int) -> None:
        """Tell the padding at the end from zeros where an archive should be."""
        if not self.met and not self.blocks and size > _EMPTY_TAR:
            self.problem("lost", "", position, f"{size:,} bytes of zeros, and nothing else")
        elif size > _PADDING:
            self.faults.append(position)
            self.problem("lost", "", position, f"{size:,} bytes of zeros at the end: what was there did not arrive")

    def lost(self, position: int, why: str, resume: int | None = None, member: str = "") -> int | None:
        """Find the next header after the place `position`, where one is missed; None if there is none.

        `resume` is where the search starts, behind zeros that have been gone through.
        """
        kind = "damaged" if resume is None else "lost"
        self.careful = True
        self.pax = Pax()
        self.faults.append(position)
        if resume is None:
            resume = position + BLOCK
            member = member or self.name_of_bad(position)
        if not self.aligned:
            # Bytes are missing, or there are too many: the header may lie in what counts as the last member's data.
            resume = max(position - MOST_SHIFT, self.positions[-1] if self.positions else position)
        since = self.positions[-1] if self.positions else position
        if not self.aligned:
            self.distrust_last(position)
        found = self.search(resume)
        self.missed.append((since, position, found or 0))
        if found is None:
            self.problem(kind, member, position, f"{why}; no other follows up to the end")
        else:
            self.passed(kind, member, position, found, why)
        return found

    def distrust_last(self, position: int) -> None:
        """The member before a header that is missed in a damaged stream is not what its own header promised."""
        if self.positions:
            name, offset = self.last_name(), self.positions[-1] - BLOCK
            self.problem("damaged", name, offset, f"the header after it is missed at {position:,}: it has other bytes")
            self.forget_last()

    def passed(self, kind: str, member: str, position: int, found: int, why: str) -> None:
        size = max(0, found - position)
        self.problem(kind, member, position, f"{why}: {size:,} bytes are passed over, up to the next one at {found:,}")

    def name_of_bad(self, position: int) -> str:
        """What a header that does not fit its checksum says its member is called, if that can be told."""
        block = self.read_at(position, BLOCK)
        name = header_name(block) if len(block) == BLOCK and block[257:262] == b"ustar" else ""
        return (safe_name(name) or "")[:200] if name.isprintable() else ""

    def search(self, start: int) -> int | None:
        """The offset of the next block from `start` on that is surely a header."""
        at = start
        while True:
            piece = self.read_at(at, PIECE)
            mark = piece.find(b"ustar", 257)
            while mark >= 0 and mark - 257 + BLOCK <= len(piece):
                offset = at + mark - 257
                if not self.aligned or (offset - start) % BLOCK == 0:
                    self.candidates += 1
                    if is_header(piece[mark - 257 : mark - 257 + BLOCK]):
                        return offset
                    if self.candidates > _MAX_CANDIDATES:
                        return None
                mark = piece.find(b"ustar", mark + 1)
            if len(piece) < PIECE:
                return None
            at += PIECE - BLOCK

    # -- what is kept ------------------------------------------------------------------------------------------

    def flush(self, count: int) -> int | None:
        """Check and take over the first `count` headers.

        Where one of them is no header, its offset is given back, and all that follows it is forgotten.
        """
        if count == 0:
            return None
        headers = np.frombuffer(b"".join(self.blocks[:count]), "u1").reshape(-1, BLOCK)
        odd = [] if self.careful else np.flatnonzero(~checksums_fit(headers)).tolist()
        good = min((row for row in odd if not checksum_fits(self.blocks[row])), default=count)
        bad = None if good == count else self.positions[good] - BLOCK
        if good:
            self.take(headers[:good])
            self.met = True
            end = self.positions[good - 1] + (self.sizes[good - 1] + 511) // BLOCK * BLOCK
            self.scan.end = end
        if bad is not None:
            self.scan.problems = [problem for problem in self.scan.problems if problem.offset < bad]
            self.overrides = {}
            count = len(self.blocks)
        for kept in (self.blocks, self.positions, self.sizes, self.crcs):
            del kept[:count]
        return bad

    def take(self, headers: np.ndarray[Any, Any]) -> None:
        """Add the members of these good `headers` to the scan: numbered ones as arrays, the others one by one."""
        offsets = np.array(self.positions[: len(headers)], "u8")
        sizes = np.array(self.sizes[: len(headers)], "u8")
        crcs = np.array(self.crcs[: len(headers)], "u4") if self.crc_of is not None else None
        self.members += len(headers)
        prefix, keys, fits = numbers(headers)
        fits &= sizes <= MAX_KEYED_SIZE
        if self.overrides:
            fits &= ~np.isin(offsets, np.array(list(self.overrides), "u8"))
        if fits.any():
            kept = None if crcs is None else crcs[fits]
            self.scan.numbered.append(Numbered(prefix, keys[fits], offsets[fits], sizes[fits], kept))
        for row in np.flatnonzero(~fits).tolist():
            offset, size = self.positions[row], self.sizes[row]
            name = self.overrides.pop(offset, None) or header_name(self.blocks[row])
            safe = safe_name(name)
            if safe is None:
                detail = "its name leaves the archive, is empty or too long, or names another place in a URL"
                self.problem("unsafe", name[:200], offset - BLOCK, detail)
            else:
                crc = None if crcs is None else int(crcs[row]) or None
                self.scan.listed.append(Member(safe, offset, size, size, crc=crc))

    def drop_cut_member(self) -> None:
        """A member whose data the stream does not hold in full is no member: name it in the problem, and forget it."""
        problems = self.scan.problems
        if not self.blocks or not problems or problems[-1].kind != "truncated" or not checksum_fits(self.blocks[-1]):
            return
        offset, size = self.positions[-1], self.sizes[-1]
        if size and len(self.read_at(offset + size - 1, 1)) < 1:
            detail = f"its {size} bytes run past the archive's end"
            problems[-1] = Problem("truncated", self.last_name(), offset - BLOCK, detail)
            self.scan.end = offset - BLOCK
            self.forget_last()

    def last_name(self) -> str:
        return _shown(self.overrides.get(self.positions[-1]) or header_name(self.blocks[-1]))

    def forget_last(self) -> None:
        self.overrides.pop(self.positions[-1], None)
        for kept in (self.blocks, self.positions, self.sizes, self.crcs):
            del kept[-1:]

    def problem(self, kind: str, member: str, offset: int, detail: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= _MAX_PROBLEMS:
            self.scan.problems.append(Problem(kind, member, offset, detail))

    def sum_up(self) -> None:
        for kind, count in self.counts.items():
            if count > _MAX_PROBLEMS:
                more = f"and {count - _MAX_PROBLEMS:,} more of this kind"
                self.scan.problems.append(Problem(kind, "", self.scan.end, more))


def _shown(name: str) -> str:
    return (safe_name(name) or name)[:200]
