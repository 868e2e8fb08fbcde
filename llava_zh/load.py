"""A name in, a dataset out: :func:`load_dataset` and its helpers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

from .errors import BadArgument

if TYPE_CHECKING:
    from typing import TypeAlias, Unpack

    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, NamedSplit, ReadInstruction

    from .catalog.facts import DatasetFacts
    from .catalog.request import Request
    from .catalog.signatures import ConfigName, DataFiles, DatasetName, ImageRoot, LoadOptions, Path
    from .rows.formats import RowOptions
    from .streams.builder import PublishedBuilder

    OneSplit: TypeAlias = str | NamedSplit | ReadInstruction


def register(facts: DatasetFacts | Mapping[str, Any]) -> DatasetFacts:
    """Make a dataset known to every call and command of this process; see :mod:`llava_zh.catalog.registry`.

    Args:
        facts: A :class:`~llava_zh.catalog.facts.DatasetFacts`, or a mapping with its fields.

    Raises:
        BadArgument, UnknownName: A field is missing, unknown or of a wrong type, or another dataset has the name.
    """
    from .catalog import registry

    return registry.register(facts)


def list_datasets() -> list[str]:
    """The names that :func:`load_dataset` takes: those built in, of installed packages, and registered ones."""
    from .catalog import registry

    return registry.names()


def get_dataset_config_names(path: str) -> list[str]:
    """The configurations of a dataset.

    Raises:
        UnknownName: There is no such dataset.
    """
    return [config.name for config in dataset_facts(path).configs]


def dataset_facts(path: str) -> DatasetFacts:
    """What is known of a dataset: repositories, sizes, rows, licences, citation. For a path, of what lies there."""
    from .catalog import registry

    if path in registry.names():  # to know those takes nothing heavy
        return registry.find(path)[0]
    from .catalog import paths

    return paths.find(path).facts


def source_of(path: str, source: str | None = None) -> str:
    """The hub a dataset is read from: `source`, the only hub that has `path` as an id, or the default.

    A dataset that is on one hub alone is read from there, whatever the default.

    Raises:
        UnknownName: There is no such dataset or source.
    """
    from .catalog import paths
    from .files.hub import source_name

    found = paths.find(path)
    return source_name(source or found.hub)


# What is returned, by `split` and `streaming`; the implementation below has every keyword and says what it means.
@overload
def load_dataset(
    path: DatasetName | Path,
    name: ConfigName | str | None = None,
    data_dir: Path | None = None,
    data_files: DataFiles | None = None,
    split: None = None,
    *,
    streaming: Literal[False] = False,
    **options: Unpack[LoadOptions],
) -> DatasetDict: ...
@overload
def load_dataset(
    path: DatasetName | Path,
    name: ConfigName | str | None = None,
    data_dir: Path | None = None,
    data_files: DataFiles | None = None,
    *,
    split: OneSplit,
    streaming: Literal[False] = False,
    **options: Unpack[LoadOptions],
) -> Dataset: ...
@overload
def load_dataset(
    path: DatasetName | Path,
    name: ConfigName | str | None = None,
    data_dir: Path | None = None,
    data_files: DataFiles | None = None,
    split: None = None,
    *,
    streaming: Literal[True],
    **options: Unpack[LoadOptions],
) -> IterableDatasetDict: ...
@overload
def load_dataset(
    path: DatasetName | Path,
    name: ConfigName | str | None = None,
    data_dir: Path | None = None,
    data_files: DataFiles | None = None,
    *,
    split: OneSplit,
    streaming: Literal[True],
    **options: Unpack[LoadOptions],
) -> IterableDataset: ...
@overload
def load_dataset(
    path: DatasetName | Path,
    name: ConfigName | str | None = None,
    data_dir: Path | None = None,
    data_files: DataFiles | None = None,
    *,
    split: list[OneSplit] | list[str],
    streaming: Literal[False] = False,
    **options: Unpack[LoadOptions],
) -> list[Dataset]: ...
@overload
def load_dataset(
    path: DatasetName | Path,
    name: ConfigName | str | None = None,
    data_dir: Path | None = None,
    data_files: DataFiles | None = None,
    *,
    split: list[OneSplit] | list[str],
    streaming: Literal[True],
    **options: Unpack[LoadOptions],
) -> list[IterableDataset]: ...
@overload
def load_dataset(
    path: DatasetName | Path,
    name: ConfigName | str | None = None,
    data_dir: Path | None = None,
    data_files: DataFiles | None = None,
    split: OneSplit | None = None,
    *,
    streaming: bool,
    **options: Unpack[LoadOptions],
) -> Dataset | DatasetDict | IterableDataset | IterableDatasetDict: ...
def load_dataset(
    path: str | os.PathLike[str],
    name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    data_files: Any = None,
    split: Any = None,
    *,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    source: str | None = None,
    image_root: ImageRoot | None = None,
    row_format: str = "llava",
    options: RowOptions | Mapping[str, Any] | None = None,
    archives: Any = None,
    bad_images: Any = None,
    on_bad_row: Literal["raise", "skip"] = "raise",
    on_missing_image: Literal["raise", "skip", "null"] = "raise",
    chunk_size: int | str = "32MB",
    num_shards: int | None = None,
    keep_in_memory: bool | None = None,
    download_mode: Any = None,
    verification_mode: Any = None,
    features: Any = None,
    download_config: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    **unknown: Any,
) -> Any:
    """Load a dataset, as ``datasets.load_dataset`` would.

    Args:
        path: A name of :func:`list_datasets`, or its id on a hub; ``"llava"`` or ``"sa1b-captions"`` for any files in
            their forms; ``"hf:owner/name"`` or ``"modelscope:owner/name"`` for any repository with such files; a
            Python file that registers a dataset. Or rows on this machine: a file (``"mine/my.jsonl"``), a folder, the
            folder of a run, a curation or an export, which is the dataset that it was made from. A name wins over a
            path of the same name; ``"./name"`` means the path. See :mod:`llava_zh.catalog.paths`.
        name: The configuration: ``single_en``, ``single_zh``, ``multi_en``, ``multi_zh``; ``default`` (all tasks),
            ``conversation``, ``complex_reasoning``, ``detail``.
        split: ``"train"``, a slice such as ``"train[:1%]"`` or a ``datasets.ReadInstruction`` (no slices of streams), a
            list of these for a list of datasets, or None for a dict of splits.
        streaming: An ``IterableDataset`` that reads byte ranges as they are needed, instead of a prepared ``Dataset``.
        num_proc: Processes that prepare shards in parallel.
        cache_dir: Where prepared datasets are kept, `datasets`' own cache by default.
        revision: Branch, tag or commit on the hub; the captions are pinned to a commit by default.
        token: For a gated or private repository; by default the hub client's own look-up.
        data_dir: Folder with the published files, or a regeneration's output; no hub is asked. Or a repository,
            ``"hf:owner/name"``.
        data_files: Files or patterns (plain, ``.gz`` or ``.zst`` JSON Lines, a JSON array, Parquet, tars), relative to
            `data_dir`; or ``"hf:owner/name/pattern"``.
        source: ``"huggingface"`` or ``"modelscope"``; ``LLAVA_ZH_SOURCE`` sets it too.
        image_root: Where SA-1B is (a folder, an fsspec URL, or several); ``SA1B_ROOT`` sets it too. With neither,
            images come undecoded as ``{"path": "sa1b://…", "bytes": None}``. For other images: where their paths start,
            a folder, an archive or a URL. For images in several places: a mapping from how paths begin,
            ``{"sam/": SA1B, "coco/": COCO}``, or one folder for all.
        row_format: ``"llava"`` (as published), ``"sharegpt"``, ``"messages"`` or ``"parts"``, see `rows.formats`.
        options: A system prompt, the place of image marks, widths and heights: a dict, or a
            :class:`llava_zh.rows.RowOptions`.
        archives: Only rows whose images are in these SA-1B archives, by numbers or names; or ``"available"``, only rows
            whose images are there, by the indexes of archives (built now if need be) and listings of folders. Rows
            without an image need no archive, so that each choice has them all.
        bad_images: Image paths whose rows are left out: a list, or the file that ``llava-zh sa1b verify`` wrote.
        on_bad_row: ``"raise"`` a :class:`~llava_zh.errors.BadRow` or ``"skip"`` (counted and logged). A file that
            has no good row near its start, as one in GBK, raises with ``"skip"`` too: nothing says what it is.
        on_missing_image: ``"raise"`` when the picture is opened, ``"skip"`` the row, or give ``"null"`` for the image.
        chunk_size: Bytes a shard (``32_000_000`` or ``"32MB"``); the number is rounded up to a power of two.
        num_shards: Exactly this many shards instead.
        keep_in_memory, download_mode, verification_mode: As for ``datasets.load_dataset``.
        features: ``datasets.Features`` that the rows are cast to; the columns stay those of `row_format`.
        download_config: Its token, storage options and ``force_download`` hold; what it asks for besides is refused.
        storage_options: For `data_dir` and `data_files` that are URLs: what fsspec's filesystem of them takes.
        unknown: ``trust_remote_code`` has no effect, for no code of a repository is run. All else is an error.

    Raises:
        UnknownName: An unknown dataset, configuration, split, source, row format or mode.
        UnknownArgument: An argument that there is not; names the nearest, or what has its meaning here.
        BadArgument: An argument that cannot work, as `data_dir` beside a path.
        HubError, DataFileNotFound, UnknownLayout, BadFile, BadRow: See :mod:`llava_zh.errors`.
    """
    from .catalog.request import Request

    arguments = dict(locals())
    from .streams import calls
    from .streams.insides import fits_in_memory

    calls.check_unknown("load_dataset", unknown, arguments.keys() - {"unknown"})
    fetched = calls.download_settings(download_config)
    request = Request.among(arguments, **_access(arguments, fetched))
    if streaming and num_proc is not None:
        raise BadArgument("num_proc prepares a dataset; a stream is read in parallel by a DataLoader's num_workers.")
    if num_proc is not None and (not isinstance(num_proc, int) or isinstance(num_proc, bool)):
        raise BadArgument(f"num_proc: expected a number of processes, found {type(num_proc).__name__} {num_proc!r}.")
    split = calls.checked_split(split, streaming)
    mode, verified = calls.modes(download_mode or fetched.get("download_mode"), verification_mode)
    builder = builder_of(request, cache_dir)
    features = calls.check_features(features, builder)
    if streaming:
        return calls.cast(calls.streamed(builder, split), features)
    builder.download_and_prepare(download_mode=mode, verification_mode=verified, num_proc=num_proc)
    if keep_in_memory is None:
        keep_in_memory = fits_in_memory(builder.info.dataset_size)
    return calls.cast(calls.rows_of(builder, split, keep_in_memory), features)


def load_dataset_builder(
    path: str | os.PathLike[str],
    name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    data_files: Any = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    source: str | None = None,
    image_root: ImageRoot | None = None,
    row_format: str = "llava",
    options: RowOptions | Mapping[str, Any] | None = None,
    archives: Any = None,
    bad_images: Any = None,
    on_bad_row: Literal["raise", "skip"] = "raise",
    on_missing_image: Literal["raise", "skip", "null"] = "raise",
    chunk_size: int | str = "32MB",
    num_shards: int | None = None,
    download_config: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    **unknown: Any,
) -> PublishedBuilder:
    """The builder behind :func:`load_dataset`: its `info` and `config` say what the same arguments would load."""
    from .catalog.request import Request

    arguments = dict(locals())
    from .streams import calls

    if "features" in unknown:
        raise BadArgument("features: rows are cast as they are loaded; pass it to load_dataset.")
    known = (arguments.keys() - {"unknown"}) | {"trust_remote_code"}
    calls.check_unknown("load_dataset_builder", unknown, known)
    return builder_of(
        Request.among(arguments, **_access(arguments, calls.download_settings(download_config))), cache_dir
    )


def _access(arguments: Mapping[str, Any], fetched: Mapping[str, Any]) -> dict[str, Any]:
    """What opens the files, as it was given or, where it was not, as a DownloadConfig says."""
    return {
        name: arguments[name] if arguments[name] is not None else fetched.get(name)
        for name in ("token", "storage_options")
    }


def builder_of(request: Request, cache_dir: str | os.PathLike[str] | None = None) -> PublishedBuilder:
    """The builder that gives what `request` asks for; see :func:`load_dataset`."""
    from .catalog import paths

    facts, request = paths.placed(request)
    return builder_for(facts, request, cache_dir)


def builder_for(
    facts: DatasetFacts, request: Request, cache_dir: str | os.PathLike[str] | None = None
) -> PublishedBuilder:
    """The builder for a request that `catalog.paths.placed` has found the dataset of."""
    from .files.hub import source_name
    from .streams.builder import builder_class

    request = replace(request, source=source_name(request.source))
    return builder_class(facts)(None if cache_dir is None else os.fspath(cache_dir), request=request)


def place_of(builder: PublishedBuilder, image_root: Any) -> dict[str, Any] | None:
    """Where a builder's rows lie on this machine, for the folder of what is made from them."""
    from .catalog import registry
    from .files.our_folders import place

    files = ((file.path if file.source == "local" else None, file.size) for file in builder.config.files)
    data_dir = builder.config.request.data_dir
    by_path = registry.named(builder.FACTS.name) is None
    made: dict[str, Any] | None = place(data_dir, files, image_root, by_path)
    return made
