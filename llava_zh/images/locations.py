"""Where the images that rows name are, and the path or URL of each, which `datasets.Image` opens when it is needed.

No class here opens an image: each turns published paths into what fsspec or Pillow can open, and tells which of
them are there without asking for one file at a time. A path comes from a row, which is someone else's: it may name a
file below the place where images are, and nothing else. One that would choose another (``..``, a scheme, ``::``), or a
symbolic link that leads out of a data folder, becomes a URL that gives an error when it is opened, and counts as
missing. Passwords and tokens never stand in what `urls` and `identity` give; see :mod:`llava_zh.sa1b.access`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import BadArgument
from ..gates import links
from ..sa1b.access import ROOT_VARIABLE, Access, public
from ..sa1b.published import (
    LINK,
    NAME,
    NO_BYTES,
    NOWHERE,
    SCHEME,
    checked,
    data_url,
    image_urls,
    mark,
    own_archive,
    plain,
)
from .listings import Listings, forget, names_below
from .prefixed import PrefixedImages

Present = np.ndarray[Any, np.dtype[np.bool_]]
Held = tuple[tuple[str, ...] | None, str]


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

    def archive_of(self, paths: pa.Array, names: Sequence[str]) -> pa.Array:
        """The SA-1B archive of each path, as far as it is one of `names` or the path says it; null for others."""
        ...

    def contents(self) -> str:
        """Text that changes when images come or go, by looking anew at what is there."""
        ...

    def held(self) -> Held:
        """The archives that are there, None where images are in none; and text for what is there outside of them."""
        ...


class _InNoArchive:
    """Images that are in an archive of SA-1B only where their paths say so."""

    def archive_of(self, paths: pa.Array, names: Sequence[str]) -> pa.Array:
        return own_archive(paths)

    def held(self) -> Held:
        return None, ""


def _held(filesystem: Any) -> Held:
    found = filesystem.archives()
    names = {info.name for info in found if info.name and info.kind != "unusable"}
    return tuple(sorted(names)), " ".join(f"{info.path}:{info.members}" for info in found if not info.name)


def with_token(images: Images, token: Any) -> Images:
    """`images` opened with `token` (as for `load_dataset`) where they are on the Hugging Face hub.

    The token travels to workers with `images` and is registered in every process that has them; rows and caches do not
    hold it. Another process that opens such rows needs the token by itself (``HF_TOKEN`` or a login).
    """
    if token is None:
        return images
    if isinstance(images, Sa1bImages) and images.roots is not None:
        return replace(images, access=images.access | Access.of(*images.roots, token=token))
    if isinstance(images, FolderImages):
        return replace(images, access=images.access | Access.of(images.base, token=token))
    if isinstance(images, PrefixedImages):
        return images.changed(lambda place: with_token(place, token))
    return images


@dataclass(frozen=True)
class Sa1bImages:
    """SA-1B below `roots` (a search path of folders and fsspec URLs), or wherever ``SA1B_ROOT`` says when None.

    The user names these places himself, so symbolic links in them are followed. `roots` that hold passwords are kept
    without them; `access` has what opens them.
    """

    roots: tuple[str, ...] | None
    access: Access = field(default_factory=Access, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.roots is not None:
            object.__setattr__(self, "access", self.access | Access.of(*self.roots))
            object.__setattr__(self, "roots", tuple(map(public, self.roots)))

    @property
    def decode(self) -> bool:
        return self.roots is not None or bool(os.environ.get(ROOT_VARIABLE))

    @property
    def identity(self) -> str:
        return f"sa1b:{self.roots}:{self.decode}"

    def urls(self, paths: pa.Array) -> pa.Array:
        from ..sa1b import url_suffix

        return image_urls(paths, url_suffix(self.roots))

    def present(self, paths: pa.Array) -> Present:
        return np.asarray(self.filesystem().have(paths))

    def archive_of(self, paths: pa.Array, names: Sequence[str]) -> pa.Array:
        """The archive of each path, as far as it is one of `names` or the path says it; null for others.

        Raises: RootNotFound when there are images whose paths name no archive, and no root to look in.
        """
        own = own_archive(paths)
        if not own.null_count:
            return own
        numbered = pc.match_substring_regex(paths.filter(pc.is_null(own)), r"(^|/)sa_[0-9]+\.jpg$")
        return self.filesystem().archive_of(paths, names) if pc.any(numbered).as_py() else own

    def contents(self) -> str:
        return str(self.filesystem().fingerprint())

    def held(self) -> Held:
        return _held(self.filesystem())

    def filesystem(self) -> Any:
        """The ``sa1b://`` filesystem on these roots."""
        import fsspec

        return fsspec.filesystem("sa1b", fo=list(self.roots)) if self.roots is not None else fsspec.filesystem("sa1b")


