"""The files of the loopback hubs' repositories: real, in memory, or made up while they are read."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 16


@dataclass(frozen=True)
class VirtualFile:
    """A file of `size` bytes that exists nowhere: ``read(offset, length)`` makes its bytes when they are asked for."""

    size: int
    read: Callable[[int, int], bytes]
    sha256: str = "0" * 64

    @classmethod
    def lines(cls, line: Callable[[int], bytes], count: int) -> VirtualFile:
        """`count` lines, line `i` being ``line(i)`` without its newline; all must be as long as line 0."""
        width = len(line(0)) + 1

        def read(offset: int, length: int) -> bytes:
            first, last = offset // width, -(-(offset + length) // width)
            text = b"".join(line(i) + b"\n" for i in range(first, min(last, count)))
            return text[offset - first * width :][:length]

        return cls(width * count, read)


Content = Path | bytes | VirtualFile
Tree = Path | Mapping[str, Content]


@dataclass(frozen=True)
class RepoFile:
    """A file of a repository, as both hubs describe it."""

    path: str
    content: Content
    lfs: bool

    @functools.cached_property
    def size(self) -> int:
        match self.content:
            case Path():
                return self.content.stat().st_size
            case bytes():
                return len(self.content)
        return self.content.size

    @functools.cached_property
    def sha256(self) -> str:
        match self.content:
            case Path():
                stat = self.content.stat()
                return _sha256_of(self.content, stat.st_size, stat.st_mtime_ns)
            case bytes():
                return hashlib.sha256(self.content).hexdigest()
        return self.content.sha256

    @functools.cached_property
    def git_sha1(self) -> str:
        """The blob id git gives the file, or the LFS pointer that stands for it."""
        blob = lfs_pointer(self) if self.lfs else b"".join(self.chunks(0, self.size))
        return hashlib.sha1(b"blob %d\0%s" % (len(blob), blob)).hexdigest()

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, exclusive, piece by piece."""
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self.content.open("rb")) if isinstance(self.content, Path) else None
            if file:
                file.seek(start)
            for at in range(start, end, CHUNK):
                length = min(CHUNK, end - at)
                if file:
                    yield file.read(length)
                elif isinstance(self.content, VirtualFile):
                    yield self.content.read(at, length)
                else:
                    yield bytes(self.content)[at : at + length]


@functools.cache
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lfs_pointer(file: RepoFile) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n".encode()


def listing(files: Mapping[str, RepoFile], root: str, recursive: bool) -> dict[str, RepoFile | None]:
    """The files and folders (None) below the folder `root`, by path; of its own level alone if not `recursive`."""
    found: dict[str, RepoFile | None] = {}
    prefix = f"{root}/" if root else ""
    for path, file in files.items():
        if path.startswith(prefix):
            parts = path.removeprefix(prefix).split("/")
            found.update({prefix + "/".join(parts[:depth]): None for depth in range(1, len(parts))})
            found[path] = file
    return {path: file for path, file in sorted(found.items()) if recursive or "/" not in path.removeprefix(prefix)}
