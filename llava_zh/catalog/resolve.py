"""What a request means: the files with the rows of a configuration, and where its images are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import BadArgument, DataFileNotFound, UnknownName
from ..files import hub
from ..files.data_files import ABOUT_HUBS, DataFile, flatten, local_files
from ..files.url_files import files_of, is_url, named_exactly
from ..gates.safe_text import get_logger
from ..images.locations import UnresolvedImages, with_token
from . import row_files
from .facts import DatasetFacts
from .image_places import Seen, places
from .registry import hub_place
from .request import Request
from .row_files import Layout

logger = get_logger(__name__)


def settings(facts: DatasetFacts, request: Request) -> dict[str, Any]:
    """What the configuration of a builder is made of: the request as the dataset understands it, files and images.

    Raises:
        BadArgument, UnknownName: The request cannot be met by any file.
        DataFileNotFound, HubError, UnknownLayout, BadFile, BadRow: See :mod:`llava_zh.errors`.
    """
    source = request.source or (next(iter(facts.repos)) if len(facts.repos) == 1 else None)
    settled = request.settled(facts, name=config_name(facts, request.name), source=hub.source_name(source))
    layout = resolve(facts, settled, request.token, request.storage_options)
    if settled.on_missing_image != "raise" and isinstance(layout.images, UnresolvedImages):
        raise BadArgument(
            f"on_missing_image={settled.on_missing_image!r}: no image could be found at all; {layout.found}. "
            "Pass image_root=."
        )
    return {
        "config_name": settled.name,
        "files": layout.files,
        "found": layout.found,
        "images": with_token(layout.images, request.token),
        "request": settled,
    }


def config_name(facts: DatasetFacts, name: str | None) -> str:
    """The configuration of that name, or the one of a call that names none.

    Raises:
        BadArgument: None is named, and there are several.
        UnknownName: There is no such configuration.
    """
    known = [config.name for config in facts.configs]
    if name is None and facts.default_config is None:
        raise BadArgument(
            f"{facts.name} needs the name of a configuration, one of: {', '.join(known)}. "
            f"For example: load_dataset({facts.name!r}, {known[0]!r})"
        )
    name = name or facts.default_config
    if name not in known:
        raise UnknownName.of(f"configuration of {facts.name}", name, known)
    return str(name)


def resolve(facts: DatasetFacts, request: Request, token: Any, options: Mapping[str, Any] | None = None) -> Layout:
    """The files with the rows that a settled request means, and where its images are.

    `data_dir` is a folder, or ``hf:owner/name`` and ``modelscope:owner/name`` for a repository on a hub; `data_files`
    are files or patterns in it, also ``hf:owner/name/pattern``. Either may be URLs, which `options` are for.
    """
    skip_bad, config = request.on_bad_row == "skip", str(request.name)
    columns, text_only = facts.fields, facts.config(config).text_only
    files, rows, where = _files(facts, request, token, options)
    first: Mapping[str, Any] | None
    if not rows:
        asked = _asked(request, files)
        rows, first, found = row_files.find_rows(
            files, where, token, columns, skip_bad=skip_bad, asked=asked, text_only=text_only
        )
    else:
        # The published file names its images as the facts say; an export of it may hold them, or have them beside it.
        published = any(row_files.is_named(rows[0], name) for name in facts.config(config).files)
        look = facts.has_own_images or not published
        first = row_files.first_row(rows, token, columns, skip_bad, text_only) if look else None
        found = ", ".join(file.label for file in rows)
    no_images = text_only and bool(first) and not columns.has_image(first or {})
    images, described = places(facts, Seen(files, rows, first, where, no_images), request.image_root)
    if described:
        found += f"; images {described}"
        logger.info("%s: found %s", where, found)
    return Layout(tuple(rows), images, found)


def _files(
    facts: DatasetFacts, request: Request, token: Any, options: Mapping[str, Any] | None
) -> tuple[Sequence[DataFile], Sequence[DataFile], str]:
    """All files that are there, those with the rows where that is known already, and words for where they are."""
    config, source = str(request.name), str(request.source)
    folder = None if request.data_dir is None else os.path.expanduser(request.data_dir)  # noqa: PTH111
    if (place := _hub_place(request)) is not None:
        repo, revision = place["repo"], request.revision or place["revision"] or ABOUT_HUBS[place["hub"]].branch
        files = hub.hub_files(place["hub"], repo, revision, token)
        wanted = place["files"]
        rows = _picked(files, wanted, f"{place['hub']}:{repo}") if wanted else []
        return files, rows, f"{place['hub']}:{repo}"
    names = facts.config(config).files
    if request.data_files is not None:
        files = files_of(folder, request.data_files, options, token)
        return files, files if names else [], str(folder or ".")
    if folder is not None:
        files = files_of(folder, None, options, token)
        return files, row_files.by_name(files, config, facts, folder) if names else [], folder
    repo, revision = facts.repository(source, request.revision)
    where = f"{source}:{repo}"
    if names and not facts.has_own_images and not any(sign in name for name in names for sign in "*?["):
        files = hub.hub_files(source, repo, revision, token, list(names))
        return files, files, where
    files = hub.hub_files(source, repo, revision, token)
    return files, _picked(files, names, where) if names else [], where


def _asked(request: Request, files: Sequence[DataFile]) -> list[DataFile] | None:
    """The files beyond the hubs that `data_files` names one by one, and not by a pattern; None without `data_files`."""
    if request.data_files is None or _hub_place(request) is not None:
        return None
    folder = None if request.data_dir is None else os.path.expanduser(request.data_dir)  # noqa: PTH111
    remote = named_exactly(list(files), folder, request.data_files)
    if is_url(folder):
        return remote
    exact = [one for one in flatten(request.data_files) if not is_url(one) and not any(sign in one for sign in "*?[")]
    return remote + local_files(folder, exact)


def _hub_place(request: Request) -> dict[str, Any] | None:
    """The repository that stands in place of a folder or a file; `files` are the patterns in it, None for all.

    Raises:
        BadArgument: Files of a hub beside others, or a repository in a repository.
    """
    given = list(flatten(request.data_files)) if request.data_files is not None else []
    folder, named = hub_place(request.data_dir), [hub_place(one) for one in given]
    if folder is not None:
        inner = f"{folder['files'].strip('/')}/" if folder["files"] else ""
        if any(named):
            raise BadArgument("data_dir= names a repository on a hub; give data_files= as names or patterns in it.")
        patterns = [inner + one for one in given] or ([f"{inner}*"] if inner else [])
        return {**folder, "files": patterns or None}
    if not any(named):
        return None
    places = [one for one in named if one is not None]
    if len(places) < len(named) or len({(one["hub"], one["repo"], one["revision"]) for one in places}) > 1:
        raise BadArgument("data_files: files of one repository on a hub cannot be mixed with others in one call.")
    patterns = [one["files"] for one in places if one["files"]]
    return {**places[0], "files": patterns if len(patterns) == len(places) else None}


def _picked(files: Sequence[DataFile], names: Sequence[str], where: str) -> list[DataFile]:
    """Those of `files` that have the names or fit the patterns, in the order in which these are given.

    Raises:
        DataFileNotFound: None does.
    """
    found = list(dict.fromkeys(file for name in names for file in row_files.named(files, name)))
    if not found:
        seen = ", ".join(file.name for file in files[:20]) or "nothing"
        raise DataFileNotFound(f"{where} has no file {', '.join(names)}; it has {seen}. Was it renamed?")
    return found
