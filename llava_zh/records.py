"""From published records, as parsed, to one annotation table whatever the names and shapes they were published in.

There are two ways to the same table. :func:`from_arrow` works on whole columns and covers files in which every row
has the usual types; it answers None as soon as anything is out of the ordinary. :func:`from_rows` then looks at
one row after another: it accepts mixed types (an image as a string here and a list there, turns as JSON text) and
says exactly what is wrong with a bad row, and where.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import BadRow
from .safe_text import get_logger

logger = get_logger(__name__)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
# One row a sample. `images` are the paths as published; `bytes` are the embedded files, null where there are none.
ANNOTATIONS = pa.schema(
    [
        ("id", pa.string()),
        ("images", pa.list_(pa.string())),
        ("bytes", pa.list_(pa.binary())),
        ("width", pa.list_(pa.int64())),
        ("height", pa.list_(pa.int64())),
        ("conversations", pa.list_(TURN)),
        ("task", pa.string()),
    ]
)

# The names under which readers of these datasets have found each field, the published one first.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    "image": ("image", "image_path", "images", "img"),
    "width": ("width", "width_list"),
    "height": ("height", "height_list"),
    "conversations": ("conversations", "conversation", "messages"),
    "task": ("type", "task_type", "task"),
}
ROLE_KEYS = ("from", "role")
TEXT_KEYS = ("value", "text", "content")
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
_RENAMED = np.array([published != name for published, name in ROLES.items()])
KNOWN_COLUMNS = frozenset(name for names in ALIASES.values() for name in names) | {"config", "language"}

# A path that leaves the image root: absolute, a drive, a scheme, fsspec's "::" chain, or a step upwards.
_UNSAFE_PATH = r"^[/\\]|^[A-Za-z]:|:[/:]|(^|[/\\])\.\.([/\\]|$)|^$"
_unsafe_path = re.compile(_UNSAFE_PATH)
MARK = "<image>"
# What our exports put before the published path of an image of SA-1B.
URL = "sa1b://"

_BYTES_AT_ONCE = 1 << 20

OnBadRow = Literal["raise", "skip"]


class Place(NamedTuple):
    """Where a record is: its file, and its byte offset (JSON Lines) or its row number (Parquet, tar, JSON array)."""

    file: str
    byte: int | None = None
    row: int | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.byte is None:
            return f"{self.file}, row {self.row}"
        return f"{self.file}, " + (f"line {self.line} (byte {self.byte})" if self.line else f"byte {self.byte}")

    def byte_at(self, position: int) -> int:
        """The file's byte offset of a position within this record."""
        return (self.byte or 0) + position


@dataclass(frozen=True)
class Expect:
    """What the rows of a configuration must be: ``images`` is ``"one"`` or ``"many"``."""

    images: str = "one"
    task_of: Callable[[str], str | None] | None = None


def empty() -> pa.Table:
    """An annotation table without rows."""
    return ANNOTATIONS.empty_table()


# -- whole columns -----------------------------------------------------------------------------------------


def from_arrow(table: pa.Table, expect: Expect) -> pa.Table | None:
    """The annotations of `table`, or None when a row needs a closer look (bad, or merely unusual)."""
    columns = {name: column for name, names in ALIASES.items() if (column := _column(table, names)) is not None}
    if len(columns) < len(ALIASES):
        return None
    rows = len(table)
    ids = _ids(columns["id"])
    images = _images(columns["image"])
    sizes = [_lists(columns[name]) for name in ("width", "height")]
    turns = _turns(columns["conversations"])
    task = columns["task"]
    if ids is None or images is None or turns is None or sizes[0] is None or sizes[1] is None:
        return None
    paths, embedded = images
    if not _is_text(task.type):
        return None
    if not _images_fit(paths, embedded, turns, expect):
        return None
    if expect.task_of is not None and task.null_count < rows:
        task = _map_strings(task, expect.task_of)
    arrays = [ids, paths, embedded, sizes[0], sizes[1], turns, task.cast(pa.string())]
    assert all(len(array) == rows for array in arrays)
    return pa.Table.from_arrays(arrays, schema=ANNOTATIONS)


