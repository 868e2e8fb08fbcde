"""Compressed files from start to end, with every byte that is there and the end proven.

A stream that is cut short, damaged or followed by something else gives what can be decompressed, and then the error.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from ..errors import BadFile, LlavaZhError
from .data_files import DataFile
from .file_streams import Stream, whole

# Decompressed bytes that are made at once, and compressed ones that are handed over at once.
_PIECE = 2 << 20
_FED = 256 << 10


def decompressed(file: DataFile, token: Any) -> Iterator[bytes]:
    """What a ``.gz`` or ``.zst`` file holds, in pieces.

    Raises:
        BadFile: When all that is there was given: it is cut short, damaged, or goes on with what is no such data.
    """
    if file.name.lower().endswith(".zst"):
        return _zstd(file, token)
    return gunzipped(whole(file, token), file.label)


def gunzipped(pieces: Iterable[bytes], label: str) -> Iterator[bytes]:
    """The content of the gzip members in `pieces`, one after another; zeros after the last are padding.

    Raises:
        BadFile: See :func:`decompressed`.
    """
    member: Any = None
    done = 0
    padded = False
    for fed in _slices(pieces):
        data = fed
        while data:
            if member is not None and member.eof:
                rest = data.lstrip(b"\0")
                padded = padded or len(rest) < len(data)
                if not rest:
                    break
                if padded:
                    raise _damaged(label, "gzip", done, "something follows the zeros after its end")
                data, member = rest, None
            member = member or zlib.decompressobj(31)
            before = member.copy()
            try:
                piece = member.decompress(data, _PIECE)
            except zlib.error as error:
                for piece in _up_to_damage(before, data):
                    done += len(piece)
                    yield piece
                raise _damaged(label, "gzip", done, str(error)) from None
            data = member.unused_data if member.eof else member.unconsumed_tail
            done += len(piece)
            yield piece
    while member is not None and not member.eof and (piece := member.decompress(b"", _PIECE)):
        done += len(piece)
        yield piece
    if member is None or not member.eof:
        raise _damaged(label, "gzip", done, "it ends before its end marker")


def _slices(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for at in range(0, len(piece), _FED):
            yield piece[at : at + _FED]


def _up_to_damage(member: Any, data: bytes) -> Iterator[bytes]:
    """What `member` can decompress of `data`, in small steps, as a step in which it fails gives nothing."""
    before, rest = member, data
    with contextlib.suppress(zlib.error):
        while data:
            before, rest = member.copy(), data
            yield member.decompress(data, 4096)
            data = member.unconsumed_tail
    # Now byte after byte: a checksum is compared when its own last byte comes, after the content is out.
    with contextlib.suppress(zlib.error):
        for at in range(len(rest)):
            yield before.decompress(rest[at : at + 1])


def _zstd(file: DataFile, token: Any) -> Iterator[bytes]:
    done = 0
    # A step in which it fails gives nothing: then it is read again, and up to there in ever smaller steps.
    for size in (_PIECE, 4096, 1):
        skipped, problem = 0, None
        try:
            with pa.CompressedInputStream(pa.PythonFile(Stream(file, token), mode="r"), "zstd") as stream:
                while skipped < done:
                    skipped += len(stream.read(min(_PIECE, done - skipped))) or done
                while piece := stream.read(size):
                    done += len(piece)
                    yield piece
            return
        except LlavaZhError:
            raise
        except OSError as error:
            problem = str(error)
    raise _damaged(file.label, "zstd", done, problem or "")


def _damaged(label: str, codec: str, done: int, problem: str) -> BadFile:
    return BadFile(
        f"{label}: {codec} data is damaged or cut short after {done} decompressed bytes ({problem}). "
        "Fetch the file again."
    )
