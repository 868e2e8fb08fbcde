"""``llava-zh list``: the datasets and their configurations."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from . import text
from .commands import Subparsers, new_parser

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
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object a dataset")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from .. import list_datasets
    from ..load import dataset_facts

    facts = [dataset_facts(name) for name in list_datasets()]
    if args.json:
        text.say_json([asdict(one) for one in facts], indent=2)
    else:
        text.say("\n\n".join(_described(one) for one in facts))
    return 0


def _described(facts: DatasetFacts) -> str:
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
    return "\n".join([facts.name, text.table(about, indent="  "), "", text.table(rows, right=(1, 2), indent="  ")])
