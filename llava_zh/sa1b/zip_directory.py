"""The directory at the end of a zip file, read by our own few lines: a member that no reader can have (of a version to
come, with a name in no known encoding, larger than any disk) is one entry of many here, and an exception in `zipfile`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from isal import isal_zlib

from llava_zh.errors import BadArchive
from llava_zh.gates import limits
from llava_zh.gates.counts import counted
from llava_zh.sa1b.source import Source

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_COMMENT = 0xFFFF
_UNIX, _MACOS = 3, 19
#: In code page 437 these are letters, the others signs and lines that no one puts into names.
_LETTERS_437 = re.compile(rb"[\0-\xa5\xe1]*")


class Entry(NamedTuple):
    """What the directory says of a member; `offset` is where its local header lies in the file."""

    raw: bytes  # the name
    flags: int
    system: int  # that it was made on
    method: int
    crc: int
    packed: int
    size: int
    attributes: int
    offset: int
    unicode: bytes | None  # the name in UTF-8, beside the other


class Directory(NamedTuple):
    """The entries in the order of the directory, and why there are no more, if there should be."""

    entries: list[Entry]
    start: int  # where it starts in the file; all members lie before it
    damage: str | None


def read_directory(source: Source) -> Directory:
    """
    Raises: BadArchive when there is no directory, as in a truncated zip file, or it is larger than any.
    """
    end = _end_record(source)
    if end is None:
        raise _unusable(source, "no end record")
    position, parts, total, size, stated = end
    if parts:
        raise BadArchive(
            f"{source.path} is one part of a zip file that was split; put the parts together (zip -s 0).",
            archive=source.path,
            offset=position,
        )
    before = position - size - stated  # bytes that stand before the zip file proper
    if before < 0:
        raise _unusable(source, f"one of {size:,} bytes at {stated:,} does not lie before its end at {position:,}")
    if size > limits.INDEX.value:
        raise BadArchive(f"{source.path}: {limits.INDEX.exceeded(size)}", archive=source.path)
    data = source.pread(position - size, size)
    entries: list[Entry] = []
    damage = _read_entries(data, before, entries)
    if damage is None and len(entries) & 0xFFFF != total & 0xFFFF:
        damage = f"it has {counted(len(entries), 'entries')} and says {total:,}"
    return Directory(entries, position - size, damage)


def _unusable(source: Source, why: str) -> BadArchive:
    return BadArchive(
        f"{source.path} has no readable zip directory ({why}); it is probably cut off at {source.size:,} bytes.",
        archive=source.path,
        offset=source.size,
    )


def _end_record(source: Source) -> tuple[int, bool, int, int, int] | None:
    """Where the directory ends; whether the file is one of several parts; number of entries; size; stated offset."""
    tail_at = max(0, source.size - _END.size - _COMMENT)
    tail = source.pread(tail_at, source.size - tail_at)
    place = len(tail)
    while (place := tail.rfind(b"PK\5\6", 0, place + 3)) >= 0:
        if place + _END.size <= len(tail):
            _, disk, first, _, total, size, offset, comment = _END.unpack_from(tail, place)
            if place + _END.size + comment <= len(tail):
                break
    else:
        return None
    position = tail_at + place
    return _end_record_64(source, position) or (position, bool(disk or first), total, size, offset)


def _end_record_64(source: Source, position: int) -> tuple[int, bool, int, int, int] | None:
    locator = source.pread(position - _LOCATOR.size, _LOCATOR.size) if position >= _LOCATOR.size else b""
    if locator[:4] != b"PK\6\7":
        return None
    place = position - _LOCATOR.size - _END64.size
    for start in (place, _LOCATOR.unpack(locator)[2]):  # the second where the record has data of its own
        if 0 <= start <= place:
            data = source.pread(start, _END64.size)
            if data[:4] == b"PK\6\6":
                disk, first, _, total, size, offset = _END64.unpack(data)[4:]
                return start, bool(disk or first), total, size, offset
    return None


def _read_entries(data: bytes, before: int, entries: list[Entry]) -> str | None:
    """Append what the directory `data` lists to `entries`; why that is not all of it."""
    position, most = 0, limits.MEMBERS.value
    while position < len(data):
        if len(data) - position < _ENTRY.size or data[position : position + 4] != b"PK\1\2":
            return f"it is damaged after {counted(len(entries), 'entries')}, at byte {position:,} of it"
        if len(entries) >= most:
            return limits.MEMBERS.exceeded()
        found = _ENTRY.unpack_from(data, position)
        _, made, _, flags, method, _, _, crc, packed, size, names, extras, comments, _, _, attributes, offset = found
        start = position + _ENTRY.size
        raw, extra = data[start : start + names], data[start + names : start + names + extras]
        position = start + names + extras + comments
        if position > len(data):
            return f"entry {len(entries) + 1:,} runs past its end"
        unicode = None
        for kind, value in _extras(extra):
            if kind == 1:
                size, packed, offset = _wide(value, size, packed, offset)
            elif kind == 0x7075 and value[:1] == b"\1" and value[1:5] == isal_zlib.crc32(raw).to_bytes(4, "little"):
                unicode = value[5:]
        entries.append(Entry(raw, flags, made >> 8, method, crc, packed, size, attributes, before + offset, unicode))
    return None


def _extras(extra: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        yield kind, extra[position + 4 : position + 4 + length]
        position += 4 + length


def _wide(value: bytes, *fields: int) -> list[int]:
    """The `fields` that are all ones, from the zip64 extra, where they have eight bytes."""
    wide = list(fields)
    position = 0
    for row, number in enumerate(fields):
        if number == 0xFFFFFFFF and position + 8 <= len(value):
            wide[row] = int.from_bytes(value[position : position + 8], "little")
            position += 8
    return wide


def names(entries: list[Entry]) -> Iterator[str]:
    """The name of each entry, with ``/`` where a writer on Windows put a backslash, up to a NUL.

    Names are UTF-8 where the entry says so. For those others that are not plain ASCII, a zip file does not say what
    they are; all of them are taken for

    - UTF-8, if all are valid UTF-8 and the file was made on Unix or macOS, or some character has three bytes or more
      (a GBK word of few characters may by chance be valid UTF-8 of two bytes a character),
    - else GBK, if all are valid GBK and some byte is no letter in code page 437 (in GBK's Chinese each second one is),
    - else code page 437, as the format has it.
    """
    unsaid = [entry for entry in entries if not entry.flags & 0x800 and not entry.raw.isascii()]
    encoding = _encoding([entry.raw for entry in unsaid], any(entry.system in (_UNIX, _MACOS) for entry in unsaid))
    for entry in entries:
        if entry.unicode is not None:
            name = entry.unicode.decode("utf-8", "surrogateescape")
        elif entry.flags & 0x800 or entry.raw.isascii():
            name = entry.raw.decode("utf-8", "surrogateescape")
        else:
            name = entry.raw.decode(encoding)
        yield name.split("\0", 1)[0].replace("\\", "/")


def _encoding(raw: list[bytes], unix: bool) -> str:
    if _all_valid(raw, "utf-8") and (unix or any(max(name) >= 0xE0 for name in raw)):
        return "utf-8"
    if _all_valid(raw, "gbk") and any(_LETTERS_437.fullmatch(name) is None for name in raw):
        return "gbk"
    return "cp437"


def _all_valid(raw: list[bytes], encoding: str) -> bool:
    try:
        for name in raw:
            name.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
