"""One open archive: its bytes and its index, and how a member is read from the two."""

from __future__ import annotations

from isal import isal_zlib

from llava_zh.errors import BadArchive, BadIndex
from llava_zh.sa1b.gzip_points import PointReader
from llava_zh.sa1b.index import ArchiveIndex, Member
from llava_zh.sa1b.source import Source
from llava_zh.sa1b.zip_scan import read_zip


class Archive:
    """Members of `source`, found through `index`. Safe to use from several threads."""

    def __init__(self, source: Source, index: ArchiveIndex) -> None:
        self.source = source
        self.kind = index.kind
        self._take(index)

    def _take(self, index: ArchiveIndex) -> None:
        self.index = index
        self._points = PointReader(index.array, index.window) if index.kind == "gzip" else None
        self.source.known_as(index.archive)

    def read(self, member: Member, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` (its end by default) of `member`.

        A whole member is held against its CRC-32 where the index knows it (gzip and zip archives); any part of a zip
        member is, too, since all of it is read. A part of a gzip member is not checked, nor is anything in a plain tar.

        Raises: BadArchive, which names archive, member and offset, when they cannot be read or do not fit.
        """
        if stop is None or stop > member.size:
            stop = member.size
        if start >= stop:
            return b""
        try:
            return self._read(member, start, stop)
        except BadIndex:
            member = self._renewed(member)
            return self._read(member, start, min(stop, member.size))

    def _renewed(self, member: Member) -> Member:
        """The same `member` by another index, for that of this one was removed or written over since it was opened."""
        index = self.index.renew()
        found = None if index is None or index.kind != self.kind else index.find(member.name)
        if index is None or found is None:
            raise self._unreadable(member, "the archive's index was written over, and there is no other")
        self._take(index)
        return found

    def _read(self, member: Member, start: int, stop: int) -> bytes:
        try:
            if self._points is not None:
                data = self._points.read(self.source, member.offset + start, stop - start)
            elif self.kind == "zip":
                data = read_zip(self.source, member)
                self._check(member, data)
                if stop - start < len(data):
                    data = data[start:stop]
            else:
                data = self.source.pread(member.offset + start, stop - start)
        except BadArchive as error:
            raise self._unreadable(member, str(error)) from error
        if len(data) != stop - start:
            raise self._unreadable(
                member, f"expected {stop - start:,} bytes, the archive ends after {len(data):,} of them."
            )
        if self.kind != "zip":
            self._check(member, data)
        return data

    def _check(self, member: Member, data: bytes) -> None:
        if member.crc is not None and len(data) == member.size and isal_zlib.crc32(data) != member.crc:
            raise self._unreadable(member, f"its bytes do not fit their checksum (CRC-32 {member.crc:08x})")

    def _unreadable(self, member: Member, why: str) -> BadArchive:
        return BadArchive(
            f"Cannot read {member.name} (at {member.offset:,}, {member.size:,} bytes) from {self.source.path}: {why}",
            archive=self.source.path,
            member=member.name,
            offset=member.offset,
        )
