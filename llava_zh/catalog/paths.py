"""What a dataset is asked for by: its name, or the path of rows on this machine.

These are the rules, and every call and command has them from here:

1. A registered name and an id on a hub win over a path of the same name; ``./name`` and ``name/`` mean the path.
2. The folder of a run, a curation or an export of ours is the dataset that it was made from, wherever it lies now, and
   its configuration is the default one. What the folder says of itself names a dataset and is never opened as a file.
3. Files that are called as a built-in dataset publishes them are that dataset.
4. Any other file or folder has rows as ``llava`` reads them. Where the image paths of the first rows are SA-1B's they
   are ``sa1b-captions``; where some are, images are told apart by how their paths begin. The dataset is called as the
   file or folder is.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import BadArgument, BadFile, BadRow, DataFileNotFound, LlavaZhError, UnknownLayout, UnknownName, nearest
from ..files import readers
from ..files.data_files import DataFile, local_files
from ..files.kinds import ENDINGS as KINDS
from ..files.our_folders import made_from, ours
from ..gates.safe_text import get_logger
from ..images.prefixed import tidy
from ..rows.columns import Columns, no_image
from ..sa1b.urls import SA_NAME, SHARD_NAME, archive_stem
from . import registry, row_files
from .facts import DatasetFacts, Place
from .request import Request

logger = get_logger(__name__)

#: Rows at the start of each file, and files, that are looked at for what their images are.
LOOKED_AT, FILES_LOOKED_AT = 100, 8
_SHOWN = 12
_ENDINGS = tuple(ending for ending, kind in KINDS.items() if kind != "zip")


@dataclass(frozen=True)
class Found:
    """A dataset as it was asked for.

    Attributes:
        facts: What is known of it.
        hub: The only hub that it is on, or that the name is an id of.
        config: The configuration of a call that names none, where the path says it.
        data_dir, data_files: The folder and the files in it that the path means; None for a name.
    """

    facts: DatasetFacts
    hub: str | None = None
    config: str | None = None
    data_dir: str | None = None
    data_files: tuple[str, ...] | None = None


def find(path: str | os.PathLike[str], *, skip_bad: bool = False) -> Found:
    """The dataset that is asked for by a name, an id on a hub, a Python file that registers one, or a path of rows.

    Args:
        skip_bad: Bad rows are left out, so the first good one of a file may come late.

    Raises:
        UnknownName: There is no such dataset; names the nearest.
        DataFileNotFound: There is no such path, or a folder without rows.
        UnknownLayout, BadFile, BadRow: There is no row in a form that is read, or the first one is bad.
        BadArgument: It is no text.
    """
    given = registry.as_text(path)
    if not given.strip():
        raise BadArgument(
            f"Expected the name of a dataset, or the path of its rows; found {given!r}, nothing. Known: "
            f"{', '.join(registry.names())}. For the current folder write '.'."
        )
    if not _is_written_as_path(given) or given.endswith(".py"):
        known = registry.named(given)
        if known is not None:
            facts, hub = known
            return Found(facts, next(iter(facts.repos)) if hub is None and len(facts.repos) == 1 else hub)
    place = _expanded(given)
    if "\0" not in given and os.path.lexists(place):
        return _on_disk(given, place, skip_bad)
    raise _unknown(given)


def placed(request: Request) -> tuple[DatasetFacts, Request]:
    """The facts of the dataset that a request asks for, and the request with what its path says filled in.

    Raises:
        BadArgument: A path with another place beside it, or with a configuration that it has no rows of.
        UnknownName, DataFileNotFound, UnknownLayout, BadFile, BadRow: See :func:`find`.
    """
    found = find(request.path, skip_bad=request.on_bad_row == "skip")
    facts = found.facts
    if found.data_dir is None:
        _tell_of_namesake(request)
        return facts, replace(request, source=request.source or found.hub)
    if also := sorted(request.given() & {"data_dir", "data_files", "source", "revision"}):
        raise BadArgument(
            f"{request.path!r} is a place on this machine, which says where the rows are; {' and '.join(also)} beside "
            f"it would say it again. Leave {'it' if len(also) == 1 else 'them'} out, or give a dataset's name in place "
            "of the path."
        )
    if found.config and request.name and facts.config(found.config).files:
        known = [config.name for config in facts.configs]
        if request.name in known and request.name != found.config:
            raise BadArgument(
                f"{request.path!r} has the rows of {facts.name} {found.config} and none of {request.name}. "
                "Leave the configuration out, or name another path."
            )
    return facts, replace(
        request,
        name=request.name or found.config,
        data_dir=found.data_dir,
        data_files=None if found.data_files is None else list(found.data_files),
    )


def _tell_of_namesake(request: Request) -> None:
    given = request.path
    if not given.endswith(".py") and not request.given() & {"data_dir", "data_files"} and os.path.exists(given):  # noqa: PTH110
        logger.warning("%r means the dataset of that name; for what lies here under it write './%s'.", given, given)


def _is_written_as_path(given: str) -> bool:
    """Whether a text can be no name, so that it means a path even where a dataset is called so."""
    return given.startswith(("/", "./", "../", "~", ".\\", "..\\")) or given in (".", "..") or (
        given.endswith(("/", os.sep)) and os.path.isdir(given)  # noqa: PTH112
    )  # fmt: skip


def _expanded(given: str) -> Path:
    try:
        return Path(given).expanduser()
    except RuntimeError:  # the home of a user who does not exist
        return Path(given)


# -- what lies at a path -----------------------------------------------------------------------------------


def _on_disk(given: str, path: Path, skip_bad: bool) -> Found:
    is_folder = path.is_dir()
    if not is_folder:
        _check_kind(given, path)
    folder = Path(os.path.abspath(path if is_folder else path.parent))  # noqa: PTH100 (links are not followed)
    names = None if is_folder else (path.name,)
    origin = _origin(folder)
    if origin is not None and (facts := _registered(origin)) is not None:
        known = {config.name for config in facts.configs}
        top = folder if origin.folder == folder or not is_folder else origin.folder
        return Found(facts, None, origin.config if origin.config in known else None, str(top), names)
    files = local_files(str(folder), names)
    published = _published(files)
    if published is not None:
        return Found(*published, str(folder), names)
    facts = _any_rows(given, Path(os.path.abspath(path)), str(folder), files, is_folder, skip_bad)  # noqa: PTH100
    config = facts.default_config
    if origin is not None:
        _tell_of_lost(given, origin)
        config = origin.config if any(one.name == origin.config for one in facts.configs) else config
    return Found(facts, None, config, str(folder), names)


def _check_kind(given: str, path: Path) -> None:
    if not path.is_file():
        what = "a link to nothing" if not path.exists() else "neither a file nor a folder"
        raise DataFileNotFound(f"{given!r} is {what}. Name a file of rows, or a folder that has some.")
    if readers.kind_of(path.name) is None:
        raise UnknownLayout(
            f"{given!r} is no file of a kind that rows are read from. Expected a name that ends in "
            f"{', '.join(_ENDINGS)}; found {path.suffix or 'no ending'}. Convert it, or rename it."
        )


def _published(files: Sequence[DataFile]) -> tuple[DatasetFacts, None, str | None] | None:
    """The built-in dataset whose published files are among `files`, and its configuration if that is one."""
    for name in registry.BUILT_IN:
        facts = registry.find(name)[0]
        exact = {file: config for file, config in facts.file_names.items() if not set(file) & set("*?[")}
        there = {config for file, config in exact.items() if any(row_files.is_named(one, file) for one in files)}
        if there:
            return facts, None, next(iter(there)) if len(there) == 1 else None
    return None


# -- what a folder of ours says of itself ------------------------------------------------------------------


@dataclass(frozen=True)
class _Origin:
    """From which dataset the rows below `folder` were made, and by what it was asked for then."""

    folder: Path
    dataset: str
    config: str | None
    asked: str | None


def _origin(folder: Path) -> _Origin | None:
    """What a run, a curation or an export says of the rows in its folder, or in the folder ``data`` of it."""
    for top in (folder, folder.parent) if folder.name == "data" else (folder,):
        found = ours(top)
        said = found.said if found is not None else {}
        if found is not None and found.kind == "run":
            asked = said.get("asked")
            return _origin_of(top, said["input"], asked.get("path") if isinstance(asked, Mapping) else None)
        if found is not None and found.kind == "export":
            configs = said["configs"]
            return _origin_of(top, {**said, "config": configs[0] if len(configs) == 1 else None}, None)
        if found is not None and found.kind == "curation":
            path = said["parameters"].get("path")
            return _origin_of(top, {"dataset": path, "config": said["parameters"].get("name"), **said}, path)
    return None


def _origin_of(top: Path, said: Mapping[str, Any], asked: Any) -> _Origin | None:
    dataset, config = said.get("dataset"), said.get("config")
    if not isinstance(dataset, str):
        return None
    return _Origin(top, dataset, config if isinstance(config, str) else None, asked if isinstance(asked, str) else None)


def _registered(origin: _Origin) -> DatasetFacts | None:
    """The dataset that a folder says it was made from. It may be anyone's folder: no Python file is run by its word."""
    for name in filter(None, (origin.dataset, origin.asked)):
        if not name.endswith(".py") and not _is_written_as_path(name) and (known := registry.named(name)) is not None:
            return known[0]
    return None


