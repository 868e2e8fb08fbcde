"""Looking for many images at once, by indexes and listings, in array operations."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llava_zh.errors import BadArchive, BadIndex
from llava_zh.sa1b import finding, published, tree
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.index import contains
from llava_zh.sa1b.layout import Listing, Root
from llava_zh.sa1b.urls import shard_of

_AT_ONCE = 16  # files that a server is asked for at the same time

Bools = np.ndarray[Any, Any]


class _Paths:
    """The paths of one `have`, taken apart: folder, file name, and the key of names like sa_1.jpg."""

    def __init__(self, paths: Any) -> None:
        if isinstance(paths, pa.ChunkedArray):
            paths = paths.combine_chunks()
        array = paths if isinstance(paths, pa.Array) else pa.array(paths, pa.large_string())
        array = _as_rows_name_them(array.fill_null("")).cast(pa.large_string())
        parts = pc.split_pattern(array, "/", max_splits=1, reverse=True)
        starts = parts.offsets.to_numpy()
        flat = parts.values
        self.base = flat.take(pa.array(starts[1:] - 1))
        deep = np.diff(starts) == 2
        folders = pc.if_else(pa.array(deep), flat.take(pa.array(starts[:-1])), "").dictionary_encode()
        self.folders: list[str] = folders.dictionary.to_pylist()
        codes = folders.indices.to_numpy()
        self.order = np.argsort(codes, kind="stable")
        self.bounds = np.searchsorted(codes[self.order], np.arange(len(self.folders) + 1))
        self.key, self.known = _keys(self.base)

    def __len__(self) -> int:
        return len(self.key)

    def groups(self) -> Iterator[tuple[str, Bools]]:
        """Each folder with the rows that name it."""
        for code, folder in enumerate(self.folders):
            yield folder, self.order[self.bounds[code] : self.bounds[code + 1]]


def _as_rows_name_them(array: Any) -> Any:
    """Paths without scheme, chain and leading slash, as they may stand in a URL; any other is one that is nowhere."""
    if pc.any(pc.match_substring_regex(array, "^sa1b://|^/")).as_py():
        array = pc.if_else(pc.starts_with(array, "sa1b://"), pc.replace_substring_regex(array, "::.*$", ""), array)
        array = pc.replace_substring_regex(array, "^sa1b://|^/+", "")
    return published.checked(array)


def _keys(base: Any) -> tuple[Bools, Bools]:
    """The member keys of file names, and which of them have one."""
    masks = pc.match_substring_regex(base, r"^sa_(0|[1-9][0-9]{0,8})\.json$")
    known = pc.or_(masks, pc.match_substring_regex(base, r"^sa_(0|[1-9][0-9]{0,8})\.jpg$"))
    digits = pc.if_else(masks, pc.utf8_slice_codeunits(base, 3, -5), pc.utf8_slice_codeunits(base, 3, -4))
    ids = pc.cast(pc.if_else(known, digits, "0"), pa.uint32()).to_numpy()
    is_masks = masks.to_numpy(zero_copy_only=False)
    return ids * np.uint32(2) + is_masks, known.to_numpy(zero_copy_only=False)


def group_by_folder(paths: Any) -> tuple[dict[str, Bools], Any]:
    """The images named by `paths` as sorted member keys, by the folder before the name; and the paths that name none.

    Paths are taken as `have` takes them.
    """
    parsed = _Paths(paths)
    keys = {folder: np.unique(parsed.key[rows[parsed.known[rows]]]) for folder, rows in parsed.groups()}
    unknown = np.flatnonzero(~parsed.known)
    return {folder: found for folder, found in keys.items() if len(found)}, [str(paths[int(i)]) for i in unknown]


def fingerprint(roots: list[Root]) -> str:
    """See `Sa1bFileSystem.fingerprint`."""
    digest = hashlib.blake2b(digest_size=16)
    for root in roots:
        root.check()
        for info in tree.archives(root):
            if info.kind in ("extracted", "folder", "flat"):
                listings = [root.listing(f"{info.path}/{inner}".strip("/")) for inner in ("", "images")]
                held: Any = [(one.keys.tobytes(), sorted(one.files)) for one in listings]
            elif info.kind == "unusable":
                held = info.problem
            else:
                # A remote archive counts as holding nothing until it has an index; local ones are indexed when needed.
                held = (info.size, root.source(info.path).stamp, root.local or info.indexed)
            digest.update(repr((root.name, info.path, held)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def have(roots: list[Root], paths: Any, build: bool = True) -> Bools:
    """Which of `paths` any of the `roots` holds; see `Sa1bFileSystem.have`."""
    parsed = _Paths(paths)
    found = np.zeros(len(parsed), bool)
    for root in roots:
        root.check()
        for folder, rows in parsed.groups():
            rows = rows[~found[rows]]
            if not len(rows):
                continue
            if root.blind:
                found[rows] = _asked(root, folder, parsed.base.take(pa.array(rows)).to_pylist())
            else:
                found[rows] = _Lookup(root, parsed, folder, rows, build).run()
    return found


def _asked(root: Root, folder: str, names: list[str]) -> Bools:
    """Which of the files `names` in `folder` a server has that lists nothing: it is asked for each.

    Raises: BadImage where it refuses them, or could not be asked.
    """
    paths = [f"{folder}/{name}".lstrip("/") for name in names]
    different = list(dict.fromkeys(path for path in paths if path and published.problem(path) is None))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        there = dict(zip(different, pool.map(partial(_there, root), different), strict=True))
    return np.array([there.get(path, False) for path in paths], bool)


def _there(root: Root, path: str) -> bool:
    try:
        return finding.find(root, path) is not None
    except (BadArchive, BadIndex):
        return False


def archive_of(roots: list[Root], paths: Any, names: Iterable[str] | None = None) -> pa.Array:
    """The archives that `paths` are in; see `Sa1bFileSystem.archive_of`."""
    own = published.own_archive(paths)
    unnamed = np.flatnonzero(own.is_null().to_numpy(zero_copy_only=False))
    if not len(unnamed):
        return own
    parsed = _Paths(paths.take(pa.array(unnamed)))
    rows = np.flatnonzero(parsed.known)
    wanted = None if names is None else set(names)
    found = np.full(len(unnamed), None, object)
    for root in roots:
        for name, keys in _keys_by_archive(root, wanted):
            if not len(rows):
                break
            hits = contains(keys, parsed.key[rows]) if len(keys) else np.zeros(len(rows), bool)
            found[rows[hits]] = name
            rows = rows[~hits]
    values = np.full(len(own), None, object)
    values[unnamed] = found
    return pc.coalesce(own, pa.array(values, pa.string()))


def _keys_by_archive(root: Root, wanted: set[str] | None) -> Iterator[tuple[str, Bools]]:
    for name, archive_paths in root.stems().items():
        if wanted is None or name in wanted:
            for path in archive_paths:
                with contextlib.suppress(BadArchive, BadIndex, OSError):
                    yield name, root.archive(path).index.keys
    for name, folders in root.found.shards.items():
        if wanted is None or name in wanted:
            for folder in folders:
                for place in (folder, f"{folder}/images"):
                    yield name, root.listing(place).keys


class _Lookup:
    """The rows of one folder in one root. Each source is only asked for what those before it do not have."""

    def __init__(self, root: Root, paths: _Paths, folder: str, rows: Bools, build: bool) -> None:
        self.root, self.paths, self.folder, self.rows, self.build = root, paths, folder, rows, build
        self.found = np.zeros(len(rows), bool)

    def run(self) -> Bools:
        if self.folder:
            self.add_named(self.folder)
        else:
            self.add_names(self.root.listing().files)
        shard = shard_of(f"{self.folder}/x")
        if shard is not None and shard != self.folder:
            self.add_named(shard, numbered=True)
        if len(self.missing(keyed=True)):
            for flat in self.root.flat_folders():
                self.add_keys(self.root.listing(flat).keys)
        if shard is None and len(self.missing(keyed=True)):
            self.add_unnamed()
        return self.found

    def add_named(self, folder: str, numbered: bool = False) -> None:
        """What the folder or the archive called so holds; only images known by their `numbered` names if need be."""
        stem, _, rest = folder.partition("/")
        for place in self.root.extracted_folders(stem):
            inner = f"{place}/{rest}".rstrip("/")
            self.add_listing(self.root.listing(inner), numbered)
            if not rest:
                self.add_keys(self.root.listing(f"{inner}/images").keys)
        places = [(stem, rest)]
        if rest and not self.root.archive_paths(stem):
            places += [
                (name, folder[len(name) + 1 :]) for name in self.root.stems() if f"{folder}/".startswith(f"{name}/")
            ]
        for name, inner in places:
            for path in self.root.archive_paths(name):
                archive = self.archive(path)
                if archive is not None and numbered:
                    self.add_keys(archive.index.keys)
                elif archive is not None:
                    self.add_archive(archive, inner)

    def add_unnamed(self) -> None:
        """What any archive or shard folder holds, of images whose path names none."""
        for path in (path for paths in self.root.stems().values() for path in paths):
            archive = self.archive(path)
            if archive is not None:
                self.add_keys(archive.index.keys)
        missing = self.paths.key[self.rows[self.missing(keyed=True)]]
        folders = {f for image in np.unique(missing >> 1).tolist() for f in finding.likely_shards(self.root, image)}
        for folder in sorted(folders):
            self.add_keys(self.root.listing(folder).keys)
            self.add_keys(self.root.listing(f"{folder}/images").keys)

    def archive(self, path: str) -> Archive | None:
        if self.found.all():
            return None
        try:
            return self.root.archive(path) if self.build else self.root.load_index(path)
        except (BadArchive, BadIndex):
            return None

    def missing(self, keyed: bool) -> Bools:
        rows: Bools = np.flatnonzero(~self.found & (self.paths.known[self.rows] == keyed))
        return rows

    def add_keys(self, keys: Bools) -> None:
        missing = self.missing(keyed=True)
        if len(missing) and len(keys):
            self.found[missing] |= contains(keys, self.paths.key[self.rows[missing]])

    def add_names(self, names: Any, prefix: str = "") -> None:
        missing = np.flatnonzero(~self.found)
        if len(missing) and len(names):
            bases = self.paths.base.take(pa.array(self.rows[missing]))
            values = pa.array([name[len(prefix) :] for name in names], pa.large_string())
            self.found[missing] |= pc.is_in(bases, value_set=values).to_numpy(zero_copy_only=False)

    def add_listing(self, listing: Listing, numbered: bool = False) -> None:
        self.add_keys(listing.keys)
        if not numbered and len(self.missing(keyed=False)):
            self.add_names(listing.files)

    def add_archive(self, archive: Archive, rest: str) -> None:
        index = archive.index
        prefix = f"{rest}/" if rest else ""
        if not rest or rest + "/" == index.prefixes[0] == (index.prefixes[1] or index.prefixes[0]):
            self.add_keys(index.keys)
        if not self.found.all():
            self.add_names([m.name for m in index.under(rest) if "/" not in m.name[len(prefix) :]], prefix)
