"""From published records, as parsed, to one annotation table whatever the names and shapes they were published in.

There are two ways to the same table. `rows.record_columns.from_arrow` works on whole columns and covers files
in which every row has the usual types; it answers None as soon as anything is out of the ordinary. :func:`from_rows`
then looks at one row after another: it accepts mixed types (an image as a string here and a list there, turns as JSON
text) and says exactly what is wrong with a bad row, and where.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..errors import BadRow
from ..gates import json_values, places
from ..gates.counts import counted
from ..gates.limits import SAMPLE_IMAGES
from ..gates.safe_text import get_logger
from ..images import written_paths
from .columns import ALIASES as ALIASES
from .columns import PREVIOUS, REGENERATED, USUAL, Columns, no_image

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
# How a row of a run was regenerated, as the run has written it; what is unknown is null.
FACTS = {
    "position": pa.int64(),
    "key": pa.string(),
    "model": pa.string(),
    "prompt": pa.string(),
    "finish_reason": pa.string(),
    "prompt_tokens": pa.int64(),
    "completion_tokens": pa.int64(),
    "asked": pa.int64(),
}
# The annotations of rows of which that is asked for as well.
WITH_FACTS = ANNOTATIONS.append(pa.field(PREVIOUS, pa.list_(TURN))).append(
    pa.field(REGENERATED, pa.struct(list(FACTS.items())))
)

ROLE_KEYS = ("from", "role")
TEXT_KEYS = ("value", "text", "content")
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
KNOWN_COLUMNS = USUAL.known

_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
MARK = "<image>"

_BYTES_AT_ONCE = 1 << 20
_NOTHING = "nothing (the key is missing or null)"
_NO_IMAGE = (
    "Each row of this configuration is about an image. on_bad_row='skip' leaves such rows out; files that have rows of "
    "text alone load as 'llava', or as a dataset that is registered with text_only=True."
)
_LOST = "Is its image missing, or under a name that is not read? on_bad_row='skip' leaves such rows out."


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
    """What the rows of a configuration must be: ``images`` is ``"one"`` or ``"many"``.

    `around` is what they may have around an image's path, see :mod:`llava_zh.images.written_paths`. `columns` are the
    names of their fields. Rows with a caption alone get `question` as their human turn. `in_sa1b` says that a URL which
    ends in the name of an image of SA-1B is that image. `text_only` says that a row may have no image. `facts` says
    that the table has the columns of a run too, in which no row is bad: what is none of a run's facts is null.
    """

    images: str = "one"
    task_of: Callable[[str], str | None] | None = None
    around: tuple[written_paths.Around, ...] = (written_paths.SA1B,)
    columns: Columns = USUAL
    question: str = MARK
    in_sa1b: bool = False
    text_only: bool = False
    facts: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The columns of the annotation table."""
        return WITH_FACTS if self.facts else ANNOTATIONS


def empty(schema: pa.Schema = ANNOTATIONS) -> pa.Table:
    """An annotation table without rows."""
    return schema.empty_table()


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
    return pa.Table.from_pylist(good, schema=expect.schema)


def bad_row(place: Place, field: str, expected: str, found: object, hint: str = "") -> BadRow:
    """The error for `field` of the record at `place`."""
    shown = found if isinstance(found, str) else _as_json(found)
    if len(shown) > 120:
        shown = shown[:117] + "…"
    message = f"{place}: {field}: expected {expected}, found {shown}.{hint and ' ' + hint}"
    return BadRow(message, **place._asdict(), field=field, expected=expected, found=shown, hint=hint)


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=lambda v: type(v).__name__)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return type(value).__name__


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


def turns_of(place: Place, row: Mapping[str, Any], columns: Columns = USUAL) -> list[dict[str, str]]:
    """The turns of one record as ``{from, value}``, without a look at its images.

    Raises:
        BadRow: It has none, or one of them is none.
    """
    return _Checked(place, row, Expect(columns=columns)).turns()[1]


