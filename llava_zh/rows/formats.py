"""The row formats, as `datasets.Features`, and the way from the annotation table to each of them, in Arrow.

==========  =====================================================================================
format      columns
==========  =====================================================================================
`llava`     as published: `id`, `image` (a list of them for a many-image config), `width` and
            `height` in pixels (lists likewise), `conversations` of ``{from, value}``
`sharegpt`  `id`, `images` (always a list), `conversations` of ``{from, value}``: LLaMA-Factory
`messages`  `id`, `images`, `messages` of ``{role, content}``: ms-swift
`parts`     `id`, `images`, `messages` of ``{role, content}``, the content being a list of parts
            ``{"type": "text", "text": …}`` and ``{"type": "image", "text": ""}``: TRL; with the
            pictures inside (`images="inline"`): axolotl, `processor.apply_chat_template`
==========  =====================================================================================

All end with the constant columns `config`, `language` and `task` (llava-instruct's; null for the captions, and
left out of their `llava` rows). All but `llava` have the same features for every config of both datasets.

A row without an image, where a config may have such, has ``images: []``, and in `llava` ``image: null`` (``[]`` where a
config has several images a row). It has no mark and gets none.

Where :attr:`RowOptions.regenerated` asks for them, two more columns follow: `previous`, what a row of a run said before
it was regenerated, in the form of its turns; and `regenerated`, how that was done, as in :data:`records.FACTS`. Both
are null in rows that are of no run.

Rows of all formats but `llava` have ``<image>`` marks (or image parts) as often as images: a row published without any
gets them at the front of its first human turn, each with the newline that LLaVA puts after it. `llava` rows are as
published, so a row without marks stays without, unless :attr:`RowOptions.image_place` asks for them.

In `parts` the newline after a mark that opens a turn is dropped, as the chat template of the model puts what it wants
between a picture and text; all other text is kept to the letter. The text of an image part is ``""`` and not null:
all parts share one Arrow type, and chat templates that write every part's text would write null as ``None``.

Where :attr:`RowOptions.images` is ``"inline"`` there is no column `images`: each image part holds its picture,
``{"type": "image", "image": <picture>}``, as `processor.apply_chat_template` takes it; see `rows.inline`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..images.locations import stored_paths
from .arrays import one_array
from .columns import PREVIOUS, REGENERATED
from .inline import with_pictures
from .records import MARK, TURN, Bytes, Ints, text_bytes
from .row_options import RowOptions as RowOptions
from .row_options import RowShape as RowShape

Bools = np.ndarray[Any, np.dtype[np.bool_]]

ROW_FORMATS = ("llava", "sharegpt", "messages", "parts")
STORED_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PART = pa.struct([("type", pa.string()), ("text", pa.string())])
ROLE_OF = {"human": "user", "gpt": "assistant", "system": "system"}
_PUBLISHED_ROLES, _ROLES = pa.array(list(ROLE_OF)), pa.array(list(ROLE_OF.values()))
_KINDS = pa.array(["text", "image"])
# Marks that stand for themselves before or after the text of a turn, with the whitespace that sets them apart.
_LEADING_MARKS = rf"\A\s*(?:{MARK}\s*)+"
_TRAILING_MARKS = rf"(?:\s*{MARK})+\s*\z"


def to_rows(
    annotations: pa.Table,
    shape: RowShape,
    schema: pa.Schema,
    urls: Callable[[pa.Array], pa.Array],
    constants: Mapping[str, str | None],
) -> pa.Table:
    """The rows of `annotations` in the format that `shape` says, with the Arrow `schema` of its features.

    Args:
        urls: From published paths to what `datasets.Image` opens; null stays null.
        constants: The values of `config` and `language`.
    """
    columns: dict[str, pa.Array] = {"id": one_array(annotations["id"]), "task": one_array(annotations["task"])}
    paths, data = one_array(annotations["images"]), one_array(annotations["bytes"])
    stored = _stored_images(data.flatten(), stored_paths(paths.flatten(), data.flatten(), urls))
    columns["images"] = pa.ListArray.from_arrays(_offsets(paths), stored)
    if shape.images == "one":
        columns["image"] = stored if len(stored) == len(annotations) else _at_most_one(columns["images"], stored)
    else:
        columns["image"] = columns["images"]
    for name in ("width", "height"):
        sizes = one_array(annotations[name])
        columns[name] = _first(sizes) if shape.published and shape.images == "one" else sizes
    said, images = one_array(annotations["conversations"]), pc.list_value_length(paths).to_numpy()
    turns = _turns_of(said, images, shape).lists(shape.row_format, images)
    columns[shape.turns_column] = with_pictures(turns, stored) if shape.inline else turns
    if shape.options.regenerated:
        columns[PREVIOUS] = _previous(annotations, images, shape)
        columns[REGENERATED] = one_array(annotations[REGENERATED])
    for name, value in constants.items():
        columns[name] = pa.repeat(pa.scalar(value, pa.string()), len(annotations))
    arrays = [columns[field.name] for field in schema]
    return pa.Table.from_arrays(
        [
            array if array.type == field.type else array.cast(field.type)
            for array, field in zip(arrays, schema, strict=True)
        ],
        schema=schema,
    )


def _turns_of(said: pa.Array, images: Ints, shape: RowShape) -> Turns:
    """What rows with as many `images` each say, with the marks and the system prompt that the options ask for."""
    turns = Turns.of(said)
    if not shape.published or shape.options.image_place is not None:
        turns = turns.marked(images, shape.options.image_place)
    return turns if shape.options.system is None else turns.with_system(shape.options.system)


def _previous(annotations: pa.Table, images: Ints, shape: RowShape) -> pa.Array:
    """What rows said before they were regenerated, in the form of what they say now; null where that is not known."""
    before = one_array(annotations[PREVIOUS])
    known = before.is_valid().to_numpy(zero_copy_only=False)
    turns = _turns_of(before.filter(pa.array(known)), images[known], shape).lists(shape.row_format, None)
    return turns.take(pa.array(np.cumsum(known) - 1, mask=~known))


def _stored_images(data: pa.Array, urls: pa.Array) -> pa.Array:
    """Images as `datasets` stores them; null where there is neither a URL nor bytes."""
    missing = pc.and_(data.is_null(), urls.is_null()) if urls.null_count else None
    return pa.StructArray.from_arrays([data, urls], fields=list(STORED_IMAGE), mask=missing)


# -- turns -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turns:
    """The turns of some rows, flat: `role` (``human``, ``gpt``, ``system``) and `text` of each; where rows start."""

    role: pa.Array
    text: pa.Array
    offsets: Ints

    @classmethod
    def of(cls, lists: pa.Array) -> Turns:
        """From lists of ``{from, value}``, at least one a row."""
        flat = lists.flatten()
        return cls(flat.field("from"), flat.field("value"), _offsets(lists).to_numpy())

    @cached_property
    def opening(self) -> Bools:
        """Whether each turn opens with a mark."""
        found: Bools = pc.starts_with(self.text, MARK).to_numpy(zero_copy_only=False)
        return found

    def lists(self, row_format: str, images: Ints | None) -> pa.Array:
        """As the lists of structs that rows of this format have, which have a mark for each of so many `images`.

        With None it is not known how many marks they have.
        """
        if row_format in ("llava", "sharegpt"):
            turns = pa.StructArray.from_arrays([self.role, self.text], fields=list(TURN))
        else:
            role = _ROLES.take(pc.index_in(self.role, value_set=_PUBLISHED_ROLES))
            opening = None if images is None else self._only_marks(images)
            content = parts(self.text, opening) if row_format == "parts" else self.text
            turns = pa.StructArray.from_arrays([role, content], ["role", "content"])
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), turns)

    def marked(self, images: Ints, place: str | None) -> Turns:
        """With as many marks a row as there are `images`, moved to `place` where they can be."""
        if not len(images):
            return self
        # Nearly always a mark opens the first turn, which is told much faster than whether there is one anywhere.
        unmarked = ~self.opening[self.offsets[:-1]]
        if unmarked.any():
            unmarked = ~self._any(pc.match_substring(self.text, MARK))
        unmarked &= images > 0
        text, rows = self.text, np.flatnonzero(unmarked)
        if place is not None:
            text, movable = self._without_marks()
            rows = np.flatnonzero(unmarked | movable)
        if not len(rows):
            return self
        joined = np.full(len(text), "", dtype=object)
        joined[self._first_human()[rows]] = [_marks(int(n), place) for n in images[rows]]
        pair = (text, pa.array(joined, pa.string())) if place == "end" else (pa.array(joined, pa.string()), text)
        return dataclasses.replace(self, text=pc.binary_join_element_wise(*pair, ""))

    def _without_marks(self) -> tuple[pa.Array, Bools]:
        """The text without the marks before and after that of the first human turns, and the rows that have none left.

        Rows that have other marks as well are left alone.
        """
        first = self._first_human()
        opening = self.text.take(pa.array(first))
        bare = pc.replace_substring_regex(opening, _LEADING_MARKS, "")
        bare = pc.replace_substring_regex(bare, _TRAILING_MARKS, "")
        others = np.add.reduceat(pc.count_substring(self.text, MARK).to_numpy().astype(np.int64), self.offsets[:-1])
        others -= pc.count_substring(opening, MARK).to_numpy()
        had = pc.not_equal(bare, opening).to_numpy(zero_copy_only=False)
        left = others + pc.count_substring(bare, MARK).to_numpy()
        movable: Bools = had & (left == 0)
        source = np.arange(len(self.text))
        source[first[movable]] = len(self.text) + np.flatnonzero(movable)
        return pa.concat_arrays([self.text, bare]).take(pa.array(source)), movable

    def _first_human(self) -> Ints:
        """The first human turn of each row; a row without one (system only) gives its first turn."""
        starts = self.offsets[:-1].astype(np.int64)
        human = np.flatnonzero(pc.equal(self.role, "human").to_numpy(zero_copy_only=False))
        if not len(human):
            return starts
        nearest = np.searchsorted(human, starts)
        first = human[np.minimum(nearest, len(human) - 1)]
        return np.where((nearest < len(human)) & (first < self.offsets[1:]), first, starts)

    def with_system(self, prompt: str) -> Turns:
        """With a system turn in front of each row that does not start with one."""
        starts = self.offsets[:-1]
        roles = self.role.take(pa.array(starts))
        added = pc.not_equal(roles, "system").to_numpy(zero_copy_only=False)
        source = np.insert(np.arange(len(self.text)), starts[added], len(self.text))
        role, text = (
            pa.concat_arrays([column, pa.array([value], pa.string())]).take(pa.array(source))
            for column, value in ((self.role, "system"), (self.text, prompt))
        )
        return Turns(role, text, self.offsets + np.concatenate([[0], np.cumsum(added)]).astype(self.offsets.dtype))

    def _only_marks(self, images: Ints) -> Bools | None:
        """Which turns open with a mark, if there are no other marks; for rows that have a mark an image."""
        # No row has more turns that open with a mark than images, so that the sums are equal only where all rows are.
        return self.opening if np.count_nonzero(self.opening) == images.sum() else None

    def _any(self, of_turns: pa.Array) -> Bools:
        """Whether it is true of any turn of each row."""
        result: Bools = np.logical_or.reduceat(of_turns.to_numpy(zero_copy_only=False), self.offsets[:-1])
        return result


def _marks(count: int, place: str | None) -> str:
    return f"\n{MARK}" * count if place == "end" else f"{MARK}\n" * count


def parts(texts: pa.Array, opening: Bools | None = None) -> pa.Array:
    """Texts with marks as lists of :data:`PART`: what stands between marks, and a part for each mark.

    There is no empty text part, except that a turn without any text or image has one. The newline that follows each
    mark at the start of a text is dropped. Texts must not be null. Where it is known that no mark stands elsewhere than
    at the start of a text, and no two there, `opening` says which texts have one.
    """
    data, offsets = text_bytes(texts)
    if opening is not None:
        return _parts_after_marks(data, offsets, opening)
    turn, at = _marks_in(data, offsets)
    after = _text_after(turn, at, data, offsets)
    images = np.bincount(turn, minlength=len(texts))
    earlier = np.cumsum(images) - images
    # A turn with n marks is n + 1 pieces of text with an image between each two, so 2n + 1 parts before empty ones go.
    first = np.arange(len(texts)) + 2 * earlier
    image = 2 * np.arange(len(at)) + turn + 1
    length = np.zeros(len(texts) + 2 * len(at), dtype=np.int64)
    length[first] = -offsets[:-1]
    length[image + 1] = -after
    length[image - 1] += at
    length[first + 2 * images] += offsets[1:]
    is_image = np.zeros(len(length), dtype=np.int8)
    is_image[image] = 1
    kept = length > 0
    kept[image] = True
    kept[first[images == 0]] = True
    count = np.concatenate([[0], np.cumsum(kept)])[np.append(first, len(kept))]
    return _part_lists(count, is_image[kept], length[kept], _without(data, at, after))


def _parts_after_marks(data: Bytes, offsets: Ints, opening: Bools) -> pa.Array:
    """As :func:`parts`, where a text has no other mark than one at its start."""
    marked = np.flatnonzero(opening)
    at = offsets[marked]
    after = at + len(MARK)
    with_more = after < offsets[marked + 1]
    after += with_more & (data[np.where(with_more, after, 0)] == ord("\n"))
    length = np.diff(offsets)
    length[marked] -= after - at
    is_text = length > 0
    is_text |= ~opening
    count = np.concatenate([[0], np.cumsum(is_text.astype(np.int64) + opening)])
    is_image = np.zeros(count[-1], dtype=np.int8)
    is_image[count[marked]] = 1
    lengths = np.zeros(count[-1], dtype=np.int32)
    # The text part is the last one of its turn. Where there is none, the length of 0 is that of the image part.
    lengths[count[1:] - 1] = length
    return _part_lists(count, is_image, lengths, _without(data, at, after))


def _part_lists(count: Ints, is_image: np.ndarray[Any, np.dtype[np.int8]], length: Ints, data: pa.Buffer) -> pa.Array:
    """Lists of parts: where each list starts, which parts are images, and how much of `data` is the text of each."""
    ends = np.zeros(len(length) + 1, dtype=np.int32)
    np.cumsum(length, dtype=np.int32, out=ends[1:])
    texts = pa.StringArray.from_buffers(len(length), pa.py_buffer(ends), data)
    kinds = _KINDS.take(pa.array(is_image))
    return pa.ListArray.from_arrays(
        pa.array(count.astype(np.int32)), pa.StructArray.from_arrays([kinds, texts], fields=list(PART))
    )


def _marks_in(data: Bytes, offsets: Ints) -> tuple[Ints, Ints]:
    """Of each mark in the texts of `data`, in order: the number of its text, and where it starts."""
    at = np.flatnonzero(data[: max(len(data) - len(MARK) + 1, 0)] == ord(MARK[0]))
    for i, byte in enumerate(MARK.encode()):
        at = at[data[at + i] == byte]
    text = np.searchsorted(offsets, at, side="right") - 1
    whole = at + len(MARK) <= offsets[text + 1]  # not the end of one text with the start of the next
    return text[whole], at[whole]


def _text_after(text: Ints, at: Ints, data: Bytes, offsets: Ints) -> Ints:
    """Where the text goes on after each mark: after its newline too if there are only such marks before it."""
    after = at + len(MARK)
    newline = after < offsets[text + 1]
    newline[newline] = data[after[newline]] == ord("\n")
    first = np.diff(text, prepend=-1) > 0
    apart = at != np.where(first, offsets[text], np.roll(after + newline, 1))
    if apart.any():
        inner = np.cumsum(apart)
        inner -= np.repeat((inner - apart)[first], np.diff(np.append(np.flatnonzero(first), len(at))))
        newline &= inner == 0
    return after + newline


def _without(data: Bytes, starts: Ints, ends: Ints) -> pa.Buffer:
    """`data` without what lies from `starts` to `ends`, cut out in Arrow."""
    edges = np.zeros(2 * len(starts) + 2, dtype=np.int32)
    edges[1:-1:2], edges[2:-1:2], edges[-1] = starts, ends, len(data)
    pieces = pa.Array.from_buffers(pa.binary(), len(edges) - 1, [None, pa.py_buffer(edges), pa.py_buffer(data)])
    return pieces.take(pa.array(np.arange(0, len(pieces), 2))).buffers()[2] or pa.py_buffer(b"")


# -- arrays ------------------------------------------------------------------------------------------------


def _at_most_one(lists: pa.Array, values: pa.Array) -> pa.Array:
    """The one of `values` that each list has; null for an empty list."""
    empty = pc.equal(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return values.take(pa.array(lists.offsets.to_numpy()[:-1], mask=empty))


def _first(lists: pa.Array) -> pa.Array:
    """The first element of each list; null where the list is null or empty."""
    if not lists.null_count and pc.all(pc.equal(pc.list_value_length(lists), 1)).as_py():
        return lists.flatten()  # one element each, the usual case
    full = pc.fill_null(pc.greater(pc.list_value_length(lists), 0), False)
    return pc.list_element(pc.if_else(full, lists, pa.scalar([None], lists.type)), 0)


def _offsets(lists: pa.Array) -> pa.Array:
    return pc.subtract(lists.offsets, lists.offsets[0]) if lists.offset else lists.offsets
