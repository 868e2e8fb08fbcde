"""One root: its folders, its archive files, and the images that are files of their own.

    extracted   ROOT/sa_000000/sa_1.jpg, ROOT/sa_000000/images/sa_1.jpg
    flat        ROOT/sam/images/sa_1.jpg, ROOT/images/sa_1.jpg, ROOT/sa_1.jpg
    archives    ROOT/sa_000000.tar, .tar.gz, .tgz, .zip, SA-1B-Part-000000.zip

each of them in the root or in folders below it (see `discovery`), several mixed. A folder is listed at most once. One
image is looked for by its path, which needs no listing of the folder it is in; only `have`, `ls` and look-ups without
an archive list. `finding` is what looks an image up.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import fsspec
import numpy as np

from llava_zh.errors import BadArchive, BadIndex, ImageNotFound, NotPermitted, RootNotFound
from llava_zh.gates.limits import INDEX
from llava_zh.gates.links import lead_out
from llava_zh.gates.safe_text import get_logger, public_name
from llava_zh.sa1b import store
from llava_zh.sa1b.advice import before_first_index
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.discovery import Found, discover
from llava_zh.sa1b.hits import FileHit
from llava_zh.sa1b.remote import NO_LISTING, RefusedImage, explained, status_of, trouble, verdict
from llava_zh.sa1b.source import LocalSource, RemoteSource, Source, not_permitted, open_limit
from llava_zh.sa1b.urls import SHARD_NAME, archive_stem, member_key
from llava_zh.storage.progress import Progress

#: Archives kept open by a root, where it is set; else their share of the descriptors that this process may have.
MAX_OPEN: int | None = None
_log = get_logger(__name__)
_PROBED = (".tar", ".tar.gz", ".tgz", ".zip")


@dataclass(frozen=True)
class Listing:
    """The entries of one folder; files called sa_<id> as sorted member keys, which is what millions of them can be."""

    keys: np.ndarray[Any, Any] = field(default_factory=lambda: np.empty(0, "u4"))
    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(len(self.keys) or self.files or self.folders)


class Root:
    """One root folder or URL prefix. Shared by all filesystem objects of a process; safe in threads and after fork."""

    def __init__(self, url: str, protocol: str, options: dict[str, Any]) -> None:
        """
        Args:
            url: the root, secrets and all; `name` is its form without them.
            protocol, options: of the fsspec filesystem it lies on. The protocol ``local`` says that the root is a
                folder of data that came from somewhere: no symbolic link is followed out of it. ``file`` is a folder
                that the user named as a root: links are followed, shard folders may lie on other volumes.
        """
        cls = fsspec.get_filesystem_class(protocol)
        self._protocol, self._options = protocol, {**cls._get_kwargs_from_urls(url), **options}
        protocols = (cls.protocol,) if isinstance(cls.protocol, str) else cls.protocol
        self.local, self.guarded = "file" in protocols, protocol == "local"
        path, self._http, self._query = str(cls._strip_protocol(url)), protocol in ("http", "https"), ""
        if self._http:
            path, mark, query = path.partition("?")
            self._query = mark + query
        self.path = path.rstrip("/") or path
        self.name = self.path if self.guarded else public_name(url)
        self.after_fork()
        self._listings: dict[str, Listing] = {}
        self._listed_at: dict[str, int] = {}  # mtime of each listed folder, on local roots
        self._stems: dict[str, list[str]] = {}
        self._extracted: dict[str, list[str]] = {}
        self._some_ids: dict[str, int | None] = {}  # one of each shard folder
        self._all_stems: dict[str, list[str]] | None = None
        self._found: Found | None = None
        self._indexed: dict[str, tuple[float, float]] = {}  # by archive: when it was indexed last, and in how many s
        self._open: OrderedDict[str, Archive] = OrderedDict()
        self.flat_first = False  # where nothing can be listed: whether the last image was found without its archive
        self.generation = 0  # of the listings
        self.members: Any = None  # the table of `members`

    def after_fork(self) -> None:
        """Take a new lock and filesystem: the parent's may belong to a thread that does not exist here."""
        self._lock = threading.Lock()
        self._fs: Any = None

    @property
    def fs(self) -> Any:
        """The fsspec filesystem of this process."""
        if self._fs is None:
            self._fs = fsspec.filesystem(self._protocol, **self._options)
        return self._fs

    def join(self, *parts: str) -> str:
        """The path of `parts` under this root, on its filesystem; for HTTP percent-encoded, so that it stays below."""
        if not self._http:
            path = "/".join(part for part in parts if part) if len(parts) != 1 else parts[0]
            return f"{self.path}/{path}" if path and self.path else path or self.path
        return "/".join([self.path, *(quote(part, errors="surrogateescape") for part in parts if part)]) + self._query

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
        """Forget what was listed if a folder of archives (or any listed one) changed since; True if so."""
        listed = dict(self._listed_at)  # another thread may be at it too
        folders = list(listed) if everything or self._found is None else self._found.watched
        changed = any(self._mtime(f) != listed[f] for f in folders if f in listed)
        if changed:
            self._forget_listings()
        if everything:
            for path, archive in list(self._open.items()):
                if self.grown(path, archive):
                    self.forget(archive)
                    changed = True
        return changed

    def _forget_listings(self) -> None:
        self.generation += 1
        self._listings.clear()
        self._listed_at.clear()
        self._stems.clear()
        self._extracted.clear()
        self._some_ids.clear()
        self._all_stems = None
        self._found = None

    @property
    def listed(self) -> frozenset[str]:
        """The folders that are listed."""
        return frozenset(self._listings)

    @property
    def found(self) -> Found:
        """Where archives and images are under this root."""
        if self._found is None:
            self._found = discover(self)
        return self._found

    @property
    def blind(self) -> bool:
        """Whether nothing is known of what is there, as where a server gives no listing: files are asked for."""
        return not self.local and not self.found and not self.listing().folders and not self.listing().files

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
        except PermissionError:
            denied = not_permitted(self.join(folder))
            if self.local and not folder:
                raise RootNotFound(f"The SA-1B root {denied}") from None
            if self.local:
                _log.warning("%s What is in it counts as not there.", denied)
        except Exception as error:
            if self.local:
                raise
            if status_of(error) not in NO_LISTING:
                raise trouble(error, self.show(folder)) from None
        return Listing(np.array(sorted(keys), "u4"), frozenset(files), frozenset(folders))

    def _entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        if self.local:
            if self.guarded and lead_out(self.path, self.join(folder)):
                return
            with os.scandir(self.join(folder)) as entries:
                for entry in entries:
                    yield entry.name, entry.is_dir()
        else:
            # A server's links start with the folder's URL only where it ends in a slash.
            for info in self.fs.ls(self.join(folder) + ("/" if self._http and not self._query else ""), detail=True):
                name = info["name"].rstrip("/").rpartition("/")[2]
                if self._http:
                    name = unquote(name.partition("?")[0].partition("#")[0], errors="surrogateescape")
                if name and name not in (".", "..") and "/" not in name and "\0" not in name:
                    yield name, info["type"] == "directory"

    def entries(self, folder: str) -> list[dict[str, Any]]:
        """What the filesystem says of each entry of `folder`. Raises: FileNotFoundError, BadImage."""
        try:
            with contextlib.nullcontext() if self.local else explained(self.show(folder)):
                return list(self.fs.ls(self.join(folder), detail=True))
        except PermissionError:
            raise not_permitted(self.show(folder)) from None

    def some_id(self, folder: str) -> int | None:
        """The id of one of the images in the shard `folder`, whichever is met first; None if there is none."""
        if folder not in self._some_ids:
            self._some_ids[folder] = self._some_id(folder)
        return self._some_ids[folder]

    def _some_id(self, folder: str) -> int | None:
        for place in (folder, f"{folder}/images"):
            if not self.local or place in self._listings:
                keys = self.listing(place).keys
                if len(keys):
                    return int(keys[0]) >> 1
                continue
            with contextlib.suppress(OSError):
                key = next((key for name, _ in self._entries(place) if (key := member_key(name)) is not None), None)
                if key is not None:
                    return key >> 1
        return None

    def check(self) -> None:
        """Raises: RootNotFound when the root does not exist or holds nothing."""
        if self.local and not Path(self.path).is_dir():
            raise RootNotFound(f"The SA-1B root {self.name} does not exist or is no folder.")
        if self.local and not self.listing():
            raise RootNotFound(f"The SA-1B root {self.name} is empty.")

    def file(self, path: str) -> FileHit | None:
        """The file at `path` under the root, if there is one.

        Raises: NotPermitted; RefusedImage where a server refuses it; BadImage where it could not be asked.
        """
        full = self.join(path)
        if not self.local:
            return self._remote_file(full)
        try:
            status = os.stat(full)
        except PermissionError:
            raise not_permitted(str(Path(full).parent)) from None  # a folder on the way to it
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode) or (self.guarded and lead_out(self.path, full)):
            return None
        return FileHit(self, full, status.st_size, status)

    def _remote_file(self, full: str) -> FileHit | None:
        try:
            info = self.fs.info(full)
        except Exception as error:
            found = verdict(error, self.show_full(full))
            if found is None:
                return None
            raise found from None
        if info["type"] != "file":
            return None
        size = info.get("size")
        with explained(self.show_full(full)):
            size = int(size) if size is not None else len(self.fs.cat_file(full))
        return FileHit(self, full, size, dict(info))

    def show_full(self, full: str) -> str:
        """How messages call the path `full` of the root's filesystem."""
        return public_name(str(self.fs.unstrip_protocol(full)))

    # -- archives --------------------------------------------------------------------------------------------

    def stems(self) -> dict[str, list[str]]:
        """All archive files by the name they are addressed by: paths under the root, the fastest kind first.

        An archive is addressed by its stem; those of one name that lie in several folders, unless they are SA-1B's, are
        different ones and addressed by folder and stem.
        """
        if self._all_stems is None:
            places: dict[str, set[str]] = {}
            for folder, name in self.found.archives:
                places.setdefault(archive_stem(name) or name, set()).add(folder)
            stems: dict[str, list[str]] = {}
            for folder, name in self.found.archives:
                stem, path = archive_stem(name) or name, f"{folder}/{name}".lstrip("/")
                apart = folder and len(places[stem]) > 1 and not SHARD_NAME.fullmatch(stem)
                stems.setdefault(f"{folder}/{stem}" if apart else stem, []).append(path)
            for paths in stems.values():
                paths.sort(key=lambda path: (path.endswith(("gz", "zip")), path.count("/"), path))
            self._all_stems = dict(sorted(stems.items()))
        return self._all_stems

    def archive_paths(self, stem: str) -> list[str]:
        """The archive files called `stem`; where a server lists nothing, the usual names are tried once."""
        paths = self._stems.get(stem)
        if paths is None:
            paths = self.stems().get(stem, [])
            if not paths and SHARD_NAME.fullmatch(stem) and self.blind:
                names = [f"{folder}/{stem}{suffix}".lstrip("/") for folder in ("", "data") for suffix in _PROBED]
                paths = next(([name] for name in names if self._may_have(name)), [])
            self._stems[stem] = paths
        return paths

    def _may_have(self, path: str) -> bool:
        try:
            return self.file(path) is not None
        except (RefusedImage, NotPermitted):
            return False

    def extracted_folders(self, stem: str) -> list[str]:
        """The folders under the root that are called `stem`; where a server lists nothing, those that may be."""
        found = self._extracted.get(stem)
        if found is None:
            root = self.listing().folders
            found = [stem] if stem in root else []
            if "data" in root and stem in self.listing("data").folders:
                found.append(f"data/{stem}")
            if SHARD_NAME.fullmatch(stem):
                found += [path for path in self.found.shards.get(stem, ()) if path not in found]
            if not found and self.blind:
                found = [stem]
            self._extracted[stem] = found
        return found

    def flat_folders(self) -> list[str]:
        """The folders under the root that may hold images of all archives side by side."""
        if self.blind:
            return [""]
        return self.found.flat

    def source(self, path: str) -> Source:
        """The bytes of the archive at `path` under the root."""
        return LocalSource(self.join(path)) if self.local else RemoteSource(self.fs, self.join(path))

    def full_name(self, path: str) -> str:
        """The absolute path or the URL of `path`, which names an archive's index in the cache."""
        return self.join(path) if self.local else str(self.fs.unstrip_protocol(self.join(path)))

    def show(self, path: str) -> str:
        """How messages call `path` under the root: without credentials."""
        return f"{self.name}/{path}" if path else self.name

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
        shown = self.show(path) + store.SUFFIX
        try:
            with explained(shown), self.fs.open(self.join(path) + store.SUFFIX, "rb", cache_type="none") as file:
                data: bytes = file.read(INDEX.value + 1)
        except ImageNotFound:
            return None
        if len(data) > INDEX.value:
            raise BadIndex(f"{shown}: {INDEX.exceeded()}")
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
        before_first_index(self, path)
        return self.build(path)

    def build(self, path: str, **options: Any) -> Archive:
        """Index the archive at `path` under the root; `options` are those of `store.build`."""
        source, begun = self.source(path), time.monotonic()
        if "progress" in options:
            index = store.build(source, self.full_name(path), **options)
        else:
            with Progress(f"Indexing {path}", source.size) as progress:
                index = store.build(source, self.full_name(path), progress=progress.reach, **options)
        self._indexed[path] = time.monotonic(), time.monotonic() - begun
        return self._keep(path, Archive(source, index))

    def _keep(self, path: str, archive: Archive) -> Archive:
        with self._lock:
            self._open[path] = archive
            while len(self._open) > (MAX_OPEN or open_limit()):
                self._open.popitem(last=False)  # closed when the last reader lets go of it
        return archive

    def grown(self, path: str, archive: Archive) -> bool:
        """Whether the archive file at `path` is not as it was when `archive` was opened.

        One that still arrives may be indexed again at every look-up that fails: no more than a tenth of the time.
        """
        at, took = self._indexed.get(path, (0.0, 0.0))
        if not self.local or (took > 1 and time.monotonic() - at < 10 * took):
            return False
        return archive.source.replaced()

    def forget(self, archive: Archive | None = None) -> None:
        """Drop `archive`, or everything that was listed and opened, so that the next access looks anew."""
        with self._lock:
            if archive is not None:
                for path in [path for path, kept in self._open.items() if kept is archive]:
                    del self._open[path]
                return
            self._open.clear()
        if not self.local:
            self.fs.invalidate_cache()
        self._forget_listings()

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
