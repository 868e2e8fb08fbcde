"""Where the images of rows are: in the rows, beside them, in archives, below a folder that was named, or in SA-1B."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import BadArgument
from ..files import readers
from ..files.data_files import DataFile, local_files
from ..files.our_folders import origins
from ..gates.counts import counted
from ..gates.safe_text import get_logger
from ..images import written_paths
from ..images.locations import (
    ArchivedImages,
    EmbeddedImages,
    FolderImages,
    Images,
    NoImages,
    Sa1bImages,
    UnresolvedImages,
)
from ..images.prefixed import Part, PrefixedImages, tidy
from ..rows import records
from ..rows.columns import Columns, no_image
from ..sa1b.access import ROOT_VARIABLE
from ..sa1b.published import plain, problem
from ..sa1b.urls import search_path
from .facts import DatasetFacts
from .place_checks import one_root

logger = get_logger(__name__)


_silent: ContextVar[bool] = ContextVar("llava_zh_images_untold", default=False)


@contextlib.contextmanager
def untold() -> Iterator[None]:
    """Say nothing of images that are not found: for who reads texts alone."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


def _warn(text: str, *values: Any) -> None:
    if not _silent.get():
        logger.warning(text, *values)


@dataclass(frozen=True)
class Seen:
    """What was found of a dataset: all files, those with rows, the first row, and the folder or repository they are of.

    `first` is None where it was not looked at, since the published file itself names its images as the facts say.
    `no_images` says that rows may have no image, and that none was found that has.
    """

    files: Sequence[DataFile]
    rows: Sequence[DataFile]
    first: Mapping[str, Any] | None
    where: str
    no_images: bool = False


def places(facts: DatasetFacts, seen: Seen, image_root: Any) -> tuple[Images, str]:
    """Where the images of the rows are, and words for it.

    Args:
        image_root: A folder or URL; several of SA-1B; a mapping from the beginning of published paths to these; or
            None.

    Raises:
        BadArgument: A mapping that names what no image path begins with.
    """
    embedded, path = _first_image(seen.first or {}, facts.fields)
    if embedded:
        return EmbeddedImages(), f"embedded in the rows{embedded}"
    if set(facts.image_places) == {""} and not isinstance(image_root, Mapping):
        if facts.in_sa1b:
            beside = None if seen.first is None or not _is_local(seen.rows) else _with_rows(seen, path)
            return beside or Sa1bImages(_roots(image_root)), ""
        root = None if image_root is None else one_root(image_root, facts.name)
        if seen.no_images:
            return (
                (NoImages(), "of no row that was looked at")
                if root is None
                else (_below(root, None, facts.image_folders), "")
            )
        return _own(seen, path, root, facts.image_folders)
    return _several(facts, seen, path, image_root), ""


def _several(facts: DatasetFacts, seen: Seen, path: str | None, image_root: Any) -> Images:
    """Images whose places are told by how their paths begin: as the facts say, or as the user does."""
    named = image_root if isinstance(image_root, Mapping) else {}
    places = facts.image_places
    if "" in places:
        places = {**dict.fromkeys(named, places[""]), **places}
    if unknown := [prefix for prefix in named if prefix not in places]:
        raise BadArgument(
            f"image_root: no image path of {facts.name} begins with {unknown[0]!r}; its images are told apart by "
            f"{', '.join(map(repr, places))}."
        )
    if path is not None and _is_local(seen.rows) and not any(one and tidy(path).startswith(one) for one in places):
        beside = _with_rows(seen, path)
        if beside is not None:
            return beside
    parts = []
    for prefix, kind in sorted(places.items(), key=lambda item: -len(item[0])):
        root = named.get(prefix) if isinstance(image_root, Mapping) else image_root
        if kind == "sa1b":
            parts.append(Part(prefix, Sa1bImages(_roots(root))))
        elif root is not None:
            place = one_root(root, facts.name)
            part = Part(prefix, FolderImages(place), prefix in named)
            alone = PrefixedImages((part,))
            theirs, inner = alone.of(written_paths.published(path or "", written_paths.around(alone)))
            sample = None if theirs is None else inner
            parts.append(replace(part, images=_below(place, sample, facts.image_folders)))
        else:
            parts.append(Part(prefix, _folder_beside(seen, prefix)))
    return PrefixedImages(tuple(parts))


def _folder_beside(seen: Seen, prefix: str) -> Images | None:
    """The folder of the rows, where it has a folder for paths that begin so."""
    if not _is_local(seen.rows):
        return None
    rows_folder, base = Path(seen.rows[0].path or "").absolute().parent, Path(seen.where).absolute()
    whole = _whole(rows_folder, base)
    possible = [(rows_folder, whole), (whole, whole)]
    for made in origins(rows_folder):
        if made.believed:
            possible += [(Path(made.files[0]).parent, Path(made.folder)), (Path(made.folder), Path(made.folder))]
    found = next((one for one in possible if prefix and (one[0] / prefix).is_dir()), None)
    return None if found is None else FolderImages(str(found[0]), within=str(found[1]))


