"""How a command is added to the command line: its help, its example, and nothing more."""

from __future__ import annotations

import argparse
from typing import Any

Subparsers = Any  # argparse._SubParsersAction[argparse.ArgumentParser], which only type checkers can name


def new_parser(subparsers: Subparsers, name: str, help: str, description: str, example: str) -> argparse.ArgumentParser:
    """The parser of a new command; `example` is shown after its options as it is."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"Example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser
