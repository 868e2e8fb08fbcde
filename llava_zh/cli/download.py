"""``llava-zh download``: the published files on this disk, whole and checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadFile, HubError, UnknownName
from ..gates.counts import counted
from . import text
from .commands import Subparsers, new_parser
from .options import add_dataset, add_json, add_output_dir, add_source

if TYPE_CHECKING:
    from ..catalog.facts import DatasetFacts
    from ..files.data_files import DataFile

_EXAMPLE = """\
  llava-zh download internvl-sa-1b-caption single_zh captions
  llava-zh download internvl-sa-1b-caption single_zh --source modelscope
  llava-zh download llava-instruct-zh-600k --source modelscope --output-dir llava-instruct
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "download",
        help="fetch the published files, continue where it stopped, check sizes and hashes",
        description=(
            "Fetches the published file of a configuration, or all files of the dataset, and checks the size and hash "
            "of each against the hub's listing. A broken connection is continued at the byte reached; with DIR, so "
            "is a download that was stopped: run the same command again. Files that are there already are only checked."
        ),
        example=_EXAMPLE,
    )
    add_dataset(parser)
    add_source(parser)
    add_output_dir(
        parser,
        "folder to write into (default: the cache of the hub's client)",
        optional=True,
        also=("--dest",),
        type=Path,
    )
    add_json(parser, "files, folder and the line that loads them")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from ..files import fetch, hub
    from ..load import dataset_facts, get_dataset_config_names, source_of

    facts, source = dataset_facts(args.path), source_of(args.path, args.source)
    if args.name is not None and args.name not in get_dataset_config_names(args.path):
        raise UnknownName.of(f"configuration of {facts.name}", args.name, get_dataset_config_names(args.path))
    if hub.offline():
        raise HubError(
            "HF_HUB_OFFLINE is set, so nothing can be fetched or checked. Unset it, and run the command again."
        )
    files = _wanted(facts, args.name, hub.hub_files(source, *facts.repository(source, args.revision), None))
    folder = None if args.output_dir is None else args.output_dir.expanduser()
    fetch.check_space(files, folder)

    rows = [("FILE", "SIZE", "", "CHECKED")]
    damaged: list[BadFile] = []
    try:
        for file in files:
            try:
                placed, kept = fetch.into_cache(file) if folder is None else fetch.into_folder(file, folder)
            except BadFile as error:
                damaged.append(error)
                rows.append((file.name, text.size(file.size), "NOT FETCHED", "does not match"))
            else:
                checked = "size" if placed.digest is None else f"size, {fetch.hash_name(placed)}"
                rows.append((file.name, text.size(file.size), "kept" if kept else "fetched", checked))
    finally:
        if len(rows) > 1 and not args.json:
            text.say_table(rows, right=(1,))
    if damaged:
        raise BadFile("\n".join(str(error) for error in damaged))
    load = _load_line(facts, args, folder, source)
    if args.json:
        found = [
            {"file": file.name, "size": file.size, "what": what, "checked": checked}
            for file, (_, _, what, checked) in zip(files, rows[1:], strict=True)
        ]
        text.say_json({"files": found, "folder": _place(folder, source), "load": load}, indent=1)
    else:
        text.say(f"\n{_where(files, folder, source)}\nLoad with:\n  {load}")
    return 0


def _wanted(facts: DatasetFacts, config: str | None, files: Sequence[DataFile]) -> Sequence[DataFile]:
    """Those files of the repository that `config` needs, or all of them when it is None."""
    from ..catalog import row_files

    if config is None:
        return files
    names = facts.config(config).files
    if not names:
        text.tell(f"The configurations of {facts.name} share their files: all are fetched.")
        return files
    wanted = [file for name in names for file in row_files.named(files, name)]
    if not wanted:
        seen = ", ".join(file.name for file in files[:20])
        raise HubError(
            f"{files[0].source}:{files[0].repo} has no file {', '.join(names)}; it has {seen}. "
            "Was it renamed? Pass --revision."
        )
    return list(dict.fromkeys(wanted))


def _where(files: Sequence[DataFile], folder: Path | None, source: str) -> str:
    total = text.size(sum(file.size for file in files))
    place = _place(folder, source)
    shown = place if folder is not None else f"the cache of {source}: {place}"
    return f"{counted(len(files), 'files')}, {total}, in {shown}"


def _place(folder: Path | None, source: str) -> str:
    from ..files import hub

    return str(folder.absolute() if folder is not None else hub.HUBS[source].cache_folder())


def _load_line(facts: DatasetFacts, args: argparse.Namespace, folder: Path | None, source: str) -> str:
    """The Python line that loads what was fetched."""
    arguments = [repr(facts.name), repr(args.name or facts.default_config or facts.configs[0].name), "split='train'"]
    if folder is not None:
        arguments.append(f"data_dir={str(folder.absolute())!r}")
    else:
        arguments += [f"source={source!r}"] + ([f"revision={args.revision!r}"] if args.revision else [])
    return f"import llava_zh; rows = llava_zh.load_dataset({', '.join(arguments)})"
