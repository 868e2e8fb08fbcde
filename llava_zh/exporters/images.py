"""What becomes of the images in an export: URLs, files of their own, or bytes in the rows."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from .. import pictures
from ..decode import read_bytes, smaller
from ..errors import BadArgument, ImageNotFound
from ..images import ArchivedImages, EmbeddedImages, FolderImages, Images, Sa1bImages, UnresolvedImages
from . import files

JPEG_QUALITY = 90


@dataclass(frozen=True)
class Pixels:
    """The bytes of an image's file, `size` being its width and height in pixels where it was looked at."""

    data: bytes
    size: tuple[int, int] | None = None


@dataclass
class ImageExport:
    """One process's way with images.

    Args:
        images: Where they are.
        mode: ``"url"``, ``"files"`` or ``"embed"``.
        max_side: Images with a longer side are shrunk to it; None leaves all files as they are.
        folder: The export's folder; `temporary` is the one in it for unfinished files.
        absolute: Whether rows name files by absolute paths, and not relative to `folder`.
        local: Whether a URL has to be a file on this machine, for trainers that open nothing else.
    """

    images: Images
    mode: str
    max_side: int | None
    folder: Path
    temporary: Path
    absolute: bool
    local: bool
    written: int = 0

    def check(self) -> None:
        """Raise BadArgument when images in this place cannot be exported this way."""
        if self.mode == "url" and isinstance(self.images, EmbeddedImages):
            raise BadArgument(
                "images='url': the published rows hold their pictures themselves; use 'embed' or 'files'."
            )
        if isinstance(self.images, UnresolvedImages):
            raise BadArgument("The images of these rows were not found, so no export can name them. Pass image_root=.")
        if self.mode != "url" and not self.images.decode:
            raise BadArgument(f"images={self.mode!r} needs the pictures: pass image_root= (or set SA1B_ROOT).")
        if self.mode == "url" and self.max_side is not None:
            raise BadArgument("max_side= shrinks pictures that are written; images='url' writes none.")

    def convert(self, annotations: pa.Table) -> tuple[pa.Table, pa.Array]:
        """`annotations` with the bytes, widths and heights for the rows, and the images' paths or URLs, flat."""
        lists = _array(annotations["images"])
        paths = lists.flatten()
        if self.mode == "url":
            return annotations, self._urls(paths)
        data = _array(annotations["bytes"]).flatten().to_pylist()
        urls = self.images.urls(paths).to_pylist()
        names, pixels = [], []
        for path, url, embedded in zip(paths.to_pylist(), urls, data, strict=True):
            picture = self._pixels(embedded, url or "embedded image")
            names.append(file_name(path, picture.data))
            if self.mode == "files":
                self._write(names[-1], picture.data)
            pixels.append(picture)
        bytes_ = [picture.data if self.mode == "embed" else None for picture in pixels]
        ready = _with(annotations, "bytes", _lists_like(lists, pa.array(bytes_, pa.binary())))
        if self.max_side is not None:
            for i, name in enumerate(("width", "height")):
                sizes = pa.array([picture.size[i] for picture in pixels if picture.size], pa.int64())
                ready = _with(ready, name, _lists_like(lists, sizes))
        if self.mode == "files":
            names = [self._named(name) for name in names]
        return ready, pa.array(names, pa.string())

    def _named(self, name: str) -> str:
        return str(self.folder / "images" / name) if self.absolute else f"images/{name}"

    def _urls(self, paths: pa.Array) -> pa.Array:
        if self.local:
            return pa.array([local_file(self.images, path) for path in paths.to_pylist()], pa.string())
        if isinstance(self.images, Sa1bImages):
            # Without a root: such a URL works wherever SA1B_ROOT or the reader says where SA-1B is.
            return Sa1bImages(None).urls(paths)
        return self.images.urls(paths)

    def _pixels(self, embedded: bytes | None, url: str) -> Pixels:
        data = read_bytes(url) if embedded is None else embedded
        if self.max_side is None:
            return Pixels(data)
        small = smaller(data, url, max_side=self.max_side, quality=JPEG_QUALITY, keep_alpha=True)
        return Pixels(small.data, small.size)

    def _write(self, name: str, data: bytes) -> None:
        path = self.folder / "images" / name
        if not path.exists():  # rows share images, and a finished file is whole
            files.write_bytes(path, data, self.temporary)
            self.written += 1


def file_name(path: str | None, data: bytes) -> str:
    """The name of an image's file: the published path with the ending that fits its bytes, or a digest of them."""
    suffix = pictures.header(data, path or "embedded image").suffix
    if path is None:
        return f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    # The path of an embedded image is only a name, and may be any text.
    steps = (re.sub(r'[<>:"|?*\x00-\x1f]', "_", step) for step in re.split(r"[/\\]", path))
    name = "/".join(step for step in steps if step not in ("", ".", "..")) or "image"
    stem, dot, ending = name.rpartition(".")
    if suffix and (not dot or suffix != {"jpeg": ".jpg", "tiff": ".tif"}.get(ending.lower(), f".{ending.lower()}")):
        name = f"{stem if dot else name}{suffix}"
    return name


def local_file(images: Images, path: str) -> str:
    """Where the image is as a file on this machine.

    Raises:
        BadArgument: It is in an archive, in a row or elsewhere, so that a trainer could not open it.
        ImageNotFound: It is nowhere.
    """
    from ..sa1b.layout import FileHit

    if isinstance(images, Sa1bImages):
        hit = images.filesystem().locate(path)
        if isinstance(hit, FileHit) and hit.root.local:
            return str(hit.path)
    elif isinstance(images, FolderImages) and "://" not in images.base:
        found = Path(images.base, path).absolute()
        if found.is_file():
            return str(found)
        raise ImageNotFound(f"No image {found}.")
    where = "in an archive" if isinstance(images, Sa1bImages | ArchivedImages) else "not a file on this machine"
    raise BadArgument(
        f"images='url': {path} is {where}, and this trainer opens files only. Use images='files' to write them."
    )


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _lists_like(lists: pa.ListArray, values: pa.Array) -> pa.Array:
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
