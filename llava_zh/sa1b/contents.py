"""All there is in one archive, or in the folder that stands for one, to be gone through from end to end."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from llava_zh.errors import BadArchive, BadArgument, BadImage, ImageNotFound, LlavaZhError, UnknownName
from llava_zh.gates.pictures import JPEG_SUFFIXES
from llava_zh.sa1b.gzip_pass import PassReader
from llava_zh.sa1b.index import Member, Problem
from llava_zh.sa1b.tree import ArchiveInfo
from llava_zh.sa1b.urls import archive_names, key_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from llava_zh.sa1b.archive import Archive
    from llava_zh.sa1b.filesystem import Sa1bFileSystem

ARCHIVE_FILES = ("tar", "gzip", "zip")


class Item(NamedTuple):
    """One image, mask file or other member: `path` in the filesystem, and where it lies."""

    path: str  #: ``sa_000000/sa_1.jpg``; ``sa_1.jpg`` in a flat folder
    member: Member | None  #: in an archive file
    file: str = ""  #: under the root, for a file of its own

    @property
    def name(self) -> str:
        """The path without its archive."""
        return self.path.partition("/")[2] or self.path


class Contents:
    """The members of an archive file in the order they lie, or the images and masks in a folder."""

    def __init__(self, fs: Sa1bFileSystem, info: ArchiveInfo) -> None:
        """
        Raises: BadArchive; BadIndex for a remote archive without an index.
        """
        if info.kind == "unusable":
            raise BadArchive(info.problem or "", archive=f"{info.root}/{info.path}")
        self.info = info
        self._root = next(root for root in fs.roots if root.name == info.root)
        self._archive: Archive | None = fs.open_archive(info) if info.kind in ARCHIVE_FILES else None

    def __len__(self) -> int:
        return len(self._archive.index) if self._archive is not None else len(self.items)

    @property
    def problems(self) -> Sequence[Problem]:
        """What the index knows to be wrong with the archive."""
        return () if self._archive is None else self._archive.index.problems

    @property
    def keys(self) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        """The member keys (see `urls.member_key`), in no order."""
        import numpy as np

        if self._archive is not None:
            return self._archive.index.keys
        return np.concatenate([self._root.listing(place).keys for place in self._places()])

    @property
    def stamp(self) -> str:
        """Changes when the archive does, or when files come to or go from the folder."""
        if self._archive is not None:
            return f"{self._archive.source.size} {self._archive.source.stamp}"
        return hashlib.blake2b(repr([item.file for item in self.items]).encode(), digest_size=16).hexdigest()

    @cached_property
    def items(self) -> list[Item]:
        """Everything that can be opened; of a folder only images and masks, for it may hold anything else."""
        prefix = f"{self.info.name}/" if self.info.name else ""
        if self._archive is not None:
            index = self._archive.index
            members = sorted(index.members(), key=lambda member: member.offset)
            return [Item(prefix + index.short_name(member), member) for member in members]
        items = []
        for place in self._places():
            listing = self._root.listing(place)
            names = [key_name(key) for key in listing.keys.tolist()]
            names += sorted(name for name in listing.files if name.lower().endswith(JPEG_SUFFIXES))
            items += [Item(prefix + name, None, f"{place}/{name}".lstrip("/")) for name in names]
        return items

    def _places(self) -> list[str]:
        path = self.info.path
        return [path] if self.info.kind == "flat" else [path, f"{path}/images"]

    def size(self, item: Item) -> int:
        """Bytes of `item`. Raises: ImageNotFound when its file is gone."""
        if item.member is not None:
            return item.member.size
        hit = self._root.file(item.file)
        if hit is None:
            raise ImageNotFound(f"{self._root.show(item.file)} is gone since the folder was listed.")
        return hit.size

    def read(self, item: Item) -> bytes:
        """The bytes of `item`. Raises: BadArchive, ImageNotFound, BadImage."""
        with self._explained(item):
            if item.member is not None:
                assert self._archive is not None
                return self._archive.read(item.member)
            hit = self._root.file(item.file)
            if hit is None:
                raise ImageNotFound(f"{self._root.show(item.file)} is gone since the folder was listed.")
            return hit.read(0, hit.size)

    @contextlib.contextmanager
    def _explained(self, item: Item) -> Iterator[None]:
        try:
            yield
        except LlavaZhError:
            raise
        except OSError as error:
            where = self._root.show(item.file or self.info.path)
            raise BadImage(f"{item.path} cannot be read from {where}: {error.strerror or error}.") from error

    def read_all(self, items: Iterable[Item]) -> Iterator[tuple[Item, bytes]]:
        """Each of `items`, which are in the order of `self.items`, with its bytes.

        A gzip archive is read in one pass that ends with a look at its checksum: until the last item has been followed
        by the end of the iteration, damage that still decompresses may not have shown.

        Raises: BadArchive, ImageNotFound, BadImage.
        """
        if self.info.kind != "gzip":
            for item in items:
                yield item, self.read(item)
            return
        assert self._archive is not None
        reader = PassReader(self._archive.source)
        for item in items:
            assert item.member is not None
            with self._explained(item):
                data = reader.read(item.member.offset, item.member.size)
            yield item, data
        reader.finish()


def trouble(error: Exception) -> str:
    """Why an archive or a file cannot be used, for its line in a report: one that is bad stops no other.

    Readers raise errors of this library; what else may come out of them is a fault, and is told as such.
    """
    if isinstance(error, LlavaZhError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}. This is a fault in llava-zh: please report it."


def holds_images(fs: Sa1bFileSystem, info: ArchiveInfo) -> bool:
    """Whether `info` is about SA-1B; a folder of another name than an archive's is only if images are in it."""
    return info.kind != "folder" or len(Contents(fs, info).keys) > 0


def chosen(fs: Sa1bFileSystem, archives: int | str | Iterable[int | str] | None) -> list[ArchiveInfo]:
    """The archives and folders of `fs` that hold images, as they are on disk now, or those that `archives` names.

    Raises: UnknownName for one that is not there; BadArgument for what is no archive's name, or for none; RootNotFound.
    """
    fs.invalidate_cache()
    for root in fs.roots:
        root.check()
    found = [info for info in fs.archives() if holds_images(fs, info)]
    if archives is None:
        return found
    names = dict.fromkeys(archive_names(archives))
    if not names:
        raise BadArgument("archives= names no archive. Leave it out for all.")
    known = {info.name for info in found}
    for name in names:
        if name not in known:
            raise UnknownName.of("archive", name, sorted(known - {""}) or ["none"])
    return [info for info in found if info.name in names]
