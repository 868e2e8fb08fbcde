"""Checks of where a person says that rows and images are: the folder, the files and the places of images.

Whatever is not of a right type is an error here, which says what is expected, and not where it is used first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import BadArgument


def folder(given: Any) -> Any:
    """A folder, or a repository on a hub, as text."""
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        return _local(os.fspath(given))
    raise BadArgument(f"data_dir: expected a folder, or a repository as 'hf:owner/name'; found {_found(given)}.")


def data_files(given: Any) -> Any:
    """Files or patterns: one, several, or a mapping from the split to these."""
    return (
        None
        if given is None
        else _each_local(_names(given, "data_files", "files or patterns, or {'train': …} of these"))
    )


def _local(name: Any) -> Any:
    """``file:///data/a.jsonl`` as the path that it is; any other text as it is."""
    if isinstance(name, str) and name.startswith(("file://", "local://")):
        return name.partition("://")[2].removeprefix("localhost")
    return name


def _each_local(names: Any) -> Any:
    if isinstance(names, Mapping):
        return {split: _each_local(each) for split, each in names.items()}
    return type(names)(map(_local, names)) if isinstance(names, list | tuple) else _local(names)


def storage_options(given: Any) -> Any:
    """What fsspec's filesystem of a URL takes, by name; an empty mapping is none."""
    if given is not None and not isinstance(given, Mapping):
        raise BadArgument(f"storage_options: expected a mapping, as fsspec's filesystem takes; found {_found(given)}.")
    return dict(given) if given else None


def image_root(given: Any) -> Any:
    """A place, several of SA-1B, or either by the beginning of published paths."""
    if not isinstance(given, Mapping):
        return _roots(given)
    if wrong := [prefix for prefix in given if not isinstance(prefix, str)]:
        raise BadArgument(f"image_root: expected the beginnings of image paths as keys; found {_found(wrong[0])}.")
    return {prefix: _roots(root) for prefix, root in given.items()}


def one_root(given: Any, name: str) -> str:
    """The one place of images that are a dataset's own, as text.

    Raises:
        BadArgument: They are several, which only SA-1B may be in.
    """
    if not isinstance(given, str | os.PathLike):
        raise BadArgument(
            f"image_root: expected one folder or URL for the images of {name} that are its own; found {_found(given)}. "
            "Several are for SA-1B alone."
        )
    return os.fspath(given)


def _roots(given: Any) -> Any:
    expected = "a folder or URL, several for SA-1B, or a mapping from the beginnings of image paths to these"
    if isinstance(given, Mapping):
        raise BadArgument(f"image_root: expected {expected}; found a mapping in a mapping.")
    return None if given is None else _names(given, "image_root", expected)


def _names(given: Any, field: str, expected: str) -> Any:
    """One name, or several; an iterator is read, since a request is used more than once. A mapping has these."""
    if isinstance(given, str | os.PathLike):
        return given
    if isinstance(given, Mapping):
        return {key: _names(value, field, expected) for key, value in given.items()}
    if not isinstance(given, Iterable) or isinstance(given, bytes | bytearray):
        raise BadArgument(f"{field}: expected {expected}; found {_found(given)}.")
    names = [_names(one, field, expected) for one in given]
    return names if isinstance(given, list) else tuple(names)


def _found(given: Any) -> str:
    return f"{type(given).__name__} {given!r:.100}"
