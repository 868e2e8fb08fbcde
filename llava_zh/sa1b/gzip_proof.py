"""Where the wrong bytes are in a gzip stream that decodes to its end and does not fit its checksum.

Nothing in the stream itself says where they are. Three looks find them nearly always: deflate blocks that do not stand
as zlib writes them, members that are no whole JPEG or mask file, and, where neither shows anything, pictures with a
seam across them. All are slow, so an archive of more than `MOST` bytes is not looked at. Where nothing is found, the
stream's checksum itself may be what is wrong; the members are served, and the problem "checksum" stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llava_zh.errors import BadArchive
from llava_zh.gates.pictures import JPEG_SUFFIXES
from llava_zh.sa1b.deflate_trees import Block, blocks
from llava_zh.sa1b.jpeg_check import BadJpeg, NotBaseline, check_jpeg, seam

if TYPE_CHECKING:
    from llava_zh.sa1b.gzip_points import PointReader
    from llava_zh.sa1b.index import Member
    from llava_zh.sa1b.source import Source

#: Compressed bytes of one archive that are looked at closely: some minutes.
MOST = 1 << 30
#: Of the blocks, at most this share may have codes of their own, or the archive was not written by zlib.
_ODD = 0.05
_LEAST_BLOCKS = 8
#: Where all else is as it should be: pictures that jump more than whole ones do, and how many of them are left out.
_SEAM, _MOST_SEAMS = 25.0, 2
_AROUND = 256 << 10  # bytes of the stream behind a range, whose blocks are looked at too


class Wrong(NamedTuple):
    """What is wrong with a file, which is so before its byte `at`.

    `habit` says that whole files of some writers are like that too.
    """

    what: str
    at: int
    habit: bool = False


class Doubt(NamedTuple):
    """A range of the stream that is wrong somewhere before `behind`: see `Careful.distrust`."""

    start: int
    stop: int
    behind: int
    bit: int | None


class Found(NamedTuple):
    """A doubt, and of which kind of file it is where whole files may give it as well; else ""."""

    doubt: Doubt
    habit: str = ""


def doubts(
    source: Source, reader: PointReader, members: list[Member], start: int, bit: int, packed: int
) -> Iterator[Found]:
    """What is wrong in the gzip stream that starts at offset `start`, its data at `bit`, and takes `packed` bytes."""
    if packed > MOST:
        return
    odd = odd_blocks(source, (start, bit), start, None)
    for block in odd:
        yield Found(Doubt(block.out_start, block.out_stop, block.out_stop, block.stop))
    jumps: list[tuple[float, Doubt]] = []
    sound = not odd
    for member in members:
        if any(block.out_start < member.offset + member.size and block.out_stop > member.offset for block in odd):
            continue
        data, stop = _read(source, reader, member), member.offset + member.size
        found = problem(member.name, data)
        if found is not None:
            sound = False
            doubt = Doubt(member.offset, stop, min(stop, member.offset + found.at), None)
            yield Found(doubt, kind_of(member.name) if found.habit else "")
        elif sound and data is not None:
            jumps.append((_jump(data), Doubt(member.offset, stop, stop, None)))
    if sound:
        jumps.sort(key=lambda jump: -jump[0])
        yield from (Found(doubt) for jump, doubt in jumps[:_MOST_SEAMS] if jump > _SEAM)


def kind_of(name: str) -> str:
    """What sort of file a member is by its name: what one of them has by habit, most of them have."""
    return name.rpartition(".")[2].lower()


def _jump(data: bytes) -> float:
    try:
        return seam(check_jpeg(data))[0]
    except (BadJpeg, NotBaseline):
        return 0.0


def odd_blocks(source: Source, point: tuple[int, int], start: int, stop: int | None) -> list[Block]:
    """The blocks in a range of the stream that are not as zlib writes them, if the others around are.

    `point` is the offset and the bit of a block before `start`.
    """
    seen: list[Block] = []
    for block in blocks(source, point[1], point[0]):
        if block.fits is not None:
            seen.append(block)
        if stop is not None and block.out_start > stop + _AROUND:
            break
    odd = [block for block in seen if not block.fits]
    if len(seen) < _LEAST_BLOCKS or len(odd) > max(2, _ODD * len(seen)):
        return []
    return [block for block in odd if block.out_stop > start and (stop is None or block.out_start < stop)]


def _read(source: Source, reader: PointReader, member: Member) -> bytes | None:
    try:
        return reader.read(source, member.offset, member.size)
    except BadArchive:
        return None


def problem(name: str, data: bytes | None) -> Wrong | None:
    """What is wrong with the JPEG or masks `data`; None if nothing is, or it is of another kind."""
    if data is None:
        return Wrong("cannot be read", 0)
    if name.lower().endswith(JPEG_SUFFIXES):
        try:
            check_jpeg(data)
        except BadJpeg as error:
            return Wrong(f"is no whole JPEG: {error}", len(data) if error.at is None else error.at)
        except NotBaseline:
            return None if data[-2:] == b"\xff\xd9" else Wrong("has no end marker", len(data))
    elif name.endswith(".json"):
        try:
            why = _mask_problem(msgspec.json.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Wrong(f"is no JSON: {error}", len(data))
        return None if why is None else Wrong(why, len(data), habit=True)
    return None


def _mask_problem(value: Any) -> str | None:
    """What is wrong with a file of masks: COCO's run lengths, in characters from 48 to 111, sum up to the image."""
    annotations = value.get("annotations") if isinstance(value, dict) else None
    for annotation in annotations if isinstance(annotations, list) else []:
        mask = annotation.get("segmentation", annotation) if isinstance(annotation, dict) else None
        counts = mask.get("counts") if isinstance(mask, dict) else None
        if not isinstance(counts, str):
            continue
        if not all("0" <= character <= "o" for character in counts):
            return "has run lengths that are none"
        size: Any = mask.get("size") if isinstance(mask, dict) else None
        known = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)
        if known and _area(counts) != size[0] * size[1]:
            return "has a mask of another size than its image"
    return None


def _area(counts: str) -> int:
    """The sum of COCO's compressed run lengths: five bits a character, the sixth says that more follow.

    From the third on each is the difference to the one two before.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return sum(runs)
