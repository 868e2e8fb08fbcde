"""How the rows of a format are made, and which columns the rows of a configuration have, as `datasets.Features`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import BadArgument, UnknownName
from .columns import PREVIOUS, REGENERATED
from .inline import InlinePart, register
from .records import FACTS

if TYPE_CHECKING:
    from datasets import Features

_PLACES = ("front", "end")
_FIRST = ("system", "image_place", "sizes")  # options that there have always been


@dataclass(frozen=True)
class RowOptions:
    """How the rows of a format are made.

    Args:
        system: A system prompt in front of every row that has none of its own.
        image_place: ``"front"`` or ``"end"`` of the first human turn, for marks that stand before or after its text;
            marks woven into a text (``Image-1: <image>``) or in later turns stay. None leaves all where they are.
        sizes: Whether rows have `width` and `height`, as published; None for yes in `llava` and no in the others.
        regenerated: Whether rows of a run have `previous`, the turns that a model's answer replaced, in the form of
            those that they have now, and `regenerated`: model, prompt, finish reason and so on.
        images: ``"inline"``, for `parts`: pictures inside their image parts, and no column `images`.
    """

    system: str | None = None
    image_place: str | None = None
    sizes: bool | None = None
    regenerated: bool | None = None
    images: str | None = None

    @classmethod
    def of(cls, options: RowOptions | Mapping[str, Any] | None) -> RowOptions:
        """The options as :func:`llava_zh.load_dataset` takes them: an object of this class, or a dict of its fields.

        Raises:
            UnknownName: There is no such option, or no such place.
            BadArgument: The value of an option has the wrong type.
        """
        if isinstance(options, RowOptions):
            return options
        if options is not None and not isinstance(options, Mapping):
            raise BadArgument(f"options: expected a dict or a RowOptions, found {type(options).__name__}.")
        known = {field.name: field.type for field in dataclasses.fields(cls)}
        for name in options or {}:
            if name not in known:
                raise UnknownName.of("row option", name, known)
        return cls(**(options or {}))

    def __post_init__(self) -> None:
        if self.image_place not in (None, *_PLACES):
            raise UnknownName.of("image_place", self.image_place, _PLACES)
        if not (self.system is None or isinstance(self.system, str)):
            raise BadArgument(f"system: expected text, found {type(self.system).__name__}.")
        if not (self.sizes is None or isinstance(self.sizes, bool)):
            raise BadArgument(f"sizes: expected True, False or None, found {self.sizes!r}.")
        if not (self.regenerated is None or isinstance(self.regenerated, bool)):
            raise BadArgument(f"regenerated: expected True, False or None, found {self.regenerated!r}.")
        if self.images not in (None, "inline"):
            raise BadArgument(f"images: expected 'inline' or None, found {self.images!r}.")
        object.__setattr__(self, "regenerated", self.regenerated or None)  # no is what it is where nothing is said

    @property
    def identity(self) -> str:
        """Text that tells apart options that give other rows.

        An option that came later is told only where it is set, so that what was prepared before it is found again.
        """
        if self == RowOptions():
            return ""
        given = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        told = [f"{name}={value!r}" for name, (value, default) in given.items() if value != default or name in _FIRST]
        return f"RowOptions({', '.join(told)})"


@dataclass(frozen=True)
class RowShape:
    """Which columns the rows of one configuration have.

    Args:
        images: ``"one"`` or ``"many"`` images a row.
        pixels: Whether the published rows state widths and heights.
        tasks: Whether the rows have a llava-instruct task.
        decode: Whether reading `image` gives a picture; otherwise the undecoded ``{"bytes", "path"}``.
    """

    row_format: str
    images: str
    pixels: bool
    tasks: bool
    decode: bool
    options: RowOptions = RowOptions()

    def __post_init__(self) -> None:
        if self.inline and self.row_format != "parts":
            raise BadArgument(
                f"options: images='inline' puts pictures into the parts of row_format='parts', not {self.row_format!r}."
            )

    @property
    def inline(self) -> bool:
        """Whether pictures are inside the parts of the turns."""
        return self.options.images == "inline"

    @property
    def published(self) -> bool:
        """Whether the rows are as published: one `image` where there is one, and marks only where they were."""
        return self.row_format == "llava"

    @property
    def turns_column(self) -> str:
        """The name of the column with the turns."""
        return "conversations" if self.row_format in ("llava", "sharegpt") else "messages"

    @property
    def sizes(self) -> bool:
        """Whether there are columns for widths and heights."""
        if self.options.sizes is None:
            return self.published and self.pixels
        return self.options.sizes and (self.pixels or not self.published)

    def features(self) -> Features:
        """The typed columns, in order."""
        from datasets import Features, Image, Value

        text, integer, image = Value("string"), Value("int64"), Image(decode=self.decode)
        many = self.images == "many" or not self.published
        columns: dict[str, Any] = {"id": text}
        if not self.inline:
            columns["image" if self.published else "images"] = [image] if many else image
        if self.sizes:
            columns |= {name: [integer] if many else integer for name in ("width", "height")}
        content = [{"type": text, "text": text}] if self.row_format == "parts" else text
        named = self.turns_column == "conversations"
        turns = [{"from": text, "value": text} if named else {"role": text, "content": content}]
        columns[self.turns_column] = turns
        if self.inline:
            register()
            columns[self.turns_column] = [{"role": text, "content": [InlinePart(pictures=self.decode)]}]
        if self.tasks or not self.published:
            columns["task"] = text
        columns |= {"config": text, "language": text}
        if self.options.regenerated:
            columns[PREVIOUS] = turns
            columns[REGENERATED] = {name: integer if kind == pa.int64() else text for name, kind in FACTS.items()}
        return Features(columns)
