"""What can be wrong with one row, seen by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from llava_zh.catalog.prompts import PROMPTS, Prompt
from llava_zh.curation.expected import Expected, expected, sentences
from llava_zh.curation.text import detect_language, find_repetition, windows
from llava_zh.gates.model_text import controls, says_nothing, special_tokens, without_reasoning
from llava_zh.gates.refusals import refusal
from llava_zh.rows import said

_PICTURE = ("图片", "图像", "照片", "这张图")
_CANNOT_SEE = ("无法看到", "无法查看", "无法直接查看", "没有看到您提供的", "没有看到你提供的")


# Whole phrases: 设计的对话 would find 对话框, and "as an ai" finds "as an aid".
_BY_THE_PROMPT = """
设计了一个新的问题 设计一个新的问题 视觉ai助手
作为ai助手 作为一个ai助手 作为ai语言模型 作为一个ai语言模型 作为一个人工智能
"""
_BY_THE_PROMPT_EN = """
as an ai language model
as an ai assistant
as an ai,
i cannot see the image
i can't see the image
unable to view the image
based on your description
the description you provided
here is a single-paragraph
here's a single-paragraph
"""

#: Phrases, in lower case, by which an answer shows that it speaks to whoever gave the prompt.
LEAKS: tuple[str, ...] = (
    *map("".join, product(("根据", "基于", "按照"), "你您", ("的描述", "提供的描述", "给出的描述"))),
    *map("".join, product(_CANNOT_SEE, _PICTURE)),
    *_BY_THE_PROMPT.split(),
    *_BY_THE_PROMPT_EN.strip().splitlines(),
    *(sentence.lower() for sentence in dict.fromkeys(sentences(PROMPTS.values()))),
)

_ASKS_ONE_PARAGRAPH = re.compile(
    r"单段|一段话|一个段落|勿使用多段|不要使用多段|不要分段|single[- ]paragraph|one paragraph|multiple paragraphs", re.I
)


@dataclass(frozen=True)
class Finding:
    """What one row shows by itself.

    Attributes:
        defects: Each as ``"reason: detail"``.
        text: The judged text: the gpt turns, joined by line breaks.
        language: Language the row is said to be in, else the one it is written in.
        task: The task of the row, where rows are told apart by it.
        windows: Overlapping windows of the text; empty if neither repetition nor near-duplicates are looked for.
    """

    defects: list[str]
    text: str
    language: str | None
    task: str | None
    windows: list[str]


@dataclass(frozen=True)
class Checks:
    """The checks to make; see :func:`llava_zh.curation.run.curate` for their meaning.

    `near_duplicates` says whether the windows are needed even where repetition is not looked for. `known` is what
    is expected of the rows.
    """

    language: str | None = None
    single_paragraph: bool | None = None
    max_repetition: float | None = 0.4
    leaks: Sequence[str] = LEAKS
    near_duplicates: bool = True
    known: Expected = field(default_factory=expected)

    def look_at(self, row: Mapping[str, Any], turns: Sequence[tuple[str, str]]) -> Finding:
        """The finding on a row with these (role, text) turns."""
        answers = said.answers(turns)
        text = "\n".join(answers)
        prompt = self.known.prompt_of(row)
        written = detect_language(text)
        expected = self.language or self.known.language_of(row, prompt)
        grams = windows(text, written) if self.near_duplicates or self.max_repetition is not None else []
        defects = [
            *turns_defects(turns),
            *self._paragraph_defects(row, prompt, turns, answers),
            *self._leak_defects(text),
            *_refusal_defects(answers),
            *_model_defects(answers),
        ]
        if expected and written and expected != written:
            defects.append(f"language: {written} where {expected} is expected")
        if self.max_repetition is not None and (found := find_repetition(grams, written, self.max_repetition)):
            defects.append(f"repetition: {found}")
        return Finding(defects, text, expected or written, self.known.task(row), grams)

    def _paragraph_defects(
        self, row: Mapping[str, Any], prompt: Prompt | None, turns: Iterable[tuple[str, str]], answers: list[str]
    ) -> Iterator[str]:
        lines = max((answer.count("\n") + 1 for answer in answers), default=1)
        if lines == 1:
            return
        asked = self.single_paragraph
        if asked is None and prompt is not None:
            asked = prompt.single_paragraph
        if asked is None:
            asked = self.known.asks_one_paragraph(row) or any(
                _ASKS_ONE_PARAGRAPH.search(text) for role, text in turns if role == "human"
            )
        if asked:
            yield f"paragraphs: {lines} lines where one paragraph is asked"

    def _leak_defects(self, text: str) -> Iterator[str]:
        lowered = text.lower()
        found = next((phrase for phrase in self.leaks if phrase in lowered), None)
        if found is not None:
            yield f"leak: {found!r}"


def _refusal_defects(answers: Iterable[str]) -> Iterator[str]:
    found = next(filter(None, map(refusal, answers)), None)
    if found is not None:
        yield f"refusal: {found!r}"


def _model_defects(answers: Iterable[str]) -> Iterator[str]:
    """What a model, or the server in front of it, left in its answers that is no part of what it says."""
    tokens: list[str] = []
    signs: list[str] = []
    reasoned = False
    for answer in answers:
        rest = without_reasoning(answer)
        if rest != answer and not reasoned:
            reasoned = True
            yield f"reasoning: {'it never ends, ' if rest is None else ''}in {answer[:40]!r}"
        tokens += special_tokens(rest or "")
        signs += controls(answer)
    if tokens:
        yield f"special_tokens: {' '.join(dict.fromkeys(tokens[:5]))}"
    if signs:
        yield f"control_characters: {' '.join(dict.fromkeys(signs[:5]))}"


def turns_defects(turns: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What is wrong with the order of a row's (role, text) turns, and with one of them that says nothing."""
    roles = [role for role, _ in turns]
    rounds = roles[1:] if roles[:1] == ["system"] else roles
    if not rounds or rounds != ["human", "gpt"] * (len(rounds) // 2):
        yield f"turns: {' '.join(roles) or 'none'} instead of human gpt, once or more"
    empty = next((index for index, (role, text) in enumerate(turns) if role == "gpt" and says_nothing(text)), None)
    if empty is not None:
        yield f"empty: turn {empty} (gpt) has no text"
