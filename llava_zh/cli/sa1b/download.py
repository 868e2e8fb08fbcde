"""``llava-zh sa1b download``: fetch archives by the links of SA-1B's download page."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from ...gates.counts import counted
from .. import text
from ..commands import Subparsers, new_parser
from ..options import add_json, add_output_dir
from .common import add_archives, add_num_proc

_EXAMPLE = """\
  llava-zh sa1b download --links segment_anything_links.txt --output-dir /data/sa1b --archives 0-3
  llava-zh sa1b download --links links.tsv --checklist checklist.chk --output-dir /data/sa1b --num-proc 8
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = new_parser(
        subparsers,
        "download",
        "fetch archives by the links of SA-1B's download page",
        "Fetches archives, each continued at the byte where an earlier call stopped. The list of links comes from "
        "SA-1B's download page, where its licence is agreed to; links expire after some days, then get a new list and "
        "run the command again. Free space is checked first, and links are never printed. Exits with 1 if one was "
        "not fetched.",
        _EXAMPLE,
    )
    parser.add_argument("--links", type=Path, required=True, metavar="FILE", help="lines of file_name and cdn_link")
    add_output_dir(parser, "folder for the archives", type=Path)
    add_archives(parser, "all that are listed")
    parser.add_argument(
        "--files", nargs="+", default=(), metavar="NAME", help="other files of the list, such as sa_images_ids.txt"
    )
    parser.add_argument("--checklist", type=Path, metavar="FILE", help="Meta's checklist.chk, to compare MD5 sums with")
    add_num_proc(parser, "archives at a time", 4)
    add_json(parser, "what became of each file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from ...sa1b.tools.download import download

    done = download(
        args.links,
        args.output_dir,
        archives=args.archives,
        files=args.files,
        checklist=args.checklist,
        num_proc=args.num_proc,
    )
    skipped = [one.name for one in done if one.skipped]
    done = [one for one in done if not one.skipped]
    rows = [("FILE", "SIZE", "OUTCOME", "CHECKED")]
    for one in done:
        what = "NOT FETCHED" if one.problem else "kept" if one.kept else "fetched"
        checked = "" if one.problem or one.kept else "size, MD5" if one.md5 else "size"
        rows.append((one.name, "" if one.size is None else text.size(one.size), what, checked))
    if args.json:
        text.say_json([asdict(one) for one in done], indent=1)
    else:
        text.say_table(rows, right=(1,))
    failed = [one for one in done if one.problem]
    expired = [one for one in failed if one.expired]
    for one in [*expired[:1], *(one for one in failed if not one.expired)]:
        text.tell(text.one_line(one.problem or ""))
    if len(expired) > 1:
        text.tell(f"And {counted(len(expired) - 1, 'more links')} expired.")
    if skipped:
        text.tell(f"Listed, but no archives, and not fetched: {', '.join(skipped)}. --files NAME fetches one.")
    if any(one.kept for one in done):
        text.tell("Those kept were not checked again; llava-zh sa1b verify --checklist does.")
    return 1 if failed else 0
