"""Rows of any row format as conversations with their pictures, in the form that chat templates take."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import BadArgument, BadImage, RootNotFound

# What `transformers` looks for in a part that is a picture (ProcessorMixin.apply_chat_template).
PICTURE_KEYS = ("image", "url", "path", "base64")


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


def conversation_of(row: Mapping[str, Any], control: Sequence[str] = ()) -> Conversation:
    """A row of any of our row formats as a conversation.

    Args:
        control: Tokens that a text must not have: a space is put after the first character of each.

    Raises:
        BadArgument: It is no such row, has no answer, or not as many ``<image>`` marks as pictures.
        RootNotFound: A picture of SA-1B is a URL, and nothing says where SA-1B is.
        BadImage, ImageNotFound: A picture is missing or cannot be decoded.
    """
    if not isinstance(row, Mapping) or not {"conversations", "messages"} & row.keys():
        found = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise BadArgument(f"rows: expected rows with `messages` or `conversations`, found {found}.")
    name = f"row {row.get('id', '?')}"
    turns, pictures = _turns(row, name), _pictures(row)
    if all(isinstance(turn["content"], str) for turn in turns):
        turns = _split(turns, len(pictures), name)
    else:
        turns, inside = _inline(turns)
        pictures = inside or pictures
        marks = sum(part["type"] == "image" for turn in turns for part in turn["content"])
        if marks != len(pictures):
            raise BadArgument(f"{name}: expected as many image parts as images, found {marks} and {len(pictures)}.")
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BadArgument(f"{name}: expected a turn of the assistant, found {[turn['role'] for turn in turns]}.")
    neutralised = sum(_neutralise(part, control) for turn in turns for part in turn["content"])
    return Conversation(name, turns, [_decoded(picture, name) for picture in pictures], neutralised)


def _turns(row: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    from ..rows.formats import ROLE_OF

    if "messages" in row:
        return [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]]
    turns = row["conversations"]
    for turn in turns:
        if turn["from"] not in ROLE_OF:
            raise BadArgument(f"{name}: expected turns from {', '.join(ROLE_OF)}, found {turn['from']!r}.")
    return [{"role": ROLE_OF[turn["from"]], "content": turn["value"]} for turn in turns]


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


def _inline(turns: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Turns of parts, with nothing but what chat templates look at, and the pictures that were in them."""
    pictures: list[Any] = []
    plain = []
    for turn in turns:
        content = turn["content"]
        given = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kept = []
        for part in given:
            if part["type"] == "image":
                pictures += [part[key] for key in PICTURE_KEYS if part.get(key) is not None][:1]
                kept.append({"type": "image"})
            else:
                kept.append({"type": "text", "text": part["text"]})
        plain.append({"role": turn["role"], "content": kept})
    return plain, pictures


def _neutralise(part: dict[str, Any], control: Iterable[str]) -> int:
    """Break up the control tokens in the text of a part, and count them."""
    if part["type"] != "text":
        return 0
    text, found = part["text"], 0
    for token in control:
        if token in text:
            found += text.count(token)
            text = text.replace(token, f"{token[0]} {token[1:]}")
    part["text"] = text
    return found


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
    return decode_image(picture)
