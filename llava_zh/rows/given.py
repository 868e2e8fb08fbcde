"""A row that somebody's own code gives: fields by the names that files have, and images that are whatever opens them.

Files name their images below a root, and :mod:`llava_zh.rows.records` holds them to that. Whoever calls the library
with rows chooses what is opened: absolute paths, URLs, bytes and pictures are theirs to give.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .columns import no_image
from .records import ALIASES, Place, turns_of


class GivenImages(NamedTuple):
    """The images of a row: the name of the field, each image as it was given, and whether they came as a list."""

    field: str
    images: list[Any]
    listed: bool


def given_images(row: Mapping[str, Any]) -> GivenImages:
    """The images of `row`; of one without any, the one image None, or none at all where it has an empty list."""
    names = ALIASES["image"]
    there = [name for name in names if row.get(name) is not None]
    field = next((name for name in there if not no_image(row[name])), next(iter(there), names[0]))
    value = row.get(field)
    listed = isinstance(value, list | tuple)
    return GivenImages(field, list(value) if listed else [value], listed)  # type: ignore[arg-type]


def says_no_image(row: Mapping[str, Any]) -> bool:
    """Whether `row` has a field for its image and none in it; a row without such a field says nothing."""
    named = [row[name] for name in ALIASES["image"] if name in row]
    return bool(named) and all(map(no_image, named))


def given_turns(place: Place, row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns of `row` as ``{from, value}`` with LLaVA's roles, of one without any an empty list.

    Raises:
        BadRow: There is something in their place that is none.
    """
    said = any(row.get(name) not in (None, [], ()) for name in ALIASES["conversations"])
    return turns_of(place, row) if said else []


def as_loaded(place: Place, row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` as :func:`llava_zh.load_dataset` has rows: images under ``image``, turns under ``conversations``.

    Raises:
        BadRow: Its turns are none.
    """
    loaded, (field, images, listed) = dict(row), given_images(row)
    if loaded.pop(field, None) is not None:
        loaded["image"] = images if listed else images[0]
    if turns := given_turns(place, row):
        del loaded[next(name for name in ALIASES["conversations"] if row.get(name) is not None)]
        loaded["conversations"] = turns
    return loaded
