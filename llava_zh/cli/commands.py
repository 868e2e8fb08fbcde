"""How the command line is read: its parser, its help, its refusals, and how a command is added to it."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import nearest
from . import text

Subparsers = Any  # argparse._SubParsersAction[argparse.ArgumentParser], which only type checkers can name

COMPLETING = "_ARGCOMPLETE"  # in the environment while a shell asks what a word may become
_EXAMPLE = "Example:\n"


def new_parser(subparsers: Subparsers, name: str, help: str, description: str, example: str) -> Parser:
    """The parser of a new command; `example` is shown after its options as it is."""
    subparsers._parser_class = Parser  # also where these are the commands of a parser of another kind
    parser: Parser = subparsers.add_parser(
        name, help=help, description=description, epilog=_EXAMPLE + example, formatter_class=HelpFormatter
    )
    return parser


def add_commands(parser: Parser) -> Subparsers:
    """The commands of `parser`; with none of them it shows its help, as a person who types it alone wants to see."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def show_help(_: argparse.Namespace) -> int:
        text.say(parser.format_help().rstrip("\n"))
        return 0

    parser.set_defaults(run=show_help)
    return commands


class HelpFormatter(argparse.HelpFormatter):
    """Help whose usage is one line, and whose words are never broken; examples stand as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=text.columns())

    def add_usage(self, usage: Any, actions: Iterable[argparse.Action], groups: Any, prefix: Any = None) -> None:
        """Show what must be given and where; the options are listed below."""
        words = [self._prog, *_usage(list(actions))] if usage is None else [usage]
        lines = self._wrapped(" ".join(words), self._width - len("usage: "))
        shown = ("\n" + " " * len("usage: ") + "  ").join(lines).replace("%", "%%")
        super().add_usage(shown, (), (), prefix)

    def _fill_text(self, content: str, width: int, indent: str) -> str:
        if content.startswith(_EXAMPLE):
            return content
        return "\n".join(indent + line for line in self._wrapped(content, width))

    def _split_lines(self, content: str, width: int) -> list[str]:
        return self._wrapped(content, width)

    @staticmethod
    def _wrapped(content: str, width: int) -> list[str]:
        # By default lines end after the hyphens of `--data-dir` and `single-image` too.
        return textwrap.wrap(" ".join(content.split()), width, break_on_hyphens=False, break_long_words=False)


def _usage(actions: Sequence[argparse.Action]) -> list[str]:
    """The words of the usage line after the program's name."""
    options = [action for action in actions if action.option_strings]
    words = ["[options]"] if any(not action.required for action in options) else []
    words += [f"{each.option_strings[-1]} {each.metavar or each.dest.upper()}" for each in options if each.required]
    for action in actions:
        if action.option_strings:
            continue
        name = str(action.metavar or action.dest.upper())
        words.append(
            {"?": f"[{name}]", "+": f"{name} [{name} ...]", argparse.PARSER: f"{name} ..."}.get(str(action.nargs), name)
        )
    return words


class Parser(argparse.ArgumentParser):
    """A parser that takes names before and after the options alike, and suggests what was meant by a misspelt word."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter} | more)
        self.settling: list[Callable[[argparse.Namespace], None]] = []  # what is still to be settled of what was given
        self._within = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read `args`; a command refuses by itself what it does not know, so that its own usage is shown."""
        if self._within or COMPLETING in os.environ:
            return super().parse_known_args(args, namespace)
        given = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown(given)
        self._within = True  # what follows comes back to this method
        try:
            parse = super().parse_known_args if self._subparsers is not None else self.parse_known_intermixed_args
            found, left = parse(given, namespace)
        finally:
            self._within = False
        if left:
            self.error(f"not understood: {' '.join(left)}")
        for settle in self.settling:
            settle(found)
        return found, []

    def _refuse_unknown(self, given: Sequence[str]) -> None:
        """Refuse a misspelt option first: it is the cause where something seems to be missing."""
        known = self._option_string_actions
        for word in given:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return
            option = word.partition("=")[0]
            if not option.startswith("--") or " " in option or any(name.startswith(option) for name in known):
                continue
            self.error(f"there is no option {option}.{nearest(option, known, 0.7)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        meant, choices = nearest(str(value), map(str, action.choices)), ", ".join(map(str, action.choices))
        if action.nargs == argparse.PARSER:
            self.error(f"there is no command {value!r}.{meant} Commands: {choices}.")
        raise argparse.ArgumentError(action, f"unknown value {value!r}.{meant} (choose from {choices})")

    def error(self, message: str) -> Any:
        """End the program with wrong usage."""
        text.tell(self.format_usage().rstrip("\n"))
        text.tell_error(message, f"{self.prog}: error:")
        text.tell(f"All options: {self.prog} --help")
        sys.exit(2)
