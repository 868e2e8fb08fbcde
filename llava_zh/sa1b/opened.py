"""What was found under a root, as fsspec shows it (`info`) and opens it (file objects)."""

from __future__ import annotations

import datetime
import io
from typing import Any

from fsspec.spec import AbstractBufferedFile

from llava_zh.gates import pictures
from llava_zh.gates.magic import JPEG, JPEG_END, begins_as
from llava_zh.sa1b.hits import FileHit, MemberHit


def size_of(hit: FileHit | MemberHit) -> int:
    """Bytes of the image or mask."""
    return hit.size if isinstance(hit, FileHit) else hit.member.size


def info_of(path: str, hit: FileHit | MemberHit) -> dict[str, Any]:
    """What `info` says of a file. Nothing is asked of a disk or a server: a member is as old as its archive.

    ``version`` is there for fsspec's caches, which compare a digest of all this to tell whether a file has changed.
    """
    info = {"name": path, "size": size_of(hit), "type": "file"}
    if isinstance(hit, MemberHit):
        source = hit.archive.source
        info |= {"archive": source.path, "kind": hit.archive.kind, "offset": hit.member.offset}
        version, times = source.stamp, source.times
    else:
        version, times = hit.stamp, hit.times
    return info | ({"version": version} if version else {}) | times


def moment(info: dict[str, Any], name: str) -> datetime.datetime | None:
    """A time of `info_of` as fsspec's `modified` and `created` give it."""
    return datetime.datetime.fromtimestamp(info[name], tz=datetime.UTC) if name in info else None


class WholeFile(io.BytesIO):
    """A file that was read at once; `size` is what fsspec's `read_block` asks a file object for."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.size = len(data)


class RangedFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file that is read in ranges: a large one, or one whose ranges a cache of fsspec keeps."""

    def __init__(self, fs: Any, path: str, hit: FileHit | MemberHit, block_size: int | None, cache_type: str) -> None:
        self._hit = hit
        super().__init__(fs, path, "rb", block_size or "default", cache_type=cache_type, size=size_of(hit))

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.fetch(self._hit, start, end)
        return data


def check_picture(hit: FileHit, data: bytes) -> None:
    """Raise BadImage for a file called like a picture that is cut, empty or a web page, say.

    Whoever opens a file here hands it to Pillow, which does not know its name. The users of `cat_file` look themselves.
    """
    if (data.startswith(JPEG) and data.endswith(JPEG_END)) or not hit.path.lower().endswith(pictures.SUFFIXES):
        return
    if not data or data.startswith(JPEG) or begins_as(data[:64]):
        pictures.whole(data, hit.path if hit.root.local else hit.root.show_full(hit.path))
