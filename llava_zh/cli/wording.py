"""Messages of the library, which speak of arguments, in the words of the command line, which has options."""

from __future__ import annotations

import argparse
import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

_CALL = r"load_dataset(?:_builder)?\([^()]*\)"  # a line of Python to copy stays one
_QUOTES = "'\""
_VALUE = r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[A-Za-z0-9_]+(?:\.[0-9]+)?"
# Not in a path, a quoted text or a longer word: those are names of other things.
_ARGUMENT = re.compile(
    rf"(?P<call>{_CALL})|(?<![\w/.'\"-])(?P<name>(?>[a-z]+(?:_[a-z]+)*))(?:=(?P<value>{_VALUE})?|(?![\w/'\"-]|\.\w))"
)
# Arguments that are options of no command: what says "or pass them" is left out.
_NOT_TYPED = re.compile(
    r"(?:,? or (?:pass|give it as) | \((?:and |or )?)(?:token|cache_dir|storage_options)=(?:\)|(?=[\s;,.]|$))"
)

# What a message for both says twice once its argument is an option.
_TWICE = re.compile(r"(--[a-z]+(?:-[a-z]+)*) \((?:on the command line )?\1\)")


def command_of(parser: argparse.ArgumentParser, run: Callable[..., object]) -> argparse.ArgumentParser | None:
    """The parser of the command that `run` carries out."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                if command.get_default("run") is run:
                    return command  # type: ignore[no-any-return]
                if found := command_of(command, run):
                    return found
    return None


def options_of(parser: argparse.ArgumentParser, run: Callable[..., object]) -> dict[str, str]:
    """From an argument's name to the option that gives it, for the command that `run` carries out."""
    command = command_of(parser, run)
    options: dict[str, str] = {}
    for action in () if command is None else command._actions:
        named = "--" + action.dest.replace("_", "-")
        for option in action.option_strings:
            if option.startswith("--") and (action.dest not in options or option == named):
                options[action.dest] = option
    return options


def refuse_empty(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program with wrong usage where a value is the empty text, as an unset variable of a shell makes it.

    An empty name of a folder would be the current one, and an empty text is no choice of anything.
    """
    command = command_of(parser, args.run) or parser
    for action in command._actions:
        value = getattr(args, action.dest, None)
        if value != action.default and any(
            one == "" for one in (value if isinstance(value, list | tuple) else [value])
        ):
            command.error(f"argument {'/'.join(action.option_strings) or action.metavar or action.dest}: is empty")


def as_typed(message: str, options: Mapping[str, str]) -> str:
    """`message` with each argument, and its value, as it is typed: ``images='files'`` as ``--images files``.

    A bare word is taken for an argument where it cannot be another word: with a low line in it, or in front of the
    colon after which a message says what is wrong with it.
    """

    def typed(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if name is None or name not in options:
            return match[0]
        option = options[name]
        if "=" not in match[0]:
            opens = match.start() == 0 and message[match.end() :].startswith(":")
            return option if "_" in name or opens else match[0]
        if value is None or value == "True":
            return option
        return f"{option} {value[1:-1] if value[0] in _QUOTES else value}"

    return _TWICE.sub(r"\1", _NOT_TYPED.sub("", _ARGUMENT.sub(typed, message)))


# What the system says of a place that cannot be used; any other OSError is a fault that wants its trace.
_REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR})


def refusal(error: OSError) -> str | None:
    """What to say of the system's refusal to use a place, with the way out; None for an OSError of another kind."""
    if error.errno not in _REFUSALS or not isinstance(error.filename, str | bytes | os.PathLike):
        return None
    path = Path(os.fsdecode(error.filename)).absolute()
    for variable, folder in _caches():
        if path == folder or folder in path.parents or path in folder.parents:
            way_out = f"It is part of a cache: set {variable} to a folder that can be written."
            break
    else:
        way_out = "Choose another place, make room or give permission, and run the same command again."
    return f"{path}: {error.strerror}. {way_out}"


def _caches() -> list[tuple[str, Path]]:
    """The folders that are written without being named on the command line, and the variables that move them."""
    from ..files import hub
    from ..sa1b.store import cache_dir

    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return [
        ("LLAVA_ZH_CACHE", cache_dir().absolute()),
        ("HF_HOME", Path(home).expanduser().absolute()),
        ("MODELSCOPE_CACHE", hub.HUBS["modelscope"].cache_folder().absolute()),
    ]
