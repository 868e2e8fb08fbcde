"""The builder that every script in ``builders/`` shares: published files in, typed Arrow tables out."""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib
import inspect
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.exceptions import DatasetGenerationError

from ..catalog import resolve
from ..catalog.facts import ConfigFacts, DatasetFacts
from ..catalog.registry import BUILT_IN, SCRIPTS, is_registered
from ..catalog.request import Request
from ..errors import BadArgument, LlavaZhError, NothingLeft, OutputError
from ..files import hub, readers
from ..files.data_files import DataFile
from ..files.shards import PARSE_AHEAD, Reading, Shard
from ..gates.safe_text import get_logger
from ..images import written_paths
from ..images.locations import Images, UnresolvedImages, unplaced
from ..rows.arrays import one_array
from ..rows.formats import RowShape, to_rows
from ..rows.inline import register as register_parts
from ..rows.records import Expect
from .insides import NOWHERE, leave_as_it_is, local_output, no_lock_beside, unwritable_cache
from .left_out import Account, Tally, tell_kept
from .python_rows import python_rows
from .typed import TypedArrowExamples

register_parts()  # a prepared dataset names its features, and may be read before any is asked for

#: Takes some of a table's rows, and tells how many it leaves out and why.
Chooses = Callable[[pa.Table, Callable[[str, int], None]], pa.Table]

logger = get_logger(__name__)

# What `datasets` itself gives a builder; all else is for the request.
_OF_DATASETS = frozenset(inspect.signature(datasets.DatasetBuilder.__init__).parameters) - {"data_dir", "data_files"}

# The classes of builders by the names of their datasets; for a dataset without one of its own it is made.
_classes: dict[str, type[PublishedBuilder]] = {}


@dataclass
class PublishedConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """One configuration with everything that :func:`llava_zh.load_dataset` has resolved for it.

    Args:
        files: The files with its rows; `found` says in words what they are.
        images: Where its images are.
        request: What was asked for, settled for the dataset.
        rules: What else decides which rows come of the files, where no VERSION of a builder says so.
        text_only: Whether a row may have no image.
    """

    files: tuple[DataFile, ...] = ()
    found: str = ""
    images: Images = UnresolvedImages()
    request: Request = Request(path="")
    rules: str = ""
    text_only: bool = False

    def create_config_id(self, config_kwargs: Any, custom_features: Any = None) -> str:
        """The name of the cache folder: the config and a digest of all that decides which rows come out."""
        parts = self.request.identity(self.files, self.images) + ([f"rules:{self.rules}"] if self.rules else [])
        if self.text_only and self.request.on_bad_row == "skip":
            parts.append("text_only")  # before rows without an image were read, they were left out as bad ones
        return f"{self.name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


