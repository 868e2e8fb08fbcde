"""``llava-zh list``: the datasets and their configurations."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from . import text
from .commands import Subparsers, new_parser
from .options import add_json

if TYPE_CHECKING:
    from ..catalog.facts import DatasetFacts


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "list",
        help="the datasets and their configurations",
        description=(
            "Prints what can be loaded: rows, size of the published file, language, task and licence. "
            "Rows and sizes are what the dataset's page says; nothing is asked of the network."
        ),
        example="  llava-zh list\n  llava-zh list --json",
    )
    add_json(parser, "the datasets", records=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from .. import list_datasets
    from ..load import dataset_facts

    facts = [dataset_facts(name) for name in list_datasets()]
    if args.json or args.jsonl:
        text.say_records(map(asdict, facts), lines=args.jsonl)
        return 0
    for number, one in enumerate(facts):
        if number:
            text.say()
        _describe(one)
    return 0


def _describe(facts: DatasetFacts) -> None:
    rows = [("CONFIG", "ROWS", "SIZE", "LANGUAGE", "TASK", "")]
    for config in facts.configs:
        size = text.size(config.size) if config.size else "–"
        task = config.task or ("all" if facts.tasks else "caption")
        rows.append(
            (
                config.name,
                "–" if config.rows is None else f"{config.rows:,}",
                size,
                config.language or "–",
                task,
                config.description,
            )
        )
    about = [
        *([("page", facts.homepage)] if facts.homepage else []),
        *facts.repos.items(),
        ("licence", facts.licence),
        ("images", facts.image_licence),
    ]
    text.say_heading(facts.name)
    text.say(text.table(about, indent="  ") + "\n")
    text.say_table(rows, right=(1, 2), indent="  ")