def _tell_of_lost(given: str, origin: _Origin) -> None:
    made = made_from(origin.folder)
    if made is not None and made.by_path:
        return
    if origin.asked is not None and (origin.asked.endswith(".py") or origin.asked == origin.dataset):
        logger.warning(
            "%s was made from the dataset %s (%s), which is not registered here; its rows are read as those of any "
            "folder are. Register it, and load it by its name with data_dir=%r, to have them as its own.",
            given, origin.dataset, origin.asked, given,
        )  # fmt: skip


# -- rows that nothing is said of --------------------------------------------------------------------------


def _any_rows(
    given: str, path: Path, folder: str, files: Sequence[DataFile], is_folder: bool, skip_bad: bool
) -> DatasetFacts:
    """The facts of rows in a usual form, by the columns and the image paths of the first of them."""
    usual, captions = registry.find("llava")[0], registry.find("sa1b-captions")[0]
    if is_folder:
        _check_folder(given, files, path)
    asked = None if is_folder else files
    problem: LlavaZhError | None = None
    for fitting, text_only in ((usual, False), (captions, False), (usual, True)):
        try:
            rows, first, _ = row_files.find_rows(
                files, folder, None, fitting.fields, skip_bad=skip_bad, asked=asked, text_only=text_only, tell=False
            )
            break
        except (UnknownLayout, BadRow) as error:  # a tar of captions has no good row but by their names
            problem = problem or error
    else:
        assert problem is not None
        raise problem
    looked = list(_first_rows(rows, fitting.fields))
    images = places_of(_paths(looked, fitting.fields))
    pictured = all(fitting.fields.has_image(row) for row in looked)
    facts = captions if images == "sa1b" and pictured else usual
    several = any(isinstance(value, list) and len(value) > 1 for value in _images(looked, fitting.fields))
    return replace(
        facts,
        name=_safe_name(path),
        title=path.name,
        description=f"The rows of {path.name}, in the form of {facts.name}.",
        default_config="multi" if several else "default",
        images=images,
        columns=fitting.columns if facts.fields.missing(first, text_only=text_only) else facts.columns,
    )