@dataclass(frozen=True)
class ArchivedImages(_InNoArchive):
    """Images inside tar or zip archives in or below one folder, whichever archive each is in.

    The folder is part of a dataset that came from somewhere: no symbolic link is followed out of it. Which member a
    path names is told in :mod:`llava_zh.sa1b.members`.
    """

    folder: str
    decode: bool = True

    def __post_init__(self) -> None:
        _check_base(self.folder)

    @property
    def identity(self) -> str:
        return f"archives:{self.folder}|{links.followed()}"

    def urls(self, paths: pa.Array) -> pa.Array:
        # A path that no archive holds keeps its published name, so that opening it says which image is missing.
        published = checked(paths).to_pylist()
        named = (found or path for found, path in zip(self._members(paths), published, strict=True))
        return pa.array([None if name is None else data_url(name, self.folder) for name in named], pa.string())

    def present(self, paths: pa.Array) -> Present:
        return np.array([found is not None for found in self._members(paths)], dtype=bool)

    def _members(self, paths: pa.Array) -> list[str | None]:
        found: list[str | None] = self._filesystem().find_members(paths.to_pylist(), data=True)
        return found

    def contents(self) -> str:
        return str(self._filesystem().fingerprint(data=True))

    def held(self) -> Held:
        return _held(self._filesystem())

    def _filesystem(self) -> Any:
        import fsspec

        return fsspec.filesystem("sa1b", fo=[self.folder])


@dataclass(frozen=True)
class FolderImages(_InNoArchive):
    """Images as files below `base`, a folder or an fsspec URL.

    Args:
        base: Where published paths start. A password in it is kept apart, in `access`.
        within: The folder of data that `base` lies in, which came from somewhere: no symbolic link is followed out of
            it. None where the user named `base` himself.
        written: The last step of `base` where the rows have it before their paths (``images``, in our exports).
    """

    base: str
    decode: bool = True
    within: str | None = None
    written: str = ""
    access: Access = field(default_factory=Access, repr=False, compare=False)

    def __post_init__(self) -> None:
        base = self.base
        if base.startswith("file://"):
            base = base.removeprefix("file://")
        if "://" not in base:
            base = os.path.abspath(os.path.expanduser(base))  # noqa: PTH100, PTH111 (links stay as they are)
        _check_base(base)
        object.__setattr__(self, "access", self.access | Access.of(base))
        object.__setattr__(self, "base", public(base))

    @property
    def identity(self) -> str:
        # What a link of a data folder leads to is decided when rows are made; a folder that the user named is another.
        return f"folder:{self.base}" + ("" if self.within is None else f"|{self.within}|{links.followed()}")

    def urls(self, paths: pa.Array) -> pa.Array:
        cleaned = checked(self._below(paths))
        if "://" in self.base:
            return self._remote_urls(cleaned)
        if self.within is not None:
            listings = Listings(self.base, self.within)
            return pa.array([self._in_data_folder(path, listings) for path in cleaned.to_pylist()], pa.string())
        return self._joined(cleaned) if cleaned is not paths else self._plain(cleaned)

    def present(self, paths: pa.Array) -> Present:
        cleaned = checked(self._below(paths))
        if self.base.startswith(("http://", "https://")):
            return np.asarray(self._filesystem().have(cleaned))  # which asks where a server lists nothing
        listings = Listings(self.base, self.within)
        there = (
            path is not None and listings.has(path) and not listings.leads_out(path) for path in cleaned.to_pylist()
        )
        return np.fromiter(there, bool, len(cleaned))

    def contents(self) -> str:
        if self.base.startswith(("http://", "https://")):
            return str(self._filesystem().fingerprint())
        forget(self.base)
        names = names_below(self.base, follow=self.within is None)
        return hashlib.sha256("\0".join(sorted(names)).encode("utf-8", "surrogateescape")).hexdigest()

    def held(self) -> Held:
        return None, "" if "://" in self.base else self.contents()

    def _below(self, paths: pa.Array) -> pa.Array:
        """`paths` relative to `base`: our own exports name files by whole paths and URLs."""
        start = self.base.rstrip("/") + "/"
        if not pc.any(pc.starts_with(paths, start)).as_py():
            return paths
        return pc.if_else(pc.starts_with(paths, start), pc.utf8_slice_codeunits(paths, len(start)), paths)

    def _plain(self, paths: pa.Array) -> pa.Array:
        return pc.binary_join_element_wise(self.base.rstrip("/"), paths, "/")

    def _joined(self, paths: pa.Array) -> pa.Array:
        urls = self._plain(paths)
        refused = pc.starts_with(paths, "!")
        if not pc.any(refused).as_py():
            return urls
        return pc.if_else(refused, pc.binary_join_element_wise(SCHEME, paths, ""), urls)

    def _remote_urls(self, paths: pa.Array) -> pa.Array:
        if self.access:
            # fsspec does not know what opens this place, our filesystem does.
            return image_urls(paths, f"::{self.base}")
        if self.base.startswith(("http://", "https://")):
            return self._joined(pa.array([_quoted(path) for path in paths.to_pylist()], pa.string()))
        urls, through_ours = self._joined(paths), image_urls(paths, f"::{self.base}")
        return pc.if_else(pc.starts_with(through_ours, SCHEME + NAME), through_ours, urls)

    def _in_data_folder(self, path: str | None, listings: Listings) -> str | None:
        """What opens the image at `path`: its file; our filesystem, which says what is missing; or an error."""
        if path is None or path.startswith("!"):
            return None if path is None else SCHEME + path
        if listings.leads_out(path):
            return SCHEME + mark(path, LINK)
        if not listings.has(path):
            return data_url(path, self.base)
        return f"{self.base.rstrip('/')}/{path}"

    def _filesystem(self) -> Any:
        import fsspec

        return fsspec.filesystem("sa1b", fo=[self.base])


