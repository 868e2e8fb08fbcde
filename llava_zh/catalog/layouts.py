"""Which of a folder's or repository's files hold a dataset's rows, which hold its images, and in which layout.

Two ways: a dataset whose files have known names (:func:`by_name`), and one whose layout has to be found out from the
file list and the columns (:func:`detect`).
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import BadFile, BadRow, DataFileNotFound, LlavaZhError, UnknownLayout
from ..files import readers
from ..files.data_files import DataFile, local_files
from ..files.hub import check_is_data
from ..gates import pictures
from ..gates.safe_text import get_logger
from ..images import written_paths
from ..images.locations import ArchivedImages, EmbeddedImages, FolderImages, Images, Sa1bImages, UnresolvedImages
from ..rows import records
from ..sa1b.published import plain, problem
from ..sa1b.urls import ROOT_VARIABLE, search_path
from .facts import DatasetFacts

logger = get_logger(__name__)

# JSON files that repositories hold beside their data.
_NOT_ROWS = frozenset(
    {"dataset_infos.json", "dataset_info.json", "configuration.json", "config.json", "state.json", "manifest.json"}
    | {"report.json", "demo.json", "failed.jsonl", "dropped.jsonl", "meta.json"}
)
_ROW_KINDS = ("parquet", "jsonl", "jsonl.gz", "jsonl.zst", "json")
_COMPRESSED = ("", ".gz", ".zst")


@dataclass(frozen=True)
class Layout:
    """The files with rows, in order, where their images are, and one line that says what was found."""

    files: tuple[DataFile, ...]
    images: Images
    found: str


def by_name(files: Sequence[DataFile], name: str, facts: DatasetFacts, where: str) -> tuple[DataFile, ...]:
    """The published file called `name` (compressed or not), or the files of a regeneration or an export in its place.

    Raises:
        DataFileNotFound: There is neither; lists what is there.
    """
    published = {config.file: config.name for config in facts.configs}
    for file in files:
        if any(PurePosixPath(file.name).name == name + ending for ending in _COMPRESSED):
            return (file,)
    exported = _exported(files, facts, next(config.name for config in facts.configs if config.file == name))
    if exported:
        return exported
    ours = {f"{other}{ending}" for other in published for ending in _COMPRESSED}
    rows = [f for f in _row_files(files) if PurePosixPath(f.name).name not in ours]
    in_data = [file for file in rows if PurePosixPath(file.name).parts[:1] == ("data",)]
    chosen = in_data or [file for file in rows if "/" not in file.name]
    if not chosen:
        seen = ", ".join(file.name for file in files[:20]) or "nothing"
        raise DataFileNotFound(
            f"{where}: expected {name} (or .gz, .zst), or JSON Lines or Parquet files in data/; found {seen}. "
            "Fetch it with `llava-zh download`, or name other files with data_files=."
        )
    return tuple(chosen)


def _exported(files: Sequence[DataFile], facts: DatasetFacts, config: str) -> tuple[DataFile, ...]:
    """The files that an export of ours wrote for the configuration, which may be one of several in its folder."""
    named = re.compile(r"data/(.+)-\d{5}-of-\d{5}\.(parquet|jsonl|tar)")
    found = [(file, match) for file in files if (match := named.fullmatch(file.name))]
    known = {known.name for known in facts.configs}
    if not found or {match[1] for _, match in found} - known or len({match[2] for _, match in found}) > 1:
        return ()
    return tuple(file for file, match in found if match[1] == config)


def detect(
    files: Sequence[DataFile], where: str, image_root: str | None, token: Any, *, skip_bad: bool = False
) -> Layout:
    """Find rows and images among `files` of a dataset whose layout is not known beforehand.

    Accepted: Parquet with paths or embedded images, JSON or JSON Lines in LLaVA form or as ``messages`` + ``images``,
    and WebDataset tars. Images are embedded, beside the rows as files, or in archives beside them.

    Args:
        where: The folder or repository, for messages; a local folder is where relative image paths start.
        image_root: Folder or URL that image paths start from instead.
        skip_bad: Bad rows are left out, so the first good one may come late.

    Raises:
        BadRow, BadFile: No file has a good row; this is what is wrong with the first.
        UnknownLayout: No file has rows with an image and a conversation; lists files, columns and what was looked for.
    """
    problem: LlavaZhError | None = None
    for kind in (*_ROW_KINDS, "tar"):
        rows = _of_kind(files, kind)
        if not rows:
            continue
        try:
            first, rows = _first_row(rows, token, skip_bad)
        except (BadRow, BadFile) as error:
            # Notes beside the data may be no data; what is preferred comes first, and is what the error is about.
            problem = problem or error
            continue
        missing = [f for f in ("image", "conversations") if not any(alias in first for alias in records.ALIASES[f])]
        if not missing:
            break
        problem = problem or _unknown(files, where, f"{rows[0].name} has no column for {' and '.join(missing)}", first)
    else:
        raise problem or _unknown(files, where, "no Parquet, JSON, JSON Lines or tar file", {})
    kinds = sorted({readers.kind_of(file.name) or "" for file in rows})
    images, described = _images(files, rows, first, where, image_root)
    found = (
        f"{len(rows)} {'/'.join(kinds)} file{'s' * (len(rows) > 1)} with columns {', '.join(first)}; images {described}"
    )
    logger.info("%s: found %s", where, found)
    return Layout(tuple(rows), images, found)


def _first_row(files: Sequence[DataFile], token: Any, skip_bad: bool) -> tuple[Mapping[str, Any], list[DataFile]]:
    """A row of the first file that has any, and the files that are not empty."""
    full = [file for file in files if file.size] or files[:1]
    check_is_data(full[0], token)
    first: Mapping[str, Any] = {}
    bad: BadRow | None = None
    for file in full:
        try:
            first = readers.sample(file, token, patient=skip_bad) or first
        except BadRow as error:
            if not skip_bad:
                raise
            bad = bad or error
        if any(value is not None for value in first.values()):
            break
    if bad is not None and not first:
        raise bad
    return first, list(full)


def _row_files(files: Sequence[DataFile]) -> list[DataFile]:
    """The files of the first kind that there is any of, in order of preference."""
    return next((chosen for kind in _ROW_KINDS if (chosen := _of_kind(files, kind))), [])


def rows_in(files: Sequence[DataFile]) -> list[DataFile]:
    """The files of rows in the folder ``data``, or, with none there, at the top: of one kind, as loading prefers."""
    in_data = [file for file in files if PurePosixPath(file.name).parts[:1] == ("data",)]
    at_top = [file for file in files if "/" not in file.name]
    kinds = (*_ROW_KINDS, "tar")
    return next((rows for place in (in_data, at_top) for kind in kinds if (rows := _of_kind(place, kind))), [])


def _of_kind(files: Sequence[DataFile], kind: str) -> list[DataFile]:
    return [
        file for file in files if readers.kind_of(file.name) == kind and PurePosixPath(file.name).name not in _NOT_ROWS
    ]


def _images(
    files: Sequence[DataFile], rows: Sequence[DataFile], first: Mapping[str, Any], where: str, image_root: str | None
) -> tuple[Images, str]:
    embedded, published = _first_image(first)
    if embedded:
        return EmbeddedImages(), f"embedded in the rows{embedded}"
    if published is None:
        return UnresolvedImages(), "of an unknown kind"
    local = rows[0].source == "local" and rows[0].path is not None
    own = _written(Path(rows[0].path or "").parent, Path(where).absolute(), published, image_root) if local else None
    if own is not None:
        return own
    if published.startswith("sa1b://") and (image_root is not None or os.environ.get(ROOT_VARIABLE)):
        return Sa1bImages(None if image_root is None else tuple(search_path(image_root))), "of SA-1B"
    if image_root is not None:
        images = FolderImages(image_root)
        return images, f"below image_root, {images.base}"
    path = plain(published)
    if path is None:
        return _unresolved(where, published, f"{published[:200]!r} {problem(published)}, so it names no image here")
    rows_folder = posixpath.dirname(rows[0].name)
    if rows[0].source == "local" and rows[0].path is not None:
        return _beside(Path(rows[0].path).parent, Path(where).absolute(), path, files, rows)
    names = {file.name for file in files}
    for base in (rows_folder, "", "images", posixpath.join(rows_folder, "images")):
        if posixpath.join(base, path) in names and rows[0].source == "huggingface":
            root = f"hf://datasets/{rows[0].repo}@{rows[0].revision}"
            return FolderImages(posixpath.join(root, base) if base else root), "as files in the repository"
    if archives := _archives(files, rows):
        logger.warning(
            "%s: the images are in %d archives (%s …) that cannot be read at random over the network; they are given "
            "as paths. Fetch all with `llava-zh download` and pass data_dir= to see pixels.",
            where, len(archives), archives[0].name,
        )  # fmt: skip
        return UnresolvedImages(), f"in {len(archives)} remote archives"
    return _unresolved(where, published, f"no file {path} beside the rows in the repository, and no archive")


def _unresolved(where: str, published: str, why: str) -> tuple[Images, str]:
    logger.warning(
        "%s: no image was found, so images come undecoded, as the paths that rows give (the first is %s): %s. "
        "Pass image_root= to name the folder or URL that these paths start from.",
        where, published[:200], why,
    )  # fmt: skip
    return UnresolvedImages(), f"not found: {why}"


def _first_image(first: Mapping[str, Any]) -> tuple[str, str | None]:
    """Of the first record's image: words that say how it is embedded (``""`` when it is not), and its path."""
    value = next((first[name] for name in records.ALIASES["image"] if first.get(name) is not None), None)
    sample = value[0] if isinstance(value, list) and value else value
    if isinstance(sample, str) and records.is_data_uri(sample):
        return " as data: URIs", None
    if isinstance(sample, bytes) or (isinstance(sample, Mapping) and sample.get("bytes") is not None):
        return " themselves", None
    path = sample.get("path") if isinstance(sample, Mapping) else sample
    return "", path if isinstance(path, str) else None


