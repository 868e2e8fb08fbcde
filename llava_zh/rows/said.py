"""What the turns of a row say, whoever asks: the model's answers, and the questions without their images' marks."""

from __future__ import annotations

from collections.abc import Iterable

from .records import MARK


def answers(turns: Iterable[tuple[str, str]]) -> list[str]:
    """What the gpt turns of (role, text) turns say, each without the spaces around it."""
    return [text.strip() for role, text in turns if role == "gpt"]


def said(turns: Iterable[tuple[str, str]]) -> str:
    """The answers, joined by line breaks."""
    return "\n".join(answers(turns))


def unmarked(text: str) -> str:
    """A text without the marks of images and the spaces around it."""
    return text.replace(MARK, "").strip()


def questions(turns: Iterable[tuple[str, str]]) -> list[str]:
    """What the human turns ask, without the marks of images."""
    return [unmarked(text) for role, text in turns if role == "human"]
