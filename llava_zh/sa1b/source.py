"""The bytes of one archive, local or on any fsspec filesystem, read at given offsets and by no shared position."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import os
import stat
import threading
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO

import fsspec.asyn

from llava_zh.errors import BadArchive, NotPermitted
from llava_zh.forks import in_child
from llava_zh.gates.safe_text import public_name
from llava_zh.sa1b.remote import explained

_ENDS = 64 << 10  # bytes at each end of a remote archive that tell it from another of the same size
_OPEN = 128  # archives held open at most
_HAS_PREAD = hasattr(os, "pread")

if not hasattr(fsspec.asyn, "reset_after_fork"):
    # fsspec up to 2025.3 leaves a child the loop of its parent, whose thread did not come along: it waits for ever.
    in_child(fsspec.asyn.reset_lock)


def open_limit() -> int:
    """How many archives may be held open at once, each with one descriptor: a share of what the process may have."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:  # Windows: 512 for the C library's files, and more for those of the system
        most = 512
    unlimited = most < 0 or most > 8 * _OPEN
    return _OPEN if unlimited else max(4, most // 8)


class Source(abc.ABC):
    """An archive's bytes. `path` names it in messages; `stamp` changes when the archive does.

    `times` are ``mtime`` and ``created`` in seconds, as fsspec has them, as far as they are known.
    """

    path: str
    size: int
    stamp: str
    times: dict[str, float]
    remote: bool

    _ends_then = ""  # of these `size` bytes, as an index knows them

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

    def fresh(self, state: dict[str, Any], sidecar: bool, summed: bool = False) -> bool:
        """Whether an index made for `state` is one of these bytes.

        Size and stamp (a remote etag; of a local file when it was modified and changed) have to be the same. A sidecar
        that travelled with its archive cannot know the stamp there; it is taken when size and both ends of the archive
        agree, and for a local one when it was modified, too. For a local archive that is `summed` (gzip and zip) that
        is enough: the index has each member's checksum, which other bytes do not fit.
        """
        if state.get("size") != self.size:
            return False
        if state.get("stamp") == self.stamp:
            return True
        if summed and not self.remote and self._copied(state):
            return True
        return sidecar and self._copied(state) and state.get("ends") == self.ends()

    def _copied(self, state: dict[str, Any]) -> bool:
        """Whether the stamp may differ from the one in `state` only because the archive was copied."""
        return True

    def replaced(self) -> bool:
        """Whether another file has taken the place of this one, or it was written to, since it was opened."""
        return False

    def grown_from(self, state: dict[str, Any]) -> bool:
        """Whether these bytes start with those that an index was made for, as far as their both ends tell."""
        size: int = state["size"]
        return 0 < size < self.size and self.ends(size) == str(state["ends"])

    def known_as(self, state: dict[str, Any]) -> None:
        """Take over from a fresh index what these bytes looked like; it tells a file that grows from a changed one."""
        self._ends_then = state["ends"]

    def ends(self, size: int | None = None) -> str:
        """A digest of the first and last bytes of the first `size`, of all by default."""
        size = self.size if size is None else size
        head, tail = self.read_at(0, min(size, _ENDS)), self.read_at(max(0, size - _ENDS), min(size, _ENDS))
        return hashlib.blake2b(head + tail, digest_size=16).hexdigest()


class LocalSource(Source):
    """A file on disk, as long as it was when it was opened; `os.pread` needs no lock.

    The descriptor is closed with the object. A file that only grows, as one that is being fetched, can be read; one
    that was written to otherwise cannot.
    """

    remote = False

    def __init__(self, path: str) -> None:
        """
        Raises: BadArchive when there is no regular file at `path`; NotPermitted; OSError when it cannot be opened.
        """
        self.path = path
        # What is no file at all, such as a FIFO, would be waited for.
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            self._fd = os.open(path, flags)
        except PermissionError:
            raise not_permitted(path) from None
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise BadArchive(f"{path} is no regular file.", archive=path)
        self.size, self._mtime, self._ctime = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        self.stamp, self.times = local_stamp(status), local_times(status)
        self._then = _version(status)
        self._lock = threading.Lock()  # used only where there is no pread
        self._grown_to = (self.size, self._mtime, self._ctime)

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)

    def pread(self, offset: int, size: int) -> bytes:
        data = self.read_at(offset, size)
        while len(data) < size and offset + len(data) < self.size:  # the kernel gives at most 2 GiB at once
            more = self.read_at(offset + len(data), size - len(data)) if _HAS_PREAD else b""
            if not more:
                break
            data += more
        status = os.fstat(self._fd)
        if status.st_ctime_ns != self._ctime or status.st_mtime_ns != self._mtime or status.st_size != self.size:
            self._only_grown(status, offset)
        return data

    def _only_grown(self, status: os.stat_result, offset: int) -> None:
        """Raise BadArchive unless all that happened to the file is that bytes were added at its end, or a chmod."""
        now = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        if now == self._grown_to:
            return
        written = status.st_size != self.size or status.st_mtime_ns != self._mtime
        if not written and not self._ends_then:
            return  # there is no index yet: it is held against the file when it is used
        if (written and status.st_size <= self.size) or self._ends_then != self.ends():
            raise BadArchive(
                f"{self.path} was written to while it was open (it had {self.size:,} bytes, now {status.st_size:,}); "
                "its index is made anew at the next access.",
                archive=self.path,
                offset=offset,
            )
        self._grown_to = now

    def replaced(self) -> bool:
        try:
            return _version(os.stat(self.path)) != self._then
        except OSError:
            return False

    def _copied(self, state: dict[str, Any]) -> bool:
        return str(state.get("stamp")).partition(" ")[0] == f"mtime:{self._mtime}"

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self.size - offset)
        if size <= 0 or offset < 0:
            return b""
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


