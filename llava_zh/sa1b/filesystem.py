"""``sa1b://``, a read-only fsspec filesystem over one or more SA-1B roots.

fsspec finds the class through an entry point, so ``fsspec.open("sa1b://sa_000000/sa_1.jpg::/data/sa1b")``, pandas, Ray
and `datasets.Image` work without this package being imported first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NoReturn

import numpy as np
from fsspec.core import has_magic, split_protocol
from fsspec.spec import AbstractFileSystem

from llava_zh.errors import (
    BadArchive,
    BadImage,
    BadIndex,
    ImageNotFound,
    ReadOnlyFileSystemError,
    RootNotFound,
    UnknownTime,
    nearest,
)
from llava_zh.forks import Lock, in_child
from llava_zh.gates import links
from llava_zh.sa1b import bulk, finding, members, published, tree
from llava_zh.sa1b.access import ROOT_VARIABLE, resolve
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.hits import FileHit, MemberHit
from llava_zh.sa1b.image_cache import ImageCache, parse_limit
from llava_zh.sa1b.layout import Root
from llava_zh.sa1b.opened import RangedFile, WholeFile, check_picture, info_of, moment, size_of
from llava_zh.sa1b.tree import ArchiveInfo
from llava_zh.sa1b.urls import SHARD_NAME, member_key, normalize, search_path

#: What a row whose image is missing can be done about.
LEAVE_OUT = 'Rows without their image are left out with archives="available" or on_missing_image="skip".'
LEAVE_OUT_OTHERS = (
    "Pass the folder that the paths start from as image_root=; "
    'rows without their image are left out with on_missing_image="skip".'
)

#: Members up to this size are read at once when opened; of larger ones only the ranges that are asked for.
_WHOLE = 64 << 20

_roots: dict[Any, Root] = {}
_roots_lock = Lock()


def _renew_roots() -> None:
    for root in _roots.values():
        root.after_fork()


in_child(_renew_roots)


def _root(url: str, protocol: str, options: dict[str, Any]) -> Root:
    """The Root of this place; one in a process, whatever number of filesystem objects and threads use it."""
    url, options = resolve(url, options, "" if protocol in ("file", "local") else protocol)
    protocol = "file" if protocol == "local" and links.followed() else protocol
    key = (protocol, url, repr(sorted(options.items(), key=lambda item: item[0])))
    root = _roots.get(key)
    if root is None:
        with _roots_lock:
            root = _roots.setdefault(key, Root(url, protocol, options))
    return root


class Sa1bFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """SA-1B's images and masks, wherever and in whatever layout they lie.

    A path is ``<archive>/<member>``, ``sa_000000/sa_1.jpg``; ``sa_1.jpg`` alone is found through the ranges of ids.
    """

    protocol = "sa1b"
    root_marker = ""

    def __init__(
        self,
        fo: str | Sequence[str] | None = None,
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        cache_images: int | str | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            fo: a root, or several in a list or separated by commas: local folders or fsspec URLs. None reads the
                environment variable ``SA1B_ROOT``.
            target_protocol, target_options: filled in by fsspec for a chained URL; `target_options` then also holds the
                next root of the search path.
            cache_images: keep images of remote roots on the local disk, up to this size (``"10GB"``); by default what
                the environment variable ``LLAVA_ZH_IMAGE_CACHE`` says, else none are kept.
            **options: storage options by protocol, as in ``fsspec.open``: ``s3={"anon": True}``.
        """
        super().__init__(fo=fo, target_protocol=target_protocol, target_options=target_options, **options)
        limit = parse_limit(cache_images)
        self._cache = ImageCache(limit) if limit else None
        self._explicit = None if fo is None else _roots_of(fo, target_protocol, target_options or {}, options)
        self._storage_options = options
        self._from_environment: tuple[str | None, list[Root]] = (None, [])

    @property
    def roots(self) -> list[Root]:
        """The roots of the search path, first root first. Raises: RootNotFound when none is set."""
        if self._explicit is not None:
            return self._explicit
        text = os.environ.get(ROOT_VARIABLE)
        if text is None or text != self._from_environment[0]:
            self._from_environment = (text, _roots_of(search_path(None), None, {}, self._storage_options))
        return self._from_environment[1]

    def _refreshed(self, everything: bool = False) -> list[Root]:
        """The roots, those listed anew whose folders changed since they were listed."""
        for root in self.roots:
            root.refresh(everything)
        return self.roots

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        return normalize(os.fspath(path))

    # -- reading ---------------------------------------------------------------------------------------------

    def locate(self, path: str) -> FileHit | MemberHit:
        """Where the image or mask at `path` lies.

        Raises: ImageNotFound; RootNotFound; BadArchive or BadIndex when the archive that should hold it is unusable.
        """
        path = self._strip_protocol(path)
        hit = self._find(path)
        if hit is None:
            raise ImageNotFound(published.explained(path) or self._why_not(path))
        return hit

    def _find(self, path: str) -> FileHit | MemberHit | None:
        if path.startswith("!") and published.explained(path) is not None:
            return None
        roots, path = self._asked(path)
        hit = self._find_once(roots, path)
        if hit is None and sum(root.refresh() for root in roots):  # archives may have come since
            hit = self._find_once(roots, path)
        return hit

    def _asked(self, path: str) -> tuple[list[Root], str]:
        """Where to look, and for what: `path` may start with a mark of `published`."""
        if not path.startswith("!"):
            return self.roots, path
        roots = self.data_roots if path.startswith(published.DATA) else self.roots
        return roots, normalize(published.name_of(path))

    @property
    def data_roots(self) -> list[Root]:
        """The roots as folders of data that came from somewhere, out of which no symbolic link is followed."""
        return [_root(root.path, "local", {}) if root.local else root for root in self.roots]

    def _find_once(self, roots: list[Root], path: str) -> FileHit | MemberHit | None:
        failure: BadArchive | BadIndex | BadImage | None = None
        for root in roots:
            try:
                hit = finding.find(root, path)
            except (BadArchive, BadIndex, BadImage) as error:
                failure = failure or error
                continue
            if hit is not None:
                return hit
        if failure is not None:
            raise failure
        return None

    def _why_not(self, path: str) -> str:
        """The message for a path that no root has; RootNotFound instead if a root is not there at all."""
        roots, name = self._asked(path)
        # Only rows of SA-1B are chosen by archives.
        of_sa1b = not path.startswith(published.DATA) and member_key(name.rpartition("/")[2]) is not None
        if of_sa1b:
            return f"{self._reason(roots, name)} {LEAVE_OUT}"
        try:
            return f"{self._reason(roots, name)} {LEAVE_OUT_OTHERS}"
        except RootNotFound:
            where = ", ".join(root.name for root in roots)
            return f"No image {name}: {where} does not exist or is no folder. {LEAVE_OUT_OTHERS}"

    def _reason(self, roots: list[Root], path: str) -> str:
        for root in roots:
            root.check()
        where = ", ".join(root.name for root in roots)
        stem, slash, name = path.partition("/")
        held = [(root, p) for root in roots for p in root.archive_paths(stem)] if slash else []
        for root, archive_path in held:
            index = root.archive(archive_path).index
            reason = finding.why_absent(index, name, root.show(archive_path))
            if reason is not None:
                return reason
        message = f"No image {path} under {where}."
        if held:
            return f"{message} {held[0][1]} has no such member."
        key = member_key(path.rpartition("/")[2])
        ranges = sorted(r for root in roots for r in root.id_ranges()) if key is not None else []
        message += members.near_misses(roots, path)
        if key is not None and ranges:
            low, high, near = min(ranges, key=lambda r: max(r[0] - (key >> 1), (key >> 1) - r[1]))
            message += f" Of the indexed archives, {near} comes nearest: it holds the ids {low} to {high}."
        elif slash:
            known = sorted({name for root in roots for name in (*root.stems(), *root.listing().folders)})
            message += nearest(stem, known)
        return message

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """The bytes of the image at `path`, or those from `start` to `end`."""
        hit = self.locate(path)
        first, last, _ = slice(start, end).indices(size_of(hit))
        return self._read(hit, first, last)

    def _read(self, hit: FileHit | MemberHit, first: int, last: int) -> bytes:
        if self._cache is None or not hit.remote:
            return self.fetch(hit, first, last)
        data = self._cache.get(hit.version)
        if data is None:
            data = self.fetch(hit, 0, size_of(hit))
            self._cache.put(hit.version, data)
        return data[first:last]

    def fetch(self, hit: FileHit | MemberHit, first: int, last: int) -> bytes:
        """Bytes `first` to `last` of what `locate` found, past the cache of images."""
        if isinstance(hit, FileHit):
            return hit.read(first, last)
        try:
            return hit.archive.read(hit.member, first, last)
        except BadArchive:
            self._forget(hit.archive)
            raise

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        """As in fsspec; one path without wildcards goes straight to `cat_file`."""
        if isinstance(path, str) and not recursive and on_error == "raise" and not has_magic(path):
            return self.cat_file(path, **kwargs)
        return super().cat(path, recursive=recursive, on_error=on_error, **kwargs)

    def _forget(self, archive: Archive) -> None:
        for root in self.roots:
            root.forget(archive)

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, cache_type: str | None = None, **kwargs: Any
    ) -> Any:
        if mode != "rb":
            raise _read_only("open", path)
        hit = self.locate(path)
        if cache_type == "none":  # whoever asks so, as blockcache:: does, keeps the ranges itself
            return RangedFile(self, path, hit, block_size, cache_type)
        if size_of(hit) <= _WHOLE:
            data = self._read(hit, 0, size_of(hit))
            if isinstance(hit, FileHit):
                check_picture(hit, data)
            return WholeFile(data)
        if isinstance(hit, FileHit) and not hit.remote:
            return hit.root.fs.open(hit.path, "rb")
        return RangedFile(self, path, hit, (8 if hit.remote else 1) << 20, "readahead")

    # -- listing ---------------------------------------------------------------------------------------------

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Name, size, type and, where known, ``mtime`` of `path`; for a member also its archive, and where in it."""
        path = self._strip_protocol(path)
        if not path:
            for root in self.roots:
                root.check()
            return {"name": "", "size": 0, "type": "directory"}
        hit = None if SHARD_NAME.fullmatch(path) else self._find(path)
        if hit is None:
            if not path.startswith("!") and self._is_folder(path):
                return {"name": path, "size": 0, "type": "directory"}
            raise ImageNotFound(published.explained(path) or self._why_not(path))
        return info_of(path, hit)

    def ukey(self, path: str) -> str:
        """What changes when the file does. An archive that another has taken the place of is opened anew first."""
        hit = self.locate(path)
        if isinstance(hit, MemberHit) and hit.archive.source.replaced():
            self._forget(hit.archive)
        return str(super().ukey(path))

    def modified(self, path: str) -> datetime:
        """When the file, or the archive that it is in, was written to last. Raises: UnknownTime."""
        return self._moment(path, "mtime")

    def created(self, path: str) -> datetime:
        """When the file, or its archive, was made, or renamed, as fsspec's local files say it. Raises: UnknownTime."""
        return self._moment(path, "created")

    def _moment(self, path: str, name: str) -> datetime:
        found = moment(self.info(path), name)
        if found is None:
            raise UnknownTime(f"When {path} was written is not known: its root tells no {name}.")
        return found

    def _is_folder(self, path: str) -> bool:
        return any(tree.folder_exists(root, path) for root in self.roots)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        """The archives (as folders), or what is in one of them or in a folder inside it."""
        path = self._strip_protocol(path)
        entries: dict[str, dict[str, Any]] = {}
        for root in self._refreshed():
            for entry in tree.children(root, path):
                entries.setdefault(entry["name"], entry)
        if not entries and path:
            info = self.info(path)
            entries = {path: info} if info["type"] == "file" else {}
        elif not entries:
            self.info(path)
        return [entries[name] for name in sorted(entries)] if detail else sorted(entries)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether `path` is there. Raises: RootNotFound, BadArchive, BadIndex, as silence would look like a no."""
        try:
            self.info(path)
        except ImageNotFound:
            return False
        return True

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        """As in fsspec; a member whose own name has wildcard characters matches itself."""
        if "/" in path and not kwargs.get("detail") and self._find(self._strip_protocol(path)) is not None:
            return [self._strip_protocol(path)]
        return super().glob(path, maxdepth=maxdepth, **kwargs)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget listings and open archives, so that the next access sees what changed on disk."""
        for root in self.roots:
            root.forget()
        super().invalidate_cache(path)

    # -- many at once ----------------------------------------------------------------------------------------

    def have(self, paths: Any, *, build: bool = True) -> np.ndarray[Any, Any]:
        """Which of `paths` are there, as an array of bool, from indexes and listings alone.

        `paths` is a sequence of strings or an Arrow array. Each folder is listed once and each archive that a path
        names is indexed if it is not yet (local ones; none if `build` is false). Archives that have no index then, or
        that cannot be used, count as holding nothing.
        """
        return bulk.have(self._refreshed(everything=True), paths, build)

    def fingerprint(self, *, data: bool = False) -> str:
        """A digest of what `have` goes by: archive files with their sizes and times, and the names in image folders.

        With `data`, the roots are folders of data that came from somewhere, see `find_members`.
        """
        roots = self.data_roots if data else self.roots
        for root in roots:
            root.refresh(everything=True)
        return bulk.fingerprint(roots)

    def find_members(self, paths: Sequence[str | None], *, data: bool = False) -> list[str | None]:
        """For each of `paths` the path in this filesystem of the member that it names, or None.

        ``images/1.jpg`` gives ``pictures/data/images/1.jpg`` for the archive ``pictures.tar``. The member with the
        longest common ending wins, the archive's name counting as the folder above its members; a tie between members
        is no hit, nor is a mere file name where the path names folders. See `members`. With `data`, the roots are
        folders of data that came from somewhere: no symbolic link is followed out of them.
        """
        roots = self.data_roots if data else self.roots
        for root in roots:
            root.refresh(everything=True)
        return members.match(roots, paths)

    def archive_of(self, paths: Any, names: Iterable[str] | None = None) -> Any:
        """The names of the archives (``sa_000003``) that `paths`, an Arrow array of text, are in; null where unknown.

        A path's own ``sa_NNNNNN`` says it; of the others, ``sam/images/sa_3001.jpg``, the ids in the indexes and
        listings do. `names` are the archives in question, all by default; those without an index are indexed.
        """
        return bulk.archive_of(self._refreshed(everything=True), paths, names)

    def archives(self) -> list[ArchiveInfo]:
        """What the roots hold: archive files, extracted folders and flat folders, without building any index."""
        return [info for root in self._refreshed() for info in tree.archives(root)]

    def open_archive(self, info: ArchiveInfo) -> Archive:
        """The archive that `info` (from `archives`) describes: its `index` lists the members, its `read` gives one.

        Raises: BadArchive; BadIndex for a remote archive without an index.
        """
        return next(root for root in self.roots if root.name == info.root).archive(info.path)

    def build_index(
        self,
        names: Sequence[str] | None = None,
        *,
        sidecar: bool = False,
        num_proc: int | None = None,
        rebuild: bool = False,
    ) -> list[ArchiveInfo]:
        """Index the archives called `names` (all by default) that have no index yet, several at once.

        Args:
            sidecar: write each index beside its archive, to travel with it, and not into the user's cache.
            num_proc: archives at a time, by default one a core.
            rebuild: make anew also those that are good.

        Returns what was indexed, with `problem` set where one could not be.
        """
        from llava_zh.sa1b.build import build_all

        return build_all(self._refreshed(), names, sidecar=sidecar, num_proc=num_proc, rebuild=rebuild)

    # -- writing is refused ----------------------------------------------------------------------------------

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _read_only("write", args[0] if args else "")

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = mv = touch = pipe_file = put_file = put = _refuse

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """As in fsspec, for reading only."""
        if set(mode) & set("wax+"):
            raise _read_only("write", path)
        return super().open(path, mode, **kwargs)


