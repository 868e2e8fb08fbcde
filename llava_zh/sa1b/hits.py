"""What was found for a path: a file of its own, or a member of an archive."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.index import Member
from llava_zh.sa1b.remote import fetch
from llava_zh.sa1b.source import local_stamp, local_times, not_permitted, remote_stamp, remote_times

if TYPE_CHECKING:
    from llava_zh.sa1b.layout import Root


class FileHit(NamedTuple):
    """An image that is a file of its own, at `path` of the root's filesystem."""

    root: Root
    path: str
    size: int
    seen: os.stat_result | dict[str, Any]  #: what its filesystem says of it

    @property
    def stamp(self) -> str:
        """As that of a source."""
        return remote_stamp(self.seen) if isinstance(self.seen, dict) else local_stamp(self.seen)

    @property
    def times(self) -> dict[str, float]:
        """As those of a source."""
        return remote_times(self.seen) if isinstance(self.seen, dict) else local_times(self.seen)

    @property
    def remote(self) -> bool:
        """Whether the bytes come over the network."""
        return not self.root.local

    @property
    def version(self) -> str:
        """A name for these bytes, for a cache."""
        return f"{self.root.name}|{self.path}|{self.size}"

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of the file."""
        if not self.root.local:
            return fetch(self.root.fs, self.path, start, stop, self.size, self.root.show_full(self.path))
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(start)
                return file.read(stop - start)
        except PermissionError:
            raise not_permitted(self.path) from None


class MemberHit(NamedTuple):
    """An image that is a `member` of an `archive`."""

    archive: Archive
    member: Member

    @property
    def remote(self) -> bool:
        """Whether the bytes come over the network."""
        return self.archive.source.remote

    @property
    def version(self) -> str:
        """A name for these bytes, for a cache."""
        source = self.archive.source
        return f"{source.path}|{source.size}|{source.stamp}|{self.member.offset}"
