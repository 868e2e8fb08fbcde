"""What the texts of a dataset should be, as its facts say: in one paragraph, of which tasks, without which phrases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llava_zh.catalog import registry
from llava_zh.catalog.facts import ConfigFacts, DatasetFacts
from llava_zh.catalog.prompts import PROMPTS, Prompt
from llava_zh.rows.columns import USUAL, Columns


@dataclass(frozen=True)
class Expected:
    """What is expected of rows; the same whether they come by a dataset's name, by a path, or as they are.

    A row says it itself (see :meth:`language_of` and the others), and where it does not, its configuration does.

    Attributes:
        one_paragraph: Configurations whose texts are one paragraph each.
        tasks: The tasks that rows are told apart by.
        prompts: The prompts that texts were made with, by name.
        columns: The names that rows have their fields under.
        task_of: A task's name in rows, from a name it was published under.
        config, language: The configuration that all rows are of, and its language; None where each row says it.
    """

    one_paragraph: frozenset[str]
    tasks: frozenset[str]
    prompts: dict[str, Prompt]
    columns: Columns = USUAL
    task_of: Callable[[str], str | None] = lambda published: published
    config: str | None = None
    language: str | None = None

    @property
    def leaks(self) -> tuple[str, ...]:
        """Sentences of the prompts, in lower case."""
        return tuple(dict.fromkeys(sentence.lower() for sentence in sentences(self.prompts.values())))

    def prompt_of(self, row: Mapping[str, Any]) -> Prompt | None:
        """The published prompt that a regenerated row names; None for other rows, and for a prompt of the user's."""
        regenerated = row.get("regenerated")
        prompt = self.prompts.get(str(regenerated.get("prompt"))) if isinstance(regenerated, Mapping) else None
        # The prompt "original" has no words of its own: the human turn says what was asked.
        return prompt if prompt is not None and prompt.text else None

    def language_of(self, row: Mapping[str, Any], prompt: Prompt | None) -> str | None:
        """The language that a row's text should be in: that of its prompt, of its configuration, or what it says."""
        told = (prompt.language if prompt else None) or self.language or row.get("language")
        return told if isinstance(told, str) and told in ("zh", "en") else None

    def asks_one_paragraph(self, row: Mapping[str, Any]) -> bool:
        """Whether the configuration of a row has texts of one paragraph."""
        config = self.config or row.get("config")
        return isinstance(config, str) and config in self.one_paragraph

    def task(self, row: Mapping[str, Any]) -> str | None:
        """The task of a row, if it is one that rows are told apart by."""
        _, published = self.columns.get(row, "task")
        task = self.task_of(published) if isinstance(published, str) else None
        return task if task in self.tasks else None


def expected(facts: DatasetFacts | None = None, config: ConfigFacts | None = None) -> Expected:
    """What is expected of the rows of a dataset's configuration; of other rows, what those of any dataset are."""
    everything = list(registry.everything())
    if facts is None:
        one_paragraph = {known.name for one in everything for known in one.configs if known.single_paragraph}
        tasks = {task for one in everything for task in one.tasks}
    else:
        one_paragraph = {known.name for known in facts.configs if known.single_paragraph}
        tasks = set(facts.tasks)
    of_all = {prompt.id: prompt for one in everything for prompt in one.prompts}
    of_this = {prompt.id: prompt for prompt in facts.prompts} if facts is not None else {}
    general = facts or registry.find("llava")[0]
    return Expected(
        frozenset(one_paragraph),
        frozenset(tasks),
        {**PROMPTS, **of_all, **of_this},
        general.fields,
        general.task_of,
        None if config is None else config.name,
        None if config is None else config.language,
    )


def expected_of(dataset: str | None, config: str | None) -> Expected:
    """What is expected of the rows of a configuration by its name; of one that is not known, as of rows of any."""
    facts = found[0] if dataset is not None and (found := registry.named(dataset)) is not None else None
    known = () if facts is None else facts.configs
    return expected(facts, next((one for one in known if one.name == config), None))


def sentences(prompts: Iterable[Prompt]) -> Iterator[str]:
    """Sentences of the prompts that no answer would hold by chance."""
    for prompt in prompts:
        for sentence in re.split(r"[。\n]|\. ", prompt.text):
            if len(sentence) >= 15:
                yield sentence.strip(" .")