class _Checked:
    """One record, looked at field by field."""

    def __init__(self, place: Place, row: Mapping[str, Any], expect: Expect) -> None:
        self.place, self.row, self.expect = place, row, expect

    def annotation(self) -> dict[str, Any]:
        paths, data = self._images()
        turns = self._conversations(len(paths))
        name, task = self._get("task")
        if task is not None and not isinstance(task, str):
            raise self._bad(name, "text", task)
        if self.expect.task_of is not None and task is not None:
            task = self.expect.task_of(task)
        facts = self._facts() if self.expect.facts else {}
        return {
            "id": self._id(),
            "images": paths,
            "bytes": data,
            "width": self._pixels("width"),
            "height": self._pixels("height"),
            "conversations": turns,
            "task": task,
            **facts,
        }

    def _facts(self) -> dict[str, Any]:
        """How the row was regenerated, and what it was before; null, and never a bad row, where that is not known."""
        found = self.row.get(REGENERATED)
        if not isinstance(found, Mapping):
            return {PREVIOUS: None, REGENERATED: None}
        before = found.get(PREVIOUS)
        if before is None:
            before = self.row.get(PREVIOUS)
        facts = {name: _fact(found.get(name), kind) for name, kind in FACTS.items()}
        return {PREVIOUS: _turns_if_any(self.place, before), REGENERATED: facts}

    def _bad(self, field: str, expected: str, value: object, hint: str = "") -> BadRow:
        """The error for a `value`, which is quoted as JSON, so that a text is told from a number."""
        return self._told(field, expected, _as_json(value), hint)

    def _told(self, field: str, expected: str, found: str, hint: str = "") -> BadRow:
        """The error for what is described in words."""
        return bad_row(self.place, field, expected, found, hint)

    def _get(self, field: str) -> tuple[str, Any]:
        """The name under which the row has `field`, and its value (None when it has it under no name)."""
        return self.expect.columns.get(self.row, field)

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
        if self.expect.text_only:
            name, value = self.expect.columns.get(self.row, "image", no_image)
        else:
            name, value = self._get("image")
        if value is None:
            if self.expect.text_only:
                return [], []
            raise self._told(name, "the path of an image, or a list of paths", _NOTHING, _NO_IMAGE)
        values = value if isinstance(value, list) else [value]
        if not values or (self.expect.images == "one" and len(values) > 1):
            wanted = "one image" if self.expect.images == "one" else "at least one image"
            raise self._told(name, wanted, f"{counted(len(values), 'images')}: {_as_json(values[:20])}")
        if len(values) > SAMPLE_IMAGES.value:
            raise self._told(
                name,
                f"at most {SAMPLE_IMAGES.value:,} images",
                f"{len(values):,}",
                SAMPLE_IMAGES.exceeded(len(values)),
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
        if is_data_uri(path):
            return None, self._decoded(field, path)
        path = written_paths.published(path, self.expect.around)
        if self.expect.in_sa1b:
            path = written_paths.sa1b_name(path)
        if problem := places.unsafe(path):
            expected = "a path below the image root (not absolute, no '..', no scheme)"
            raise self._bad(field, expected, path, _path_hint(path, problem))
        return path, data

    def _decoded(self, field: str, uri: str) -> bytes:
        """The picture in a ``data:`` URI, the form in which trainers put pictures into JSON."""
        start = _DATA_URI.match(uri)
        try:
            if start is not None:
                return base64.b64decode(uri[start.end() :], validate=True)
        except ValueError:
            pass
        raise self._bad(field, "a picture as data:image/…;base64,… (or the path of one)", uri)

    def _conversations(self, images: int) -> list[dict[str, str]]:
        return self._with_marks(*self.turns(), images)

    def turns(self) -> tuple[str, list[dict[str, str]]]:
        """The name under which the row has its turns, and the turns with LLaVA's keys and roles."""
        name, value = self._get("conversations")
        if value is None and (round_ := self._round()) is not None:
            return round_
        if isinstance(value, str):
            try:
                value = json_values.decode(value.encode("utf-8"))
            except ValueError as error:
                raise self._bad(name, "a list of turns, or the same as JSON text", value, f"{error}.") from None
        if isinstance(value, Mapping) and value and all(isinstance(v, list) for v in value.values()):
            # `datasets` stores Sequence({...}) as a struct of lists.
            if len({len(v) for v in value.values()}) > 1:
                raise self._bad(name, "as many of each in a struct of lists", {key: len(v) for key, v in value.items()})
            value = [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
        if not isinstance(value, list) or not value:
            found = _NOTHING if value is None else _as_json(value)
            raise self._told(name, "a list of at least one turn", found)
        return name, [self._turn(f"{name}[{i}]", turn) for i, turn in enumerate(value)]

    def _round(self) -> tuple[str, list[dict[str, str]]] | None:
        """The turns of a row with one caption, or with one question and its answer; None where it has neither."""
        asked, question = self._get("question")
        answered, answer = self._get("answer")
        if answer is None:
            asked, question = "question", self.expect.question
            answered, answer = self._get("caption")
        if answer is None:
            return None
        if question is None:
            question = self.expect.question
        for name, text in ((asked, question), (answered, answer)):
            if not isinstance(text, str):
                raise self._bad(name, "text", text)
        return answered, [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]

    def _turn(self, field: str, turn: Any) -> dict[str, str]:
        if not isinstance(turn, Mapping):
            raise self._bad(field, "an object with 'from' and 'value'", turn)
        role = next((turn[key] for key in ROLE_KEYS if turn.get(key) is not None), None)
        if not isinstance(role, str) or role not in ROLES:
            found = "nothing" if role is None else _as_json(role)
            raise self._told(f"{field}.from", f"one of {', '.join(ROLES)}", found)
        text = next((turn[key] for key in TEXT_KEYS if turn.get(key) is not None), None)
        if isinstance(text, list):
            text = self._joined(f"{field}.content", text)
        if not isinstance(text, str):
            found = "neither" if text is None else _as_json(text)
            raise self._told(f"{field}.value", "text under 'value', 'text' or 'content'", found)
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
        if marks and not images:
            found = f"{counted(marks, 'marks')} and 0 images"
            raise self._told(name, f"no {MARK} mark in a row without an image", found, _LOST)
        if marks not in (0, images):
            raise self._told(
                name, f"{images} {MARK} mark{'s' * (images > 1)} for as many images, or none", f"{marks} marks"
            )
        return turns


def _turns_if_any(place: Place, value: Any) -> list[dict[str, str]] | None:
    try:
        return None if value is None else turns_of(place, {"conversations": value})
    except BadRow:
        return None


def _fact(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else None
    return int(value) if _is_integer(value) else None


def is_data_uri(path: str) -> bool:
    """Whether `path` is no path but a picture itself, as our own export to JSON Lines writes it."""
    return path[:5].lower() == "data:"


def _path_hint(path: str, problem: str) -> str:
    """What to do about a path that is refused."""
    if path.lower().startswith(("http://", "https://")):
        return (
            "A row does not choose what is fetched. Fetch the pictures, name them by relative paths, and pass their "
            "folder (or the URL that all begin with) as image_root=."
        )
    if path.startswith(written_paths.SA1B[0]) or "::" in path:
        return "A row does not choose where it is looked for. If the place behind '::' is yours, pass it as image_root."
    if path.startswith("/"):
        folder = path.rpartition("/")[0] or "/"
        return (
            f"A row does not choose what is opened. If the pictures are yours, pass image_root={folder!r}, or the "
            "folder above it that all paths begin with."
        )
    if "\\" in path:
        return "It is a path as Windows writes it; write it relative and with '/'."
    return f"It {problem}."


def _is_integer(value: Any) -> bool:
    """Whether `value` is a whole number that fits an int64 (a float that is one included)."""
    if isinstance(value, float):
        return value.is_integer() and abs(value) < 1 << 63
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63