def _column(table: pa.Table, names: tuple[str, ...]) -> pa.Array | None:
    """The one column among `names` that has values; all null when none has; None when two have."""
    found = [table[name] for name in names if name in table.column_names]
    found = [column for column in found if column.null_count < len(column)]
    if len(found) > 1:
        return None
    if not found:
        return pa.nulls(len(table))
    if found[0].num_chunks == 1:
        return found[0].chunk(0)
    chunks = found[0].combine_chunks()
    # pyarrow before 19 gives a chunked array back from a column that is empty or has several chunks.
    return pa.concat_arrays(chunks.chunks) if isinstance(chunks, pa.ChunkedArray) else chunks


def _ids(column: pa.Array) -> pa.Array | None:
    return column.cast(pa.string()) if _is_text(column.type) or pa.types.is_integer(column.type) else None


def _one_each(values: pa.Array) -> pa.Array:
    """Lists of one element each; null where the value is null."""
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32))
    mask = values.is_null() if values.null_count else None
    return pa.ListArray.from_arrays(offsets, values, mask=mask)


def _lists(column: pa.Array) -> pa.Array | None:
    """Widths or heights as lists of int64, from integers or from lists of them."""
    if pa.types.is_null(column.type):
        return column.cast(pa.list_(pa.int64()))
    if pa.types.is_integer(column.type):
        return _one_each(column.cast(pa.int64()))
    if pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type):
        return None if column.flatten().null_count else column.cast(pa.list_(pa.int64()))
    return None


def _images(column: pa.Array) -> tuple[pa.Array, pa.Array] | None:
    """Image paths and embedded bytes as lists, from text, ``{bytes, path}``, binary, or lists of one of them."""
    if column.null_count or pa.types.is_null(column.type):
        return None
    lists = column if pa.types.is_list(column.type) else _one_each(column)
    values = lists.flatten()
    if lists.null_count or len(values) != lists.offsets[-1].as_py() - lists.offsets[0].as_py():
        return None
    kind = values.type
    if pa.types.is_struct(kind) and {field.name for field in kind} <= {"bytes", "path"}:
        names = [field.name for field in kind]
        paths = values.field("path") if "path" in names else pa.nulls(len(values))
        data = values.field("bytes") if "bytes" in names else pa.nulls(len(values))
        if values.null_count or not (_is_binary(data.type) and _is_text(paths.type)):
            return None
    elif _is_binary(kind):
        paths, data = pa.nulls(len(values)), values
    elif _is_text(kind):
        paths, data = values, pa.nulls(len(values))
    else:
        return None
    if len(paths) and str(paths[0].as_py()).startswith(URL):
        paths = pc.replace_substring_regex(paths, f"^{URL}", "")
    offsets = pc.subtract(lists.offsets, lists.offsets[0])
    return (
        pa.ListArray.from_arrays(offsets, paths.cast(pa.string())),
        pa.ListArray.from_arrays(offsets, data.cast(pa.binary())),
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind))


def _turns(column: pa.Array) -> pa.Array | None:
    """Turns as lists of ``{from, value}`` with LLaVA's role names; None when any is missing or unknown."""
    kind = column.type
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type) or column.null_count:
        return None
    if len(column) and pc.min(pc.list_value_length(column)).as_py() == 0:
        return None
    turns = column.flatten()
    names = [field.name for field in kind.value_type]
    role = _coalesce([turns.field(name) for name in ROLE_KEYS if name in names])
    text = _coalesce([turns.field(name) for name in TEXT_KEYS if name in names])
    if role is None or text is None or role.null_count or text.null_count or turns.null_count:
        return None
    index = pc.index_in(role, value_set=pa.array(list(ROLES)))
    if index.null_count:
        return None
    if np.any(_RENAMED[index.to_numpy()]):
        role = pa.array(list(ROLES.values())).take(index)
    offsets = pc.subtract(column.offsets, column.offsets[0])
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([role, text], fields=list(TURN)))