def _read_only(what: str, path: object) -> ReadOnlyFileSystemError:
    return ReadOnlyFileSystemError(
        f"Cannot {what} {path!r}: sa1b:// is read-only. Write to the folder under it instead."
    )


def _roots_of(
    fo: str | Sequence[str], protocol: str | None, options: dict[str, Any], by_protocol: dict[str, Any]
) -> list[Root]:
    """The roots that the arguments of the filesystem name.

    For a chained URL fsspec nests the hops: the next root is in the options of the one before it.
    """
    hops: list[tuple[str, str, dict[str, Any]]] = []
    if protocol is None:
        hops = [(root, split_protocol(root)[0] or "file", {}) for root in search_path(fo)]
    else:
        while True:
            options = dict(options)
            following = [options.pop(name, None) for name in ("fo", "target_protocol", "target_options")]
            hops.append((str(fo), protocol, options))
            if following[1] is None:
                break
            fo, protocol, options = following[0], following[1], following[2] or {}
    # fsspec gives the options of a protocol to the last hop that has it; all hops of one protocol share them.
    shared: dict[str, dict[str, Any]] = {name: value for name, value in by_protocol.items() if isinstance(value, dict)}
    shared |= {name: given for _, name, given in hops if given}
    return [_root(url, name, given or shared.get(name, {})) for url, name, given in hops]