def not_permitted(path: str) -> NotPermitted:
    """The error for an archive or a folder of images that is there, and closed to this user."""
    return NotPermitted(
        f"{path} may not be read by this user (permission denied). Give yourself permission to read it (chmod, chown), "
        "or run this as a user who has it.",
        archive=path,
    )


def local_stamp(status: os.stat_result) -> str:
    """What tells one version of a local file from another.

    Whoever writes a file may set its mtime back (rsync -t, cp -p), but not its ctime. On Windows that is when it was
    made.
    """
    return f"mtime:{status.st_mtime_ns} ctime:{status.st_ctime_ns}"


def local_times(status: os.stat_result) -> dict[str, float]:
    """``mtime`` and ``created``, which are the same two times in fsspec's local filesystem."""
    return {"mtime": status.st_mtime, "created": status.st_ctime}


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def in_this_process(fs: Any) -> Any:
    """The fsspec filesystem `fs`; in a process that was forked since `fs` was made, one like it that works there.

    The loop of an asynchronous one (HTTP, S3) runs in a thread, and threads do not live on in a child.
    """
    if getattr(fs, "_pid", None) in (None, os.getpid()):
        return fs
    return type(fs)(*fs.storage_args, **fs.storage_options)  # fsspec keeps one for each process


class RemoteSource(Source):
    """A file on an fsspec filesystem, read by byte ranges."""

    remote = True

    def __init__(self, fs: Any, path: str) -> None:
        self._given, self._path = fs, path
        self.path = public_name(fs.unstrip_protocol(path))
        with explained(self.path):
            info = self._fs.info(path)
        self.size = int(info["size"])
        self.stamp, self.times = f"remote:{remote_stamp(info)}", remote_times(info)

    @property
    def _fs(self) -> Any:
        self._given = in_this_process(self._given)
        return self._given

    def pread(self, offset: int, size: int) -> bytes:
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        with explained(self.path):
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
        with explained(self.path):
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


def remote_times(info: dict[str, Any]) -> dict[str, float]:
    """``mtime`` and ``created`` in seconds, as far as a remote filesystem's `info` has them, in whatever form."""
    modified = (info.get(name) for name in ("mtime", "LastModified", "last_modified", "Last-Modified", "updated"))
    found = {"mtime": next(filter(None, map(_seconds, modified)), None), "created": _seconds(info.get("created"))}
    return {name: value for name, value in found.items() if value is not None}


def _seconds(value: Any) -> float | None:
    if isinstance(value, str):
        for parse in (parsedate_to_datetime, datetime.fromisoformat):
            with contextlib.suppress(ValueError):
                value = parse(value)
                break
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None
