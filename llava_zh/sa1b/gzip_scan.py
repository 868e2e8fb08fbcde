"""The one pass over a gzip tar that makes its index: members with their CRC-32, seek points, and what is wrong.

A whole archive takes one pass of rapidgzip. All its bytes go through here, are summed, and held against the archive's
own checksum and length, so that no decoder has to be trusted to see damage. Where they do not fit, or the decoder gives
up, a second, slower pass (`gzip_careful`) tells where the damage is and reads on behind it.

What lies at a fault, and may be wrong though it decodes, is left out, and so is what fails when it is looked at closely
(`gzip_proof`) because a checksum does not fit and nothing tells where.
"""

from __future__ import annotations

import io
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_zh.sa1b.forward import BACK, Forward
from llava_zh.sa1b.gzip_careful import Careful, Fault
from llava_zh.sa1b.gzip_points import SPACING, PointReader, Points, compressed, cores, point_arrays, thin
from llava_zh.sa1b.gzip_proof import Doubt, doubts, kind_of, odd_blocks
from llava_zh.sa1b.index import Member, Problem, Scan
from llava_zh.sa1b.tar_scan import scan_tar

if TYPE_CHECKING:
    from llava_zh.sa1b.source import Source

_PIECE = 1 << 20
#: Share of the archive's bytes that the whole index may take, and what a small archive may take in any case.
BUDGET, LEAST_BUDGET = 0.001, 64 << 10
#: A gzip stream with no more members than that, images and masks, is not looked at closely: none of them is trusted.
_FEW = 8
#: What whole files of some writers have as well is a habit of the archive's if more members than that have it, none of
#: which can have got it from another, and most of its kind.
_HABIT = 8


def scan_gzip(source: Source, threads: int = 0, progress: Callable[[int], object] | None = None) -> Scan:
    """Members and seek points of the gzip tar `source` in one pass of rapidgzip with `threads` threads (0: all cores).

    `progress` is called with the archive bytes consumed so far. A damaged archive gives what is whole, of all of it.
    """
    quick = _quick(source, threads, progress)
    if quick is not None and quick[2]:
        scan, points, needed = quick[0], quick[1], [0]
    else:
        scan, points, needed, whole = _careful(source, progress)
        if whole and quick is not None:  # several streams, each of which fits its own checksum
            scan, points, needed = quick[0], quick[1], [0]
    budget = max(int(source.size * BUDGET), LEAST_BUDGET)
    scan.points = thin(points, scan, budget, needed)
    return scan


def open_pass(file: Any, threads: int) -> Any:
    """The running pass of rapidgzip over `file`."""
    import rapidgzip

    return rapidgzip.RapidgzipFile(file, parallelization=threads or cores(), chunk_size=SPACING)


def _quick(source: Source, threads: int, progress: Callable[[int], object] | None) -> tuple[Scan, Points, bool] | None:
    """Members, points, and whether the archive's checksum fits; None where rapidgzip finds damage."""
    try:
        with source.open_file() as file, open_pass(file, threads) as stream:
            forward = Forward(_pieces(stream, progress))
            scan = scan_tar(forward.read_at, crc_of=forward.crc_of)
            forward.finish()
            return scan, _export(stream), _fits(source, forward)
    except Exception:  # of whatever kind the decoder's versions raise: the other pass finds out, and raises its own
        return None


