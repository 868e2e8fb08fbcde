"""``llava-zh sa1b index``: make the indexes of archives ahead of their first use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...errors import LlavaZhError
from .. import text
from ..commands import Subparsers, new_parser
from ..options import add_json
from .common import add_archives, add_num_proc, add_root, filesystem, tell_next

if TYPE_CHECKING:
    from ...sa1b.filesystem import Sa1bFileSystem
    from ...sa1b.index import Problem
    from ...sa1b.tree import ArchiveInfo

_EXAMPLE = """\
  llava-zh sa1b index --image-root /data/sa1b
  llava-zh sa1b index --image-root /data/sa1b --archives 0-44 --sidecar
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = new_parser(
        subparsers,
        "index",
        "index archives ahead of their first use, several at once",
        "Reads each archive that has no index once, and keeps where its members lie: in the user's cache, or beside "
        "the archive with --sidecar, to travel with it to a bucket. A call that was stopped goes on at the archives "
        "it had not finished. Exits with 1 if one cannot be read at all.",
        _EXAMPLE,
    )
    add_root(parser)
    add_archives(parser)
    parser.add_argument("--sidecar", action="store_true", help="write each index beside its archive")
    add_num_proc(parser, "archives at a time")
    add_json(parser, "what was indexed")
    parser.add_argument("--rebuild", action="store_true", help="make anew also those that are good")
    parser.set_defaults(run=run)


def _problems(fs: Sa1bFileSystem, info: ArchiveInfo) -> Sequence[Problem]:
    """The first problems of an archive that was indexed."""
    try:
        return fs.open_archive(info).index.problems[:5]
    except LlavaZhError:  # it changed since
        return ()


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from ...sa1b import archive_names, store

    fs = filesystem(args)
    for root in fs.roots:
        root.check()
    if not args.sidecar:
        store.check_cache()
    names = None if args.archives is None else archive_names(args.archives)
    made = fs.build_index(names, sidecar=args.sidecar, num_proc=args.num_proc, rebuild=args.rebuild)
    if not made and args.json:
        text.say_json([])
        return 0
    if not made:
        text.tell("Nothing to index: every archive file has an index already, or there is none.")
        return 0
    rows = [("ARCHIVE", "LAYOUT", "MEMBERS", "IMAGE IDS", "PROBLEMS")]
    for info in made:
        problems = ", ".join(f"{number} {kind}" for kind, number in info.problems.items())
        ids = "" if info.ids is None else f"{info.ids[0]}-{info.ids[1]}"
        rows.append(
            (info.name, info.kind, f"{info.members or 0:,}", ids, problems or ("all of it" if info.problem else "none"))
        )
    if args.json:
        text.say_json([asdict(one) for one in made], indent=1)
    else:
        text.say_table(rows, right=(2, 3))
    for info in made:
        if info.problem:
            text.tell(text.one_line(f"{info.name}: {info.problem}"))
        elif info.problems:
            for problem in _problems(fs, info):
                where = f"{problem.member or 'the archive'} at {problem.offset:,}"
                text.tell(text.one_line(f"{info.name}: {problem.kind}: {where}: {problem.detail}"))
    tell_next((info.name, info.problems) for info in made)
    return 1 if any(info.problem for info in made) else 0
