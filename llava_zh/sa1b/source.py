"""The bytes of one archive, local or on any fsspec filesystem, read at given offsets and by no shared position."""

from __future__ import annotations

import abc
import hashlib
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

from llava_zh.errors import BadArchive
from llava_zh.sa1b.urls import public_name

_ENDS = 64 << 10  # bytes at each end of a remote archive that tell it from another of the same size
_HAS_PREAD = hasattr(os, "pread")


class Source(abc.ABC):
    """An archive's bytes. `path` names it in messages; `stamp` changes when the archive does."""

    path: str
    size: int
    stamp: str
    remote: bool

    @abc.abstractmethod
    def pread(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, fewer at the end. Raises: BadArchive when the archive changed while open."""

    def read_at(self, offset: int, size: int) -> bytes:
        """As `pread`, without looking whether the archive changed: for the many small reads of one scan."""
        return self.pread(offset, size)

    @abc.abstractmethod
    def open_file(self) -> BinaryIO:
        """A file object of its own on the same bytes, for a pass from start to end."""

    def state(self) -> dict[str, Any]:
        """What an index remembers of its archive, to be compared with `fresh`."""
        return {"size": self.size, "stamp": self.stamp, "ends": self.ends()}

    def fresh(self, state: dict[str, Any], sidecar: bool) -> bool:
        """Whether an index made for `state` is one of these bytes.

        Size and stamp (mtime, or a remote etag) have to be the same. A sidecar that travelled with its archive to
        remote storage cannot know the stamp there; it is taken when size and both ends of the archive agree.
        """
        if state.get("size") != self.size:
            return False
        return state.get("stamp") == self.stamp or (sidecar and self.remote and state.get("ends") == self.ends())

    def ends(self) -> str:
        """A digest of the first and last bytes."""
        head, tail = self.pread(0, _ENDS), self.pread(max(0, self.size - _ENDS), _ENDS)
        return hashlib.blake2b(head + tail, digest_size=16).hexdigest()


class LocalSource(Source):
    """A file on disk. The descriptor is opened once and closed with the object; `os.pread` needs no lock."""

    remote = False

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        status = os.fstat(self._fd)
        self.size, self._mtime = status.st_size, status.st_mtime_ns
        self.stamp = f"mtime:{self._mtime}"
        self._lock = threading.Lock()  # used only where there is no pread

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)

    def pread(self, offset: int, size: int) -> bytes:
        data = os.pread(self._fd, size, offset) if _HAS_PREAD else self._seek_and_read(offset, size)
        while len(data) < size and offset + len(data) < self.size:  # the kernel gives at most 2 GiB at once
            more = os.pread(self._fd, size - len(data), offset + len(data)) if _HAS_PREAD else b""
            if not more:
                break
            data += more
        status = os.fstat(self._fd)
        if status.st_mtime_ns != self._mtime or status.st_size != self.size:
            raise BadArchive(
                f"{self.path} was written to while it was open (it had {self.size:,} bytes, now {status.st_size:,}); "
                "its index is made anew at the next access.",
                archive=self.path,
                offset=offset,
            )
        return data

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset) if _HAS_PREAD else self._seek_and_read(offset, size)

    def _seek_and_read(self, offset: int, size: int) -> bytes:
        with self._lock:
            os.lseek(self._fd, offset, os.SEEK_SET)
            parts = []
            while size > 0 and (part := os.read(self._fd, size)):
                parts.append(part)
                size -= len(part)
            return b"".join(parts)

    def open_file(self) -> BinaryIO:
        return Path(self.path).open("rb")


class RemoteSource(Source):
    """A file on an fsspec filesystem, read by byte ranges."""

    remote = True

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path
        self.path = public_name(fs.unstrip_protocol(path))
        info = fs.info(path)
        self.size = int(info["size"])
        self.stamp = f"remote:{remote_stamp(info)}"

    def pread(self, offset: int, size: int) -> bytes:
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        data: bytes = self._fs.cat_file(self._path, start=offset, end=offset + size)
        if len(data) != size:
            raise BadArchive(
                f"Asked {self.path} for {size:,} bytes at {offset:,} and got {len(data):,}: "
                "the server does not honour byte ranges, or the archive changed.",
                archive=self.path,
                offset=offset,
            )
        return data

    def open_file(self) -> BinaryIO:
        file: BinaryIO = self._fs.open(self._path, "rb", block_size=8 << 20, cache_type="readahead")
        return file


def remote_stamp(info: dict[str, Any]) -> str:
    """What tells one version of a remote file from another: its etag, hash or modification time, as far as known."""
    lfs = info.get("lfs") or {}
    for value in (
        info.get("ETag"),
        info.get("etag"),
        lfs.get("sha256") if isinstance(lfs, dict) else None,
        info.get("blob_id"),
        info.get("LastModified"),
        info.get("last_modified"),
        info.get("mtime"),
    ):
        if value:
            return str(value)
    return ""
