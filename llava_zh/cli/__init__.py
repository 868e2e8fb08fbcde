"""The ``llava-zh`` command: one module a command, data on stdout, messages on stderr."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ..errors import LlavaZhError

# Module names in the order `llava-zh --help` lists them; each has `add_parser(subparsers)`.
COMMANDS = ("list", "show", "download", "export", "demo", "sa1b", "regenerate", "curate", "doctor")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="llava-zh",
        description="InternVL-SA-1B-Caption and llava-instruct-zh-600k: look, load, fetch, regenerate.",
        epilog="Start with: llava-zh demo",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"{__name__}.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 a failure that was explained, 2 wrong usage)."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except LlavaZhError as error:
        print(f"llava-zh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("llava-zh: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `llava-zh show … | head` closes our stdout; Python would complain again while flushing it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
