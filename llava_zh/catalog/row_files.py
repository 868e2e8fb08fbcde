"""Which of a folder's or repository's files hold a dataset's rows, which hold its images, and in which layout.

Two ways: a dataset whose files have known names (:func:`by_name`), and one whose layout has to be found out from the
file list and the columns (:func:`find_rows`).
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..errors import BadFile, BadRow, DataFileNotFound, LlavaZhError, UnknownLayout
from ..files import readers
from ..files.data_files import DataFile
from ..files.hub import check_is_data
from ..gates import pictures
from ..gates.counts import counted
from ..gates.safe_text import get_logger
from ..images.locations import Images
from ..rows.columns import USUAL, Columns, no_image
from .facts import DatasetFacts

logger = get_logger(__name__)

# JSON files that repositories hold beside their data.
_NOT_ROWS = frozenset(
    {"dataset_infos.json", "dataset_info.json", "configuration.json", "config.json", "state.json", "manifest.json"}
    | {"report.json", "demo.json", "failed.jsonl", "dropped.jsonl", "meta.json"}
)
#: What a run, an export or a curation of ours leaves beside its rows.
#: Folders that a run keeps beside its rows: requests for a batch, and a comparison with the answers of a judge.
BATCH, COMPARED = "batch", "compare"
_OURS = {"manifest.json", "report.json"}
# In order of preference; JSON Lines are one kind, however each part of them is compressed.
_ROW_KINDS = (("parquet",), ("jsonl", "jsonl.gz", "jsonl.zst"), ("json",))
_COMPRESSED = ("", ".gz", ".zst")
# How files and folders are called for a split, as `datasets` (data_files.py, SPLIT_KEYWORDS) has it.
_CALLED = r"(?:^|[-._ 0-9/])(?:{})(?:[-._ 0-9/]|$)"
_TRAINING = re.compile(_CALLED.format("train|training"))
_HELD_OUT = re.compile(_CALLED.format("test|testing|eval|evaluation|validation|valid|dev|val"))
# Files of a kind that is not read of which it is looked whether they have rows all the same.
_LOOKED_AT = 8


@dataclass(frozen=True)
class Layout:
    """The files with rows, in order, where their images are, and one line that says what was found."""

    files: tuple[DataFile, ...]
    images: Images
    found: str


def is_named(file: DataFile, name: str) -> bool:
    """Whether `file` is the published file `name`, or one of a pattern, compressed or not, in whatever folder."""
    return _matches(PurePosixPath(file.name).name, PurePosixPath(name).name)


def named(files: Sequence[DataFile], name: str) -> list[DataFile]:
    """The published file called `name`, of several copies the first; or all files of a pattern that can have rows."""
    exact = [file for file in files if file.name in {name + ending for ending in _COMPRESSED}]
    if exact:
        return exact[:1]
    found = [file for file in files if _matches(file.name, name)] or [file for file in files if is_named(file, name)]
    if not any(sign in name for sign in "*?["):
        return found[:1]
    return [file for file in found if readers.kind_of(file.name) not in (None, "zip")]


def _matches(name: str, pattern: str) -> bool:
    whole = [pattern + ending for ending in _COMPRESSED]
    return name in whole or any(fnmatch.fnmatchcase(name, one) for one in whole)


def by_name(files: Sequence[DataFile], config: str, facts: DatasetFacts, where: str) -> tuple[DataFile, ...]:
    """The published files of a configuration (compressed or not), or those of a regeneration or an export of it.

    Raises:
        DataFileNotFound: There is neither; lists what is there.
    """
    wanted = facts.config(config).files
    found = [file for name in wanted for file in named(files, name)]
    if found:
        return tuple(dict.fromkeys(found))
    exported = _exported(files, facts, config)
    if exported:
        return exported
    rows = [f for f in _row_files(files) if not any(is_named(f, other) for other in facts.file_names)]
    in_data = [file for file in rows if PurePosixPath(file.name).parts[:1] == ("data",)]
    chosen = in_data or [file for file in rows if "/" not in file.name]
    if not chosen:
        seen = ", ".join(file.name for file in files[:20]) or "nothing"
        raise DataFileNotFound(
            f"{where}: expected {', '.join(wanted)} (or .gz, .zst), or JSON Lines or Parquet files in data/; "
            f"found {seen}. {_begun(files) or 'Fetch it with `llava-zh download`'}, "
            "or name other files with data_files=."
        )
    if not in_data and not _OURS & {file.name for file in files}:
        logger.warning(
            "%s: there is no %s; the rows of %s are taken for those of %s.",
            where, ", ".join(wanted), ", ".join(file.name for file in chosen[:5]), config,
        )  # fmt: skip
    return tuple(chosen)


def _begun(files: Sequence[DataFile]) -> str:
    """What to do about a folder with `files`, where it is a run's that has finished no rows yet; "" for others."""
    names = {file.name for file in files}
    if "manifest.json" not in names or any(name.startswith("data/") for name in names):
        return ""
    return "A regeneration that has finished no rows yet wrote this folder: let it go on, by the command that began it"


