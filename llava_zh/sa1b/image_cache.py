"""Images of remote roots kept on the local disk, up to a limit; the least recently used go first."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from isal import isal_zlib

from llava_zh.errors import BadArgument
from llava_zh.gates import sizes
from llava_zh.sa1b import store
from llava_zh.storage.atomic import remove_if_left, write_atomically

VARIABLE = "LLAVA_ZH_IMAGE_CACHE"
_CRC = 4  # bytes of the checksum that stands before the image in its file


def parse_limit(limit: int | str | None) -> int:
    """The limit in bytes: a number, or text like ``"10GB"``; None reads ``LLAVA_ZH_IMAGE_CACHE``; 0 is no cache."""
    if limit is None:
        limit = os.environ.get(VARIABLE, "0")
    size = sizes.parse(limit)
    if size is None:
        raise BadArgument(f"The limit of the image cache is a size such as '10GB', not {limit!r}.")
    return size


def _checksum(data: bytes) -> bytes:
    return isal_zlib.crc32(data).to_bytes(_CRC, "little")


class ImageCache:
    """A folder of images shared by all processes. Each may exceed the limit by a twentieth before it clears up."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._folder = store.cache_dir() / "images"
        self._written = limit  # so that the first image written looks at what earlier processes left

    def _path(self, key: str) -> Path:
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        return self._folder / digest[:2] / digest

    def get(self, key: str) -> bytes | None:
        """The image stored under `key`, which counts as used now; None if there is none, or it is damaged."""
        path = self._path(key)
        try:
            kept = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        data = kept[_CRC:]
        return data if kept[:_CRC] == _checksum(data) else None

    def put(self, key: str, data: bytes) -> None:
        """Store an image. A cache that cannot be written does no harm."""
        with contextlib.suppress(OSError):
            write_atomically(self._path(key), _checksum(data) + data)
            self._written += len(data)
            if self._written > self._limit // 20:
                self._written = 0
                self._clear_up()

    def _clear_up(self) -> None:
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("??/*"):
            if path.name.startswith("."):  # a temporary file, maybe of a process that writes it now
                remove_if_left(path)
                continue
            with contextlib.suppress(OSError):  # another process may have removed it
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in files) - self._limit
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            excess -= size
