"""Arguments that several commands share: a dataset, and how it is loaded. Their names are those of `load_dataset`."""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from ..catalog import request
from ..catalog.request import Option, Request, declared
from ..errors import BadArgument, LlavaZhError
from . import completion
from .commands import Parser


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments NAME (as ``args.path``) and CONFIG (as ``args.name``, None when not given)."""
    path = parser.add_argument(
        "path",
        metavar="NAME",
        help="a dataset's name or id on a hub (see `llava-zh list`); or the path of a file or folder of rows, or of a "
        "run, a curation or an export",
    )
    complete_names(path, parser.add_argument("name", metavar="CONFIG", nargs="?", help="a configuration of it"))


def complete_names(path: argparse.Action, name: argparse.Action) -> None:
    """Let a shell complete what is given for a dataset and for its configuration."""
    vars(path)["completer"], vars(name)["completer"] = completion.names, completion.configs


def add_output_dir(
    parser: Parser,
    help: str,
    *,
    default: str | None = None,
    optional: bool = False,
    unless: str | None = None,
    also: tuple[str, ...] = (),
    type: Callable[[str], Any] = str,
) -> None:
    """Add --output-dir DIR, which DIR as the last positional argument gives as well.

    Where CONFIG may be left out, DIR is the second name; a configuration of the dataset is not taken for it.

    Args:
        default: The folder when none is given; without one, and not `optional`, it must be.
        unless: The flag that makes it needless.
        also: Further names of the option.
    """
    add = parser.add_argument
    has_config = any(action.dest == "name" for action in parser._actions)
    add("positional_dir", metavar="DIR", nargs="?", help="the same as --output-dir DIR")
    add("--output-dir", *also, metavar="DIR", help=help)

    def settle(args: argparse.Namespace) -> None:
        given, positional = args.output_dir, vars(args).pop("positional_dir")
        required = default is None and not optional and not (unless and getattr(args, unless))
        if has_config and args.name is not None and positional is None and given is None:
            # NAME DIR; where no folder is needed, only what cannot be a configuration is one.
            if _is_config(args.path, args.name):
                if required:
                    parser.error(
                        f"DIR is missing: {args.name!r} is a configuration of {args.path}. "
                        f"For a folder of this name write ./{args.name}."
                    )
            elif required or os.sep in args.name or args.name.startswith((".", "~")):
                positional, args.name = args.name, None
        if given is not None and positional is not None and Path(given).absolute() != Path(positional).absolute():
            parser.error(f"two folders are given: {positional} as DIR, {given} with --output-dir.")
        found = given if given is not None else positional if positional is not None else default
        if found is None and required:
            parser.error("the following arguments are required: DIR or --output-dir DIR")
        args.output_dir = None if found is None else found and type(found)

    parser.settling.append(settle)


def _is_config(path: str, name: str) -> bool:
    from ..load import get_dataset_config_names

    try:
        return name in get_dataset_config_names(path)
    except LlavaZhError:
        return False


def add_json(parser: argparse.ArgumentParser, what: str, *, records: bool = False) -> None:
    """Add --json, for one document; where `records` are printed also --jsonl, for one a line."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help=f"print {what} as one JSON document")
    if records:
        group.add_argument("--jsonl", action="store_true", help=f"print {what} as JSON Lines")


def add_source(parser: Any) -> None:
    """Add --source and --revision."""
    add_some(parser, "source", "revision")


def add_some(parser: Any, *names: str) -> None:
    """Add the options of some arguments of :func:`llava_zh.load_dataset`."""
    for name in names:
        _add(parser, name, _options()[name])


def add_load_options(
    parser: argparse.ArgumentParser, *, without: Container[str] = (), null_images: bool = True
) -> None:
    """Add every option of :func:`llava_zh.load_dataset` that says which rows there are and what they look like.

    Args:
        without: Arguments that have no meaning for the command, which gets no options for them.
        null_images: Whether --on-missing-image takes ``null``.
    """
    where = parser.add_argument_group("where the rows and images are")
    which = parser.add_argument_group("which rows" if "row_format" in without else "which rows, and in which form")
    groups: dict[str, Any] = {"where": where, "which": which}
    if "chunk_size" not in without or "num_shards" not in without:
        groups["shards"] = parser.add_argument_group("shards").add_mutually_exclusive_group()
    refused = set() if null_images else {"null"}
    for name, option in _options().items():
        if name not in without:
            _add(groups[option.group], name, option, refused)


def load_keywords(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords of :func:`llava_zh.load_dataset` for the options that were given; the others keep its defaults."""
    given = {keyword: getattr(args, keyword, None) for keyword in _options()}
    return {keyword: value for keyword, value in given.items() if value is not None}


def own_keywords(
    function: Callable[..., Any], args: argparse.Namespace, *, without: Container[str] = ()
) -> dict[str, Any]:
    """The keywords that `function` has beside those of loading, as far as the command has options of their names.

    Args:
        without: Keywords whose names `args` has for something else, as it has ``run`` for the function of the command.
    """
    names = [name for name in inspect.signature(function).parameters if name in args and name not in without]
    return {name: getattr(args, name) for name in names if name not in declared(Request)}


def archive_list(text: str) -> str | list[int | str]:
    """``"0-44,60,sa_000099"`` as numbers and names; ``"available"`` as it is."""
    archives: str | list[int | str] = _typed(request.archive_list)(text)
    return archives


def _options() -> dict[str, Option]:
    return {name: about.option for name, about in declared(Request).items() if about.option is not None}


def _add(group: Any, name: str, option: Option, refused: Container[str] = ()) -> None:
    more: dict[str, Any] = {"nargs": "+"} if option.several else {}
    help_ = option.help
    if option.choices is not None:
        more["choices"] = choices = tuple(choice for choice in option.choices if choice not in refused)
        help_ = help_.replace("{more}", "".join(f", or {choice}" for choice in choices[2:]))
    if option.parse is not None:
        more["type"] = option.parse if option.parse is int else _typed(option.parse)
    group.add_argument("--" + name.replace("_", "-"), metavar=option.metavar, help=help_, **more)


def _typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` as argparse takes it, which shows the text of no other error."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except BadArgument as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed
