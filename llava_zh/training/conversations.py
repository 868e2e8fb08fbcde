"""Rows of any row format as conversations with their pictures, in the form that chat templates take."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import BadArgument, BadImage, BadRow, ImageNotFound, RootNotFound

# What `transformers` looks for in a part that is a picture (ProcessorMixin.apply_chat_template).
PICTURE_KEYS = ("image", "url", "path", "base64")


# Where the turns of a row are, and who says what in each.
_TURNS = (("messages", "role", "content"), ("conversations", "from", "value"))
_PART = """{"type": "text", "text": …} or {"type": "image"}, its picture inside or in `images`"""


@dataclass(frozen=True)
class Conversation:
    """One row.

    Attributes:
        name: What messages call the row.
        turns: ``{"role", "content"}``; the content is a list of ``{"type": "text", "text"}`` and ``{"type": "image"}``.
        pictures: Pillow pictures, as many as there are image parts, in their order.
        neutralised: How many control tokens were found in its text.
    """

    name: str
    turns: list[dict[str, Any]]
    pictures: list[Any]
    neutralised: int = 0

    def first(self, count: int) -> Conversation:
        """The first turns alone, with their pictures."""
        turns = self.turns[:count]
        pictures = sum(part["type"] == "image" for turn in turns for part in turn["content"])
        return replace(self, turns=turns, pictures=self.pictures[:pictures])

    @property
    def answers(self) -> list[int]:
        """The numbers of the turns that are the assistant's."""
        return [i for i, turn in enumerate(self.turns) if turn["role"] == "assistant"]


def text_of(turn: Mapping[str, Any]) -> str:
    """All text of a turn."""
    return "".join(part["text"] for part in turn["content"] if part["type"] == "text")


def conversation_of(row: Mapping[str, Any], control: Sequence[str] = (), number: int = 0) -> Conversation:
    """A row of any of our row formats as a conversation.

    Args:
        control: Tokens that a text must not have: a space is put after the first character of each.
        number: Its place in its batch, which names a row that has no `id`.

    Raises:
        BadRow: Its turns are none.
        BadArgument: It is no such row, has no answer, or not as many ``<image>`` marks as pictures.
        RootNotFound: A picture of SA-1B is a URL, and nothing says where SA-1B is.
        BadImage, ImageNotFound: A picture is missing or cannot be decoded.
    """
    if not isinstance(row, Mapping) or not {"conversations", "messages"} & row.keys():
        found = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise BadArgument(
            f"row {number} of the batch: expected rows with `messages` or `conversations`, found {found}."
        )
    name = f"row {number} of the batch" if row.get("id") is None else f"row {row['id']}"
    turns, pictures = _turns(row, name), _pictures(row)
    if all(isinstance(turn["content"], str) for turn in turns):
        turns = _split(turns, len(pictures), name)
    else:
        turns, inside = _inline(turns, name)
        pictures = inside or pictures
        marks = sum(part["type"] == "image" for turn in turns for part in turn["content"])
        if marks != len(pictures):
            raise BadArgument(f"{name}: expected as many image parts as images, found {marks} and {len(pictures)}.")
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BadArgument(f"{name}: expected a turn of the assistant, found {[turn['role'] for turn in turns]}.")
    neutralised = sum(_neutralise(turn, control) for turn in turns)
    return Conversation(name, turns, [_decoded(picture, name) for picture in pictures], neutralised)


