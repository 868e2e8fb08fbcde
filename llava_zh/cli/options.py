"""Arguments that several commands share: a dataset, and how it is loaded. Their names are those of `load_dataset`."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Container
from typing import Any

from ..catalog import request
from ..catalog.request import Option, Request, declared
from ..errors import BadArgument


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments NAME (as ``args.path``) and CONFIG (as ``args.name``, None when not given)."""
    parser.add_argument(
        "path",
        metavar="NAME",
        help="a dataset's name or id on a hub (see `llava-zh list`); or the path of a file or folder of rows, or of a "
        "run, a curation or an export",
    )
    parser.add_argument("name", metavar="CONFIG", nargs="?", help="a configuration of it")


def add_source(parser: Any) -> None:
    """Add --source and --revision."""
    for name in ("source", "revision"):
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
    shards = parser.add_argument_group("shards").add_mutually_exclusive_group()
    groups = {"where": where, "which": which, "shards": shards}
    refused = set() if null_images else {"null"}
    for name, option in _options().items():
        if name not in without:
            _add(groups[option.group], name, option, refused)


def load_keywords(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords of :func:`llava_zh.load_dataset` for the options that were given; the others keep its defaults."""
    given = {keyword: getattr(args, keyword, None) for keyword in _options()}
    return {keyword: value for keyword, value in given.items() if value is not None}


def own_keywords(function: Callable[..., Any], args: argparse.Namespace) -> dict[str, Any]:
    """The keywords that `function` has beside those of loading, as far as the command has options of their names."""
    names = inspect.signature(function).parameters
    return {name: getattr(args, name) for name in names if name in args and name not in declared(Request)}


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
