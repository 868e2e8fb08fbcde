"""What one header block of a tar says: name, size, kind, whether its checksum fits. Formats: ustar, GNU and PAX."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from llava_zh.gates.places import steps

BLOCK = 512
#: A name or a size that no file can have is no name or size. The first is Linux' PATH_MAX.
_LONGEST_NAME = 4096
_LARGEST = 1 << 62
REGULAR = frozenset((0, 48, 55))  # NUL, '0', '7' (contiguous)
_KINDS = frozenset(b"\x0001234567ADKLMNSVXgx")
_NUMBERED = re.compile(rb"((?:[^/\0]+/)*)sa_[0-9]")
_PAX_RECORD = re.compile(rb"([0-9]{1,7}) ([^=]+)=")
_MAGIC = b"ustar"


class Pax(NamedTuple):
    """What the extended headers before a member say of it; `taken` counts their bytes."""

    name: str | None = None
    size: int | None = None  #: -1 for one that is no size
    sparse: bool = False
    refused: bool = False  #: they are too large to be read, so the member has a name or size that is not known
    taken: int = 0

    def __bool__(self) -> bool:
        return self.taken > 0


def header_name(block: bytes) -> str:
    """The member's name as the header itself gives it."""
    name = block[:100].split(b"\0", 1)[0]
    if block[345] and block[257:263] == b"ustar\0":
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def safe_name(name: str) -> str | None:
    """`name` without leading and doubled ``/`` and ``./``.

    None if it is empty, longer than any path, goes through ``..``, or holds NUL, ``::`` or ``://``: with the last two
    a URL that is built of it names another place. Nothing is written by such a name, so all else is let through that
    archives hold, where `gates.places` refuses it: a leading slash, backslashes, control characters.
    """
    parts = steps(name)
    if ".." in parts or not parts or "\0" in name or "::" in name or "://" in name or len(name) > _LONGEST_NAME:
        return None
    return "/".join(parts)


def number(field: bytes) -> int | None:
    """The number in a header's `field`, octal or GNU's base 256; None if it is none. An octal negative counts as 0."""
    if field[0] & 0x80:
        found = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        return found if not field[0] & 0x40 and found <= _LARGEST else None
    try:
        return max(0, int(field.split(b"\0", 1)[0].strip() or b"0", 8))
    except ValueError:
        return None


def with_records(pax: Pax, payload: bytes) -> Pax:
    """`pax` with the records of one more PAX header."""
    name, size, sparse = pax.name, pax.size, pax.sparse
    real_name = None
    position = 0
    while match := _PAX_RECORD.match(payload, position):
        end = match.start() + int(match[1])
        if end <= match.end():
            break
        key, value = match[2], payload[match.end() : end - 1]
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            digits = value.isdigit() and len(value) < 20
            size = int(value) if digits and int(value) <= _LARGEST else -1
        elif key == b"GNU.sparse.name":
            real_name = value.decode("utf-8", "surrogateescape")
        sparse = sparse or key.startswith(b"GNU.sparse")
        position = end
    return Pax(real_name or name, size, sparse, pax.refused, pax.taken + len(payload))


def checksum_fits(block: bytes) -> bool:
    """Whether `block` carries its own sum."""
    stored = number(block[148:156])
    summed = block[:148] + block[156:]
    unsigned = 256 + sum(summed)
    # Some old writers summed the bytes as signed numbers.
    return stored == unsigned or stored == unsigned - 256 * sum(byte > 127 for byte in summed)


def is_header(block: bytes) -> bool:
    """Whether `block`, met anywhere, is surely a header: magic, checksum, a known kind, a name and a size."""
    return (
        len(block) == BLOCK
        and block[257:262] == _MAGIC
        and block[156] in _KINDS
        and block[0] != 0
        and number(block[124:136]) is not None
        and checksum_fits(block)
    )


def checksums_fit(headers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which rows of `headers` carry their sum in the usual form of six octal digits."""
    sums = headers.sum(axis=1, dtype="u4") - headers[:, 148:156].sum(axis=1, dtype="u4") + 256
    digits = headers[:, 148:154].astype("i4") - 48
    stored = digits @ (8 ** np.arange(5, -1, -1))
    fits: np.ndarray[Any, Any] = (stored == sums) & ((digits >= 0) & (digits < 8)).all(axis=1)
    return fits


def numbers(headers: np.ndarray[Any, Any]) -> tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
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