def _below(root: str, path: str | None, folders: Sequence[str]) -> Images:
    """Images below a folder or URL that the user named: as files, perhaps one folder down, or in archives.

    Args:
        path: The path of one image, if it is known.
    """
    images = FolderImages(root)
    if "://" in images.base:
        return images
    if os.path.isfile(images.base) and readers.kind_of(images.base) in ("tar", "zip"):  # noqa: PTH113
        return ArchivedImages(str(Path(images.base).parent))
    path = None if path is None else plain(path)
    if path is None or os.path.isfile(f"{images.base}/{path}"):  # noqa: PTH113 (False for a name that no file can have)
        return images
    for folder in folders:
        if os.path.isfile(f"{images.base}/{folder}/{path}"):  # noqa: PTH113
            return FolderImages(f"{images.base}/{folder}")
    held = os.scandir(images.base) if os.path.isdir(images.base) else ()  # noqa: PTH112
    if any(readers.kind_of(entry.name) in ("tar", "zip") for entry in held):
        return ArchivedImages(images.base)
    _warn(
        "image_root=%s: the first row's image, %s, is not there. Pass the folder that the rows' paths start from; "
        "rows without their image are left out with on_missing_image='skip'.",
        images.base, path[:200],
    )  # fmt: skip
    return images


def _is_local(rows: Sequence[DataFile]) -> bool:
    return rows[0].source == "local" and rows[0].path is not None


def _roots(image_root: Any) -> tuple[str, ...] | None:
    return None if image_root is None else tuple(search_path(image_root))


def _own(seen: Seen, published: str | None, image_root: str | None, folders: Sequence[str]) -> tuple[Images, str]:
    """The dataset's own images, which are not in its rows."""
    files, rows, where = seen.files, seen.rows, seen.where
    if published is None:
        return UnresolvedImages(), "of an unknown kind"
    rows_folder, whole = Path(rows[0].path or "").parent, Path(where).absolute()
    own = _written(rows_folder, whole, published, image_root) if _is_local(rows) else None
    if own is not None:
        return own
    if published.startswith("sa1b://") and (image_root is not None or os.environ.get(ROOT_VARIABLE)):
        return Sa1bImages(_roots(image_root)), "of SA-1B"
    if image_root is not None:
        images = _below(image_root, published, folders)
        return images, f"below image_root, {getattr(images, 'base', None) or getattr(images, 'folder', image_root)}"
    path = plain(published)
    if path is None:
        return _unresolved(where, published, f"{published[:200]!r} {problem(published)}, so it names no image here")
    if _is_local(rows):
        return _beside(rows_folder, whole, path, files, rows, folders)
    names, beside = {file.name for file in files}, posixpath.dirname(rows[0].name)
    for base in (beside, "", "images", posixpath.join(beside, "images")):
        if posixpath.join(base, path) in names and rows[0].source == "huggingface":
            root = f"hf://datasets/{rows[0].repo}@{rows[0].revision}"
            return FolderImages(posixpath.join(root, base) if base else root), "as files in the repository"
    if archives := _archives(files, rows):
        _warn(
            "%s: the images are in %s (%s …) that cannot be read at random over the network; they are given "
            "as paths. Fetch all with `llava-zh download` and pass data_dir= to see pixels.",
            where, counted(len(archives), "archives"), archives[0].name,
        )  # fmt: skip
        return UnresolvedImages(), f"in {counted(len(archives), 'remote archives')}"
    return _unresolved(where, published, f"no file {path} beside the rows in the repository, and no archive")


def _unresolved(where: str, published: str, why: str) -> tuple[Images, str]:
    _warn(
        "%s: no image was found, so images come undecoded, as the paths that rows give (the first is %s): %s. "
        "Pass image_root= to name the folder or URL that these paths start from.",
        where, published[:200], why,
    )  # fmt: skip
    return UnresolvedImages(), f"not found: {why}"


def _first_image(first: Mapping[str, Any], columns: Columns) -> tuple[str, str | None]:
    """Of the first record's image: words that say how it is embedded (``""`` when it is not), and its path."""
    value = columns.get(first, "image", no_image)[1]
    sample = value[0] if isinstance(value, list) and value else value
    if isinstance(sample, str) and records.is_data_uri(sample):
        return " as data: URIs", None
    if isinstance(sample, bytes) or (isinstance(sample, Mapping) and sample.get("bytes") is not None):
        return " themselves", None
    path = sample.get("path") if isinstance(sample, Mapping) else sample
    return "", path if isinstance(path, str) else None


def _with_rows(seen: Seen, path: str | None) -> Images | None:
    """Where rows that were exported have their pictures with them; None where they do not."""
    rows, where = seen.rows, seen.where
    rows_folder, base = Path(rows[0].path or "").absolute().parent, Path(where).absolute()
    for folder in dict.fromkeys((_whole(rows_folder, base), *_above_data(rows_folder))):
        images = _images_folder(folder)
        inner = written_paths.published(path or "", written_paths.around(images)[:-1])
        if inner != path and plain(inner) == inner and os.path.isfile(folder / "images" / inner):  # noqa: PTH113
            return images
    return None


