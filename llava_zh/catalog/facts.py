"""What is known of a dataset, as data: where it is, under which licence, what its rows are and where its images are.

A dataset is one :class:`DatasetFacts` and the library does the rest; nothing in it asks which dataset it works on.
Sizes and row counts that the hubs state rounded are approximate; the exact size always comes from the hub itself.
Everything is checked when it is written down, so that a mistake shows there and not in the first row.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import msgspec

from ..errors import BadArgument, UnknownName, known_name, nearest
from ..files.data_files import ABOUT_HUBS
from ..gates.places import unsafe
from .prompts import PROMPTS, Prompt

if TYPE_CHECKING:
    from ..rows.columns import Columns

#: Where images are: in SA-1B, found by `image_root` or ``SA1B_ROOT``; or the dataset's own, that is in the rows, beside
#: them, or below `image_root`.
Place = Literal["sa1b", "own"]

#: The fields of a record that may have other names in a dataset than in most. `caption` is one text, `question` and
#: `answer` are one round; a row has one of these where it has no `conversations`.
COLUMNS = ("id", "image", "width", "height", "conversations", "task", "caption", "question", "answer")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # which names files and folders, with more after it
_NAMES = "expected letters, digits, '.', '_' and '-', at most 200"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/(?!\.\.?$)[\w.-]+")


@dataclass(frozen=True)
class ConfigFacts:
    """One configuration of a dataset: its name, its published files and what its rows are.

    Args:
        name: What it is called in calls and in the column `config`.
        rows: Number of rows as the dataset card states it.
        language: Language of the text, as an ISO 639-1 code; None when it is not known or mixed.
        description: One line on its rows.
        file: Name or pattern of the published file within the repository; None when it is found out from the columns.
        files: The same, where there are several.
        size: Size of the files in bytes as the card states it (rounded), or None when unknown.
        images: Images a row: ``"one"``, or ``"many"`` for a list.
        task: Only rows of this task, a key of :attr:`DatasetFacts.tasks`, or None for every row.
        prompt: The prompt that made the texts: a name in ``llava_zh.regenerate.PROMPTS`` or in
            :attr:`DatasetFacts.prompts`, ``"original"`` for the row's own question, ``"llava"`` for that of its task.
        single_paragraph: Whether a text of several paragraphs is a defect to `curate`.
        question: The human turn of rows that are captions alone.
        text_only: Whether a row may have no image, as in mixed sets for instruction tuning. Where it may not, such a
            row is a bad row: a caption of no picture.
    """

    name: str = ""
    rows: int | None = None
    language: str | None = None
    description: str = ""
    file: str | None = None
    size: int | None = None
    images: Literal["one", "many"] = "one"
    task: str | None = None
    files: tuple[str, ...] = ()
    prompt: str | None = None
    single_paragraph: bool = False
    question: str = "<image>"
    text_only: bool = False

    def __post_init__(self) -> None:
        _check(self, f"Configuration {self.name!r}", {"name"})
        if not _NAME.fullmatch(self.name):
            raise BadArgument(f"Configuration {self.name[:210]!r}: name: {_NAMES}.")
        if self.file is not None and self.files not in ((), (self.file,)):
            raise BadArgument(f"Configuration {self.name!r}: file, files: give one file or several, not both.")
        if self.file is not None:
            object.__setattr__(self, "files", (self.file,))


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset. `repos` and `revisions` are keyed by the hubs' names, ``huggingface`` and ``modelscope``.

    Args:
        name: What it is called in every call; letters, digits, ``.``, ``_`` and ``-``.
        repos: Its repository (``owner/name``) on each hub that has it; empty for files on disk only.
        revisions: The revision that is read when none is asked for, by source; the hubs' main branches by default.
        licence, image_licence: Of the texts and of the images.
        configs: The configurations, one called ``default`` by default.
        default_config: The configuration of a call that names none; the only one where there is one.
        images: Where its images are: ``"sa1b"``, ``"own"``, or one of these by the beginning of the published path,
            ``{"sam/": "sa1b", "coco/": "own"}``.
        image_folders: Folders that may stand between `image_root` and a published path, such as ``train2017``.
        columns: Names of columns that differ from the usual ones, by field, see :data:`COLUMNS`. A name with a dot,
            ``cap_seg.global_caption``, is a key in a column of objects (or of such as text).
        sizes: Whether rows state the images' widths and heights.
        tasks: The tasks that rows name, and the names each was published under.
        prompts: Prompts of its own, which its configurations name.
    """

    name: str = ""
    title: str = ""
    description: str = ""
    homepage: str = ""
    repos: Mapping[str, str] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    licence: str = "not stated"
    image_licence: str = "not stated"
    citation: str = ""
    configs: tuple[ConfigFacts, ...] = field(default_factory=lambda: (ConfigFacts("default"),))
    default_config: str | None = None
    images: Place | Mapping[str, Place] = "own"
    image_folders: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    sizes: bool = False
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prompts: tuple[Prompt, ...] = ()

    def __post_init__(self) -> None:
        where = f"Dataset {self.name!r:.210}"
        _check(self, where, {"name", "configs"})
        if not _NAME.fullmatch(self.name):
            raise BadArgument(f"{where}: name: {_NAMES}, as in 'my-captions'.")
        for hub, repo in self.repos.items():
            known_name(f"hub in repos of {self.name}", hub, ABOUT_HUBS)
            if not _REPO.fullmatch(repo):
                raise BadArgument(f"{where}: repos[{hub!r}]: expected 'owner/name', found {repo!r}.")
        for kind, names, known in (
            ("hub in revisions", self.revisions, self.repos),
            ("field in columns", self.columns, COLUMNS),
            ("task in configs", [c.task for c in self.configs if c.task is not None], self.tasks),
            ("default_config", filter(None, [self.default_config]), [c.name for c in self.configs]),
        ):
            for name in names:
                if name not in known:
                    raise UnknownName.of(f"{kind} of {self.name}", name, known)
        self._check_names(where)
        twice = [c.name for i, c in enumerate(self.configs) if c.name in {d.name for d in self.configs[:i]}]
        if twice:
            raise BadArgument(f"{where}: configs: two are called {twice[0]!r}.")
        if not isinstance(self.images, str) and not self.images:
            raise BadArgument(
                f"{where}: images: expected 'sa1b', 'own', or these by the beginning of paths, found {{}}."
            )
        object.__setattr__(
            self, "revisions", {hub: ABOUT_HUBS[hub].branch for hub in self.repos} | dict(self.revisions)
        )
        object.__setattr__(self, "title", self.title or self.name)
        if len(self.configs) == 1:
            object.__setattr__(self, "default_config", self.configs[0].name)

    def _check_names(self, where: str) -> None:
        """Raise BadArgument, UnknownName for columns that no row can have, folders elsewhere, and unknown prompts."""
        for column, found in self.columns.items():
            names = (found,) if isinstance(found, str) else found
            if not names or not all(all(name.split(".")) for name in names):
                expected = "the name of a column, or several; a name with a dot is a key in a column"
                raise BadArgument(f"{where}: columns[{column!r}]: expected {expected}; found {found!r:.100}.")
        for folder in self.image_folders:
            if problem := unsafe(folder):
                raise BadArgument(f"{where}: image_folders: {folder[:200]!r} is no folder below image_root: {problem}")
        known = [*PROMPTS, "llava", *(prompt.id for prompt in self.prompts)]
        for prompt in (config.prompt for config in self.configs):
            if prompt is not None and prompt not in known and not os.path.isfile(prompt):  # noqa: PTH113
                raise UnknownName.of(f"prompt in configs of {self.name}", prompt, known)

    @property
    def image_places(self) -> Mapping[str, Place]:
        """Where images are, by the beginning of their published paths; the empty text for all others."""
        return {"": self.images} if isinstance(self.images, str) else self.images

    @property
    def in_sa1b(self) -> bool:
        """Whether images are from SA-1B, so that its archives choose rows and its licence holds."""
        return "sa1b" in self.image_places.values()

    @property
    def has_own_images(self) -> bool:
        """Whether some images may be the dataset's own: in its rows, its repository, or a folder that is named."""
        return "own" in self.image_places.values()

    @property
    def file_names(self) -> dict[str, str]:
        """The name of each published file or pattern, and the configuration that it is of."""
        return {file: config.name for config in self.configs for file in config.files}

    @cached_property
    def fields(self) -> Columns:
        """The names under which rows have each field."""
        from ..rows.columns import Columns  # pyarrow comes with it, which listing datasets does not need

        return Columns.of({name: (found,) if isinstance(found, str) else found for name, found in self.columns.items()})

    def config(self, name: str) -> ConfigFacts:
        """The facts of the configuration called `name`, which must be one of :attr:`configs`."""
        return next(config for config in self.configs if config.name == name)

    def repository(self, source: str, revision: str | None = None) -> tuple[str, str]:
        """The repository on the hub `source`, and the revision to read: `revision`, or the one that is known.

        Raises:
            UnknownName: The dataset is not on that hub.
            BadArgument: It is on no hub.
        """
        if not self.repos:
            raise BadArgument(f"{self.name} is on no hub; pass data_dir= or data_files= to name its files.")
        if source not in self.repos:
            raise UnknownName.of(f"source of {self.name}", source, list(self.repos))
        return self.repos[source], revision or self.revisions[source]

    @cached_property
    def _task_names(self) -> dict[str, str]:
        return {_plain(name): task for task, names in self.tasks.items() for name in (task, *names)}

    def task_of(self, published: str) -> str | None:
        """The task's name in rows, from a name it was published under; a name that is not known stays as it is."""
        return self._task_names.get(_plain(published), published)

    def rules(self, config: str, *, registered: bool = True) -> str:
        """A digest of all that decides which rows come of the same files, for caches.

        Args:
            registered: Whether somebody wrote these facts, who may write others. The facts of a repository that is
                merely named are the library's own. A field that they got later is not in their digest, since it
                changed none of the rows that were there before.
        """
        known = self.config(config)
        rules = [self.image_places, self.columns, self.sizes, self.tasks, known.language, known.images, known.task]
        rules += [known.question, *(["text_only"] if known.text_only and registered else [])]
        return hashlib.sha256(msgspec.json.encode(rules, order="sorted")).hexdigest()[:16]


