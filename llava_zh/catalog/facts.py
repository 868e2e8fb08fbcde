"""What is known of a published dataset, as data: where it is, how big, under which licence, how to cite it.

A builder in ``builders/`` declares one :class:`DatasetFacts` and the library does the rest. Sizes and row
counts that the hubs state rounded are marked ``approximate``; the exact size always comes from the hub itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import UnknownName


@dataclass(frozen=True)
class ConfigFacts:
    """One configuration of a dataset: its name, its published file and what its rows are.

    Args:
        file: Name of the published file within the repository, or None when the layout is detected.
        rows: Number of rows as the dataset card states it.
        size: Size of `file` in bytes as the card states it (rounded), or None when unknown.
        language: Language of the text, as an ISO 639-1 code.
        images: Images a row: ``"one"``, or ``"many"`` for a list.
        task: Only rows of this llava-instruct task, or None for every row.
    """

    name: str
    rows: int
    language: str
    description: str
    file: str | None = None
    size: int | None = None
    images: str = "one"
    task: str | None = None


@dataclass(frozen=True)
class DatasetFacts:
    """A published dataset. `repos` and `revisions` are keyed by the hubs' names, ``huggingface`` and ``modelscope``.

    Args:
        revisions: The revision that is read when none is asked for, by source.
        image_archive_scheme: Prefix that turns a published image path into a URL (``sa1b://``), or None when
            the images lie in the dataset's own repository.
        sharded: Whether rows name images by ``archive/member``, as SA-1B's do, so that ``archives=`` applies.
    """

    name: str
    title: str
    description: str
    homepage: str
    repos: Mapping[str, str]
    revisions: Mapping[str, str]
    licence: str
    image_licence: str
    citation: str
    configs: tuple[ConfigFacts, ...]
    default_config: str | None = None
    images_in_sa1b: bool = False
    rows: int = field(default=0)

    def config(self, name: str) -> ConfigFacts:
        """The facts of the configuration called `name`, which must be one of :attr:`configs`."""
        return next(config for config in self.configs if config.name == name)

    def repository(self, source: str, revision: str | None = None) -> tuple[str, str]:
        """The repository on the hub `source`, and the revision to read: `revision`, or the one that is known.

        Raises:
            UnknownName: The dataset is not on that hub.
        """
        if source not in self.repos:
            raise UnknownName.of(f"source of {self.name}", source, list(self.repos))
        return self.repos[source], revision or self.revisions[source]