@dataclass(frozen=True)
class EmbeddedImages(_InNoArchive):
    """Images whose bytes are in the rows themselves.

    A row's path is then a name and nothing that is opened. A row without bytes has no image: opening it is an error
    that names it, and ``on_missing_image`` decides as for any other.
    """

    decode: bool = True
    identity: str = "embedded"

    def urls(self, paths: pa.Array) -> pa.Array:
        """For rows without bytes."""
        marked = (None if path is None else SCHEME + mark(path, NO_BYTES) for path in paths.to_pylist())
        return pa.array(list(marked), pa.string())

    def present(self, paths: pa.Array) -> Present:
        """For rows without bytes."""
        return np.zeros(len(paths), dtype=bool)

    def contents(self) -> str:
        return self.identity


@dataclass(frozen=True)
class UnresolvedImages(_InNoArchive):
    """Images that could not be found: rows give the published path, undecoded."""

    decode: bool = False
    identity: str = "unresolved"

    def urls(self, paths: pa.Array) -> pa.Array:
        return paths

    def present(self, paths: pa.Array) -> Present:
        return np.zeros(len(paths), dtype=bool)

    def contents(self) -> str:
        return self.identity


@dataclass(frozen=True)
class NoImages(_InNoArchive):
    """Images of a set of which no row that was looked at has any; one that has is told of when it is opened."""

    decode: bool = True
    identity: str = "none"

    def urls(self, paths: pa.Array) -> pa.Array:
        marked = (None if path is None else SCHEME + mark(path, NOWHERE) for path in paths.to_pylist())
        return pa.array(list(marked), pa.string())

    def present(self, paths: pa.Array) -> Present:
        return np.zeros(len(paths), dtype=bool)

    def contents(self) -> str:
        return self.identity


def unplaced(images: Images, paths: pa.Array) -> pa.Array | None:
    """Which of `paths` come undecoded, since they are of another place than those that are known.

    None where images are opened, so that such a one is an error then.
    """
    if images.decode or not isinstance(images, Sa1bImages | PrefixedImages):
        return None
    paths = paths.cast(pa.string())
    if isinstance(images, PrefixedImages):
        return images.nowhere(paths)
    return pc.invert(pc.fill_null(pc.match_substring_regex(paths, r"(?:^|/)sa_[0-9]{1,9}\.jpg(?:$|::)"), True))


def stored_paths(paths: pa.Array, data: pa.Array, urls: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """What stands as an image's path in a row: what `urls` gives, or, beside embedded bytes (`data`), a mere name."""
    if data.null_count == len(data):
        return urls(paths)
    embedded = pc.is_valid(data)
    names = pa.array([None if path is None else _name(path) for path in paths.to_pylist()], pa.string())
    if not data.null_count:
        return names
    return pc.if_else(embedded, names, urls(pc.if_else(embedded, pa.scalar(None, pa.string()), paths)))


def _name(path: str) -> str:
    """`path` as the name of embedded bytes: no absolute path, nor one that climbs.

    `datasets` takes a file of that name for the bytes where rows are encoded anew (``map``).
    """
    if plain(path) == path or path.startswith(("http://", "https://")):
        return path
    parts = [part for part in re.split(r"[/\\]", path.replace("\0", "_")) if part not in ("", ".", "..")]
    return "/".join([re.sub("^([A-Za-z]):$", r"\1_", part) for part in parts[:1]] + parts[1:]) or "image"


def _quoted(path: str | None) -> str | None:
    """`path` percent-encoded, so that a server is asked for a file of exactly that name."""
    return path if path is None or path.startswith("!") else quote(path)


def _check_base(base: str) -> None:
    """Raise BadArgument for a place that no row could name."""
    try:
        base.encode()
    except UnicodeEncodeError:
        raise BadArgument(f"The folder {base!r} is no UTF-8, so no row can name an image in it. Rename it.") from None
    if "\0" in base or ("::" in base and "://" not in base):
        raise BadArgument(f"The folder {base!r} holds a NUL or '::', which no row's URL can hold. Rename it.")