class PublishedBuilder(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """Base of the builders: a subclass says what is published, in :attr:`FACTS`, and nothing more.

    It takes the arguments of :func:`llava_zh.load_dataset`, by itself and as a script of `datasets` 3.6.

    `datasets` caches what a builder prepares by its VERSION and knows nothing of its code, so any change of the
    rows that come out must raise :attr:`VERSION`.
    """

    FACTS: ClassVar[DatasetFacts]
    VERSION = datasets.Version("1.0.0")
    # Rows a record batch at most; tables come bounded by their bytes, and every batch costs some hundred small writes.
    DEFAULT_WRITER_BATCH_SIZE = 10_000
    BUILDER_CONFIG_CLASS = PublishedConfig
    config: PublishedConfig
    _parse_ahead: int = PARSE_AHEAD
    #: Whether rows name their images as the files do, for whoever writes them as published, and not by what opens them.
    images_as_published: bool = False
    _BY_RULES: ClassVar[bool] = False
    _account: str | None = None  # where the processes that prepare leave their counts
    _told: bool = False  # whether they were told of

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for module in (__name__, cls.__module__):
            leave_as_it_is(module)
        _classes.setdefault(cls.FACTS.name, cls)
        cls.BUILDER_CONFIGS = [
            PublishedConfig(name=config.name, version=cls.VERSION, description=config.description)
            for config in cls.FACTS.configs
        ]
        cls.DEFAULT_CONFIG_NAME = cls.FACTS.default_config

    def __init__(
        self,
        cache_dir: str | None = None,
        dataset_name: str | None = None,
        config_name: str | None = None,
        *,
        request: Request | None = None,
        token: Any = None,
        **arguments: Any,
    ) -> None:
        if request is None:
            asked = {name: value for name, value in arguments.items() if name not in _OF_DATASETS}
            arguments = {name: value for name, value in arguments.items() if name in _OF_DATASETS}
            request = Request.of(self.FACTS.name, config_name, {"token": token, **asked}, type(self).__name__)
        found = resolve.settings(self.FACTS, request)
        if self._BY_RULES:
            found["rules"] = self.FACTS.rules(found["config_name"], registered=is_registered(self.FACTS.name))
        found["text_only"] = self.FACTS.config(found["config_name"]).text_only
        self._no_cache = unwritable_cache(cache_dir)
        cache_dir = NOWHERE if self._no_cache else cache_dir
        super().__init__(cache_dir, self.FACTS.name, token=request.token, **found, **arguments)

    @property
    def config_facts(self) -> ConfigFacts:
        """What is known of this configuration."""
        return self.FACTS.config(self.config.name)

    def _info(self) -> datasets.DatasetInfo:
        facts = self.FACTS
        return datasets.DatasetInfo(
            description=f"{facts.description}\n\n{self.config.description}",
            citation=facts.citation,
            homepage=facts.homepage,
            license=f"{facts.licence}; images: {facts.image_licence}",
            features=self.shape.features(),
        )

    @property
    def shape(self) -> RowShape:
        """Which columns the rows have."""
        return RowShape(
            row_format=self.config.request.row_format,
            images=self.config_facts.images,
            pixels=self.FACTS.sizes,
            tasks=bool(self.FACTS.tasks),
            decode=self.config.images.decode,
            options=self.config.request.options,
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self).__module__.startswith(SCRIPTS):  # another process makes the class again, of its facts
            return _instance, (self.FACTS,), self.__getstate__()
        return super().__reduce_ex__(protocol)

    def asking(self, **changes: Any) -> Self:
        """A copy of this builder whose request has other values."""
        copied = object.__new__(type(self))  # copy.copy would make both share one dict, by what `datasets` pickles
        for name, value in vars(self).items():
            setattr(copied, name, value)
        copied.config = copy.copy(self.config)
        copied.config.request = replace(self.config.request, **changes)
        return copied

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        files = self.config.files
        if not files:
            raise BadArgument(
                f"No files. Load it with: llava_zh.load_dataset({self.FACTS.name!r}, {self.config.name!r})"
            )
        if not dl_manager.is_streaming:
            force = bool(dl_manager.download_config.force_download)
            files = tuple(self._on_disk(file, force) for file in files)
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs={"shards": self.shards(files)})]

    def shards(self, files: Iterable[DataFile] | None = None) -> list[Shard]:
        """The shards of the configuration's files, or of `files`, in order: the same for the same request."""
        # The first parts of what many programs write are empty; where all are, that is an error.
        files = tuple(self.config.files if files is None else files)
        files = tuple(file for file in files if file.size) or files[:1]
        for file in files:
            hub.check_is_data(file, self.token)
        request = self.config.request
        return readers.plan(files, chunk_size=request.chunk_size, num_shards=request.num_shards, token=self.token)

    def _on_disk(self, file: DataFile, force: bool) -> DataFile:
        if file.source in ("local", "url") or (file.path is not None and not force):
            return file
        return hub.HUBS[file.source].download(file, self.token, force=force)

    # -- rows ------------------------------------------------------------------------------------------------

    def _generate_tables(self, shards: list[Shard]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        tally = self.tally(self._account)
        yield from self._tables(shards, tally)
        tally.report()

    def tally(self, account: str | None = None) -> Tally:
        """A count of what this process leaves out while it reads; see :class:`~llava_zh.streams.left_out.Tally`."""
        request = self.config.request
        name = f"{self.FACTS.name}/{self.config.name}"
        return Tally(name, request.on_bad_row, request.bad_images, account, self.FACTS.fields)

    def _tables(self, shards: list[Shard], tally: Tally) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        return self.annotations(shards, tally, self.row_maker(tally))

    def rows_as_published(self) -> Iterator[dict[str, Any]]:
        """The rows one by one, with their images named as the files name them and none of them opened.

        So an image that is missing keeps its name, by which loading what is written finds nothing again.
        """
        self.images_as_published = True
        tally = self.tally()
        for _, table in self._tables(self.shards(), tally):
            yield from python_rows(table)
        tally.report()

    def row_maker(self, tally: Tally) -> Callable[[pa.Table], pa.Table]:
        """The function that makes rows of a table of annotations; `tally` counts the images it gives as null."""
        schema, shape, urls = self.info.features.arrow_schema, self.shape, self._urls(tally)
        constants: dict[str, str | None] = {"config": self.config.name, "language": self.config_facts.language}
        return lambda kept: to_rows(kept, shape, schema, urls, constants)

    @property
    def expect(self) -> Expect:
        """What the records of the files must be."""
        return Expect(
            images=self.config_facts.images,
            task_of=self.FACTS.task_of,
            around=written_paths.around(self.config.images),
            columns=self.FACTS.fields,
            question=self.config_facts.question,
            in_sa1b=self.FACTS.in_sa1b,
            text_only=self.config_facts.text_only,
            facts=bool(self.config.request.options.regenerated),
        )

    def annotations(
        self, shards: list[Shard], tally: Tally, then: Callable[[pa.Table], pa.Table] = lambda kept: kept
    ) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        """The annotations of the rows that are kept, table by table, each with its place: shard and number in it.

        Args:
            tally: Counts what is left out.
            then: Applied to each table, in the threads that read ahead.
        """
        reading = Reading(
            self.expect,
            tally.bad_row,
            tally.columns,
            self.token,
            then=lambda table: then(self.kept(table, tally)),
            ahead=self._parse_ahead,
            on_damage=tally.damage,
        )
        for i, shard in enumerate(shards):
            for j, table in enumerate(readers.tables(shard, reading)):
                if len(table):
                    yield (i, j), table

    def image_paths(self) -> Iterator[pa.ListArray]:
        """The published paths of the images of each row, a list a row, some thousands of rows at a time."""
        tally = self.tally()
        for _, table in self.annotations(self.shards(), tally):
            yield one_array(table["images"])
        tally.report()

    def nothing_left(self, also: str = "", choose: Chooses = lambda table, count: table) -> NothingLeft:
        """The error for a reader of these rows that got none: goes through the files once more, to say why.

        Args:
            also: What the reader itself asked for, in words.
            choose: What it takes of the rows; tells how many it leaves out, and why.
        """
        name = f"{self.FACTS.name}/{self.config.name}"
        with tempfile.TemporaryDirectory(prefix="llava-zh-") as folder:
            tally = self.tally(folder)
            for _, table in self.annotations(self.shards(), tally):
                choose(table, tally.count)
            tally.report()
            account = Account.of(folder, name, self.config.request.bad_images)
        asked = ", ".join(filter(None, (self.config.request.selection(), also)))
        return account.nothing_left(asked, in_sa1b=self.FACTS.in_sa1b)

    def kept(self, table: pa.Table, tally: Tally) -> pa.Table:
        """The annotations of the rows that the request takes: of this task, these archives, and no bad image.

        Rows with a missing image are left out where that was asked for. A row without an image needs none, so that
        what is asked of images leaves none of these out. Columns that `table` has besides stay.
        """
        request = self.config.request
        tally.rows(len(table))

        def keep(what: str, good: Callable[[pa.Array], pa.Array]) -> None:
            nonlocal table
            before = len(table)
            table = _rows_where(table, good)
            tally.count(what, before - len(table))

        if (task := self.config_facts.task) is not None:
            before = len(table)
            table = table.filter(pc.fill_null(pc.equal(table["task"], task), False))
            tally.count(f"rows of other tasks than {task} left out", before - len(table))
        if request.archives == "available":
            keep("rows whose images are not available left out", self._there(table))
        elif request.archives is not None:
            keep("rows with images in other archives left out", self._in_archives)
        if request.bad_images:
            keep("rows with a bad image left out", lambda paths: pc.invert(self._bad(paths, tally)))
        if request.on_missing_image == "skip":
            keep("rows with a missing image left out", self._there(table))
        return table

    def _bad(self, paths: pa.Array, tally: Tally) -> pa.Array:
        """Which of `paths` are among the bad images: as they are, by their last part, or as the URL that rows show."""
        entries = pa.array(sorted(self.config.request.bad_images), pa.string())
        forms = [paths, pc.replace_substring_regex(paths, ".*/", "")]
        if any("/" in entry and ("://" in entry or entry.startswith("/")) for entry in self.config.request.bad_images):
            forms.append(self.config.images.urls(paths))
        found = [pc.is_in(form, value_set=entries) for form in forms]
        for form, hits in zip(forms, found, strict=True):
            tally.matched(form.filter(hits).to_pylist())
        return functools.reduce(pc.or_, found)

    def _present(self, paths: pa.Array) -> pa.Array:
        return pa.array(self.config.images.present(paths))

    def _there(self, table: pa.Table) -> Callable[[pa.Array], pa.Array]:
        """Tells which images of `table`, given by their paths, are there: in the row itself, or where its path says."""
        embedded = pc.is_valid(one_array(table["bytes"]).flatten())
        if pc.all(embedded).as_py():
            return lambda paths: embedded
        return lambda paths: pc.or_(embedded, self._present(paths))

    def _in_archives(self, paths: pa.Array) -> pa.Array:
        """Which images are in the archives asked for, by what their paths say or, where these name none, by ids."""
        names = sorted(self.config.request.archives or ())
        return pc.is_in(self.config.images.archive_of(paths, names), value_set=pa.array(names, pa.string()))

    def _urls(self, tally: Tally) -> Callable[[pa.Array], pa.Array]:
        """From published paths to what stands in rows: URLs, with missing ones null where that was asked for."""
        images = self.config.images
        if self.images_as_published:
            return lambda paths: paths

        def null_if_missing(paths: pa.Array) -> pa.Array:
            present = self._present(paths)
            missing = pc.and_(pc.is_valid(paths), pc.invert(present))  # an image in the row itself comes as null
            tally.count("missing images given as null", pc.sum(missing).as_py() or 0)
            return images.urls(pc.if_else(present, paths, pa.scalar(None, pa.string())))

        def told(paths: pa.Array) -> pa.Array:
            strange = unplaced(images, paths)
            if strange is not None and (number := pc.sum(strange).as_py()):
                tally.unplaced(paths.filter(strange)[0].as_py(), number)
            return images.urls(paths)

        if self.config.request.on_missing_image == "null":
            return null_if_missing
        # Of a path it was found out by the first rows alone whose images its rows have.
        return told if self._BY_RULES and not images.decode else images.urls

    # -- the ways `datasets` has of running this ------------------------------------------------------------

    def _generate_more_gen_kwargs(self, shards: list[Shard]) -> Iterator[dict[str, Any]]:
        for shard in shards:
            for piece in readers.split(shard):
                yield {"shards": [piece]}

    def _get_examples_iterable_for_split(self, split_generator: datasets.SplitGenerator) -> TypedArrowExamples:
        tally = self.tally()
        return TypedArrowExamples(
            functools.partial(self._tables, tally=tally),  # no closure: DataLoader workers may be sent this by pickle
            split_generator.gen_kwargs,
            self._generate_more_gen_kwargs,
            self.info.features,
            tally.report,
        )

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """As of `datasets`; what was left out of rows that were prepared before is told again."""
        self._told = False
        if self._no_cache:
            raise OutputError(
                f"Prepared rows cannot be kept: {self._no_cache}. Set HF_HOME, or HF_DATASETS_CACHE, to a folder that "
                "can be written, or give it as cache_dir=. With streaming=True no cache is needed."
            )
        super().download_and_prepare(*args, **kwargs)
        if not self._told and (prepared := local_output(self)) is not None:
            tell_kept(prepared, f"{self.FACTS.name}/{self.config.name}")

    def _prepare_split(self, split_generator: Any, *args: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        if num_proc and num_proc > 1:
            # The processes keep the cores busy; more threads would only take turns.
            self._parse_ahead = 1
        with tempfile.TemporaryDirectory(prefix="llava-zh-") as folder:
            self._account = folder
            try:
                super()._prepare_split(split_generator, *args, num_proc=num_proc, **kwargs)
            finally:
                self._account = None
            account = Account.of(folder, f"{self.FACTS.name}/{self.config.name}", self.config.request.bad_images)
        account.tell()
        self._told = True
        if not split_generator.split_info.num_examples:
            # `datasets` keeps nothing of what it was preparing, so that the next call looks anew.
            raise account.nothing_left(self.config.request.selection(), in_sa1b=self.FACTS.in_sa1b)
        if (prepared := local_output(self)) is not None:
            account.keep(prepared)

    def _prepare_split_single(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from super()._prepare_split_single(*args, **kwargs)
        except DatasetGenerationError as error:
            # The wrapper says only that something failed; a cause does not survive the way out of a worker process.
            if isinstance(error.__cause__, LlavaZhError):
                raise error.__cause__ from None
            raise


no_lock_beside(PublishedBuilder)


class RegisteredBuilder(PublishedBuilder):
    """Base of the classes that are made of facts alone, which pickle has to make again in another process.

    Nobody raises a VERSION for these, so that the name of a cache folder holds their :meth:`DatasetFacts.rules`.
    """

    FACTS = DatasetFacts("registered")
    _BY_RULES = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _instance, (self.FACTS,), self.__getstate__()


def builder_class(facts: DatasetFacts) -> type[PublishedBuilder]:
    """The builder's class for a dataset: one written for it, or one made of its facts."""
    known = _classes.get(facts.name)
    if known is None and facts.name in BUILT_IN:
        importlib.import_module(f"llava_zh.builders.{BUILT_IN[facts.name]}")
        known = _classes.get(facts.name)
    if known is None or facts != known.FACTS:
        name = "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", facts.name))
        known = type(name, (RegisteredBuilder,), {"FACTS": facts, "__module__": __name__, "__doc__": facts.description})
        _classes[facts.name] = known
    return known


def _instance(facts: DatasetFacts) -> PublishedBuilder:
    made: PublishedBuilder = object.__new__(builder_class(facts))
    return made


def _rows_where(table: pa.Table, keep: Callable[[pa.Array], pa.Array]) -> pa.Table:
    """The rows all of whose images `keep` is true for."""
    images = one_array(table["images"])
    paths = images.flatten()
    if not len(paths):
        return table
    good = pc.fill_null(keep(paths), False).to_numpy(zero_copy_only=False)
    bad_before = np.concatenate([[0], np.cumsum(~good)])  # before each image; a row may have none
    edges = images.offsets.to_numpy() - images.offsets[0].as_py()
    return table.filter(pa.array(np.diff(bad_before[edges]) == 0))
