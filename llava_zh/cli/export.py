"""``llava-zh export``: a dataset, or the wanted rows of it, in the form a trainer reads."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..exporters import IMAGE_MODES, TARGET_NAMES
from . import text
from .commands import Subparsers, new_parser
from .options import add_dataset, add_json, add_load_options, add_output_dir, load_keywords, own_keywords

_EXAMPLE = """\
  llava-zh export internvl-sa-1b-caption single_zh --to parquet ./captions
  llava-zh export internvl-sa-1b-caption single_en --to internvl ./internvl --sample 100000 --max-side 1344 \\
      --image-root /data/sa1b --archives available --num-proc 8
  llava-zh export llava-instruct-zh-600k --to llama-factory --task detail --data-dir ./llava-instruct-zh-600k ./detail
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "export",
        help="write a dataset in the form that a trainer or a tool reads",
        description=(
            "Writes the rows of a configuration as Parquet, JSON Lines, WebDataset, or what LLaMA-Factory, ms-swift, "
            "InternVL, Qwen-VL's fine-tuning code, LLaVA or verl reads, with the trainer's registration file and a "
            "dataset card. A run that was stopped is finished by the same command."
        ),
        example=_EXAMPLE,
    )
    add_dataset(parser)
    add_output_dir(parser, "folder to write: new, empty, or with the same export unfinished")
    parser.add_argument("--to", required=True, choices=TARGET_NAMES, metavar="TARGET", help=", ".join(TARGET_NAMES))
    parser.add_argument(
        "--images",
        choices=IMAGE_MODES,
        help="name images by URL (or, for trainers, where they lie), write them as files, or embed them in the rows",
    )
    parser.add_argument("--max-side", type=int, metavar="PIXELS", help="shrink images that are written to this side")
    parser.add_argument(
        "--on-bad-image",
        choices=("raise", "skip"),
        default="raise",
        help="a picture to be written that is none, or cut short: stop (default) or leave its row out",
    )
    parser.add_argument("--num-proc", type=int, metavar="N", help="processes (default: 1)")
    add_json(parser, "the summary")
    rows = parser.add_argument_group("selection of rows")
    rows.add_argument("--task", metavar="TASK", help="only this task: conversation, complex_reasoning, detail")
    rows.add_argument(
        "--language", metavar="LANG", help="only this language (en, zh, …); without CONFIG, all its configurations"
    )
    rows.add_argument("--min-length", type=int, metavar="N", help="characters of the answers, at least")
    rows.add_argument("--max-length", type=int, metavar="N", help="characters of the answers, at most")
    some = rows.add_mutually_exclusive_group()
    some.add_argument("--sample", type=int, metavar="N", help="so many rows at random, each equally likely")
    some.add_argument("--limit", type=int, metavar="N", help="the first so many rows")
    rows.add_argument("--seed", type=int, default=0, metavar="N", help="which sample (default: 0)")
    rows.add_argument("--system", metavar="TEXT", help="a system prompt for rows that have none")
    rows.add_argument(
        "--image-place", choices=("front", "end"), help="where the image marks go (default: as published)"
    )
    add_load_options(parser, without={"chunk_size"}, null_images=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from ..exporters import export

    options = {name: getattr(args, name) for name in ("system", "image_place") if getattr(args, name) is not None}
    summary = export(args.path, args.name, options=options or None, **own_keywords(export, args), **load_keywords(args))
    if args.json:
        text.say_json(asdict(summary))
    else:
        text.say(summary)
    return 0
