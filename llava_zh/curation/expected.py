"""What the texts of a dataset should be, as its facts say: in one paragraph, of which tasks, without which phrases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llava_zh.catalog import registry
from llava_zh.catalog.facts import DatasetFacts
from llava_zh.catalog.prompts import PROMPTS, Prompt
from llava_zh.errors import LlavaZhError


@dataclass(frozen=True)
class Expected:
    """What is expected of rows.

    Attributes:
        one_paragraph: Configurations whose texts are one paragraph each.
        tasks: The tasks that rows are told apart by.
        prompts: The prompts that texts were made with, by name.
    """

    one_paragraph: frozenset[str]
    tasks: frozenset[str]
    prompts: dict[str, Prompt]

    @property
    def leaks(self) -> tuple[str, ...]:
        """Sentences of the prompts, in lower case."""
        return tuple(dict.fromkeys(sentence.lower() for sentence in sentences(self.prompts.values())))


def expected(path: Any) -> Expected:
    """What is expected of the rows of a dataset; of other rows, what those of any dataset are."""
    datasets = list(_datasets(path))
    configs = [config for facts in datasets for config in facts.configs]
    return Expected(
        frozenset(config.name for config in configs if config.single_paragraph),
        frozenset(task for facts in datasets for task in facts.tasks),
        {**PROMPTS, **{prompt.id: prompt for facts in datasets for prompt in facts.prompts}},
    )


def _datasets(path: Any) -> Iterator[DatasetFacts]:
    try:
        if isinstance(path, str):
            yield registry.find(path)[0]
            return
    except LlavaZhError:
        pass  # files on disk, which `open_rows` looks for
    yield from registry.everything()


def sentences(prompts: Iterable[Prompt]) -> Iterator[str]:
    """Sentences of the prompts that no answer would hold by chance."""
    for prompt in prompts:
        for sentence in re.split(r"[。\n]|\. ", prompt.text):
            if len(sentence) >= 15:
                yield sentence.strip(" .")
