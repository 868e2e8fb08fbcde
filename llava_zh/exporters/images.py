"""What becomes of the images in an export: URLs, files of their own, or bytes in the rows."""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import BadArchive, BadArgument, BadImage, ImageNotFound, OutputError, UnsafeName
from ..gates import pictures, places
from ..gates.safe_text import get_logger, safe
from ..images.decode import QUALITY_KEPT, smaller
from ..images.locations import (
    ArchivedImages,
    EmbeddedImages,
    FolderImages,
    Images,
    NoImages,
    Sa1bImages,
    UnresolvedImages,
)
from ..images.prefixed import PrefixedImages
from ..images.reading import read_bytes
from ..rows.arrays import one_array
from ..sa1b.published import SCHEME
from ..sa1b.remote import Unreadable
from ..storage.durable import explained, holds
from ..streams.left_out import SHOWN
from . import files, names

logger = get_logger(__name__)

_NOT_FOUND = "The images of these rows were not found, so no export can name them. Pass image_root=."
_IN_ROWS = "images='url': the published rows hold their pictures themselves; use 'embed' or 'files'."


@dataclass(frozen=True)
class Pixels:
    """A picture that goes into the export: its file's bytes, its name, and width and height where it was shrunk."""

    data: bytes
    name: str
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
        on_bad_image, on_missing_image: ``"raise"``, or ``"skip"`` to leave out a row whose picture proves to be bad, or
            not to be there, when it is read.
        listed: The files of the rows' pictures, as :func:`missing` reads it; bytes, for there may be millions.
    """

    images: Images
    mode: str
    max_side: int | None
    folder: Path
    temporary: Path
    absolute: bool
    local: bool
    on_bad_image: str = "raise"
    on_missing_image: str = "raise"
    written: int = 0
    left_out: int = 0
    listed: bytearray = field(default_factory=bytearray)

    def check(self) -> None:
        """Raise BadArgument when images in this place cannot be exported this way."""
        if self.mode == "url" and isinstance(self.images, EmbeddedImages):
            raise BadArgument(_IN_ROWS)
        if isinstance(self.images, UnresolvedImages):
            raise BadArgument(_NOT_FOUND)
        if self.mode != "url" and not self.images.decode:
            raise BadArgument(f"images={self.mode!r} needs the pictures: pass image_root= (or set SA1B_ROOT).")
        if self.mode == "url" and self.max_side is not None:
            raise BadArgument("max_side= shrinks pictures that are written; images='url' writes none.")

    def convert(self, annotations: pa.Table) -> tuple[pa.Table, pa.Array]:
        """`annotations` with the bytes, widths and heights for the rows, and the images' paths or URLs, flat.

        Rows with a bad image are gone where that was asked for.

        Raises:
            BadImage, ImageNotFound, BadArchive, UnsafeName: A picture is bad, missing, lost with a part of its archive,
                or outside the folder of the images. The message names the row.
        """
        lists = one_array(annotations["images"])
        paths = lists.flatten()
        if len(paths) and isinstance(self.images, NoImages):
            raise BadArgument(f"Row {_first_with_image(annotations)!r} has an image, unlike those before. {_NOT_FOUND}")
        embedded = one_array(annotations["bytes"]).flatten()
        if self.mode == "url":
            if embedded.null_count < len(embedded):
                raise BadArgument(_IN_ROWS)
            return annotations, self._urls(paths)
        # Of an embedded image the path is only a name, which nothing is looked up by.
        named = pc.if_else(pc.is_null(embedded), paths, pa.scalar(None, pa.string()))
        urls, keep = self.images.urls(named).to_pylist(), []
        files = list(zip(paths.to_pylist(), urls, embedded.to_pylist(), strict=True))
        found: list[list[Pixels]] = []
        starts = (lists.offsets.to_numpy() - lists.offsets[0].as_py()).tolist()
        for id_, start, end in zip(annotations["id"].to_pylist(), starts, starts[1:], strict=False):
            ready = self._row(id_, files[start:end])
            keep.append(ready is not None)
            found += [] if ready is None else [ready]
        if not all(keep):
            annotations = annotations.filter(pa.array(keep, pa.bool_()))
        return self._ready(annotations, found)

    def _ready(self, annotations: pa.Table, rows: list[list[Pixels]]) -> tuple[pa.Table, pa.Array]:
        lists = [[picture.data if self.mode == "embed" else None for picture in row] for row in rows]
        ready = _with(annotations, "bytes", pa.array(lists, pa.list_(pa.binary())))
        if self.max_side is not None:
            for i, name in enumerate(("width", "height")):
                sizes = [[picture.size[i] for picture in row if picture.size] for row in rows]
                ready = _with(ready, name, pa.array(sizes, pa.list_(pa.int64())))
        named = [[self._named(picture.name) for picture in row] for row in rows]
        ready = _with(ready, "images", pa.array(named, pa.list_(pa.string())))
        return ready, pa.array([name for row in named for name in row], pa.string())

    def _row(self, id_: str | None, files: list[tuple[str | None, str | None, bytes | None]]) -> list[Pixels] | None:
        """The pictures of one row, which in mode ``"files"`` have theirs written; None where it is to be left out."""
        try:
            found = [self._pixels(*file) for file in files]
        except (ImageNotFound, BadImage, BadArchive, UnsafeName) as error:
            error.args = (safe(f"row {id_!r}: {error}"),)
            how = self.on_missing_image if isinstance(error, ImageNotFound) else self.on_bad_image
            # A server in trouble says nothing of the picture; the same call, made again, goes on from here.
            if how != "skip" or isinstance(error, Unreadable):
                raise
            self.left_out += 1
            if self.left_out <= SHOWN:
                logger.warning("left out: %s", error)
            return None
        return found if self.mode == "embed" else [self._put(picture) for picture in found]

    def _pixels(self, path: str | None, url: str | None, embedded: bytes | None) -> Pixels:
        label = path or "embedded image"
        data = self._read(path, url) if embedded is None else embedded
        pictures.whole(data, label)
        size = None
        if self.max_side is not None:
            small = smaller(data, label, max_side=self.max_side, quality=QUALITY_KEPT, keep_alpha=True)
            data, size = small.data, small.size
        return Pixels(data, names.file_name(path, data, embedded=embedded is not None), size)

    def _read(self, path: str | None, url: str | None) -> bytes:
        """The bytes of an image that is not in its row; never those of a file outside the folder of the images."""
        if url is None:
            raise ImageNotFound(f"{path or 'an image'}: the row holds no picture, and no path of one.")
        return read_bytes(url)

    def _put(self, picture: Pixels) -> Pixels:
        """Write a picture to a file of its own, or find the one that holds it already; the picture under that name."""
        given = picture.name
        # A name may be taken by another picture where the file system makes no difference between a.jpg and A.jpg.
        for name in (given, *(names.with_digest(given, picture.data, length) for length in (16, 32))):
            path = places.inside(self.folder / "images", name, "the export")
            if files.add_bytes(path, picture.data, self.temporary):
                self.written += 1
            elif not _holds(path, picture.data):
                continue
            self.listed += f"{len(picture.data)} {name}\n".encode("utf-8", "surrogatepass")
            return replace(picture, name=name)
        raise OutputError(f"{path}: holds something else than its name says. Delete {self.folder} and export again.")

    def _named(self, name: str) -> str:
        if self.mode == "embed":
            return name
        return str(self.folder / "images" / name) if self.absolute else f"images/{name}"

    def _urls(self, paths: pa.Array) -> pa.Array:
        if self.local:
            return pa.array([local_file(self.images, path) for path in paths.to_pylist()], pa.string())
        if isinstance(self.images, Sa1bImages):
            # Without a root: such a URL works wherever SA1B_ROOT or the reader says where SA-1B is.
            return Sa1bImages(None).urls(paths)
        if isinstance(self.images, PrefixedImages):
            rootless = self.images.changed(lambda one: Sa1bImages(None) if isinstance(one, Sa1bImages) else one)
            return rootless.urls(paths)
        return self.images.urls(paths)


def _first_with_image(annotations: pa.Table) -> Any:
    there = pc.greater(pc.list_value_length(annotations["images"]), 0)
    return annotations["id"].filter(there)[0].as_py()


def missing(folder: Path, listed: bytes) -> str | None:
    """The first picture of a list that is no file of the listed size in the export `folder`, or None; none is read."""
    for line in io.BytesIO(listed):
        size, _, name = line.decode("utf-8", "surrogatepass").rstrip("\n").partition(" ")
        try:
            found = (folder / "images" / name).lstat()
        except OSError:
            return name
        if not stat.S_ISREG(found.st_mode) or found.st_size != int(size):
            return name
    return None


def _holds(path: Path, data: bytes) -> bool:
    with explained(path):
        return holds(path, data)


def local_file(images: Images, path: str) -> str:
    """Where the image is as a file on this machine.

    Raises:
        BadArgument: It is in an archive, in a row or elsewhere, so that a trainer could not open it.
        ImageNotFound: It is nowhere.
    """
    from ..sa1b.hits import FileHit

    if isinstance(images, PrefixedImages):
        place, inner = images.of(path)
        if place is None:
            read_bytes(images.urls(pa.array([path], pa.string()))[0].as_py())  # which raises, and says why
        else:
            images, path = place, inner
    if isinstance(images, Sa1bImages):
        hit = images.filesystem().locate(path)
        if isinstance(hit, FileHit) and hit.root.local:
            return str(hit.path)
    elif isinstance(images, FolderImages) and "://" not in images.base:
        url = images.urls(pa.array([path], pa.string()))[0].as_py()
        if url.startswith(SCHEME):
            read_bytes(url)  # which raises, and says why the row's path names no file
        elif Path(url).is_file():
            return str(url)
        raise ImageNotFound(f"No image {url}.")
    where = "in an archive" if isinstance(images, Sa1bImages | ArchivedImages) else "not a file on this machine"
    raise BadArgument(
        f"images='url': {path} is {where}, and this trainer opens files only. Use images='files' to write them."
    )


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