def _pieces(stream: Any, progress: Callable[[int], object] | None) -> Iterator[memoryview]:
    """All bytes of `stream`. A piece is overwritten once `BACK` more bytes have come."""
    buffers = [memoryview(bytearray(_PIECE)) for _ in range(BACK // _PIECE + 3)]
    for buffer in itertools.cycle(buffers):
        count = stream.readinto(buffer)
        if not count:
            return
        if progress is not None:
            progress(stream.tell_compressed() // 8)
        yield buffer[:count]


def _fits(source: Source, forward: Forward) -> bool:
    """Whether the archive ends in the CRC-32 and the length of all that was read, and then only in zeros."""
    expected = forward.crc.to_bytes(4, "little") + (forward.end & 0xFFFFFFFF).to_bytes(4, "little")
    zeros, end = len(expected) - len(expected.rstrip(b"\0")), source.size
    while end > 0:
        size = min(_PIECE, end)
        tail = source.pread(end - size, size).rstrip(b"\0")
        if tail:
            end += len(tail) - size + zeros
            return end <= source.size and source.pread(max(0, end - 8), 8) == expected
        end -= size
    return False


def _export(stream: Any) -> Points:
    """The points of a finished pass: decompressed offsets, bit offsets, compressed windows."""
    import rapidgzip

    file = io.BytesIO()
    stream.export_index(file, rapidgzip.IndexFormat.GZTOOL)
    data = file.getbuffer()
    # gztool's layout, big-endian: 8 zeros, magic, two counts; then a point after the other.
    if bytes(data[8:16]) != b"gzipindx":
        raise RuntimeError(f"rapidgzip exported an index with magic {bytes(data[8:16])!r}")
    out, bit, windows = [], [], []
    position = 32
    for _ in range(int.from_bytes(data[16:24], "big")):
        out.append(int.from_bytes(data[position : position + 8], "big"))
        byte = int.from_bytes(data[position + 8 : position + 16], "big")
        bits = int.from_bytes(data[position + 16 : position + 20], "big")
        length = int.from_bytes(data[position + 20 : position + 24], "big")
        bit.append(byte * 8 - bits)
        windows.append(bytes(data[position + 24 : position + 24 + length]))
        position += 24 + length
    return np.array(out, "u8"), np.array(bit, "u8"), windows


def _careful(source: Source, progress: Callable[[int], object] | None) -> tuple[Scan, Points, list[int], bool]:
    """Members, points, the rows of those where a stretch starts, and whether nothing at all is wrong."""
    careful, scan = Careful(source, progress), Scan()
    breaks: list[tuple[int, int, int]] = []  # places where bytes are missing or too many: see `scan_tar`
    start = careful.first()
    while start is not None:
        forward = Forward(careful.pieces(start), start.out)
        again = start.bit > 0 and bool(careful.starts)
        scan_tar(
            forward.read_at,
            start.out,
            scan,
            crc_of=forward.crc_of,
            searching=again,
            aligned=False,
            missed=breaks,
        )
        forward.finish()
        _explain_end(scan, careful)
        start = careful.next(forward.end)
    starts = {start.out for start in careful.starts}
    needed = [row for row, (out, _, _) in enumerate(careful.points) if out in starts]
    points = _points(careful)
    for fault in [fault for fault in careful.faults if fault.kind == "checksum"]:
        if not any(fault.start <= place < fault.offset for _, place, _ in breaks):
            _doubt(source, scan, careful, points, fault)
    for since, place, found in breaks:
        odd = odd_blocks(source, careful.point_before(since), since, max(place, found))
        for block in odd:
            careful.distrust(block.out_start, block.out_stop, bit=block.stop, moved=True)
        if not odd:
            careful.distrust(min(place, found or place), max(place, found), moved=True)
    _leave_out(scan, careful)
    scan.problems += [Problem(fault.kind, "", fault.offset, fault.detail) for fault in careful.faults]
    scan.problems.sort(key=lambda problem: problem.offset)
    return scan, points, needed, not careful.faults


def _points(careful: Careful) -> Points:
    out, bit, windows = zip(*careful.points, strict=True) if careful.points else ((), (), ())
    return np.array(out, "u8"), np.array(bit, "u8"), [compressed(window) for window in windows]


def _explain_end(scan: Scan, careful: Careful) -> None:
    """Where a stretch breaks off in a member, that is one problem and not two: with the reason of the decoder."""
    if not scan.problems or scan.problems[-1].kind != "truncated" or not careful.faults:
        return
    fault = careful.faults[-1]
    cut = scan.problems[-1]
    if fault.kind in ("damaged", "truncated") and fault.offset >= cut.offset:
        careful.faults.pop()
        kind = "truncated" if fault.kind == "truncated" else "damaged"
        detail = f"{cut.detail}; decompression stops at {fault.offset:,}: {fault.detail}"
        scan.problems[-1] = Problem(kind, cut.member, cut.offset, detail)


def _doubt(source: Source, scan: Scan, careful: Careful, points: Points, fault: Fault) -> None:
    """Look for what is wrong in a gzip stream that decodes to its end and does not fit its checksum."""
    arrays = point_arrays(*points)
    reader = PointReader(arrays.__getitem__)
    members = [m for m in scan.members() if fault.start < m.offset + m.size and m.offset < fault.offset]
    if len(members) <= _FEW:
        careful.distrusted.append((fault.start, fault.offset))
        return
    habits: dict[str, list[Doubt]] = {}
    placed = False
    for doubt, habit in doubts(source, reader, members, fault.start, fault.bit, fault.packed):
        if habit:
            habits.setdefault(habit, []).append(doubt)
        else:
            placed = True
            careful.distrust(*doubt)
    for kind, of_kind in habits.items():
        _doubt_habit(careful, of_kind, sum(kind_of(member.name) == kind for member in members) if placed else None)


def _doubt_habit(careful: Careful, found: list[Doubt], members: int | None) -> None:
    """Distrust what may be damage or a habit of the archive's writer, unless it is surely a habit.

    A fault reaches other members only through the bytes that these repeat. Where many have the same, and hardly any of
    them can have it from another, it is no damage. `members` is how many of the kind there are; None where the fault's
    place is not known: anything may be damage then.
    """
    before = list(careful.unknown), list(careful.distrusted)
    apart = 0
    for doubt in found:
        start, size = np.array([doubt.start], "u8"), np.array([doubt.stop - doubt.start], "u8")
        apart += bool(careful.known(start, size)[0])
        careful.distrust(*doubt)
        if members is not None and apart > _HABIT and 2 * len(found) > members:
            careful.unknown, careful.distrusted = before
            return


def _leave_out(scan: Scan, careful: Careful) -> None:
    """Leave out the members with bytes that are not known to be right."""
    if not careful.unknown and not careful.distrusted:
        return
    places = [start for start, _ in careful.distrusted]
    places = sorted(places + [fault.offset for fault in careful.faults if fault.kind in ("damaged", "lost")])

    def why(member: Member) -> str:
        row = bisect_left(places, member.offset + member.size)
        place = f" at about {places[max(0, row - 1)]:,} (before compression)" if places else ""
        return f"it may have wrong bytes: those of a fault{place}, or that repeat what this has destroyed"

    _keep(scan, careful.known, why)


def _keep(scan: Scan, good: Callable[[Any, Any], np.ndarray[Any, Any]], why: Callable[[Member], str]) -> None:
    """Keep the members for which `good` says so by their offsets and sizes; the others become problems."""
    lost: list[Member] = []
    batches = []
    for batch in scan.numbered:
        fits = good(batch.offsets.astype("u8"), batch.sizes.astype("u8"))
        lost += batch.rows(np.flatnonzero(~fits)).members()
        batches.append(batch.rows(np.flatnonzero(fits)))
    scan.numbered = [batch for batch in batches if len(batch.keys)]
    if scan.listed:
        fits = good(np.array([m.offset for m in scan.listed], "u8"), np.array([m.size for m in scan.listed], "u8"))
        lost += [member for member, fit in zip(scan.listed, fits.tolist(), strict=True) if not fit]
        scan.listed = [member for member, fit in zip(scan.listed, fits.tolist(), strict=True) if fit]
    scan.problems += [Problem("damaged", member.name, member.offset - 512, why(member)) for member in lost]
