"""One row and its prompt: what the model is asked, and the row that comes of the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from llava_zh.catalog.facts import DatasetFacts
from llava_zh.catalog.prompts import PROMPTS, TASK_ROWS, Prompt, caption_prompt, draw_task, load_prompt
from llava_zh.catalog.registry import configs_called
from llava_zh.errors import BadAnswer, BadArgument, BadRow
from llava_zh.gates.counts import counted
from llava_zh.gates.safe_text import cut
from llava_zh.images.names import ImageSource
from llava_zh.regenerate.images import Picture
from llava_zh.regenerate.parsing import parse_answer
from llava_zh.regenerate.protocol import KEPT_ANSWER, Answer, user_message

Turns: TypeAlias = list[dict[str, str]]
Messages: TypeAlias = list[dict[str, Any]]
Ask: TypeAlias = Callable[[Messages], Awaitable[Answer]]
Read: TypeAlias = Callable[[str, Prompt], Turns]

#: The value of `prompt` that asks every image for one of the llava tasks.
LLAVA = "llava"

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Asking(Protocol):
    """What a run asks about its rows, and how it reads the answers."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Every prompt that a row may get, as far as the manifest is to hold them."""
        ...

    def of(self, row: Mapping[str, Any], images: Sequence[str]) -> Prompt:
        """The prompt of a row, whose images are told apart by these texts."""
        ...

    def read(self, text: str, prompt: Prompt) -> Turns:
        """The turns that an answer makes.

        Raises:
            BadAnswer: It has not the form that was asked for.
        """
        ...


class PromptChoice:
    """Which prompt each row gets.

    Args:
        prompt: A name in ``PROMPTS``, a file, ``llava`` (the row's own task, or one drawn per image in the proportions
            that were published) or None (what the row's config was made with).
        config: Config that every row belongs to, if known.
        seed: Seed of the draw.
        facts: The dataset that every row belongs to, if known.
    """

    def __init__(self, prompt: str | None, config: str | None, seed: int, facts: DatasetFacts | None = None) -> None:
        self._seed = seed
        own = {one.id: one for one in facts.prompts} if facts is not None else {}
        if prompt is None:
            prompt = _default_prompt(config, facts)
        self._fixed = None if prompt == LLAVA else own.get(prompt) or load_prompt(prompt)
        # A dataset's own prompt for a task goes before the usual one, and so do its proportions of the tasks.
        self._by_task = {one.task: one for one in (*PROMPTS.values(), *own.values()) if one.task is not None}
        configs = facts.configs if facts is not None else ()
        rows = {one.task: one.rows for one in configs if one.task is not None and one.rows}
        self._proportions = {task: number for task, number in rows.items() if task in self._by_task} or TASK_ROWS

    @property
    def prompts(self) -> list[Prompt]:
        """Every prompt that a row may get."""
        return [self._fixed] if self._fixed else list(self._by_task.values())

    def of(self, row: Mapping[str, Any], images: Sequence[str]) -> Prompt:
        """The prompt of a row, whose images are told apart by these texts."""
        if self._fixed is not None:
            return self._fixed
        task = row.get("task")
        if task is None:
            task = draw_task("\n".join(images), self._seed, self._proportions)
        if task not in self._by_task:
            known = ", ".join(prompt.id for prompt in self.prompts)
            raise BadRow(
                f"Row {row.get('id')!r}: task expected to be one of {known}; found {task!r}.",
                field="task", expected=known, found=repr(task),
            )  # fmt: skip
        return self._by_task[task]

    def read(self, text: str, prompt: Prompt) -> Turns:
        """The turns of an answer; see :func:`~llava_zh.regenerate.parsing.parse_answer`."""
        return parse_answer(text, prompt)


def _default_prompt(config: str | None, facts: DatasetFacts | None) -> str:
    """The prompt that the texts of a configuration were made with, or one for captions in the language it ends in."""
    if config is not None:
        known = [facts.config(config)] if facts is not None else [one for _, one in configs_called(config)]
        if (named := next((one.prompt for one in known if one.prompt is not None), None)) is not None:
            return named
        if facts is None and (usual := caption_prompt(config.rpartition("_")[2])) is not None:
            return usual.id
    raise BadArgument(f"prompt is needed for these rows. Known: {', '.join(PROMPTS)}, {LLAVA}; or the path of a file.")


def row_images(row: Mapping[str, Any]) -> list[ImageSource]:
    """The images of a row as it is loaded, one or several."""
    found = row.get("image")
    images: list[Any] = found if isinstance(found, list) else [found]
    if not images or any(image is None for image in images):
        raise BadRow(
            f"Row {row.get('id')!r} has no image: expected a path, URL, bytes or picture under 'image'; "
            f"found the fields {', '.join(map(repr, row)) or 'none'}.",
            field="image", expected="an image", found="nothing",
        )  # fmt: skip
    return images


def row_turns(row: Mapping[str, Any]) -> Turns:
    """The conversation a row came with, each turn as ``{"from", "value"}``; empty if it has none."""
    turns: Turns = row.get("conversations") or []
    return turns


