"""What stands right before a fault in a plain tar is suspect: it is kept only if it proves to be whole.

A fault that destroys or moves a header has mostly reached into the data before it, and a tar has no checksum of data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from llava_zh.errors import BadImage
from llava_zh.gates.pictures import decodes
from llava_zh.sa1b.gzip_proof import problem
from llava_zh.sa1b.index import Member, Problem, Scan
from llava_zh.sa1b.tar_header import BLOCK

#: Bytes of a member that is looked at; a larger one cannot be proven.
_MOST = 64 << 20


def leave_out_suspects(scan: Scan, faults: Sequence[int], read_at: Callable[[int, int], bytes]) -> None:
    """Leave out of `scan` the members that end where one of the `faults` is, unless they are whole."""
    places = np.unique(np.array(faults, "u8"))

    def wrong(member: Member) -> bool:
        return _wrong(scan, member, read_at)

    for row, batch in enumerate(scan.numbered):
        ends = batch.offsets.astype("i8") + (batch.sizes.astype("i8") + BLOCK - 1) // BLOCK * BLOCK
        suspects = np.flatnonzero(np.isin(ends, places.astype("i8")))
        left_out = [at for at, member in zip(suspects, batch.rows(suspects).members(), strict=True) if wrong(member)]
        if left_out:
            scan.numbered[row] = batch.rows(np.delete(np.arange(len(batch.keys)), left_out))
    scan.numbered = [batch for batch in scan.numbered if len(batch.keys)]
    known = set(places.tolist())
    scan.listed = [member for member in scan.listed if _end(member) not in known or not wrong(member)]


def _end(member: Member) -> int:
    return member.offset + (member.size + BLOCK - 1) // BLOCK * BLOCK


def _wrong(scan: Scan, member: Member, read_at: Callable[[int, int], bytes]) -> bool:
    """Whether the suspect `member` is not known to be whole; it becomes a problem then."""
    why = _doubt(member, read_at(member.offset, member.size)) if member.size <= _MOST else "is too large to be proven"
    if why is not None:
        detail = f"the header behind it is missed, and it {why}"
        scan.problems.append(Problem("lost", member.name, member.offset - BLOCK, detail))
    return why is not None


def _doubt(member: Member, data: bytes) -> str | None:
    """What speaks against the bytes of `member` being whole, or that nothing speaks for it."""
    if not member.size:
        return None
    found = problem(member.name, data)
    if found is not None:
        return found.what
    if member.name.endswith(".json"):
        return None
    try:
        decodes(data, "")
    except BadImage as error:
        return f"is no whole picture: {error}"
    return None
