"""The header of a gzip stream."""

from __future__ import annotations


def gzip_header_length(head: bytes) -> int | None:
    """Bytes of the gzip header that `head` starts with (RFC 1952), or None if it is none."""
    if head[:3] != b"\x1f\x8b\x08" or len(head) < 10:
        return None
    flags, length = head[3], 10
    if flags & 4:
        length += 2 + int.from_bytes(head[10:12], "little")
    for flag in (8, 16):  # file name, comment
        if flags & flag:
            length = head.find(b"\0", length) + 1
            if length == 0:
                return None
    return length + (2 if flags & 2 else 0)
