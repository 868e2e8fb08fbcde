"""Looking for many images at once, by indexes and listings, in array operations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llava_zh.errors import BadArchive, BadIndex
from llava_zh.sa1b import tree
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.index import contains
from llava_zh.sa1b.layout import Listing, Root
from llava_zh.sa1b.urls import member_key

Bools = np.ndarray[Any, Any]


class _Paths:
    """The paths of one `have`, taken apart: folder, file name, and the key of names like sa_1.jpg."""

    def __init__(self, paths: Any) -> None:
        if isinstance(paths, pa.ChunkedArray):
            paths = paths.combine_chunks()
        array = paths if isinstance(paths, pa.Array) else pa.array(paths, pa.large_string())
        array = array.cast(pa.large_string()).fill_null("")
        unusual = pc.match_substring_regex(array, r"^sa1b://|::|^/|(^|/)\.{0,2}/")
        if pc.any(unusual).as_py():
            array = pc.if_else(unusual, pc.replace_substring_regex(array, r"^sa1b://|::.*$", ""), array)
            array = pc.replace_substring_regex(array, r"^(\.?/)+", "")
            array = pc.replace_substring_regex(array, r"(/\.?)+/", "/")
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
            if len(rows):
                found[rows] = _Lookup(root, parsed, folder, rows, build).run()
    return found


class _Lookup:
    """The rows of one folder in one root. Each source is only asked for what those before it do not have."""

    def __init__(self, root: Root, paths: _Paths, folder: str, rows: Bools, build: bool) -> None:
        self.root, self.paths, self.folder, self.rows, self.build = root, paths, folder, rows, build
        self.found = np.zeros(len(rows), bool)

    def run(self) -> Bools:
        stem, _, rest = self.folder.partition("/")
        if stem:
            for place in self.root.extracted_folders(stem):
                inner = f"{place}/{rest}".rstrip("/")
                self.add_listing(self.root.listing(inner))
                if not rest:
                    self.add_listing(self.root.listing(f"{inner}/images"))
            for path in self.root.archive_paths(stem):
                archive = self.archive(path)
                if archive is not None:
                    self.add_archive(archive, rest)
        for flat in self.root.flat_folders():
            self.add_keys(self.root.listing(flat).keys)
        if not stem and not self.found.all():
            for path in (path for paths in self.root.stems().values() for path in paths):
                archive = self.archive(path)
                if archive is not None:
                    self.add_keys(archive.index.keys)
        return self.found

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

    def add_listing(self, listing: Listing) -> None:
        self.add_keys(listing.keys)
        if len(self.missing(keyed=False)):
            self.add_names(listing.files)

    def add_archive(self, archive: Archive, rest: str) -> None:
        index = archive.index
        prefix = f"{rest}/" if rest else ""
        if not rest or rest + "/" == index.prefixes[0] == (index.prefixes[1] or index.prefixes[0]):
            self.add_keys(index.keys)
        if not self.found.all():
            self.add_names([m.name for m in index.under(rest) if "/" not in m.name[len(prefix) :]], prefix)


def find_member(root: Root, path: str) -> str | None:
    """The path of the member of `root` that ends in `path`; see `Sa1bFileSystem.find_member`."""
    if root.find(path) is not None:
        return path
    fallback = None
    for stem, archive_paths in root.stems().items():
        for archive_path in archive_paths:
            try:
                members = root.archive(archive_path).index.find_base(path)
            except (BadArchive, BadIndex):
                continue
            for member in members:
                if member.name == path or member.name.endswith("/" + path):
                    return f"{stem}/{member.name}"
                if fallback is None:
                    fallback = f"{stem}/{member.name}"
    return fallback if member_key(path) is None else None
