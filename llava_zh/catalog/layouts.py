"""Which of a folder's or repository's files hold a dataset's rows, which hold its images, and in which layout.

Two ways: a dataset whose files have known names (:func:`by_name`), and one whose layout has to be found out from the
file list and the columns (:func:`detect`).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..errors import BadFile, BadRow, DataFileNotFound, LlavaZhError, UnknownLayout
from ..files import readers
from ..files.data_files import DataFile
from ..files.hub import check_is_data
from ..gates import pictures
from ..images.locations import Images
from ..rows.columns import USUAL, Columns
from .facts import DatasetFacts

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


def is_named(file: DataFile, name: str) -> bool:
    """Whether `file` is the published file `name`, or one of a pattern, compressed or not, in whatever folder."""
    return _matches(PurePosixPath(file.name).name, PurePosixPath(name).name)


def named(files: Sequence[DataFile], name: str) -> list[DataFile]:
    """The published file called `name`, of several copies the first; or all files of a pattern that can have rows."""
    found = [file for file in files if _matches(file.name, name)] or [file for file in files if is_named(file, name)]
    if not any(sign in name for sign in "*?["):
        return found[:1]
    return [file for file in found if readers.kind_of(file.name) not in (None, "zip")]


def _matches(name: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern + ending) for ending in _COMPRESSED)


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
    files: Sequence[DataFile], where: str, token: Any, columns: Columns = USUAL, *, skip_bad: bool = False
) -> tuple[list[DataFile], Mapping[str, Any], str]:
    """Which of `files` have the rows of a dataset whose layout is not known beforehand, the first row, and words.

    Accepted: Parquet with paths or embedded images, JSON or JSON Lines in LLaVA form or as ``messages`` + ``images``,
    one caption or one question and answer, and WebDataset tars.

    Args:
        where: The folder or repository, for messages.
        columns: The names under which rows have each field.
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
            first, rows = _first_row(rows, token, columns, skip_bad)
        except (BadRow, BadFile) as error:
            # Notes beside the data may be no data; what is preferred comes first, and is what the error is about.
            problem = problem or error
            continue
        missing = columns.missing(first)
        if not missing:
            break
        what = f"{rows[0].name} has no column for {' and '.join(missing)}"
        problem = problem or _unknown(files, where, what, first, columns)
    else:
        raise problem or _unknown(files, where, "no Parquet, JSON, JSON Lines or tar file", {}, columns)
    kinds = sorted({readers.kind_of(file.name) or "" for file in rows})
    found = f"{len(rows)} {'/'.join(kinds)} file{'s' * (len(rows) > 1)} with columns {', '.join(first)}"
    return rows, first, found


def _first_row(
    files: Sequence[DataFile], token: Any, columns: Columns, skip_bad: bool
) -> tuple[Mapping[str, Any], list[DataFile]]:
    """A row of the first file that has any, and the files that are not empty."""
    full = [file for file in files if file.size] or files[:1]
    check_is_data(full[0], token)
    first: Mapping[str, Any] = {}
    bad: BadRow | None = None
    for file in full:
        try:
            first = readers.sample(file, token, patient=skip_bad, columns=columns) or first
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