def _check_folder(given: str, files: Sequence[DataFile], path: Path) -> None:
    rows = (file.name for file in files if readers.kind_of(file.name) not in (None, "zip"))
    if any(not SHARD_NAME.fullmatch(archive_stem(name.rpartition("/")[2]) or "") for name in rows):
        return
    if any(SHARD_NAME.fullmatch(archive_stem(entry.name) or entry.name) for entry in os.scandir(path)):
        raise DataFileNotFound(
            f"{given!r} holds images of SA-1B and no rows. It is an image_root= for a dataset whose "
            "images are SA-1B's, such as 'internvl-sa-1b-caption'."
        )
    seen = ", ".join(sorted(entry.name for entry in os.scandir(path))[:_SHOWN]) or "nothing at all"
    raise DataFileNotFound(
        f"{given!r} is a folder without a file of rows. Expected files that end in {', '.join(_ENDINGS)}, in it or in "
        f"folders below; found {seen}."
    )


def _first_rows(rows: Sequence[DataFile], columns: Columns) -> Iterator[Mapping[str, Any]]:
    """The first rows of the first files; of a file whose rows hold their pictures, one."""
    for file in rows[:FILES_LOOKED_AT]:
        try:
            for _, record, _ in itertools.islice(readers.raw_records(file, None, columns), LOOKED_AT):
                if isinstance(record, Mapping):
                    yield record
                    if next(_embedded(columns.get(record, "image")[1]), False):
                        break
        except BadFile:
            continue  # who reads it is told where


