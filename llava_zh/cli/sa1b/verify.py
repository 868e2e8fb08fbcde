"""``llava-zh sa1b verify``: read and decode everything once, before training does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...gates.counts import counted
from .. import text
from ..commands import Subparsers, new_parser
from ..options import add_json, add_output_dir
from .common import add_archives, add_num_proc, add_root, filesystem, tell_next

if TYPE_CHECKING:
    from ...sa1b.tools.verify import VerifyReport

_EXAMPLE = """\
  llava-zh sa1b verify --image-root /data/sa1b --checklist checklist.chk --output-dir sa1b-verify
  llava-zh show internvl-sa-1b-caption single_zh --image-root /data/sa1b --bad-images sa1b-verify/bad-images.txt
"""
_SHOWN = 10


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = new_parser(
        subparsers,
        "verify",
        "check MD5 sums, that every member can be read, that every JPEG decodes",
        "Reads every member of every archive and folder and decodes every JPEG, in parallel. Writes report.json, "
        "bad-images.txt (for --bad-images, or bad_images= in Python) and state.jsonl into the output folder; run again "
        "after a stop or a kill, it goes on from there. Exits with 1 when something is bad.",
        _EXAMPLE,
    )
    add_root(parser)
    add_archives(parser)
    add_output_dir(parser, "folder of the report (default: ./sa1b-verify)", default="sa1b-verify", type=Path)
    parser.add_argument("--checklist", type=Path, metavar="FILE", help="Meta's checklist.chk, to compare MD5 sums with")
    add_num_proc(parser, "processes")
    add_json(parser, "report.json")
    parser.add_argument("--fresh", action="store_true", help="check everything anew")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from ...sa1b.tools.verify import verify

    report = verify(
        filesystem(args),
        args.output_dir,
        archives=args.archives,
        checklist=args.checklist,
        num_proc=args.num_proc,
        fresh=args.fresh,
    )
    if args.json:
        text.say_json(json.loads((args.output_dir / "report.json").read_bytes()), indent=1)
        return 0 if report.ok else 1
    text.say_table(_table(report), right=(2, 3, 4))
    _tell(report)
    where = args.output_dir.absolute()
    images = sum(archive.images for archive in report.archives)
    text.say(f"Images: {images:,} good, {len(report.bad_images):,} bad. Report: {where / 'report.json'}")
    faulty = [archive for archive in report.archives if not archive.ok]
    if faulty:
        text.say(f"NOT OK: {len(faulty):,} of {counted(len(report.archives), 'archives')} and folders.")
        text.say("To load the rows whose images can be read: --archives available, archives='available' in Python.")
    if report.bad_images:
        listed = str(where / "bad-images.txt")
        text.say(f"To leave the bad images out: --bad-images {listed}, bad_images={listed!r} in Python.")
    return 0 if report.ok else 1


def _table(report: VerifyReport) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("ARCHIVE", "LAYOUT", "MEMBERS", "IMAGES", "BAD", "MD5", "VERDICT")]
    for one in report.archives:
        counts = (f"{one.members:,}", f"{one.images:,}", f"{len(one.bad):,}")
        rows += [(one.name or "(several)", one.kind, *counts, one.md5 or "", "ok" if one.ok else "NOT OK")]
    return rows


def _tell(report: VerifyReport) -> None:
    """Say on stderr what is wrong; all of it is in the report."""
    lines = []
    for one in report.archives:
        if one.problem:
            lines.append(one.problem)
        if one.md5 == "differs":
            lines.append(f"{one.file}: its MD5 is {one.md5_found}, not the checklist's.{_hint(one.kind)}")
        for problem in one.problems:
            where = f"{problem['member'] or 'the archive'} at {problem['offset']:,}"
            lines.append(f"{one.file}: {problem['kind']}: {where}: {problem['detail']}")
        lines += [f"{bad.path}: {bad.reason}" for bad in one.bad]
    for line in lines[:_SHOWN]:
        text.tell(text.one_line(line))
    if len(lines) > _SHOWN:
        text.tell(f"… and {len(lines) - _SHOWN:,} more, see the report")
    tell_next((one.name, {problem["kind"] for problem in one.problems}) for one in report.archives)
    if report.twice_count:
        text.tell(f"{counted(report.twice_count, 'images')} in several archives, such as {_first(report.twice)}")


def _hint(kind: str) -> str:
    return " Fetch it again." if kind == "gzip" else " The sums are those of Meta's gzip archives, which this is not."


def _first(twice: dict[str, list[str]]) -> str:
    image, archives = next(iter(twice.items()))
    return f"{image} in {' and '.join(archives)}"
