"""Under which names records have each field: the usual ones, and those of a dataset that has others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..gates import json_values, python_text

# The names under which readers of such datasets have found each field, the published one first.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    "image": ("image", "image_path", "images", "img"),
    "width": ("width", "width_list"),
    "height": ("height", "height_list"),
    "conversations": ("conversations", "conversation", "messages"),
    "task": ("type", "task_type", "task"),
}
#: Fields that a row may have in place of `conversations`, which are read only where a dataset names their columns.
ROUNDS = ("caption", "question", "answer")
#: What a row of a run says of how it was regenerated; read where `options` asks for it.
REGENERATED = "regenerated"
#: The conversation that a row replaced: a key of that object, or a column of its own in rows that we exported.
PREVIOUS = "previous"
#: What a row that curation has dropped says of that; `show` prints it.
DROPPED = frozenset({"row", "reasons", "repeats"})
_OURS = frozenset({"config", "language", REGENERATED})

# What an export for verl has besides, which is in the conversation already.
_VERL = frozenset({"data_source", "prompt", "reward_model", "extra_info"})


@dataclass(frozen=True)
class Columns:
    """The names of each field, the preferred one first; a name with a dot is a key in a column of objects."""

    names: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, given: Mapping[str, tuple[str, ...]]) -> Columns:
        """The usual names, with those `given` before them."""
        if not given:
            return USUAL
        fields = (*ALIASES, *ROUNDS)
        return cls({f: tuple(dict.fromkeys((*given.get(f, ()), *ALIASES.get(f, ())))) for f in fields})

    @cached_property
    def known(self) -> frozenset[str]:
        """All columns that are read, and those that our own files have besides."""
        return frozenset(name.partition(".")[0] for names in self.names.values() for name in names) | _OURS

    def unknown(self, names: Iterable[str]) -> Iterator[str]:
        """The names that no field of a row is known by."""
        names = set(names)
        ours = ({PREVIOUS} if REGENERATED in names else set()) | (_VERL if names >= _VERL else set())
        return iter(names - self.known - ours - (DROPPED if names >= {"row", "reasons"} else set()))

    def get(
        self, row: Mapping[str, Any], field: str, none: Callable[[Any], bool] = lambda value: value is None
    ) -> tuple[str, Any]:
        """The name under which `row` has `field`, and its value (None when it has it under no name).

        Args:
            none: Whether a value is as good as null, so that the next name is tried.
        """
        names = self.names[field]
        for name in names:
            value = row.get(name) if "." not in name else _within(row, name)
            if not none(value):
                return name, value
        return next((name for name in names if name in row), names[0] if names else field), None

    def has_image(self, row: Mapping[str, Any]) -> bool:
        """Whether `row` has an image under any of its names, see :func:`no_image`."""
        return self.get(row, "image", no_image)[1] is not None

    def missing(self, columns: Iterable[str], *, text_only: bool = False) -> list[str]:
        """Which of a row's two parts, image and conversation, none of `columns` is for.

        Args:
            text_only: The image may be missing.
        """
        there = set(columns)
        has = {field: any(name.partition(".")[0] in there for name in names) for field, names in self.names.items()}
        text = has["conversations"] or has["caption"] or has["answer"]
        return [name for name, found in (("image", has["image"] or text_only), ("conversations", text)) if not found]


def _within(row: Mapping[str, Any], name: str) -> Any:
    """The value at a dotted name, through objects that may be written as JSON or as Python text."""
    first, *keys = name.split(".")
    value = row.get(first)
    for key in keys:
        if isinstance(value, str):
            try:
                value = json_values.decode(value.encode("utf-8", "surrogatepass"))
            except json_values.NotJson:
                value = python_text.decode(value)
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def no_image(value: Any) -> bool:
    """Whether what stands in an image's place says that there is none.

    Mixed sets write it as null, as an empty list or text (InternVL's reader takes a text-only row by the length of its
    ``image``), or as a stored image that has neither bytes nor a path. A null within a list is an image that is lost.
    """
    if isinstance(value, Mapping):
        stored = bool({"bytes", "path"} & value.keys())
        return stored and value.get("bytes") is None and value.get("path") in (None, "")
    return value is None or (isinstance(value, str | list | tuple) and not value)


USUAL = Columns({**ALIASES, **dict.fromkeys(ROUNDS, ())})