def _images(rows: Iterable[Mapping[str, Any]], columns: Columns) -> Iterator[Any]:
    return (columns.get(row, "image", no_image)[1] for row in rows)


def _each(value: Any) -> Iterator[Any]:
    yield from value if isinstance(value, list) else [value]


def _embedded(value: Any) -> Iterator[bool]:
    return (isinstance(one, bytes) or (isinstance(one, Mapping) and bool(one.get("bytes"))) for one in _each(value))


def _paths(rows: Iterable[Mapping[str, Any]], columns: Columns) -> Iterator[str]:
    for value in _images(rows, columns):
        for one in _each(value):
            path = one.get("path") if isinstance(one, Mapping) else one
            if isinstance(path, str) and not path.startswith("data:"):
                yield path


def places_of(paths: Iterable[str]) -> Place | Mapping[str, Place]:
    """Where images are, by the paths of some: all in SA-1B, none, or told apart by how paths begin."""
    kinds: dict[str, set[Place]] = {}
    for path in paths:
        name = tidy(path)
        kind: Place = "sa1b" if _is_sa1b(name) else "own"
        start = "sa_" if kind == "sa1b" and name.startswith("sa_") else f"{name.partition('/')[0]}/" * ("/" in name)
        kinds.setdefault(start, set()).add(kind)
    found = set().union(*kinds.values())
    if found == {"sa1b"}:
        return "sa1b"
    told = {start: next(iter(which)) for start, which in kinds.items() if start and len(which) == 1}
    if "sa1b" not in told.values():
        return "own"
    return {**told, "": "own"}


def _is_sa1b(path: str) -> bool:
    base = path.partition("::")[0].rpartition("/")[2]
    return SA_NAME.fullmatch(base) is not None and base.endswith(".jpg")


def _safe_name(path: Path) -> str:
    """The name of a file or folder as a dataset may be called, and as none is that is registered."""
    stem = path.name
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
            break
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:150]
    if name != stem:
        name = f"{name or 'rows'}-{hashlib.sha256(stem.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"
    return name if registry.named(name) is None else f"{name}-rows"


# -- what is not there -------------------------------------------------------------------------------------


def _unknown(given: str) -> UnknownName | DataFileNotFound:
    path = _expanded(given) if "\0" not in given else Path("?")
    known = registry.names()
    repos = list(dict.fromkeys(repo for facts in registry.everything() for repo in facts.repos.values()))
    if _is_written_as_path(given) or readers.kind_of(path.name) or (path.parent != Path() and path.parent.is_dir()):
        is_name = nearest(given, [*known, *repos], cutoff=0.8)
        return DataFileNotFound(
            f"There is no file {given!r}, no such folder, and no dataset of that name.{is_name or _beside(path)}"
        )
    how = " Rows of yours are named by the path of their file or folder, a dataset of yours by its Python file."
    if "/" in given:
        how += f" For any repository on a hub write 'hf:{given}' or 'modelscope:{given}'."
    here = _near(path)
    return UnknownName(
        f"Unknown dataset {given!r}.{nearest(given, [*known, *repos])}"
        f"{f' There is a path {here!r}.' if here else ''} Known: {', '.join([*known, *repos])}.{how}"
    )


def _near(path: Path) -> str | None:
    """The path beside `path`, which is not there, whose name is nearest."""
    close = get_close_matches(path.name, _listed(path.parent), n=1, cutoff=0.6)
    return str(path.parent / close[0]) if close else None


def _beside(path: Path) -> str:
    """Words for what is where a path leads that is not there: the nearest name, and the others."""
    if here := _near(path):
        return f" Did you mean {here!r}?"
    there = next((above for above in path.parents if above.is_dir()), Path())
    if there != path.parent:
        return f" There is no folder {str(path.parent)!r} either."
    listed = _listed(there)
    more = f" and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
    return f" {str(there)!r} has {', '.join(listed[:_SHOWN]) or 'nothing'}{more}."


def _listed(folder: Path) -> list[str]:
    """The names in a folder, but for hidden ones; of one with very many, some."""
    try:
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries if not entry.name.startswith("."))
            return sorted(itertools.islice(names, 10_000))
    except OSError:
        return []
