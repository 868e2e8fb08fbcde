"""``llava-zh curate``: drop the rows that are not worth training on, and say why."""

from __future__ import annotations

import argparse

from . import text
from .commands import Subparsers, new_parser
from .options import add_json, add_load_options, add_output_dir, complete_names, load_keywords, own_keywords

_EXAMPLE = """\
  llava-zh curate internvl-sa-1b-caption single_zh --output-dir curated --length zh=30:1200
  llava-zh curate RUN_FOLDER --output-dir curated        # what `llava-zh regenerate` wrote

  llava-zh curate RUN_FOLDER --dry-run --length zh=20:      # the same figures, and nothing is written

Kept rows are in curated/data (JSON Lines, or Parquet where pictures are embedded in the rows), dropped ones with their
reasons in curated/dropped.jsonl, which `llava-zh show` prints; figures and examples in curated/report.html, to read,
and in curated/report.json.
"""


def add_parser(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "curate",
        help="drop outliers, duplicates, loops and leaked prompts, each row with its reasons",
        description="Drop the rows that are not worth training on, each with its reasons; keep the rest as published.",
        example=_EXAMPLE,
    )
    add = parser.add_argument
    path = add("path", metavar="PATH", help="a dataset's name, a run's folder, or a file of rows")
    complete_names(path, add("name", metavar="CONFIG", nargs="?", help="configuration of the dataset"))
    add_output_dir(parser, "where to write; new or empty", unless="dry_run")
    add("--dry-run", action="store_true", help="report, and write no rows (with --output-dir: the reports alone)")
    _add_checks(parser)
    add("--language", choices=("zh", "en"), help="language of all rows (default: what each row or its prompt says)")
    add("--leaks", nargs="+", default=(), metavar="PHRASE", help="further phrases that betray the prompt")
    add("--limit", type=int, metavar="N", help="look at the first N rows only")
    add("--overwrite", action="store_true", help="replace an earlier curation in the output folder")
    add_json(parser, "report.json")
    add_load_options(parser, without={"row_format", "chunk_size", "num_shards"})
    parser.set_defaults(run=run)


def _add_checks(parser: argparse.ArgumentParser) -> None:
    """What is checked in each row: its length, whether it repeats others or itself, its paragraphs."""
    add = parser.add_argument
    add(
        "--length",
        nargs="+",
        type=_bounds,
        metavar="[LANG=]MIN:MAX",
        help="characters of the gpt turns to keep, for all rows or by language (30:1200, zh=30: en=80:4000)",
    )
    quantiles = parser.add_mutually_exclusive_group()
    quantiles.add_argument(
        "--length-quantiles",
        nargs=2,
        type=float,
        default=(0.001, 0.999),
        metavar=("LOW", "HIGH"),
        help="shares of the rows of a language and task between which the length must be (default: 0.001 0.999)",
    )
    quantiles.add_argument(
        "--no-length-quantiles", dest="length_quantiles", action="store_const", const=None, help="only --length counts"
    )
    add(
        "--no-exact-duplicates",
        dest="exact_duplicates",
        action="store_false",
        help="keep rows that repeat an earlier text",
    )
    add(
        "--near-duplicates",
        type=_share_or_none,
        default=0.8,
        metavar="SIMILARITY",
        help="Jaccard similarity from which texts are near-duplicates, or 'none' (default: 0.8)",
    )
    add(
        "--max-repetition",
        type=_share_or_none,
        default=0.4,
        metavar="SHARE",
        help="share of a text that may repeat what it said before, or 'none' (default: 0.4)",
    )
    add(
        "--single-paragraph",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether one paragraph was asked (default: as each row's human turn, prompt or config says)",
    )


def run(args: argparse.Namespace) -> int:
    from llava_zh.curation import curate

    length = dict(args.length) if args.length else None
    if length and None in length:
        length = length[None]
    keywords = own_keywords(curate, args) | {"length": length} | load_keywords(args)
    report = curate(args.path, args.name, **keywords)
    if args.json:
        text.say_json(report.to_dict(), indent=2)
    else:
        text.say(report)
        if args.output_dir is not None:
            text.tell(f"To read: {args.output_dir.rstrip('/')}/report.html")
    return 0


def _bounds(given: str) -> tuple[str | None, tuple[int | None, int | None]]:
    language, _, bounds = given.rpartition("=")
    low, colon, high = bounds.partition(":")
    if not colon or language not in ("", "zh", "en"):
        raise argparse.ArgumentTypeError(f"expected MIN:MAX, zh=MIN:MAX or en=MIN:MAX, found {given!r}")
    return language or None, (int(low) if low else None, int(high) if high else None)


def _share_or_none(given: str) -> float | None:
    return None if given.lower() == "none" else float(given)
