"""The ``llava-zh`` command: one module a command, data on stdout, messages on stderr."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from ..errors import LlavaZhError
from . import text, wording
from .commands import COMPLETING, HelpFormatter, Parser, add_commands

# Module names in the order `llava-zh --help` lists them; each has `add_parser(subparsers)`. All are imported for any
# command and for --help, so a module imports what is heavy where it is used.
COMMANDS = (
    "list", "show", "download", "export", "demo", "sa1b", "regenerate", "compare", "curate", "doctor", "completion"
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    from .. import __version__

    parser = Parser(
        prog="llava-zh",
        description="InternVL-SA-1B-Caption and llava-instruct-zh-600k: look, load, fetch, regenerate.",
        epilog="Example:\n  llava-zh demo      writes a miniature of both datasets and loads it; needs no network",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llava-zh {__version__}")
    commands = add_commands(parser)
    for name in COMMANDS:
        importlib.import_module(f"{__name__}.{name}").add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 a failure that was explained, 2 wrong usage)."""
    for stream in (sys.stdout, sys.stderr):
        # Not every terminal can show Chinese; a character it lacks is no reason to stop.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    parser = build_parser()
    if COMPLETING in os.environ:
        from .completion import complete

        complete(parser)
    args = parser.parse_args(argv)
    wording.refuse_empty(parser, args)
    options = wording.options_of(parser, args.run)
    with text.in_words(lambda message: wording.as_typed(message, options)):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """The exit status of the command in `args`; whatever ends it is told."""
    try:
        status = int(args.run(args))
        sys.stdout.flush()
        return status
    except LlavaZhError as error:
        text.tell_error(error)
        return 1
    except KeyboardInterrupt:
        text.tell("llava-zh: interrupted")
        return 130
    except BrokenPipeError:
        # `llava-zh show … | head` closes our stdout; Python would complain again while flushing it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if (refusal := wording.refusal(error)) is None:
            return _fault()
        text.tell_error(refusal)
        return 1
    except Exception:
        return _fault()


def _fault() -> int:
    """Tell of a fault of ours with its trace; what that quotes may come from outside, so Python does not print it."""
    text.tell(f"{traceback.format_exc()}llava-zh: this is a fault in llava-zh; please report it with the lines above.")
    return 1