def facts_of(given: Any, where: str) -> DatasetFacts:
    """`given`, facts or a mapping with the same fields, as facts.

    Raises:
        BadArgument, UnknownName: It is neither, or a field is missing, unknown or of a wrong type.
    """
    if isinstance(given, DatasetFacts):
        return given
    if not isinstance(given, Mapping):
        raise BadArgument(f"{where}: expected DatasetFacts or a mapping with its fields, found {type(given).__name__}.")
    known = [known.name for known in fields(DatasetFacts)]
    for name in given:
        if name not in known:
            raise UnknownName(f"{where}: unknown field {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}.")
    configs = given.get("configs")
    if isinstance(configs, list | tuple):
        given = {**given, "configs": tuple(_config(one, f"{where}: configs[{i}]") for i, one in enumerate(configs))}
    return DatasetFacts(**given)


def _config(given: Any, where: str) -> Any:
    known = [known.name for known in fields(ConfigFacts)]
    if not isinstance(given, Mapping):
        return given  # facts, or what the check of their type tells of
    for name in given:
        if name not in known:
            raise UnknownName(f"{where}: unknown field {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}.")
    return ConfigFacts(**given)


def _check(facts: Any, where: str, needed: set[str]) -> None:
    """Raise BadArgument for a field that is missing or of a wrong type; lists become tuples."""
    hints = _hints(facts.__class__)
    for known in fields(facts):
        value = getattr(facts, known.name)
        if known.name in needed and value in ("", (), []):
            raise BadArgument(f"{where}: the field {known.name!r} is missing; {type(facts).__name__} needs it.")
        try:
            object.__setattr__(facts, known.name, msgspec.convert(value, hints[known.name]))
        except msgspec.ValidationError:
            raise BadArgument(
                f"{where}: the field {known.name!r} must be {known.type}, found {type(value).__name__} {value!r:.100}."
            ) from None


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", " ").replace("_", " ")
