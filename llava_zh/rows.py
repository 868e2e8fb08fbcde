"""The row formats, as `datasets.Features`, and the way from the annotation table to each of them, in Arrow.

==========  =====================================================================================
format      columns
==========  =====================================================================================
`llava`     as published: `id`, `image` (a list of them for a many-image config), `width` and
            `height` in pixels (lists likewise), `conversations` of ``{from, value}``
`messages`  `id`, `images` (always a list), `messages` of ``{role, content}`` with ``<image>`` in the
            text as often as there are images
==========  =====================================================================================

Both end with the constant columns `config`, `language` and `task` (llava-instruct's; null for the captions, and
left out of their `llava` rows). `messages` has the same features for every config of both datasets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .records import MARK

if TYPE_CHECKING:
    from datasets import Features

ROW_FORMATS = ("llava", "messages")
STORED_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_ROLE_OF = {"human": "user", "gpt": "assistant", "system": "system"}


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

    def features(self) -> Features:
        """The typed columns, in order."""
        from datasets import Features, Image, Value

        text, integer, image = Value("string"), Value("int64"), Image(decode=self.decode)
        constants = {"config": text, "language": text}
        if self.row_format == "messages":
            turns = [{"role": text, "content": text}]
            return Features({"id": text, "images": [image], "messages": turns, "task": text, **constants})
        columns: dict[str, Any] = {"id": text}
        many = self.images == "many"
        columns["image"] = [image] if many else image
        if self.pixels:
            columns |= {name: [integer] if many else integer for name in ("width", "height")}
        columns["conversations"] = [{"from": text, "value": text}]
        if self.tasks:
            columns["task"] = text
        return Features({**columns, **constants})


def to_rows(
    annotations: pa.Table,
    shape: RowShape,
    schema: pa.Schema,
    urls: Callable[[pa.Array], pa.Array],
    constants: dict[str, str],
) -> pa.Table:
    """The rows of `annotations` in the format that `shape` says, with the Arrow `schema` of its features.

    Args:
        urls: From published paths to what `datasets.Image` opens; null stays null.
        constants: The values of `config` and `language`.
    """
    table = annotations.combine_chunks()
    columns: dict[str, pa.Array] = {"id": _array(table["id"]), "task": _array(table["task"])}
    paths, data = _array(table["images"]), _array(table["bytes"])
    stored = pa.StructArray.from_arrays([data.flatten(), urls(paths.flatten())], fields=list(STORED_IMAGE))
    images = pa.ListArray.from_arrays(_offsets(paths), stored)
    turns = _array(table["conversations"])
    if shape.row_format == "messages":
        columns["images"] = images
        columns["messages"] = _messages(turns, pc.list_value_length(paths).to_numpy())
    else:
        columns["image"] = images if shape.images == "many" else stored
        columns["conversations"] = turns
        for name in ("width", "height"):
            sizes = _array(table[name])
            columns[name] = sizes if shape.images == "many" else _first(sizes)
    for name, value in constants.items():
        columns[name] = pa.repeat(pa.scalar(value, pa.string()), len(table))
    arrays = [columns[field.name] for field in schema]
    return pa.Table.from_arrays(
        [array if array.type == field.type else array.cast(field.type) for array, field in zip(arrays, schema, strict=True)],
        schema=schema,
    )


def _messages(turns: pa.Array, images: np.ndarray[Any, Any]) -> pa.Array:
    """Turns as ``{role, content}``; rows without any mark get one an image, at the front of the first human turn."""
    flat, offsets = turns.flatten(), _offsets(turns).to_numpy()
    role, text = flat.field("from"), flat.field("value")
    marked = pc.match_substring(text, MARK).to_numpy(zero_copy_only=False)
    if len(turns) and not np.all(per_row := np.logical_or.reduceat(marked, offsets[:-1])):
        human = np.flatnonzero(pc.equal(role, "human").to_numpy(zero_copy_only=False))
        # The first human turn at or after each row's start; a row without one (system only) takes its first turn.
        nearest = np.searchsorted(human, offsets[:-1])
        first = np.where(nearest < len(human), human[np.minimum(nearest, len(human) - 1)] if len(human) else 0, offsets[:-1])
        first = np.where(first < offsets[1:], first, offsets[:-1])
        prefixes = np.full(len(flat), "", dtype=object)
        prefixes[first[~per_row]] = [f"{MARK}\n" * int(n) for n in images[~per_row]]
        text = pc.binary_join_element_wise(pa.array(prefixes, pa.string()), text, "")
    known = pa.array(list(_ROLE_OF))
    role = pa.array(list(_ROLE_OF.values())).take(pc.index_in(role, value_set=known))
    fields = [pa.field("role", pa.string()), pa.field("content", pa.string())]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays([role, text], fields=fields))


def _first(lists: pa.Array) -> pa.Array:
    """The first element of each list; null where the list is null or empty."""
    full = pc.fill_null(pc.greater(pc.list_value_length(lists), 0), False)
    return pc.list_element(pc.if_else(full, lists, pa.scalar([None], lists.type)), 0)


def _offsets(lists: pa.Array) -> pa.Array:
    return pc.subtract(lists.offsets, lists.offsets[0]) if lists.offset else lists.offsets


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
