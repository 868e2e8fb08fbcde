"""Archives, whatever their form, to plain tars of their images, which are read fastest: one positioned read an image.

SA-1B's research licence covers the pixels in whatever archive they are; repacked archives are not to be passed on.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from llava_zh.errors import BadArchive, BadArgument, BadImage, ImageNotFound, LlavaZhError, OutputError
from llava_zh.sa1b.bulk import group_by_folder
from llava_zh.sa1b.contents import ARCHIVE_FILES, Contents, Item, chosen, trouble
from llava_zh.sa1b.gzip_points import cores
from llava_zh.sa1b.index import HARMLESS_PROBLEMS
from llava_zh.sa1b.layout import Root
from llava_zh.sa1b.source import LocalSource
from llava_zh.sa1b.tar_scan import scan_tar
from llava_zh.sa1b.tools.output import output_folder
from llava_zh.sa1b.tools.verify import jpeg_problem
from llava_zh.sa1b.tree import ArchiveInfo
from llava_zh.sa1b.urls import key_name, member_key
from llava_zh.storage.atomic import atomic
from llava_zh.storage.durable import check_space, explained
from llava_zh.storage.progress import Progress

if TYPE_CHECKING:
    from llava_zh.sa1b.filesystem import Sa1bFileSystem

_BLOCK = 512


class _NothingWhole(Exception):
    """No image of an archive can be read, so there is nothing to repack."""


class Selection:
    """Images to repack, some millions of them in a few bytes each: those that `add` was given."""

    def __init__(self, paths: Any = ()) -> None:
        self._keys: dict[str, np.ndarray[Any, Any]] = {}
        self.add(paths)

    def add(self, paths: Any) -> None:
        """Take these paths (``sa_000000/sa_1.jpg``, or ``sa_1.jpg`` in any archive; strings or an Arrow array) too.

        Raises: BadArgument for a path whose file name is not that of an SA-1B image.
        """
        if not len(paths):
            return
        groups, unknown = group_by_folder(paths)
        if unknown:
            raise BadArgument(f"{unknown[0]!r} names no SA-1B image; expected a path such as sa_000000/sa_1.jpg.")
        for folder, keys in groups.items():
            name = folder.partition("/")[0]
            self._keys[name] = np.union1d(self._keys.get(name, keys[:0]), keys)

    def archives(self) -> set[str]:
        """The archives that are named."""
        return set(self._keys) - {""}

    @property
    def anywhere(self) -> np.ndarray[Any, Any]:
        """The keys of images that were named without their archive."""
        return self._keys.get("", np.empty(0, "u4"))

    def of(self, archive: str) -> np.ndarray[Any, Any]:
        """The keys of the images named with this archive."""
        return self._keys.get(archive, np.empty(0, "u4"))


@dataclass
class Repacked:
    """What became of one archive."""

    name: str
    target: str
    members: int = 0  #: images, and masks if they were wanted
    bytes: int = 0  #: of the plain tar
    kept: bool = False  #: it was there already, with the same images
    missing: list[str] = field(default_factory=list)  #: images that were asked for and are not in the archive
    left_out: list[str] = field(default_factory=list)  #: what is damaged or lost, each with its reason
    problem: str | None = None  #: why there is no plain tar


def repack(
    fs: Sa1bFileSystem,
    output_dir: str | os.PathLike[str],
    *,
    archives: int | str | Iterable[int | str] | None = None,
    images: Selection | None = None,
    masks: bool = False,
    num_proc: int | None = None,
) -> list[Repacked]:
    """Write ``output_dir/sa_000000.tar``, a plain tar of the JPEGs, for each archive or extracted folder of `fs`.

    A tar appears under its name once it is complete, synced and read back. Those that are there already with the same
    images are kept, so a call that was stopped goes on at the archive it was at. Bytes of images are never changed.
    Of a damaged archive all that can be read and decoded is taken, and `Repacked.left_out` says what is not.

    Args:
        fs: ``fsspec.filesystem("sa1b", fo=ROOT)``.
        archives: numbers or names; all by default, or those that `images` names.
        images: only these.
        masks: the ``sa_<id>.json`` too. With `images`, those of the images chosen.
        num_proc: archives at a time, by default one a core.

    Returns one entry an archive, with `problem` set where it could not be repacked.

    Raises: RootNotFound; UnknownName; BadArgument; RunConflict; OutputError.
    """
    if num_proc is not None and num_proc < 1:
        raise BadArgument(f"num_proc={num_proc}: expected at least 1, or None for one a core.")
    infos = [info for info in chosen(fs, archives) if info.kind != "flat"]
    first = {info.name: info for info in reversed(infos)}  # of several forms of one archive, the one that is read first
    if images is not None and archives is None and not len(images.anywhere):
        first = {name: info for name, info in first.items() if name in images.archives()}
    if not first:
        raise BadArgument("There is no archive to repack: the images asked for are in none of those that are there.")
    _refuse_sources(fs.roots, Path(output_dir))
    fs.build_index([name for name, info in first.items() if info.kind in ARCHIVE_FILES and not info.indexed])
    workers = max(1, min(cores() if num_proc is None else num_proc, len(first)))
    progress = Progress("Repacking", len(first), unit="archives")
    with output_folder(output_dir) as folder, ThreadPoolExecutor(workers) as pool, progress:
        job = _Job(fs, folder, images, masks)
        results = []
        try:
            for one in pool.map(job.run, sorted(first.values(), key=lambda info: info.name)):
                results.append(one)
                progress.add(1)
        except BaseException:
            job.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return results


def _refuse_sources(roots: list[Root], folder: Path) -> None:
    places = [Path(root.join(place)).resolve() for root in roots if root.local for place in ("", "data", "images")]
    if folder.expanduser().resolve() in places:
        raise BadArgument(f"{folder} is where the archives are. Give another folder: plain tars have the same names.")


class _Written(NamedTuple):
    name: str
    size: int
    crc: int


class _Job:
    """One call of `repack`; `run` repacks one archive, in several threads at once."""

    def __init__(self, fs: Sa1bFileSystem, folder: Path, images: Selection | None, masks: bool) -> None:
        self.fs, self.folder, self.images, self.masks = fs, folder, images, masks
        self.stop = threading.Event()

    def run(self, info: ArchiveInfo) -> Repacked:
        target = self.folder / f"{info.name}.tar"
        done = Repacked(info.name, str(target))
        try:
            contents = Contents(self.fs, info)
            items = self._chosen(contents, done)
            if target.exists():
                self._keep(target, items, contents, done)
            elif items:
                self._write(target, items, contents, done)
            else:
                done.problem = "it holds no image" if self.images is None else "none of the images asked for is in it"
            if done.problem is None:
                done.left_out += self._lost(contents)
                if not done.members:
                    done.problem = "none of its images can be read"
        except OutputError:
            raise
        except Exception as error:  # one archive's, whatever it is
            if self.stop.is_set():
                raise
            done.problem = trouble(error)
        return done

    def _lost(self, contents: Contents) -> list[str]:
        """What the index knows to be lost or unreadable of the archive, each with its reason."""
        wanted = None if self.images is None else set(self.images.of(contents.info.name).tolist())
        lost = []
        for problem in contents.problems:
            key = member_key(problem.member.rpartition("/")[2])
            if problem.kind not in HARMLESS_PROBLEMS and (wanted is None or key is None or key in wanted):
                what = problem.member or "the archive"
                lost.append(f"{what} at {problem.offset:,}: {problem.kind}: {problem.detail}")
        return lost

    def _chosen(self, contents: Contents, done: Repacked) -> list[Item]:
        """The items to take, in the order they lie; what was asked for and is not there goes into `done.missing`."""
        by_name = {item.name: item for item in reversed(contents.items)}  # the first of one name wins
        keyed = [(item, member_key(item.name.rpartition("/")[2])) for item in reversed(by_name.values())]
        if self.images is None:
            return [item for item, key in keyed if key is not None and (self.masks or not key & 1)]
        asked = self.images.of(contents.info.name)
        there = np.array([key for _, key in keyed if key is not None], "u4")
        done.missing = [key_name(key) for key in np.setdiff1d(asked, there).tolist()]
        wanted = set(np.union1d(asked, self.images.anywhere).tolist())
        if self.masks:
            wanted |= {key | 1 for key in wanted}
        return [item for item, key in keyed if key in wanted]

    def _keep(self, target: Path, items: list[Item], contents: Contents, done: Repacked) -> None:
        source = LocalSource(str(target))
        scan = scan_tar(source.pread)
        held = {member.name: member.size for member in scan.members()}
        absent = [item for item in items if item.name not in held]
        absent = [item for item, _ in _salvaged(contents, absent, done)]
        expected = {item.name: _size(contents, item) for item in items}
        fits = all(expected.get(name) == size for name, size in held.items())
        if scan.problems or absent or not fits:
            raise BadArchive(
                f"{target} exists and holds other images than those asked for ({len(held):,}, not {len(expected):,}). "
                "It was not touched: move it away, or repack into another folder.",
                archive=str(target),
            )
        done.kept, done.members, done.bytes = True, len(held), source.size

    def _write(self, target: Path, items: list[Item], contents: Contents, done: Repacked) -> None:
        needed = sum(_size(contents, item) + 2 * _BLOCK for item in items)
        written: list[_Written] = []
        with (
            contextlib.suppress(_NothingWhole),
            explained(target),
            atomic(target, target.with_name(f".{target.name}.tmp")) as file,
        ):
            check_space(self.folder, needed, f"{contents.info.name}.tar", "choose fewer archives")
            written = self._copied(file, items, contents, done)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # so that what is read back comes from the disk
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            _read_back(Path(file.name), written)
            if not written:
                raise _NothingWhole
        done.members, done.bytes = len(written), target.stat().st_size if written else 0

    def _copied(self, file: BinaryIO, items: list[Item], contents: Contents, done: Repacked) -> list[_Written]:
        """Copy the items the fast way; where that meets damage, again one by one, without those that it touches."""
        if all(problem.kind in HARMLESS_PROBLEMS for problem in contents.problems):
            try:
                return self._copy(file, contents.read_all(items))
            except (BadArchive, BadImage, ImageNotFound):
                file.seek(0)
                file.truncate()
        return self._copy(file, _salvaged(contents, items, done))

    def _copy(self, file: BinaryIO, items: Iterable[tuple[Item, bytes]]) -> list[_Written]:
        written = []
        for item, data in items:
            if self.stop.is_set():
                raise LlavaZhError("stopped")
            header = tarfile.TarInfo(item.name)  # mode 0644, time and owner 0: the same images give the same bytes
            header.size = len(data)
            file.write(header.tobuf(tarfile.GNU_FORMAT))
            file.write(data)
            file.write(bytes(-len(data) % _BLOCK))
            written.append(_Written(item.name, len(data), zlib.crc32(data)))
        file.write(bytes(2 * _BLOCK))
        return written


def _size(contents: Contents, item: Item) -> int:
    """Bytes of `item`; 0 for a file that is gone, which is told of when it is read."""
    with contextlib.suppress(ImageNotFound):
        return contents.size(item)
    return 0


def _salvaged(contents: Contents, items: Iterable[Item], done: Repacked) -> Iterator[tuple[Item, bytes]]:
    """The items that can be read, and decoded if they are images; the others go into `done.left_out`."""
    for item in items:
        try:
            data = contents.read(item)
            problem = jpeg_problem(data) if item.name.endswith(".jpg") else None
        except Exception as error:  # one image's, whatever it is
            problem = trouble(error)
        if problem is None:
            yield item, data
        else:
            done.left_out.append(f"{item.name}: {problem}")


def _read_back(path: Path, written: Iterable[_Written]) -> None:
    """Raise BadArchive unless `path` holds exactly what was written."""
    source = LocalSource(str(path))
    scan = scan_tar(source.pread)
    held: Mapping[str, Any] = {member.name: member for member in scan.members()}
    expected = list(written)
    same = (
        not scan.problems
        and len(held) == len(expected)
        and all(
            one.name in held
            and held[one.name].size == one.size
            and zlib.crc32(source.pread(held[one.name].offset, one.size)) == one.crc
            for one in expected
        )
    )
    if not same:
        raise BadArchive(
            f"{path} did not read back as it was written; it was removed. Check the disk, and run the command again.",
            archive=str(path),
        )
