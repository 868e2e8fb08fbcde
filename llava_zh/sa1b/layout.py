"""What one root holds, and where an image lies in it. Every layout is found by looking, several may be mixed.

    extracted   ROOT/sa_000000/sa_1.jpg, ROOT/sa_000000/images/sa_1.jpg (also under ROOT/data)
    flat        ROOT/sam/images/sa_1.jpg, ROOT/images/sa_1.jpg, ROOT/sa_1.jpg
    archives    ROOT/sa_000000.tar, .tar.gz, .tgz, .zip, SA-1B-Part-000000.zip, and in ROOT/data, ROOT/images

A folder is listed at most once. On a local root, one image is looked for by its path, which needs no listing; on a
remote one by its path too, as a bucket may hold millions; only `have`, `ls` and look-ups without an archive list.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llava_zh.errors import BadArchive, BadIndex, RootNotFound
from llava_zh.sa1b import store
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.index import Member
from llava_zh.sa1b.source import LocalSource, RemoteSource, Source, open_limit
from llava_zh.sa1b.urls import archive_stem, member_key, public_name
from llava_zh.safe_text import one_line

#: Archives kept open by a root; each costs one file descriptor and its index without the windows. None: `open_limit`.
MAX_OPEN: int | None = None
_ARCHIVE_FOLDERS = ("", "data", "images")
_PROBED = (".tar", ".tar.gz", ".tgz", ".zip")


@dataclass(frozen=True)
class Listing:
    """The entries of one folder; files called sa_<id> as sorted member keys, which is what millions of them can be."""

    keys: np.ndarray[Any, Any] = field(default_factory=lambda: np.empty(0, "u4"))
    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(len(self.keys) or self.files or self.folders)


class FileHit(NamedTuple):
    """An image that is a file of its own, at `path` of the root's filesystem."""

    root: Root
    path: str
    size: int

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
            data: bytes = self.root.fs.cat_file(self.path, start=start, end=stop)
            return data
        with open(self.path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(stop - start)


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


class Root:
    """One root folder or URL prefix. Shared by all filesystem objects of a process; safe in threads and after fork."""

    def __init__(self, fs: Any, path: str, name: str) -> None:
        """`fs` is the fsspec filesystem that `path` lies on, `name` its URL, shown without secrets."""
        protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        self.fs, self.path, self.name = fs, path.rstrip("/") or path, public_name(name)
        self.local = "file" in protocols
        self.after_fork()
        self._listings: dict[str, Listing] = {}
        self._listed_at: dict[str, int] = {}  # mtime of each listed folder, on local roots
        self._stems: dict[str, list[str]] = {}
        self._all_stems: dict[str, list[str]] | None = None
        self._open: OrderedDict[str, Archive] = OrderedDict()

    def after_fork(self) -> None:
        """Take a new lock: the parent's may be held by a thread that does not exist here."""
        self._lock = threading.Lock()

    def join(self, *parts: str) -> str:
        """The path of `parts` under this root, on its filesystem."""
        return "/".join(part for part in (self.path, *parts) if part)

    # -- folders ---------------------------------------------------------------------------------------------

    def listing(self, folder: str = "") -> Listing:
        """The entries of `folder` under the root, empty if it is not there (or a server cannot list it)."""
        listing = self._listings.get(folder)
        if listing is None:
            self._listed_at[folder] = self._mtime(folder)
            listing = self._listings[folder] = self._list(folder)
        return listing

    def _mtime(self, folder: str) -> int:
        with contextlib.suppress(OSError):
            return os.stat(self.join(folder)).st_mtime_ns if self.local else 0
        return 0

    def refresh(self, everything: bool = False) -> bool:
        """Forget the listings if a folder of archives (or any listed one) changed since; True if so."""
        listed = dict(self._listed_at)  # another thread may be at it too
        folders = list(listed) if everything else _ARCHIVE_FOLDERS
        changed = any(self._mtime(f) != listed[f] for f in folders if f in listed)
        if changed:
            self._forget_listings()
        return changed

    def _forget_listings(self) -> None:
        self._listings.clear()
        self._listed_at.clear()
        self._stems.clear()
        self._all_stems = None

    def _list(self, folder: str) -> Listing:
        keys: list[int] = []
        files: set[str] = set()
        folders: set[str] = set()
        try:
            for name, is_folder in self._entries(folder):
                if is_folder:
                    folders.add(name)
                elif (key := member_key(name)) is not None:
                    keys.append(key)
                else:
                    files.add(name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        return Listing(np.array(sorted(keys), "u4"), frozenset(files), frozenset(folders))

    def _entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        if self.local:
            with os.scandir(self.join(folder)) as entries:
                for entry in entries:
                    yield entry.name, entry.is_dir()
        else:
            for info in self.fs.ls(self.join(folder), detail=True):
                name = info["name"].rstrip("/").rpartition("/")[2].partition("?")[0]
                if name:
                    yield name, info["type"] == "directory"

    def check(self) -> None:
        """Raises: RootNotFound when the root does not exist or holds nothing."""
        if self.local and not Path(self.path).is_dir():
            raise RootNotFound(f"The SA-1B root {self.name} does not exist or is no folder.")
        if self.local and not self.listing():
            raise RootNotFound(f"The SA-1B root {self.name} is empty.")

    def file(self, path: str) -> FileHit | None:
        """The file at `path` under the root, if there is one."""
        full = self.join(path)
        if self.local:
            try:
                status = os.stat(full)
            except (OSError, ValueError):
                return None
            return FileHit(self, full, status.st_size) if stat.S_ISREG(status.st_mode) else None
        try:
            info = self.fs.info(full)
        except FileNotFoundError:
            return None
        return FileHit(self, full, int(info["size"])) if info["type"] == "file" else None

    # -- archives --------------------------------------------------------------------------------------------

    def stems(self) -> dict[str, list[str]]:
        """All archive files by the name they are addressed by: paths under the root, the fastest kind first."""
        if self._all_stems is None:
            stems: dict[str, list[str]] = {}
            for folder in _ARCHIVE_FOLDERS:
                for name in self.listing(folder).files:
                    stem = archive_stem(name)
                    if stem is not None:
                        stems.setdefault(stem, []).append(f"{folder}/{name}".lstrip("/"))
            for paths in stems.values():
                paths.sort(key=lambda path: (path.endswith(("gz", "zip")), path))
            self._all_stems = dict(sorted(stems.items()))
        return self._all_stems

    def archive_paths(self, stem: str) -> list[str]:
        """The archive files called `stem`; where a server lists nothing, the usual names are tried once."""
        paths = self._stems.get(stem)
        if paths is None:
            paths = self.stems().get(stem, [])
            if not paths and not self.local and not self.listing():
                names = [f"{folder}/{stem}{suffix}".lstrip("/") for folder in ("", "data") for suffix in _PROBED]
                paths = next(([name] for name in names if self.file(name)), [])
            self._stems[stem] = paths
        return paths

    def source(self, path: str) -> Source:
        """The bytes of the archive at `path` under the root."""
        return LocalSource(self.join(path)) if self.local else RemoteSource(self.fs, self.join(path))

    def full_name(self, path: str) -> str:
        """The absolute path or the URL of `path`, which names an archive's index in the cache."""
        return self.join(path) if self.local else str(self.fs.unstrip_protocol(self.join(path)))

    def show(self, path: str) -> str:
        """How messages call `path` under the root: without credentials."""
        return f"{self.name}/{path}"

    def load_index(self, path: str) -> Archive | None:
        """The archive at `path` under the root if it has a good index; None is no error, it may just not have one."""
        with self._lock:
            archive = self._open.get(path)
            if archive is not None:
                self._open.move_to_end(path)
                return archive
        source = self.source(path)
        index = store.load(source, self.full_name(path), None if self.local else lambda: self._remote_sidecar(path))
        return None if index is None else self._keep(path, Archive(source, index))

    def _remote_sidecar(self, path: str) -> bytes | None:
        try:
            data: bytes = self.fs.cat_file(self.join(path) + store.SUFFIX)
        except FileNotFoundError:
            return None
        return data

    def archive(self, path: str) -> Archive:
        """The archive at `path` under the root, indexed now (with a progress bar) if need be.

        Raises: BadArchive; BadIndex for a remote archive without an index, which names the command that makes one.
        """
        archive = self._open.get(path) or self.load_index(path)
        if archive is not None:
            return archive
        if not self.local:
            raise BadIndex(
                f"The remote archive {self.show(path)} has no index, neither beside it nor in the cache. "
                f"Making one reads it once in full: llava-zh sa1b index --image-root {self.name}"
            )
        return self.build(path)

    def build(self, path: str, **options: Any) -> Archive:
        """Index the archive at `path` under the root; `options` are those of `store.build`."""
        source = self.source(path)
        if "progress" in options:
            index = store.build(source, self.full_name(path), **options)
        else:
            with _progress_bar(path, source.size) as progress:
                index = store.build(source, self.full_name(path), progress=progress, **options)
        return self._keep(path, Archive(source, index))

    def _keep(self, path: str, archive: Archive) -> Archive:
        with self._lock:
            self._open[path] = archive
            while len(self._open) > (MAX_OPEN or open_limit()):
                self._open.popitem(last=False)  # closed when the last reader lets go of it
        return archive

    def forget(self, archive: Archive | None = None) -> None:
        """Drop `archive`, or everything that was listed and opened, so that the next access looks anew."""
        with self._lock:
            if archive is not None:
                for path in [path for path, kept in self._open.items() if kept is archive]:
                    del self._open[path]
                return
            self._open.clear()
        self._forget_listings()

    # -- images ----------------------------------------------------------------------------------------------

    def find(self, path: str) -> FileHit | MemberHit | None:
        """Where the image at `path` lies under this root, or None.

        Raises: BadArchive or BadIndex when the archive that should hold it cannot be used, and nothing else has it.
        """
        stem, slash, name = path.partition("/")
        if not slash:
            return self._find_flat(path) or self._find_by_range(path)
        hit: FileHit | MemberHit | None = self._find_extracted(stem, name)
        if hit is not None:
            return hit
        failure: BadArchive | BadIndex | None = None
        for archive_path in self.archive_paths(stem):
            try:
                archive = self.archive(archive_path)
            except (BadArchive, BadIndex) as error:
                failure = failure or error
                continue
            member = archive.index.find(name)
            if member is not None:
                return MemberHit(archive, member)
        base = path.rpartition("/")[2]
        hit = self._find_flat(base) if member_key(base) is not None else None
        if hit is None and failure is not None:
            raise failure
        return hit

    def _find_extracted(self, stem: str, name: str) -> FileHit | None:
        for place in self.extracted_folders(stem):
            hit = self.file(f"{place}/{name}")
            if hit is None and "/" not in name:
                hit = self.file(f"{place}/images/{name}")
            if hit is not None:
                return hit
        return None

    def extracted_folders(self, stem: str) -> list[str]:
        """The folders under the root that are called `stem`; where a server lists nothing, those that may be."""
        blind = not self.local and not self.listing()
        found = [stem] if blind or stem in self.listing().folders else []
        if "data" in self.listing().folders and stem in self.listing("data").folders:
            found.append(f"data/{stem}")
        return found

    def flat_folders(self) -> list[str]:
        """The folders under the root that may hold images of all archives side by side."""
        root = self.listing()
        found = [""] if len(root.keys) else []
        return found + [folder for folder in ("images", "sam/images") if folder.partition("/")[0] in root.folders]

    def _find_flat(self, base: str) -> FileHit | None:
        hits = (self.file(f"{folder}/{base}".lstrip("/")) for folder in self.flat_folders())
        return next((hit for hit in hits if hit is not None), None)

    def _find_by_range(self, name: str) -> MemberHit | None:
        key = member_key(name)
        if key is None:
            return None
        for archive in self.candidates(key >> 1):
            member = archive.index.by_key(key)
            if member is not None:
                return MemberHit(archive, member)
        return None

    def candidates(self, image: int) -> Iterator[Archive]:
        """The archives that may hold the image with this id: by their indexes, then by the first id of the others.

        Archives hold ascending ranges that do not overlap, so of those without an index (local ones are indexed on the
        way) only the two whose first image is nearest come into question.
        """
        samples: list[tuple[int, str]] = []
        for path in (path for paths in self.stems().values() for path in paths):
            try:
                archive = self.load_index(path)
                if archive is None and self.local:
                    first = store.first_id(self.source(path))
                    if first is not None:
                        samples.append((first, path))
            except (BadArchive, OSError):
                continue
            ids = archive.index.id_range() if archive is not None else None
            if archive is not None and ids is not None and ids[0] <= image <= ids[1]:
                yield archive
        samples.sort()
        place = bisect_right(samples, (image, "\uffff"))
        for _, path in samples[max(0, place - 1) : place + 1]:
            yield self.archive(path)

    def id_ranges(self) -> list[tuple[int, int, str]]:
        """First and last image id and name of every archive that has an index, ascending."""
        ranges = []
        for stem, paths in self.stems().items():
            for path in paths:
                with contextlib.suppress(BadArchive, OSError):
                    archive = self.load_index(path)
                    ids = archive.index.id_range() if archive is not None else None
                    if ids is not None:
                        ranges.append((*ids, stem))
        return sorted(ranges)


@contextlib.contextmanager
def _progress_bar(path: str, size: int) -> Iterator[Callable[[int], object]]:
    """Gives a function of the bytes done so far, shown as a bar when it takes longer than a second."""
    from huggingface_hub.utils.tqdm import tqdm

    bar: Any = tqdm(total=size, unit="B", unit_scale=True, desc=f"Indexing {one_line(path)}", delay=1)  # type: ignore[no-untyped-call]
    with bar:
        yield lambda done: bar.update(done - bar.n)