def _whole(rows_folder: Path, base: Path) -> Path:
    """The folder that was named, or that of the rows where files were named."""
    return base if base == rows_folder or base in rows_folder.parents else rows_folder


def _above_data(rows_folder: Path) -> list[Path]:
    """An export of ours that was named by its data/: of the folder above it, images/ and nothing else counts."""
    return [rows_folder.parent] if rows_folder.name == "data" else []


def _images_folder(export: Path) -> FolderImages:
    images = f"{export}/images"
    return FolderImages(images, within=images, written="images")


def _written(rows_folder: Path, base: Path, path: str, image_root: str | None) -> tuple[Images, str] | None:
    """Images of rows that were written with absolute paths or with URLs into archives.

    They are believed below the rows' own folder, and for archives where they say what the caller says.
    """
    whole = _whole(rows_folder.absolute(), base)
    archives = path.rpartition("::")[2] if path.startswith("sa1b://") and "::" in path else None
    if archives is not None:
        named = [] if image_root is None else list(written_paths.places_of(image_root))
        places = written_paths.places_of(str(whole)) if os.path.normpath(archives) == archives else ()
        believed = archives in named or any(f"{archives}/".startswith(f"{place}/") for place in places)
        return (ArchivedImages(archives), f"in archives in {archives}") if believed else None
    if image_root is not None or not os.path.isabs(path):  # noqa: PTH117
        return None
    possible = [FolderImages(str(whole), within=str(whole)), *map(_images_folder, _above_data(rows_folder))]
    for images in possible:
        if plain(written_paths.published(path, written_paths.around(images))) is not None:
            return images, f"below {images.base}"
    return None


def _beside(
    rows_folder: Path,
    base: Path,
    path: str,
    files: Sequence[DataFile],
    rows: Sequence[DataFile],
    folders: Sequence[str] = (),
) -> tuple[Images, str]:
    """Images of rows on this machine: with them, or with the rows that these were made from by a run or curation."""
    whole = _whole(rows_folder, base)
    if (found := _near(rows_folder, base, path, files, rows, folders)) is not None:
        return found
    lay = ""
    for made in origins(rows_folder):
        lay = f"; they were made from rows in {made.folder}, which " + ("has none" if made.believed else "are gone")
        if made.image_root is not None:
            lay = f"; for the rows that they were made from, it was in {made.image_root}"
        if made.believed:
            around = local_files(made.folder, None)
            then = [file for file in around if file.path in made.files]
            if found := _near(Path(made.files[0]).parent, Path(made.folder), path, around, then, folders):
                return found
    looked = ", ".join(str(folder) for folder in _possible(rows_folder, base, folders))
    why = f"there is no file {path} in any of {looked}, and no archive beside the rows{lay}"
    return _unresolved(str(whole), path, why)


def _possible(rows_folder: Path, base: Path, folders: Sequence[str]) -> list[Path]:
    """Where files of rows are looked for."""
    whole = _whole(rows_folder, base)
    inner = (one / name for name in ("images", *folders) for one in (rows_folder, base))
    places = dict.fromkeys((rows_folder, base, rows_folder.parent, *inner))
    return [folder for folder in places if folder == whole or whole in folder.parents]


def _near(
    rows_folder: Path,
    base: Path,
    path: str,
    files: Sequence[DataFile],
    rows: Sequence[DataFile],
    folders: Sequence[str],
) -> tuple[Images, str] | None:
    """Images that lie with their rows: files below one of a few folders, or archives in one.

    All of these lie in the folder that was named, or in that of the rows where files were named. Rows come from
    elsewhere and must not reach a folder that merely lies beside it.
    """
    whole = _whole(rows_folder, base)
    possible = _possible(rows_folder, base, folders)
    for folder in possible:
        if os.path.isfile(folder / path):  # noqa: PTH113 (False for any name that no file can have)
            return FolderImages(str(folder), within=str(whole)), f"as files below {folder}"
    if rows_folder.name == "data" and path.startswith("images/") and os.path.isfile(rows_folder.parent / path):  # noqa: PTH113
        # An export of ours that was named by its data/: of the folder above it, images/ and nothing else.
        beside = rows_folder.parent
        return FolderImages(str(beside), within=str(beside / "images")), f"as files below {beside / 'images'}"
    if archives := _archives(files, rows) or _archives(local_files(str(rows_folder), None), rows):
        around = [Path(file.path).parent for file in archives if file.path is not None]
        # Of what lies around an archive, the names of folders help to tell whose picture is whose.
        folder = Path(os.path.commonpath([rows_folder, *around]))
        return ArchivedImages(str(folder)), f"in {counted(len(archives), 'archives')} in {folder}"
    for folder in possible:
        if "/" in path and os.path.isdir((folder / path).parent):  # noqa: PTH112 (as above; the first row's is missing)
            return FolderImages(str(folder), within=str(whole)), f"as files below {folder}"
    return None


def _archives(files: Sequence[DataFile], rows: Sequence[DataFile]) -> list[DataFile]:
    return [file for file in files if readers.kind_of(file.name) in ("tar", "zip") and file not in rows]
