"""``llava-zh doctor``: what is installed, reachable and readable here, and what to do about what is not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from ...files.data_files import SOURCES
from .. import text
from ..commands import Parser, Subparsers, new_parser
from ..options import add_json, add_load_options, complete_names, load_keywords
from . import hubs, machine, places, published, report
from .findings import Finding, Findings, guarded

_EXAMPLE = """\
  llava-zh doctor
  llava-zh doctor --source modelscope
  llava-zh doctor --data-dir llava-zh-demo/internvl --image-root llava-zh-demo/sa1b
  llava-zh doctor internvl-sa-1b-caption single_zh --data-dir llava-zh-demo/internvl
"""

# A title, the check, and whether it was asked for: then what is not usable decides the exit status.
Section = tuple[str, Callable[[], Findings], bool]


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser: Parser = new_parser(
        subparsers,
        "doctor",
        help="what is installed, reachable and readable here, and what to do about the rest",
        description=(
            "Prints a checklist: versions, extras, tokens (whether there is one, never the token), both hubs and the "
            "published files on them, the files and images on disk, caches. Nothing is downloaded or indexed. What is "
            "missing is told with what to do; the exit status is 1 only if what was given cannot be used. With NAME, "
            "reads the first rows and the last of its published file and says which facts of the catalogue hold, "
            "then prints what a report of a fault should hold."
        ),
        example=_EXAMPLE,
    )
    add = parser.add_argument
    path = add("path", metavar="NAME", nargs="?", help="a dataset to look at, by what --data-dir and the like say")
    complete_names(path, add("name", metavar="CONFIG", nargs="?", help="a configuration of it"))
    add_json(parser, "the checklist")
    add_load_options(parser, without={"row_format", "on_missing_image"})
    parser.settling.append(partial(_check, parser))
    parser.set_defaults(run=run)


def _check(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse what would not be heeded."""
    unheeded = load_keywords(args).keys() - {"source", "data_dir", "image_root"}
    if args.path is None and unheeded:
        options = ", ".join("--" + name.replace("_", "-") for name in sorted(unheeded))
        parser.error(f"NAME is missing: {options} says how a dataset is read.")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    status = 0
    shown: list[tuple[str, list[Finding]]] = []
    for title, check, asked in _of_dataset(args) if args.path is not None else _of_everything(args):
        shown.append((title, []))
        if not args.json:
            text.say_heading(text.one_line(title))
        for finding in guarded(check):
            shown[-1][1].append(finding)
            if not args.json:
                _say(finding)
            if asked and finding.state in ("missing", "failed"):
                status = 1
        sys.stdout.flush()
    to_paste = report.block(shown) if args.path is not None else None
    if args.json:
        sections = {title: [vars(finding) for finding in findings] for title, findings in shown}
        text.say_json({"sections": sections, "to_paste": to_paste}, indent=1)
    elif to_paste is not None:
        text.say_heading("\nFor an issue, copy what follows")
        text.say(to_paste)
    return status


def _say(finding: Finding) -> None:
    text.say_state(finding.state or "–", text.one_line(f"{finding.what}: {finding.detail}"), 7)
    if finding.advice:
        text.say(f"  {'':7}  → {finding.advice}")


def _of_dataset(args: argparse.Namespace) -> list[Section]:
    given: dict[str, Any] = load_keywords(args)
    title = " ".join(filter(None, (args.path, args.name)))
    return [
        ("Versions", machine.versions, False),
        (title, partial(published.findings, args.path, args.name, given), True),
    ]


def _of_everything(args: argparse.Namespace) -> list[Section]:
    sections: list[Section] = [
        ("Versions", machine.versions, False),
        ("Extras", machine.extras, False),
        ("Environment", machine.environment, False),
    ]
    sources = [args.source] if args.source else SOURCES
    sections += [(f"Hub {source}", partial(hubs.hub_findings, source), bool(args.source)) for source in sources]
    if args.data_dir:
        sections.append((f"Files in {args.data_dir}", partial(places.files_in, args.data_dir), True))
    sections.append(("SA-1B images", partial(places.sa1b_images, args.image_root), bool(args.image_root)))
    sections.append(("Caches", machine.caches, False))
    return sections
