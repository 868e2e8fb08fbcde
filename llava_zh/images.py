"""Where the images that rows name are, and the path or URL of each, which `datasets.Image` opens when it is needed.

No class here opens an image: each turns published paths into what fsspec or Pillow can open, and tells which of
them are there without asking for one file at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Present = np.ndarray[Any, np.dtype[np.bool_]]


class Images(Protocol):
    """The images of a dataset; small and picklable, for it travels to every worker.

    `decode` says whether a row's image can be opened here, `identity` is text that tells two such places apart.
    """

    @property
    def decode(self) -> bool: ...

    @property
    def identity(self) -> str: ...

    def urls(self, paths: pa.Array) -> pa.Array:
        """From published paths to what `datasets.Image` opens; null stays null."""
        ...

    def present(self, paths: pa.Array) -> Present:
        """Whether each path (a text array) has an image."""
        ...

    def contents(self) -> str:
        """Text that changes when images come or go, by looking anew at what is there."""
        ...


@dataclass(frozen=True)
class Sa1bImages:
    """SA-1B below `roots` (a search path of folders and fsspec URLs), or wherever ``SA1B_ROOT`` says when None."""

    roots: tuple[str, ...] | None

    @property
    def decode(self) -> bool:
        return self.roots is not None or bool(os.environ.get("SA1B_ROOT"))

    @property
    def identity(self) -> str:
        return f"sa1b:{self.roots}:{self.decode}"

    def urls(self, paths: pa.Array) -> pa.Array:
        from .sa1b import url_suffix

        return pc.binary_join_element_wise("sa1b://", paths, url_suffix(self.roots), "")

    def present(self, paths: pa.Array) -> Present:
        return np.asarray(self.filesystem().have(paths))

    def contents(self) -> str:
        return str(self.filesystem().fingerprint())

    def filesystem(self) -> Any:
        """The ``sa1b://`` filesystem on these roots."""
        import fsspec

        return fsspec.filesystem("sa1b", fo=list(self.roots)) if self.roots is not None else fsspec.filesystem("sa1b")


@dataclass(frozen=True)
class ArchivedImages:
    """Images inside tar or zip archives that lie in one folder, whichever archive each is in."""

    folder: str
    decode: bool = True

    @property
    def identity(self) -> str:
        return f"archives:{self.folder}"

    def urls(self, paths: pa.Array) -> pa.Array:
        find = self._filesystem().find_member
        found = [None if path is None else find(path) or path for path in paths.to_pylist()]
        # A path that no archive holds keeps its published name, so that opening it says which image is missing.
        return pc.binary_join_element_wise("sa1b://", pa.array(found, pa.string()), f"::{self.folder}", "")

    def present(self, paths: pa.Array) -> Present:
        find = self._filesystem().find_member
        return np.array([path is not None and find(path) is not None for path in paths.to_pylist()], dtype=bool)

    def contents(self) -> str:
        return str(self._filesystem().fingerprint())

    def _filesystem(self) -> Any:
        import fsspec

        return fsspec.filesystem("sa1b", fo=[self.folder])


@dataclass(frozen=True)
class FolderImages:
    """Images as files below `base`, a folder or an fsspec URL."""

    base: str
    decode: bool = True

    @property
    def identity(self) -> str:
        return f"folder:{self.base}"

    def urls(self, paths: pa.Array) -> pa.Array:
        return pc.binary_join_element_wise(self.base.rstrip("/"), paths, "/")

    def present(self, paths: pa.Array) -> Present:
        listing = _Listing(self.base)
        return np.array([path is not None and listing.has(path) for path in paths.to_pylist()], dtype=bool)

    def contents(self) -> str:
        import fsspec

        fs, base = fsspec.core.url_to_fs(self.base)
        fs.invalidate_cache(base)
        return hashlib.sha256("\0".join(fs.find(base)).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class EmbeddedImages:
    """Images whose bytes are in the rows themselves."""

    decode: bool = True
    identity: str = "embedded"

    def urls(self, paths: pa.Array) -> pa.Array:
        return paths

    def present(self, paths: pa.Array) -> Present:
        return np.ones(len(paths), dtype=bool)

    def contents(self) -> str:
        return self.identity


@dataclass(frozen=True)
class UnresolvedImages:
    """Images that could not be found: rows give the published path, undecoded."""

    decode: bool = False
    identity: str = "unresolved"

    def urls(self, paths: pa.Array) -> pa.Array:
        return paths

    def present(self, paths: pa.Array) -> Present:
        return np.zeros(len(paths), dtype=bool)

    def contents(self) -> str:
        return self.identity


class _Listing:
    """Names in folders, each folder listed once."""

    def __init__(self, base: str) -> None:
        import fsspec

        self._fs, self._base = fsspec.core.url_to_fs(base)
        self._folders: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        folder, _, name = f"{self._base.rstrip('/')}/{path}".rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = frozenset(self._names(folder))
        return name in self._folders[folder]

    def _names(self, folder: str) -> Sequence[str]:
        try:
            return [entry.rsplit("/", 1)[-1] for entry in self._fs.ls(folder, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
