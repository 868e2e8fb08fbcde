"""A gzip archive from its first byte to its last, held against the checksums in it.

Reads at seek points are quick but blind to damage that still inflates, for a checksum covers a whole gzip stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from isal import igzip_lib

from llava_zh.errors import BadArchive

if TYPE_CHECKING:
    from llava_zh.sa1b.source import Source

_IN, _OUT = 4 << 20, 8 << 20
_InflateError: Any = igzip_lib.error


def decompressed(source: Source, digest: Any = None) -> Iterator[bytes]:
    """The decompressed bytes of `source`, of all its gzip streams; `digest` is updated with the compressed ones.

    Raises: BadArchive where the data is damaged or cut off, or at the end of a stream that its checksum does not fit.
    """
    position, data = 0, b""
    decoder: Any = None
    while True:
        if not data and (decoder is None or decoder.eof or decoder.needs_input):
            data = source.pread(position, _IN)
            position += len(data)
            if digest is not None:
                digest.update(data)
        if decoder is None or decoder.eof:
            data = data.lstrip(b"\0")  # streams may be padded with zeros, tapes do that
            if not data and position >= source.size:
                return
            if not data:
                continue
            decoder = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
        elif decoder.needs_input and not data:
            raise _damaged(source, position, "it ends in the middle of the compressed data")
        try:
            out = decoder.decompress(data, _OUT)
        except (_InflateError, EOFError) as error:
            raise _damaged(source, position, str(error)) from None
        data = decoder.unused_data if decoder.eof else b""
        if out:
            yield out


def _damaged(source: Source, position: int, why: str) -> BadArchive:
    return BadArchive(
        f"{source.path} is damaged, or does not fit its checksum, before compressed byte {position:,}: {why}.",
        archive=source.path,
        offset=position,
    )


class PassReader:
    """Ranges of the decompressed stream, each after the one before it, in one pass; `finish` checks the rest too."""

    def __init__(self, source: Source) -> None:
        self._pieces = decompressed(source)
        self._path = source.path
        self._piece = b""
        self._start = 0  # of `_piece` in the stream

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, which must not lie before what was read already. Raises: BadArchive."""
        parts = []
        while size > 0:
            end = self._start + len(self._piece)
            if offset >= end:
                self._start, self._piece = end, next(self._pieces, b"")
                if not self._piece:
                    raise BadArchive(
                        f"{self._path} ends at {end:,} (before compression).", archive=self._path, offset=end
                    )
                continue
            part = self._piece[offset - self._start :][:size]
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def finish(self) -> None:
        """Go on to the end of the archive. Raises: BadArchive."""
        for _ in self._pieces:
            pass