def _exported(files: Sequence[DataFile], facts: DatasetFacts, config: str) -> tuple[DataFile, ...]:
    """The files that an export of ours wrote for the configuration, which may be one of several in its folder."""
    named = re.compile(r"data/(.+)-\d{5}-of-\d{5}\.(parquet|jsonl|tar)")
    found = [(file, match) for file in files if (match := named.fullmatch(file.name))]
    known = {known.name for known in facts.configs}
    if not found or {match[1] for _, match in found} - known or len({match[2] for _, match in found}) > 1:
        return ()
    return tuple(file for file, match in found if match[1] == config)


def find_rows(
    files: Sequence[DataFile],
    where: str,
    token: Any,
    columns: Columns = USUAL,
    *,
    skip_bad: bool = False,
    asked: Collection[DataFile] | None = None,
    text_only: bool = False,
    tell: bool = True,
) -> tuple[list[DataFile], Mapping[str, Any], str]:
    """Which of `files` have the rows of a dataset whose layout is not known beforehand, the first row, and words.

    Accepted: Parquet with paths or embedded images, JSON or JSON Lines in LLaVA form or as ``messages`` + ``images``,
    one caption or one question and answer, and WebDataset tars.

    Args:
        where: The folder or repository, for messages.
        columns: The names under which rows have each field.
        skip_bad: Bad rows are left out, so the first good one may come late.
        asked: Those that the user named one by one, where he chose `files` himself: all kinds that have rows are read
            then, and a file of these that has none is an error. None for a folder, of which the best kind is read.
        text_only: A row may have no image. Of a folder, files with images are preferred all the same, and files
            without any are read where none has one. Of several files' rows one with an image is given as the first.
        tell: Whether to warn of files with rows that are left aside.

    Raises:
        BadRow, BadFile: No file has a good row; this is what is wrong with the first.
        UnknownLayout: No file has rows with an image and a conversation; lists files, columns and what was looked for.
    """
    if asked is None:
        files = _without_other_splits(_without_work(files), where if tell else None)
    for file in asked or ():
        if readers.kind_of(file.name) is None:
            raise _unknown(files, where, f"{file.name} is no Parquet, JSON, JSON Lines or tar file", {}, columns)
    look = _Look(files, where, token, columns, skip_bad, text_only)
    seen = _seen(look, asked, images=True)
    if text_only and not seen.firsts:
        seen = _seen(look, asked, images=False)
    if not seen.firsts:
        raise seen.problem or _unknown(files, where, "no Parquet, JSON, JSON Lines or tar file", {}, columns)
    chosen = [file for file in files if file in set(seen.taken)]
    single = set(_without_copies(chosen)) | set(asked or ())
    chosen = [file for file in chosen if file in single]
    if tell:
        _tell_of_others(look, chosen, seen)
    # Where some rows name their images, it is to be found out where these are.
    with_image = next(filter(columns.has_image, seen.firsts), seen.firsts[0])
    first = next((row for row in seen.firsts if isinstance(columns.get(row, "image", no_image)[1], str)), with_image)
    kinds = sorted({readers.kind_of(file.name) or "" for file in chosen})
    found = f"{counted(len(chosen), '/'.join(kinds) + ' files')} with columns {', '.join(first)}"
    return chosen, first, found


@dataclass(frozen=True)
class _Look:
    """The files that are looked at, and how; see :func:`find_rows`."""

    files: Sequence[DataFile]
    where: str
    token: Any
    columns: Columns
    skip_bad: bool
    text_only: bool


@dataclass
class _Seen:
    """The files that were taken, the first row of each kind, the files that were not taken, and the first reason."""

    taken: list[DataFile] = field(default_factory=list)
    firsts: list[Mapping[str, Any]] = field(default_factory=list)
    broken: list[DataFile] = field(default_factory=list)
    unlike: list[DataFile] = field(default_factory=list)
    problem: LlavaZhError | None = None


