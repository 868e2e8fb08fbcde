"""The members of a zip file, and how one is read."""

from __future__ import annotations

import zlib

import numpy as np

from llava_zh.errors import BadArchive
from llava_zh.sa1b.index import Member, Problem, Scan
from llava_zh.sa1b.source import Source
from llava_zh.sa1b.tar_header import safe_name
from llava_zh.sa1b.zip_directory import Entry, names, read_directory

_LOCAL_HEADER = 30
_SLACK = 512  # local headers carry at most this much beside the name, in nearly every zip
_STORED, _DEFLATED = 0, 8
_METHODS = {
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "XZ",
    98: "PPMd",
    99: "AES encryption",
}
_UNIX = 3
#: Deflate makes at most this much of a byte; the other number is for what is too small for that to hold.
_MOST, _FEW = 1032, 1 << 10


def scan_zip(source: Source) -> Scan:
    """List `source` from its directory. A Member's offset is that of its local header.

    Raises: BadArchive when there is no directory, as in a truncated zip file.
    """
    result = Scan(end=source.size)
    directory = read_directory(source)
    for entry, name in zip(directory.entries, names(directory.entries), strict=True):
        safe = safe_name(name)
        problem = _problem(entry, name, safe, directory.start)
        if problem is not None:
            result.problems.append(Problem(problem[0], name, min(entry.offset, 2**62), problem[1]))
        elif safe is not None and not name.endswith("/"):
            deflated = entry.method == _DEFLATED
            result.listed.append(Member(safe, entry.offset, entry.size, entry.packed, deflated, entry.crc))
    _drop_overlapping(result)
    if directory.damage is not None:
        result.problems.append(Problem("damaged", "", directory.start, f"its directory: {directory.damage}"))
    return result


def _problem(entry: Entry, name: str, safe: str | None, end: int) -> tuple[str, str] | None:
    """Kind and reason, if the member of this `name` cannot be read; its bytes have to lie before `end`."""
    if safe is None and not (name.endswith("/") and safe_name(name + "x") is not None):
        return "unsafe", "its name leaves the archive, is empty, or cannot stand in a URL"
    if name.endswith("/"):
        return None
    if entry.flags & 1:
        return "unreadable", "it is encrypted"
    if entry.method not in (_STORED, _DEFLATED):
        method = _METHODS.get(entry.method, f"method {entry.method}")
        return (
            "unreadable",
            f"it is packed with {method}; only what is stored or deflated is read (unzip, and zip anew)",
        )
    if entry.system == _UNIX and (entry.attributes >> 16) & 0o170000 == 0o120000:
        return "link", "it is a symbolic link, which is not followed"
    if entry.offset + _LOCAL_HEADER + entry.packed > end:
        return "damaged", f"its {entry.packed:,} bytes at {entry.offset:,} run past the archive's end"
    most = entry.packed * _MOST + _FEW if entry.method == _DEFLATED else entry.packed
    if entry.size > most or (entry.method == _STORED and entry.size != entry.packed):
        return "damaged", f"it promises {entry.size:,} bytes out of {entry.packed:,}"
    return None


def _drop_overlapping(scan: Scan) -> None:
    """Leave out members that lie in others: one of a few bytes may then stand for any number of large ones."""
    if not scan.listed:
        return
    starts = np.array([member.offset for member in scan.listed], "i8")
    order = np.argsort(starts, kind="stable")
    ends = starts + np.array([_LOCAL_HEADER + member.packed for member in scan.listed], "i8")
    latest = np.maximum.accumulate(ends[order])
    inside = set(order[1:][starts[order[1:]] < latest[:-1]].tolist())
    if inside:
        scan.problems += [
            Problem("damaged", scan.listed[row].name, scan.listed[row].offset, "it lies in another member")
            for row in sorted(inside)
        ]
        scan.listed = [member for row, member in enumerate(scan.listed) if row not in inside]


def read_zip(source: Source, member: Member) -> bytes:
    """All bytes of `member`, by one positioned read of its local header and data.

    Raises: BadArchive when they are not what the directory promised.
    """
    if source.remote:  # one request for both
        guess = _LOCAL_HEADER + len(member.name.encode("utf-8", "surrogateescape")) + _SLACK
        data = source.pread(member.offset, guess + member.packed)
    else:
        data = source.pread(member.offset, _LOCAL_HEADER)
    start = data_offset(source, member, data)
    packed = data[start : start + member.packed]
    if len(packed) < member.packed:
        packed = source.pread(member.offset + start, member.packed)
    try:
        # One byte more than promised is enough to see that a member is not what the directory says.
        out = zlib.decompressobj(-15).decompress(packed, member.size + 1) if member.deflated else packed
    except zlib.error as error:
        raise _damaged(source, member, str(error)) from None
    if len(out) != member.size:
        raise _damaged(source, member, f"it is not the {member.size:,} bytes that the directory promises")
    return out


def data_offset(source: Source, member: Member, header: bytes) -> int:
    """Bytes from the start of the local `header` to the data."""
    if header[:4] != b"PK\x03\x04" or len(header) < _LOCAL_HEADER:
        raise _damaged(source, member, "no local header there")
    return _LOCAL_HEADER + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _damaged(source: Source, member: Member, why: str) -> BadArchive:
    return BadArchive(
        f"Cannot read {member.name} at offset {member.offset:,} of {source.path}: {why}.",
        archive=source.path,
        member=member.name,
        offset=member.offset,
    )