def _coalesce(candidates: list[pa.Array]) -> pa.Array | None:
    """The candidate that has all values (the usual case costs nothing), else the first value of each row."""
    present = [column for column in candidates if column.null_count < len(column)]
    if any(not pa.types.is_string(column.type) for column in present):
        return None
    if len(present) <= 1:
        return present[0] if present else None
    return pc.coalesce(*present)


def _images_fit(paths: pa.Array, embedded: pa.Array, turns: pa.Array, expect: Expect) -> bool:
    """Whether every row has images of the expected number, safe paths, and marks in its text that match them."""
    if not len(paths):
        return True
    counts = pc.list_value_length(paths).to_numpy()
    if counts.min() < 1 or (expect.images == "one" and counts.max() > 1):
        return False
    # Of an embedded image the path is only a name; of all others it must be there and safe.
    named = paths.flatten().filter(pc.is_null(embedded.flatten()))
    if named.null_count or (_may_be_unsafe(named) and pc.any(pc.match_substring_regex(named, _UNSAFE_PATH)).as_py()):
        return False
    marks = _marks(pc.struct_field(turns.values, "value"), turns.offsets.to_numpy())
    return marks is not None and bool(np.all((marks == 0) | (marks == counts)))


def _may_be_unsafe(paths: pa.Array) -> bool:
    """Whether any path has what every unsafe one has; spares nearly all of them the expression."""
    data, offsets = text_bytes(paths)
    text = data.tobytes()
    if np.any(offsets[1:] == offsets[:-1]) or any(part in text for part in (b":", b"\\", b"..")):
        return True
    return bool(np.any(data[offsets[:-1]] == ord("/")))


def _marks(values: pa.Array, offsets: np.ndarray[Any, np.dtype[np.int32]]) -> Ints | None:
    """Image marks a row; None when ``<img>`` may be one, which needs a look at the row.

    Counting a substring in every text would cost more than parsing it. A mark nearly always opens the first
    turn and no other ``<`` occurs, which one pass over the text buffer for that byte tells.
    """
    angle_brackets = count_byte(text_bytes(values)[0], "<")
    opening = pc.starts_with(values, MARK).to_numpy(zero_copy_only=False)
    if angle_brackets == int(np.count_nonzero(opening)):
        per_turn = opening.astype(np.int64)
    else:
        if pc.any(pc.match_substring(values, "<img>")).as_py():
            return None
        per_turn = pc.count_substring(values, MARK).to_numpy().astype(np.int64)
    return np.add.reduceat(per_turn, offsets[:-1]) if len(offsets) > 1 else np.zeros(0, np.int64)