def _seen(look: _Look, asked: Collection[DataFile] | None, *, images: bool) -> _Seen:
    """What files of each kind are. With `images`, rows without any are taken only from files that were `asked` for."""
    seen = _Seen()
    for family in (*_ROW_KINDS, ("tar",)):
        if seen.firsts and asked is None:
            break
        for kind in family:
            if not (rows := _of_kind(look.files, kind, asked or ())):
                continue
            may_lack = look.text_only and (not images or any(file in (asked or ()) for file in rows))
            first, rows, error = _looked_at(look, rows, may_lack)
            if error is None:
                seen.taken += rows
                seen.firsts.append(first)
                continue
            # Notes beside the data may be no data; what is preferred comes first, and is what the error is about.
            seen.problem = seen.problem or error
            if isinstance(error, UnknownLayout):
                # Of text alone the first may have rows too, where those with images come from elsewhere.
                seen.unlike += rows if look.text_only else rows[1:]
            elif kind != "tar":
                seen.broken += rows
            if first or not isinstance(error, UnknownLayout):
                _check_asked(rows, asked, error)
    return seen


def _without_work(files: Sequence[DataFile]) -> Sequence[DataFile]:
    """`files` without those that a run keeps beside its rows: requests for a batch, and the answers of a judge."""
    if not {"manifest.json", "failed.jsonl"} <= {file.name for file in files}:
        return files
    return [file for file in files if PurePosixPath(file.name).parts[0] not in (BATCH, COMPARED)]


def _without_other_splits(files: Sequence[DataFile], where: str | None) -> Sequence[DataFile]:
    """`files` without those that are called as rows to test by, where others are called as rows to train on.

    Args:
        where: The folder or repository, for telling of them; None not to tell.
    """
    rows = [file for file in files if readers.kind_of(file.name) not in (None, "zip")]
    training = {file for file in rows if _TRAINING.search(file.name)}
    others = [file for file in rows if file not in training and _HELD_OUT.search(file.name)] if training else []
    if others and where is not None:
        shown = ", ".join(file.name for file in others[:5]) + (" …" if len(others) > 5 else "")
        logger.warning(
            "%s: rows are read to train on, and files that are called as other splits are left aside: %s. To read "
            "them, name them with data_files=.", where, shown,
        )  # fmt: skip
    return [file for file in files if file not in set(others)]


def _looked_at(
    look: _Look, rows: list[DataFile], may_lack: bool
) -> tuple[Mapping[str, Any], list[DataFile], LlavaZhError | None]:
    """The first row of `rows`, files of one kind, those of them that are not empty, and why they are not the data.

    Args:
        may_lack: There may be no column for images; one that looks like it under another name is an error all the same.
    """
    columns = look.columns
    try:
        first, rows = _first_row(rows, look)
    except (BadRow, BadFile) as bad:
        return {}, rows, bad
    missing = columns.missing(first, text_only=may_lack)
    what = f"{rows[0].name} has no column for {' and '.join(missing)}"
    if not missing and columns.missing(first):
        odd = next((name for name in columns.unknown(first) if _like_an_image(first[name])), None)
        missing = ["image"] if odd is not None else []
        what = f"{rows[0].name} has no column for image under a name that is read, and {odd!r} looks like one"
    error = _unknown(look.files, look.where, what, first, columns) if missing else None
    return first, rows, error


def _like_an_image(value: Any) -> bool:
    """Whether a value is a picture or names one."""
    value = value[0] if isinstance(value, list) and value else value
    value = value.get("bytes") or value.get("path") if isinstance(value, Mapping) else value
    return isinstance(value, bytes) or (isinstance(value, str) and value.lower().endswith(pictures.SUFFIXES))


def _check_asked(rows: Sequence[DataFile], asked: Collection[DataFile] | None, error: LlavaZhError) -> None:
    """Raise `error` for files that were asked for; tars beside rows hold their images, and empty files no row."""
    if any(file in (asked or ()) and file.size and readers.kind_of(file.name) != "tar" for file in rows):
        raise error


def _without_copies(files: Sequence[DataFile]) -> list[DataFile]:
    """`files` without the compressed ones that stand beside what they were unpacked to."""
    unpacked = {file.name + ending for file in files for ending in _COMPRESSED[1:]}
    return [file for file in files if file.name not in unpacked]