def with_rows(rows: Sequence[DataFile], where: str, token: Any, *, skip_bad: bool = False) -> Images | None:
    """Where rows of a dataset on SA-1B that were exported have their pictures with them; None where they do not."""
    embedded, path = _first_image(readers.sample(rows[0], token, patient=skip_bad))
    if embedded:
        return EmbeddedImages()
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
    rows_folder: Path, base: Path, path: str, files: Sequence[DataFile], rows: Sequence[DataFile]
) -> tuple[Images, str]:
    """Images of rows on this machine: files below one of a few folders, or archives in one.

    All of these lie in the folder that was named, or in that of the rows where files were named. Rows come from
    elsewhere and must not reach a folder that merely lies beside it.
    """
    whole = _whole(rows_folder, base)
    places = dict.fromkeys((rows_folder, base, rows_folder.parent, rows_folder / "images", base / "images"))
    folders = [folder for folder in places if folder == whole or whole in folder.parents]
    for folder in folders:
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
        return ArchivedImages(str(folder)), f"in {len(archives)} archives in {folder}"
    for folder in folders:
        if "/" in path and os.path.isdir((folder / path).parent):  # noqa: PTH112 (as above; the first row's is missing)
            return FolderImages(str(folder), within=str(whole)), f"as files below {folder}"
    looked = ", ".join(str(folder) for folder in folders)
    return _unresolved(str(whole), path, f"there is no file {path} in any of {looked}, and no archive beside the rows")


def _archives(files: Sequence[DataFile], rows: Sequence[DataFile]) -> list[DataFile]:
    return [file for file in files if readers.kind_of(file.name) in ("tar", "zip") and file not in rows]


def _unknown(files: Sequence[DataFile], where: str, problem: str, first: Mapping[str, Any]) -> UnknownLayout:
    others = [file.name for file in files if not file.name.lower().endswith(pictures.SUFFIXES)]
    seen = ", ".join(others[:20]) + (f" and {len(others) - 20} more" if len(others) > 20 else "") or "no data file"
    looked = "; ".join(
        f"{field} under {', '.join(records.ALIASES[field])}" for field in ("image", "conversations", "task")
    )
    columns = ", ".join(f"{name} ({type(value).__name__})" for name, value in first.items()) or "none"
    return UnknownLayout(
        f"{where}: {problem}. Files seen (images aside): {seen}. Columns seen: {columns}. Looked for rows in "
        f"Parquet, JSON Lines, JSON and WebDataset tars, with {looked}. "
        "Name the files with data_files=, or convert them to one of these."
    )