def _turns(row: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The turns of a row as ``{"role", "content"}``, the content being a text or a list."""
    from ..rows.formats import ROLE_OF

    field, role, content = next(keys for keys in _TURNS if keys[0] in row)
    turns = []
    for i, turn in enumerate(_listed(row[field], f"{name}: {field}", "a list of turns")):
        place = f"{name}: {field}[{i}]"
        if not isinstance(turn, Mapping) or not isinstance(turn.get(role), str):
            raise _bad(place, f"a turn with `{role}` and `{content}`", turn)
        said = turn.get(content)
        if not isinstance(said, str):
            if content == "value":
                raise _bad(f"{place}.{content}", "a text", said)
            said = _listed(said, f"{place}.{content}", "a text or a list of parts")
        turns.append({"role": turn[role], "content": said})
    if field == "conversations":
        for turn in turns:
            if turn["role"] not in ROLE_OF:
                raise BadArgument(f"{name}: expected turns from {', '.join(ROLE_OF)}, found {turn['role']!r}.")
            turn["role"] = ROLE_OF[turn["role"]]
    return turns


def _listed(value: Any, place: str, expected: str) -> Sequence[Any]:
    if isinstance(value, np.ndarray):  # as rows of `with_format("numpy")` have them
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise _bad(place, expected, value)
    return value


def _bad(place: str, expected: str, found: Any) -> BadRow:
    shown = repr(found)
    shown = f"{shown[:117]}…" if len(shown) > 120 else shown
    nowhere = {"file": "", "byte": None, "row": None, "line": None, "hint": ""}
    message = f"{place}: expected {expected}, found {shown}."
    return BadRow(message, field=place.partition(": ")[2], expected=expected, found=shown, **nowhere)


def _pictures(row: Mapping[str, Any]) -> list[Any]:
    found = row["images"] if "images" in row else row.get("image")
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def _split(turns: list[dict[str, Any]], pictures: int, name: str) -> list[dict[str, Any]]:
    """Turns whose text has a mark for each picture, as parts; in a row without pictures a mark is text."""
    import pyarrow as pa

    from ..rows.formats import parts
    from ..rows.records import MARK

    texts = [turn["content"] for turn in turns]
    if not pictures:
        return [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    marks = sum(text.count(MARK) for text in texts)
    if not marks:  # as rows of the other formats have them
        first = next((i for i, turn in enumerate(turns) if turn["role"] == "user"), 0)
        texts[first] = f"{MARK}\n" * pictures + texts[first]
    elif marks != pictures:
        raise BadArgument(f"{name}: expected as many {MARK} marks as images, found {marks} and {pictures}.")
    contents = parts(pa.array(texts, pa.string())).to_pylist()
    plain = [[part if part["type"] == "text" else {"type": "image"} for part in content] for content in contents]
    return [{"role": turn["role"], "content": content} for turn, content in zip(turns, plain, strict=True)]


def _inline(turns: list[dict[str, Any]], name: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """Turns of parts, with nothing but what chat templates look at, and the pictures that were in them."""
    pictures: list[Any] = []
    plain = []
    for i, turn in enumerate(turns):
        content = turn["content"]
        given = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kept: list[dict[str, Any]] = []
        for j, part in enumerate(given):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "image":
                pictures += [part[key] for key in PICTURE_KEYS if part.get(key) is not None][:1]
                kept.append({"type": "image"})
            elif kind == "text" and isinstance(part.get("text"), str):
                kept.append({"type": "text", "text": part["text"]})
            else:
                raise _bad(f"{name}: messages[{i}].content[{j}]", _PART, part)
        plain.append({"role": turn["role"], "content": kept})
    return plain, pictures


def _neutralise(turn: dict[str, Any], control: Iterable[str]) -> int:
    """Break up the control tokens in a turn, and count them: in its role, in each text, and in its texts as one.

    Templates put pictures elsewhere, and some take the white space around a text away, so that what stood in two parts
    becomes one token.
    """
    texts = [part for part in turn["content"] if part["type"] == "text"]
    found = 0
    for token in control:
        for holder, key in ((turn, "role"), *((part, "text") for part in texts)):
            if token in holder[key]:
                found += holder[key].count(token)
                holder[key] = holder[key].replace(token, f"{token[0]} {token[1:]}")
    return found + _neutralise_joined(texts, control) if len(texts) > 1 else found


def _neutralise_joined(texts: Sequence[dict[str, Any]], control: Iterable[str]) -> int:
    """Break up the control tokens that begin in one text and end in another."""
    found = 0
    for strip in (str, str.strip):
        for token in control:
            while (at := "".join(strip(part["text"]) for part in texts).find(token)) >= 0:
                found += 1
                _break_up(texts, strip, at, at + len(token))
    return found


def _break_up(texts: Sequence[dict[str, Any]], strip: Any, start: int, end: int) -> None:
    """Put a space between two characters of a token that goes from `start` to `end` of the joined texts.

    They are characters of one text, as a space at its edge might be taken away. A token whose characters all stand in
    texts of their own gets a character that is no white space.
    """
    at, first = 0, None
    for part in texts:
        text = part["text"]
        kept = strip(text)
        begins, ends = max(start - at, 0), min(end - at, len(kept))
        if ends - begins > 1:
            cut = text.index(kept) + begins + 1
            part["text"] = f"{text[:cut]} {text[cut:]}"
            return
        if ends > begins and first is None:
            first = part
        at += len(kept)
    if first is not None:
        first["text"] += "\u200b"


def _decoded(picture: Any, name: str) -> Any:
    """A picture in RGB: what `datasets` decoded, or the undecoded image of a row."""
    from ..images.decode import decode_image, in_rgb
    from ..sa1b.access import ROOT_VARIABLE

    if picture is None:
        raise BadImage(f"{name}: an image is null. Load the rows with on_missing_image='skip' to leave such rows out.")
    if hasattr(picture, "convert"):
        return in_rgb(picture)
    if isinstance(picture, Mapping) and picture.get("bytes") is None:
        path = str(picture.get("path"))
        if path.startswith("sa1b://") and "::" not in path and not os.environ.get(ROOT_VARIABLE):
            raise RootNotFound(
                f"{name}: its image {path} is not decoded, as nothing says where SA-1B is. "
                "Load the rows with image_root=…, or set SA1B_ROOT."
            )
    try:
        return decode_image(picture)
    except (BadImage, ImageNotFound, BadArgument) as error:
        raise type(error)(f"{name}: {error}") from error
