"""A row on its way from the source to the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_zh.catalog.prompts import Prompt
from llava_zh.errors import LlavaZhError
from llava_zh.images.names import ImageSource, image_identity, image_label
from llava_zh.regenerate.dialogue import Asking, Turns, published_row, row_images, row_key
from llava_zh.regenerate.ledger import Place
from llava_zh.regenerate.protocol import KEPT_ANSWER, Answer
from llava_zh.regenerate.source import Passed, Row, Source


@dataclass(slots=True)
class Job:
    """One row and what has been tried with it."""

    place: Place
    row: Mapping[str, Any]
    images: list[ImageSource]
    prompt: Prompt
    loaded: list[bytes] | Exception | None = None  # the images' bytes, until they are sent
    held: int = 0  # of the byte budget
    retries: int = 0  # transient faults that may be the row's
    bad_answers: int = 0
    asked: int = 0


def make_job(source: Source, choice: Asking, event: Row) -> Job:
    """The job of a row.

    Raises:
        BadRow: The row has no image or an unknown task. That is a wrong input, not a fault of one row: the run stops.
    """
    images, prompt, key = _identity(source, choice, event)
    return Job(Place(event.unit, event.position, key), event.row, images, prompt)


def passed_key(source: Source, choice: Asking, event: Passed) -> str:
    """The key of a row that is not looked at any further."""
    return _identity(source, choice, event)[2]


def _identity(source: Source, choice: Asking, event: Row | Passed) -> tuple[list[ImageSource], Prompt, str]:
    images = row_images(event.row)
    told_apart = [image_identity(image, source.image_base) for image in images]
    prompt = choice.of(event.row, told_apart)
    return images, prompt, row_key(source.dataset, event.row, event.position, told_apart, prompt)


def finished_row(job: Job, model: str, names: Sequence[str], turns: Turns, answer: Answer) -> dict[str, Any]:
    """The row as it is written, with the facts of its making."""
    facts = {
        "position": job.place.position,
        "key": job.place.key,
        "model": model,
        "prompt": job.prompt.id,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "asked": job.asked,
    }
    row = published_row(job.row, names, turns, facts)
    if job.prompt.task:
        row["task"] = job.prompt.task
    return row


def failure(job: Job, error: LlavaZhError) -> dict[str, Any]:
    """What failed.jsonl says of a row that is given up."""
    details = {
        "id": job.row.get("id"),
        "image": [image_label(image) for image in job.images],
        "prompt": job.prompt.id,
        "message": str(error),
        "asked": job.asked,
    }
    if hasattr(error, "answer"):
        details["answer"] = str(error.answer)[:KEPT_ANSWER]
    return details