def text_bytes(texts: pa.Array) -> tuple[Bytes, Ints]:
    """The UTF-8 of all `texts`, one after another and not copied, and where each starts (and the last one ends)."""
    if not len(texts):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, edges, data = texts.buffers()
    offsets = np.frombuffer(edges, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return np.frombuffer(data or b"", np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def count_byte(data: Bytes, character: str) -> int:
    """How often a byte occurs; numpy compares whole vectors at a time, several times as fast as `bytes.count`."""
    # In pieces, as the C library gives large temporary arrays back to the system and gets new pages for the next one.
    pieces = (data[at : at + _BYTES_AT_ONCE] for at in range(0, len(data), _BYTES_AT_ONCE))
    return sum(int(np.count_nonzero(piece == ord(character))) for piece in pieces)


def _map_strings(column: pa.Array, to: Callable[[str], str | None]) -> pa.Array:
    """`column` with `to` applied to each distinct value."""
    encoded = column.cast(pa.string()).dictionary_encode()
    mapped = pa.array([to(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return mapped.take(encoded.indices)


# -- row by row --------------------------------------------------------------------------------------------


def from_rows(
    rows: Iterable[tuple[Place, Mapping[str, Any] | BadRow]],
    expect: Expect,
    on_bad: Callable[[BadRow], None],
) -> pa.Table:
    """The annotations of `rows`; each bad one is handed to `on_bad`, which raises it or takes note and returns.

    A row that could not even be parsed comes as the :class:`BadRow` that says so.
    """
    good = []
    for place, row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            good.append(annotation(place, row, expect))
        except BadRow as error:
            on_bad(error)
    return pa.Table.from_pylist(good, schema=ANNOTATIONS)


def bad_row(place: Place, field: str, expected: str, found: object, hint: str = "") -> BadRow:
    """The error for `field` of the record at `place`."""
    shown = (
        found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=lambda v: type(v).__name__)
    )
    if len(shown) > 120:
        shown = shown[:117] + "…"
    message = f"{place}: {field}: expected {expected}, found {shown}.{hint and ' ' + hint}"
    return BadRow(message, **place._asdict(), field=field, expected=expected, found=shown, hint=hint)


def with_line(error: BadRow, line: int) -> BadRow:
    """The same error, with the number of its line (from 1)."""
    place = Place(error.file, byte=error.byte, line=line)
    return bad_row(place, error.field, error.expected, error.found, error.hint)


def annotation(place: Place, row: Mapping[str, Any], expect: Expect) -> dict[str, Any]:
    """One record as a row of :data:`ANNOTATIONS`.

    Raises:
        BadRow: It is not what it must be.
    """
    return _Checked(place, row, expect).annotation()


def turns_of(place: Place, row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns of one record as ``{from, value}``, without a look at its images.

    Raises:
        BadRow: It has none, or one of them is none.
    """
    return _Checked(place, row, Expect()).turns()[1]


class _Checked:
    """One record, looked at field by field."""

    def __init__(self, place: Place, row: Mapping[str, Any], expect: Expect) -> None:
        self.place, self.row, self.expect = place, row, expect

    def annotation(self) -> dict[str, Any]:
        paths, data = self._images()
        turns = self._conversations(len(paths))
        task = self._get("task")[1]
        if task is not None and not isinstance(task, str):
            raise self._bad("type", "text", task)
        if self.expect.task_of is not None and task is not None:
            task = self.expect.task_of(task)
        return {
            "id": self._id(),
            "images": paths,
            "bytes": data,
            "width": self._pixels("width"),
            "height": self._pixels("height"),
            "conversations": turns,
            "task": task,
        }

    def _bad(self, field: str, expected: str, found: object) -> BadRow:
        return bad_row(self.place, field, expected, found)

    def _get(self, field: str) -> tuple[str, Any]:
        """The name under which the row has `field`, and its value (None when it has it under no name)."""
        for name in ALIASES[field]:
            if self.row.get(name) is not None:
                return name, self.row[name]
        return ALIASES[field][0], None

    def _id(self) -> str | None:
        name, value = self._get("id")
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self._bad(name, "text or an integer", value)

    def _pixels(self, field: str) -> list[int] | None:
        name, value = self._get(field)
        if value is None:
            return None
        values = value if isinstance(value, list) else [value]
        if not all(_is_integer(v) for v in values):
            raise self._bad(name, "an integer or a list of integers, in pixels", value)
        return [int(v) for v in values]

    def _images(self) -> tuple[list[str | None], list[bytes | None]]:
        name, value = self._get("image")
        if value is None:
            raise self._bad(name, "the path of an image, or a list of paths", "nothing (the key is missing or null)")
        values = value if isinstance(value, list) else [value]
        if not values or (self.expect.images == "one" and len(values) > 1):
            wanted = "one image" if self.expect.images == "one" else "at least one image"
            raise self._bad(
                name, wanted, f"{len(values)} images: {json.dumps(values, default=lambda v: type(v).__name__)}"
            )
        pairs = [self._image(name if len(values) == 1 else f"{name}[{i}]", v) for i, v in enumerate(values)]
        return [path for path, _ in pairs], [data for _, data in pairs]

    def _image(self, field: str, value: Any) -> tuple[str | None, bytes | None]:
        path, data = value, None
        if isinstance(value, bytes):
            path, data = None, value
        elif isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
            path, data = value.get("path"), value.get("bytes")
        if isinstance(data, bytes) and (path is None or isinstance(path, str)):
            return path, data  # the path is only a name
        if data is not None or not isinstance(path, str):
            raise self._bad(field, "the path of an image as text, or an image's bytes", value)
        path = path.removeprefix(URL)
        if _unsafe_path.search(path):
            raise self._bad(field, "a path below the image root (not absolute, no '..', no scheme)", path)
        return path, data

    def _conversations(self, images: int) -> list[dict[str, str]]:
        return self._with_marks(*self.turns(), images)

    def turns(self) -> tuple[str, list[dict[str, str]]]:
        """The name under which the row has its turns, and the turns with LLaVA's keys and roles."""
        name, value = self._get("conversations")
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except (ValueError, RecursionError):
                raise self._bad(name, "a list of turns, or the same as JSON text", value) from None
        if isinstance(value, Mapping) and value and all(isinstance(v, list) for v in value.values()):
            # `datasets` stores Sequence({...}) as a struct of lists.
            if len({len(v) for v in value.values()}) > 1:
                raise self._bad(name, "as many of each in a struct of lists", {key: len(v) for key, v in value.items()})
            value = [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
        if not isinstance(value, list) or not value:
            found = "nothing (the key is missing or null)" if value is None else value
            raise self._bad(name, "a list of at least one turn", found)
        return name, [self._turn(f"{name}[{i}]", turn) for i, turn in enumerate(value)]

    def _turn(self, field: str, turn: Any) -> dict[str, str]:
        if not isinstance(turn, Mapping):
            raise self._bad(field, "an object with 'from' and 'value'", turn)
        role = next((turn[key] for key in ROLE_KEYS if turn.get(key) is not None), None)
        if not isinstance(role, str) or role not in ROLES:
            raise self._bad(f"{field}.from", f"one of {', '.join(ROLES)}", "nothing" if role is None else role)
        text = next((turn[key] for key in TEXT_KEYS if turn.get(key) is not None), None)
        if isinstance(text, list):
            text = self._joined(f"{field}.content", text)
        if not isinstance(text, str):
            raise self._bad(
                f"{field}.value", "text under 'value', 'text' or 'content'", "neither" if text is None else text
            )
        return {"from": ROLES[role], "value": text}

    def _joined(self, field: str, parts: list[Any]) -> str:
        """The text of a content list: image parts become marks."""
        texts = []
        for part in parts:
            if isinstance(part, Mapping) and part.get("type") in ("image", "image_url"):
                texts.append(MARK)
            elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                texts.append(part["text"])
            else:
                raise self._bad(field, "parts of type image or text", part)
        return "".join(texts)

    def _with_marks(self, name: str, turns: list[dict[str, str]], images: int) -> list[dict[str, str]]:
        marks = sum(turn["value"].count(MARK) for turn in turns)
        if marks == 0 and sum(turn["value"].count("<img>") for turn in turns) == images:
            return [{**turn, "value": turn["value"].replace("<img>", MARK)} for turn in turns]
        if marks not in (0, images):
            raise self._bad(
                name, f"{images} {MARK} mark{'s' * (images > 1)} for as many images, or none", f"{marks} marks"
            )
        return turns


def _is_integer(value: Any) -> bool:
    """Whether `value` is a whole number that fits an int64 (a float that is one included)."""
    if isinstance(value, float):
        return value.is_integer() and abs(value) < 1 << 63
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63


def unknown_columns(names: Iterable[str]) -> Iterator[str]:
    """The names that no field of a row is known by."""
    return (name for name in names if name not in KNOWN_COLUMNS)
