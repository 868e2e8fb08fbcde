"""The members of a zip file, from its own directory, and how one is read."""

from __future__ import annotations

import zipfile
import zlib

from llava_zh.errors import BadArchive
from llava_zh.sa1b.index import Member, Problem, Scan
from llava_zh.sa1b.source import Source
from llava_zh.sa1b.tar_scan import safe_name

_LOCAL_HEADER = 30
_SLACK = 512  # local headers carry at most this much beside the name, in nearly every zip


def scan_zip(source: Source) -> Scan:
    """List `source` from its directory. A Member's offset is that of its local header.

    Raises: BadArchive when there is no directory, as in a truncated zip file.
    """
    result = Scan(end=source.size)
    try:
        with source.open_file() as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise BadArchive(
            f"{source.path} has no readable zip directory ({error}); it is probably cut off at {source.size:,} bytes.",
            archive=source.path,
            offset=source.size,
        ) from None
    for entry in entries:
        name, offset = entry.filename, entry.header_offset
        if entry.is_dir():
            continue
        safe = safe_name(name)
        if safe is None:
            result.problems.append(Problem("unsafe", name, offset, "its name leaves the archive or is empty"))
        elif entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            result.problems.append(Problem("damaged", name, offset, "it is encrypted, or neither stored nor deflated"))
        elif (entry.external_attr >> 16) & 0o170000 == 0o120000:
            result.problems.append(Problem("link", name, offset, "it is a symbolic link, which is not followed"))
        else:
            deflated = entry.compress_type == zipfile.ZIP_DEFLATED
            result.listed.append(Member(safe, offset, entry.file_size, entry.compress_size, deflated, entry.CRC))
    return result


def read_zip(source: Source, member: Member) -> bytes:
    """All bytes of `member`, by one positioned read of its local header and data.

    Raises: BadArchive when they are not what the directory promised.
    """
    guess = _LOCAL_HEADER + len(member.name.encode("utf-8", "surrogateescape")) + _SLACK
    data = source.pread(member.offset, guess + member.packed)
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
