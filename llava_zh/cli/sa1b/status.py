"""``llava-zh sa1b status``: which archives there are, in which layout, and which rows they cover."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...errors import DataFileNotFound
from .. import text
from ..commands import Subparsers, new_parser
from ..options import add_json, add_source
from .common import add_root, filesystem, tell_next

if TYPE_CHECKING:
    from ...sa1b.filesystem import Sa1bFileSystem
    from ...sa1b.tools.status import Coverage
    from ...sa1b.tree import ArchiveInfo

_EXAMPLE = """\
  llava-zh sa1b status --image-root /data/sa1b
  llava-zh sa1b status internvl-sa-1b-caption --data-dir captions --image-root /data/sa1b
  llava-zh sa1b status internvl-sa-1b-caption single_zh --json
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = new_parser(
        subparsers,
        "status",
        "which archives are there, in which layout, indexed or not; how many rows they cover",
        "Lists the archives, extracted folders and flat folders of a root. With a dataset, also reads the rows of its "
        "configurations and counts those whose images are there, by indexes and listings alone. Exits with 1 if an "
        "archive cannot be read at all.",
        _EXAMPLE,
    )
    parser.add_argument("path", metavar="NAME", nargs="?", help="a dataset whose rows are counted")
    parser.add_argument("name", metavar="CONFIG", nargs="?", help="one configuration of it (default: all)")
    add_root(parser)
    parser.add_argument("--data-dir", metavar="DIR", help="folder with the published files; no hub is asked")
    add_source(parser)
    add_json(parser, "archives and coverage")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from ...sa1b.tools.status import status

    fs = filesystem(args)
    infos = status(fs)
    counted = _coverage(fs, args)
    if args.json:
        found = {config: None if one is None else asdict(one) for config, one in counted.items()}
        text.say_json({"archives": [asdict(info) for info in infos], "coverage": found}, indent=1)
        return 1 if any(info.problem for info in infos) else 0
    text.say(_archives(infos))
    if counted:
        text.say("\n" + _covered(counted))
    tell_next((info.name, info.problems) for info in infos)
    waiting = sum(not info.indexed and info.kind != "unusable" for info in infos)
    if waiting:
        root = ",".join(root.name for root in fs.roots)
        text.tell(f"{waiting} not indexed yet. To index now: llava-zh sa1b index --image-root {root}")
    return 1 if any(info.problem for info in infos) else 0


def _archives(infos: list[ArchiveInfo]) -> str:
    rows = [("ARCHIVE", "LAYOUT", "INDEXED", "MEMBERS", "IMAGE IDS", "SIZE", "WHERE")]
    notes = []
    for info in infos:
        archive = info.kind not in ("extracted", "folder", "flat")
        rows.append(
            (
                info.name or "(several)",
                info.kind,
                ("yes" if info.indexed else "no") if archive else "",
                "" if info.members is None else f"{info.members:,}",
                "" if info.ids is None else f"{info.ids[0]}-{info.ids[1]}",
                "" if info.size is None else text.size(info.size),
                f"{info.root}/{info.path}".rstrip("/"),
            )
        )
        if info.problem:
            notes.append(f"{info.name}: {info.problem}")
        elif info.problems:
            found = ", ".join(f"{number} {kind}" for kind, number in info.problems.items())
            whole = f"; {info.end:,} bytes (before compression) are whole" if "truncated" in info.problems else ""
            notes.append(f"{info.name}: {found}{whole}")
    kinds = ", ".join(f"{number} {kind}" for kind, number in Counter(info.kind for info in infos).items())
    total = text.size(sum(info.size or 0 for info in infos))
    lines = [text.table(rows, right=(3, 4, 5)), *map(text.one_line, notes), f"{len(infos)} in all: {kinds}; {total}"]
    return "\n".join(lines)


def _coverage(fs: Sa1bFileSystem, args: argparse.Namespace) -> dict[str, Coverage | None]:
    """The coverage of each configuration asked for; None where `data_dir` has no file of it."""
    if args.path is None and args.data_dir is None:
        return {}
    from ... import get_dataset_config_names, load_dataset_builder
    from ...sa1b.tools.status import coverage

    path = args.path or _dataset_in(args.data_dir)
    options = {"data_dir": args.data_dir, "source": args.source, "revision": args.revision}
    counted: dict[str, Coverage | None] = {}
    for config in [args.name] if args.name else get_dataset_config_names(path):
        text.tell(f"Reading the rows of {config} …")
        try:
            builder = load_dataset_builder(path, config, image_root=args.image_root, **options)
        except DataFileNotFound:
            if args.name:
                raise
            counted[config] = None
        else:
            counted[config] = coverage(fs, builder.image_paths())
    return counted


def _dataset_in(data_dir: str) -> str:
    """The dataset on SA-1B's images of which a folder has a published file, or the first that there is."""
    from ...catalog import registry, row_files
    from ...files.data_files import local_files

    files, known = local_files(data_dir, None), [facts for facts in registry.everything() if facts.in_sa1b]
    return next(
        (f.name for f in known if any(row_files.is_named(file, name) for name in f.file_names for file in files)),
        known[0].name,
    )


def _covered(counted: dict[str, Coverage | None]) -> str:
    rows = [("CONFIG", "ROWS", "COVERED", "NOT INDEXED YET", "MISSING")]
    for config, one in counted.items():
        if one is None:
            rows.append((config, "no file", "", "", ""))
        else:
            share = f"{one.covered:,} ({one.covered / max(one.rows, 1):.1%})"
            rows.append((config, f"{one.rows:,}", share, f"{one.unindexed:,}", f"{one.missing:,}"))
    return text.table(rows, right=(1, 2, 3, 4))