def _tell_of_others(look: _Look, chosen: Sequence[DataFile], seen: _Seen) -> None:
    """Warn of the files with rows that are not read, since they are of another kind than those that are."""

    def has_rows(file: DataFile) -> bool:
        try:
            check_is_data(file, look.token)
            row = readers.sample(file, look.token, columns=look.columns, text_only=look.text_only)
            return bool(row) and not look.columns.missing(row, text_only=look.text_only)
        except LlavaZhError:
            return False

    read = {readers.kind_of(file.name) for file in chosen}
    unlike = [file for file in seen.unlike if file not in set(chosen) and readers.kind_of(file.name) != "tar"]
    others = [*seen.broken, *filter(has_rows, unlike[:_LOOKED_AT])]
    for family in _ROW_KINDS if "tar" not in read else ():
        if not read & set(family):
            rows = (file for kind in family for file in _of_kind(look.files, kind))
            others += filter(has_rows, itertools.islice(rows, _LOOKED_AT))
    others = list(dict.fromkeys(others))
    if others:
        shown = ", ".join(file.name for file in others[:5]) + (" …" if len(others) > 5 else "")
        logger.warning(
            "%s: rows are read from %s%s; files of another kind, or damaged ones, are left aside: %s. "
            "To read other files, name them with data_files=.",
            look.where, chosen[0].name, " …" if len(chosen) > 1 else "", shown,
        )  # fmt: skip


def _first_row(files: Sequence[DataFile], look: _Look) -> tuple[Mapping[str, Any], list[DataFile]]:
    """A row of the first file that has any, and the files that are not empty.

    Where rows may have no image it is one of the first file that has a row with an image, among the first few.
    """
    full = [file for file in files if file.size] or files[:1]
    check_is_data(full[0], look.token)
    first: Mapping[str, Any] = {}
    bad: BadRow | None = None
    for file in full:
        try:
            first = _sampled(file, look) or first
        except BadRow as error:
            if not look.skip_bad:
                raise
            bad = bad or error
        if any(value is not None for value in first.values()):
            break
    if bad is not None and not first:
        raise bad
    return _with_image(first, full, look), list(full)


def first_row(
    files: Sequence[DataFile], token: Any, columns: Columns, skip_bad: bool, text_only: bool
) -> Mapping[str, Any]:
    """The first row of the first file; where rows may have no image, one of the first few files' that has one if any.

    Raises:
        BadRow, BadFile: The first file has no good row, or is damaged.
    """
    look = _Look(files, "", token, columns, skip_bad, text_only)
    return _with_image(_sampled(files[0], look), files, look)


def _with_image(first: Mapping[str, Any], files: Sequence[DataFile], look: _Look) -> Mapping[str, Any]:
    """`first`, or, where it has no image and rows need none, a row with one in one of the first few files."""
    if look.text_only and first and not look.columns.has_image(first):
        for file in files[:_LOOKED_AT]:
            with contextlib.suppress(BadRow, BadFile):
                if look.columns.has_image(row := _sampled(file, look)):
                    return row
    return first


def _sampled(file: DataFile, look: _Look) -> Mapping[str, Any]:
    return readers.sample(file, look.token, patient=look.skip_bad, columns=look.columns, text_only=look.text_only)


def _row_files(files: Sequence[DataFile]) -> list[DataFile]:
    """The files of the first kind that there is any of, in order of preference."""
    return next((chosen for family in _ROW_KINDS if (chosen := _of_family(files, family))), [])


def _of_family(files: Sequence[DataFile], kinds: Sequence[str]) -> list[DataFile]:
    chosen = {file for kind in kinds for file in _of_kind(files, kind)}
    return _without_copies([file for file in files if file in chosen])


def _of_kind(files: Sequence[DataFile], kind: str, asked: Collection[DataFile] = ()) -> list[DataFile]:
    return [
        file
        for file in files
        if readers.kind_of(file.name) == kind and (PurePosixPath(file.name).name not in _NOT_ROWS or file in asked)
    ]


def _unknown(
    files: Sequence[DataFile], where: str, problem: str, first: Mapping[str, Any], columns: Columns
) -> UnknownLayout:
    others = [file.name for file in files if not file.name.lower().endswith(pictures.SUFFIXES)]
    seen = ", ".join(others[:20]) + (f" and {len(others) - 20} more" if len(others) > 20 else "") or "no data file"
    looked = "; ".join(
        f"{field} under {', '.join(columns.names[field])}"
        for field in ("image", "conversations", "caption", "question", "task")
        if columns.names[field]
    )
    seen_columns = ", ".join(f"{name} ({type(value).__name__})" for name, value in first.items()) or "none"
    return UnknownLayout(
        f"{where}: {problem}. Files seen (images aside): {seen}. Columns seen: {seen_columns}. Looked for rows in "
        f"Parquet, JSON Lines, JSON and WebDataset tars, with {looked}. "
        f"{_begun(files) or 'Name the files with data_files='}, or convert them to one of these."
    )
