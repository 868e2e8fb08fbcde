"""A name in, a dataset out: :func:`load_dataset` and its helpers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from .errors import BadArgument, UnknownName

if TYPE_CHECKING:
    from .catalog.facts import DatasetFacts
    from .catalog.request import Request
    from .rows.formats import RowOptions
    from .streams.builder import PublishedBuilder

Dataset = Any  # Dataset | DatasetDict | IterableDataset | IterableDatasetDict


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


def load_dataset(
    path: str,
    name: str | None = None,
    *,
    split: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    data_files: Any = None,
    source: str | None = None,
    image_root: str | os.PathLike[str] | Sequence[str] | None = None,
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
) -> Dataset:
    """Load a dataset, as ``datasets.load_dataset`` would.

    Args:
        path: A name of :func:`list_datasets`, or its id on a hub; ``"llava"`` or ``"sa1b-captions"`` for any files in
            their forms; ``"hf:owner/name"`` or ``"modelscope:owner/name"`` for any repository with such files; a
            Python file that registers a dataset. Or rows on this machine: a file (``"mine/my.jsonl"``), a folder, the
            folder of a run, a curation or an export, which is the dataset that it was made from. A name wins over a
            path of the same name; ``"./name"`` means the path. See :mod:`llava_zh.catalog.paths`.
        name: The configuration: ``single_en``, ``single_zh``, ``multi_en``, ``multi_zh``; ``default`` (all tasks),
            ``conversation``, ``complex_reasoning``, ``detail``.
        split: ``"train"``, a slice such as ``"train[:1%]"`` (not for streams), or None for a dict of splits.
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
            whose images are there, by the indexes of archives (built now if need be) and listings of folders.
        bad_images: Image paths whose rows are left out: a list, or the file that ``llava-zh sa1b verify`` wrote.
        on_bad_row: ``"raise"`` a :class:`~llava_zh.errors.BadRow` or ``"skip"`` (counted and logged). A file that
            has no good row near its start, as one in GBK, raises with ``"skip"`` too: nothing says what it is.
        on_missing_image: ``"raise"`` when the picture is opened, ``"skip"`` the row, or give ``"null"`` for the image.
        chunk_size: Bytes a shard (``32_000_000`` or ``"32MB"``); the number is rounded up to a power of two.
        num_shards: Exactly this many shards instead.
        keep_in_memory, download_mode, verification_mode: As for ``datasets.load_dataset``.

    Raises:
        UnknownName: An unknown dataset, configuration, source or row format.
        BadArgument: An argument that cannot work, as `data_dir` beside a path.
        HubError, DataFileNotFound, UnknownLayout, BadFile, BadRow: See :mod:`llava_zh.errors`.
    """
    from .catalog.request import Request

    request = Request.among(locals())
    if streaming and num_proc is not None:
        raise BadArgument("num_proc prepares a dataset; a stream is read in parallel by a DataLoader's num_workers.")
    _check_split(split, streaming)
    import datasets

    from .streams.insides import fits_in_memory

    download_mode = datasets.DownloadMode(download_mode or datasets.DownloadMode.REUSE_DATASET_IF_EXISTS)
    builder = builder_of(request, cache_dir)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(
        download_mode=download_mode,
        verification_mode=datasets.VerificationMode(verification_mode or datasets.VerificationMode.BASIC_CHECKS),
        num_proc=num_proc,
    )
    if keep_in_memory is None:
        keep_in_memory = fits_in_memory(builder.info.dataset_size)
    return builder.as_dataset(split=split, in_memory=keep_in_memory)


def load_dataset_builder(
    path: str,
    name: str | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    data_files: Any = None,
    source: str | None = None,
    image_root: str | os.PathLike[str] | Sequence[str] | None = None,
    row_format: str = "llava",
    options: RowOptions | Mapping[str, Any] | None = None,
    archives: Any = None,
    bad_images: Any = None,
    on_bad_row: Literal["raise", "skip"] = "raise",
    on_missing_image: Literal["raise", "skip", "null"] = "raise",
    chunk_size: int | str = "32MB",
    num_shards: int | None = None,
) -> PublishedBuilder:
    """The builder behind :func:`load_dataset`: its `info` and `config` say what the same arguments would load."""
    from .catalog.request import Request

    return builder_of(Request.among(locals()), cache_dir)


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


def _check_split(split: Any, streaming: bool) -> None:
    """Refuse what `datasets` would refuse only after a hub was asked, and less clearly."""
    for part in split.split("+") if isinstance(split, str) else ():
        name, _, selected = part.strip().partition("[")
        if name not in ("train", "all"):
            raise UnknownName.of("split", name, ["train"])
        if selected and streaming:
            raise BadArgument(
                f"split: {split!r} is a slice, which a stream does not have. Use skip(n) and take(n) on it."
            )