def row_key(dataset: str, row: Mapping[str, Any], position: int, images: Sequence[str], prompt: Prompt) -> str:
    """What identifies a row of a run: hex hash of its dataset, config, position, images and prompt."""
    asked = [turn for turn in row_turns(row) if turn["from"] != "gpt"] if prompt.kind == "original" else None
    identity = [dataset, row.get("config"), position, list(images), prompt.sha256, asked]
    return hashlib.blake2b(msgspec.json.encode(identity), digest_size=12).hexdigest()


async def converse(
    row: Mapping[str, Any], pictures: list[Picture], prompt: Prompt, ask: Ask, read: Read = parse_answer
) -> tuple[Turns, Answer]:
    """The new conversation of a row, and the last answer with the tokens of all.

    The pictures are taken out of their list, and messages may be taken out of theirs by `ask`, as soon as they are not
    needed any more, so that memory holds only what is not sent yet.

    Raises:
        BadAnswer: An answer does not parse as the prompt asked; `answer` is its text, `reason` says what is wrong.
        BadRow: The row has nothing to ask, or another number of ``<image>`` markers than images.
    """
    if prompt.kind == "original":
        return await _converse_as_before(row, pictures, prompt, ask, read)
    markers = _markers(len(pictures))
    messages = [user_message(prompt.text, pictures)]
    pictures.clear()
    answer = await ask(messages)
    turns = _parsed(answer, prompt, read)
    if turns[0]["from"] == "gpt":
        turns.insert(0, {"from": "human", "value": prompt.text})
    turns[0]["value"] = markers + turns[0]["value"]
    return turns, answer


async def _converse_as_before(
    row: Mapping[str, Any], pictures: Sequence[Picture], prompt: Prompt, ask: Ask, read: Read
) -> tuple[Turns, Answer]:
    """Ask the row's own human turns again, one after the other, each after the new answers to those before."""
    before = [turn for turn in row_turns(row) if _ROLES.get(turn["from"]) != "assistant"]
    markers = sum(turn["value"].count("<image>") for turn in before)
    if not any(_ROLES.get(turn["from"]) == "user" for turn in before) or markers not in (0, len(pictures)):
        found = f"{len(before)} turns with {markers} markers for {counted(len(pictures), 'images')}"
        raise BadRow(
            f"Row {row.get('id')!r} cannot be asked as before: expected human turns with one <image> an image; "
            f"found {found}.",
            field="conversations", expected="human turns with one <image> an image", found=found,
        )  # fmt: skip
    messages: Messages = []
    turns: Turns = []
    prompt_tokens = completion_tokens = 0
    left = list(pictures)
    answer: Answer | None = None
    for turn in before:
        turns.append(turn)
        if _ROLES.get(turn["from"]) == "system":
            messages.append({"role": "system", "content": turn["value"]})
            continue
        here = left[: turn["value"].count("<image>") if markers else len(left)]
        del left[: len(here)]
        messages.append(user_message(turn["value"], here))
        answer = await ask(messages)
        prompt_tokens += answer.prompt_tokens
        completion_tokens += answer.completion_tokens
        turns += _parsed(answer, prompt, read)
        messages.append({"role": "assistant", "content": turns[-1]["value"]})
    assert answer is not None  # there is a human turn
    return turns, msgspec.structs.replace(answer, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def _parsed(answer: Answer, prompt: Prompt, read: Read) -> Turns:
    try:
        return read(answer.text, prompt)
    except BadAnswer as error:
        vars(error).update(
            reason=vars(error).get("reason", "answer does not parse"), answer=cut(answer.text, KEPT_ANSWER)
        )
        raise


def _markers(images: int) -> str:
    """The start of a first human turn, as published: one bare marker, or numbered ones."""
    if images == 1:
        return "<image>\n"
    return "".join(f"Image-{number}: <image>\n" for number in range(1, images + 1))


def published_row(
    row: Mapping[str, Any], names: Sequence[str], turns: Turns, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The row as it is published: its fields, the new conversation, and how it came to be.

    Args:
        row: The row as it was read.
        names: Names of its images, as published files have them.
        turns: The new conversation.
        facts: The ``regenerated`` object; the old conversation is added to it.
    """
    several = isinstance(row.get("image"), list)
    published: dict[str, Any] = {} if row.get("id") is None else {"id": row["id"]}
    published["image"] = list(names) if several else names[0]
    for field, value in row.items():
        if field not in _REWRITTEN and isinstance(value, str | int | float | bool | list):
            # Files name the sizes of several images width_list and height_list.
            published[f"{field}_list" if several and field in ("width", "height") else field] = value
    published["conversations"] = turns
    published["regenerated"] = {**facts, "previous": row_turns(row) or None}
    return published


#: Fields of a row that are written anew, or that the folder and config of a file say for all its rows.
_REWRITTEN = {"id", "image", "images", "conversations", "config", "language", "regenerated"}
