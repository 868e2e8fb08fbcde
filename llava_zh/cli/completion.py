"""``llava-zh completion``: what a shell runs to complete commands, options, and the names of datasets."""

from __future__ import annotations

import argparse

from ..errors import MissingExtra
from . import text
from .commands import Subparsers, new_parser

_EXAMPLE = """\
  llava-zh completion bash >> ~/.bashrc
  llava-zh completion zsh >> ~/.zshrc                     # after the line with compinit
  llava-zh completion fish > ~/.config/fish/completions/llava-zh.fish
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "completion",
        help="print what makes a shell complete commands, options and names",
        description=(
            "Prints the lines that make a shell complete commands, options, the names of datasets and of their "
            'configurations. Needs argcomplete: pip install "llava-zh[completion]".'
        ),
        example=_EXAMPLE,
    )
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        raise MissingExtra.of("argcomplete", "completion", "Completion") from None
    text.say(shellcode(["llava-zh"], shell=args.shell).strip("\n"))
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks what the word at its cursor may become, and end the program; quiet if it cannot be."""
    try:
        import argcomplete
    except ImportError:
        raise SystemExit(1) from None
    argcomplete.autocomplete(parser)


def names(**_: object) -> list[str]:
    """The datasets, as argcomplete asks for what a NAME may be."""
    from ..load import list_datasets

    return list_datasets()


def configs(*, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The configurations of the dataset that was given, as argcomplete asks for what a CONFIG may be."""
    from ..load import get_dataset_config_names

    try:
        return get_dataset_config_names(parsed_args.path)
    except Exception:  # nothing that a completion could say
        return []
