"""Where the wrong bytes are in a gzip stream that decodes to its end and does not fit its checksum.

Nothing in the stream itself says where they are. Two looks find them nearly always: members that are no whole JPEG or
mask file, and deflate blocks that do not stand as zlib writes them. Each is slow, so much only is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llava_zh.errors import BadArchive
from llava_zh.sa1b.deflate_trees import blocks
from llava_zh.sa1b.jpeg_check import BadJpeg, check_jpeg

if TYPE_CHECKING:
    from llava_zh.sa1b.gzip_points import PointReader
    from llava_zh.sa1b.index import Member
    from llava_zh.sa1b.source import Source

#: Compressed bytes of one archive that are looked at closely: some minutes.
MOST = 1 << 30
#: Of the blocks, at most this share may have codes of their own, or the archive was not written by zlib.
_ODD = 0.05
_LEAST_BLOCKS = 4


class Doubt(NamedTuple):
    """A range of the stream that is wrong somewhere, and the bit at which the first block behind it starts, if known.

    Without that bit what follows within a block or two is doubtful too.
    """

    start: int
    stop: int
    bit: int | None
    why: str


def doubts(
    source: Source, reader: PointReader, members: list[Member], start: int, bit: int, packed: int
) -> Iterator[Doubt]:
    """What is wrong in the gzip stream that starts at offset `start`, its data at `bit`, and takes `packed` bytes."""
    if packed > MOST:
        return
    for member in members:
        why = problem(member.name, _read(source, reader, member))
        if why is not None:
            yield Doubt(member.offset, member.offset + member.size, None, f"{member.name} {why}")
    seen = [block for block in blocks(source, bit, start) if block.fits is not None]
    odd = [block for block in seen if not block.fits]
    if len(seen) >= _LEAST_BLOCKS and len(odd) <= max(1, _ODD * len(seen)):
        for block in odd:
            yield Doubt(block.out_start, block.out_stop, block.stop, "the block is not as zlib writes it")


def _read(source: Source, reader: PointReader, member: Member) -> bytes | None:
    try:
        return reader.read(source, member.offset, member.size)
    except BadArchive:
        return None


def problem(name: str, data: bytes | None) -> str | None:
    """What is wrong with the JPEG or masks `data`; None if nothing is, or it is of another kind."""
    if data is None:
        return "cannot be read"
    if name.lower().endswith((".jpg", ".jpeg")):
        try:
            check_jpeg(data)
        except BadJpeg as error:
            return f"is no whole JPEG: {error}"
        except (NotImplementedError, ValueError, IndexError):
            return None if data[-2:] == b"\xff\xd9" else "has no end marker"
    elif name.endswith(".json"):
        try:
            return _mask_problem(msgspec.json.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return f"is no JSON: {error}"
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
