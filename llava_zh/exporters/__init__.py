"""Writing a dataset in the form that a trainer or a tool reads: :func:`export`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadArgument, known_name
from ..gates.safe_text import get_logger

if TYPE_CHECKING:
    from ..catalog.facts import DatasetFacts
    from ..catalog.request import Request
    from ..rows.row_options import RowOptions
    from ..streams.builder import PublishedBuilder
    from .run import ExportSummary
    from .targets import Target

logger = get_logger(__name__)

TARGET_NAMES = ("parquet", "jsonl", "webdataset", "llama-factory", "ms-swift", "internvl", "qwen-vl", "llava", "verl")
IMAGE_MODES = ("url", "files", "embed")


def export(
    path: str,
    name: str | None = None,
    *,
    to: str,
    output_dir: str | os.PathLike[str],
    images: str | None = None,
    max_side: int | None = None,
    row_format: str | None = None,
    options: RowOptions | Mapping[str, Any] | None = None,
    num_shards: int | None = None,
    num_proc: int | None = None,
    archives: Any = None,
    task: str | None = None,
    language: str | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    data_files: Any = None,
    source: str | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    image_root: str | os.PathLike[str] | Sequence[str] | None = None,
    bad_images: Any = None,
    on_bad_row: Literal["raise", "skip"] = "raise",
    on_missing_image: Literal["raise", "skip"] = "raise",
    on_bad_image: Literal["raise", "skip"] = "raise",
) -> ExportSummary:
    """Write a dataset, or the rows of it that are wanted, to files of another form.

    The shards appear in ``data/`` one by one, each whole; a run that was stopped is finished by asking for the same
    again. Beside them come the registration file of the trainer and a dataset card.

    Args:
        path, name: The dataset and its configuration, as for :func:`llava_zh.load_dataset`. Without a name and with
            a `language`, all configurations in it.
        to: ``"parquet"``, ``"jsonl"``, ``"webdataset"``, ``"llama-factory"``, ``"ms-swift"``, ``"internvl"``,
            ``"qwen-vl"``, ``"llava"`` or ``"verl"``.
        output_dir: A folder that is new, empty, or holds an unfinished export of the same.
        images: ``"url"`` names images (``sa1b://…``; for the trainers, which open files only, the files where they
            lie), ``"files"`` writes them to ``images/``, ``"embed"`` puts them into the rows. Default: ``"url"`` for
            Parquet and JSON Lines (``"embed"`` where the published rows hold the pictures), ``"embed"`` for WebDataset
            and verl, ``"files"`` for other trainers.
        max_side: Shrinks written images to this many pixels on their longer side.
        row_format, options: The rows of Parquet, JSON Lines and WebDataset, as for :func:`llava_zh.load_dataset`;
            trainers have a row format of their own.
        num_shards: Files a configuration; by default of some hundred megabytes each, and one for LLaVA.
        num_proc: Processes, by default 1. The same files come out for any number.
        archives, bad_images, on_bad_row, on_missing_image: As for :func:`llava_zh.load_dataset`.
        on_bad_image: ``"raise"`` ends the export at a picture that is to be written and is no picture, is cut short,
            too large or lost with a damaged part of its archive; ``"skip"`` leaves its row out, names the first few
            and counts all. Rows are chosen before their pictures are read: a sample then has fewer.
        task: Only rows of this llava-instruct task.
        language: Only configurations in this language, such as ``"en"`` or ``"zh"``.
        min_length, max_length: Characters of a row's answers together, at least and at most.
        sample: So many rows, drawn without replacement from all that fit, each equally likely; `seed` decides which.
        limit: The first so many rows that fit.
        data_dir, data_files, source, revision, token, storage_options, image_root: As for
            :func:`llava_zh.load_dataset`.

    Returns:
        Rows, images, bytes, files, time, and rows left out for a bad picture; printed, it says so in three lines.

    Raises:
        UnknownName, BadArgument: An argument that does not exist or cannot work.
        RunConflict: `output_dir` holds something else, or what an export keeps of itself there was damaged.
        NothingLeft: ``archives=``, ``bad_images=`` and the like leave no row at all; says which left out how many.
        OutputError: It cannot be written to.
        ImageNotFound, BadImage, BadArchive, UnsafeName: A picture that is to be written is missing, no whole picture,
            lost with a part of its archive, or outside the folder of the images; the message names the row.
        BadRow, HubError and the others of :func:`llava_zh.load_dataset`.
    """
    from ..catalog.request import Request
    from . import run, shards
    from .selection import Selection
    from .targets import TARGETS

    known_name("target", to, TARGET_NAMES)
    target = TARGETS[to]
    known_name("on_missing_image", on_missing_image, ("raise", "skip"))
    known_name("on_bad_image", on_bad_image, ("raise", "skip"))
    _check_counts(max_side=max_side, num_shards=num_shards, num_proc=num_proc)
    # `num_shards` is of the files that are written; those that are read are cut into pieces of a size of our own.
    request = Request.among(
        locals(),
        row_format=_row_format(to, target, row_format),
        options=_row_options(target, options),
        num_shards=None,
    )
    builders = _builders_of(request, language)
    if task is not None:
        known_name("task", task, sorted({c.task for c in builders[0].FACTS.configs if c.task is not None}))
    job = shards.Job(
        builders=builders,
        to=to,
        images=_image_mode(to, target.images, images, builders[0]),
        max_side=max_side,
        selection=Selection(task, min_length, max_length, sample, seed if sample is not None else 0, limit),
        taken=None,
        folder=Path(output_dir).expanduser().absolute(),
        on_bad_image=on_bad_image,
    )
    if job.images != "url" and builders[0].FACTS.in_sa1b:
        logger.warning(
            "SA-1B's pictures are under the SA-1B research licence, which the captions' licence does not cover: "
            "do not pass this export on."
        )
    return run.run(job, _request(job), num_shards, run.about_rows(job), run.processes(num_proc))


def _check_counts(**counts: int | None) -> None:
    for argument, value in counts.items():
        if value is not None and value < 1:
            raise BadArgument(f"{argument}={value}: expected at least 1.")


def _row_format(to: str, target: Target, row_format: str | None) -> str:
    if row_format is not None and target.row_format is not None and row_format != target.row_format:
        raise BadArgument(
            f"row_format={row_format!r}: {to} reads {target.row_format!r} rows, which it gets by default."
        )
    return row_format or target.row_format or "llava"


def _row_options(target: Target, options: Any) -> RowOptions:
    """What was asked of the rows, as the trainer that reads them needs it."""
    from ..rows.row_options import RowOptions

    chosen = RowOptions.of(options)
    if chosen.images is not None:
        raise BadArgument("options: an export puts pictures where images= says; images='inline' is for load_dataset.")
    if chosen.system is not None and target.system_refused is not None:
        raise BadArgument(f"options: {target.system_refused}")
    if chosen.system is not None and target.system_warning is not None:
        logger.warning(target.system_warning)
    return replace(chosen, sizes=True) if target.sizes and chosen.sizes is None else chosen


def _builders_of(request: Request, language: str | None) -> tuple[PublishedBuilder, ...]:
    """A builder for each configuration that is exported; their rows have the same columns."""
    from ..catalog import paths
    from ..load import builder_for

    facts, request = paths.placed(request)
    configs = _configs(facts, request.name, language)
    builders = tuple(builder_for(facts, replace(request, name=config)) for config in configs)
    if len({str(builder.shape.features()) for builder in builders}) > 1:
        raise BadArgument(
            "Rows with one image and with several have different columns in row_format='llava'; "
            "choose 'sharegpt', 'messages' or 'parts'."
        )
    return builders


def _configs(facts: DatasetFacts, name: str | None, language: str | None) -> list[str | None]:
    """The configurations that are exported."""
    if language is None:
        return [name]
    languages = sorted({config.language for config in facts.configs if config.language})
    known_name(f"language of {facts.name}", language, languages)
    if name is not None:
        if any(config.name == name and config.language != language for config in facts.configs):
            raise BadArgument(f"language={language!r}: {name} is in {facts.config(name).language!r}.")
        return [name]
    default = facts.default_config
    if default is not None and facts.config(default).language == language:  # the others in it are parts of it
        return [None]
    return [config.name for config in facts.configs if config.language == language]


def _image_mode(to: str, possible: Sequence[str], images: str | None, builder: PublishedBuilder) -> str:
    from ..images.locations import EmbeddedImages

    if images is None:
        embedded = isinstance(builder.config.images, EmbeddedImages) and possible[0] == "url"
        return "embed" if embedded else possible[0]
    known_name("images", images, IMAGE_MODES)
    if images not in possible:
        raise BadArgument(f"images={images!r}: {to} takes {' or '.join(map(repr, possible))}.")
    return images


def _request(job: Any) -> dict[str, Any]:
    """All that decides what the export holds, for its manifest and its card. No credentials, no place of SA-1B."""
    from dataclasses import asdict

    first = job.builders[0]
    selection = {name: value for name, value in asdict(job.selection).items() if value is not None}
    if job.selection.sample is None:
        selection.pop("seed")
    # Of a dataset that is only registered no VERSION says how its files are read.
    rules = [builder.config.rules for builder in job.builders]
    return {
        "to": job.to,
        "dataset": first.FACTS.name,
        "configs": [builder.config.name for builder in job.builders],
        "version": str(first.VERSION),
        "files": [file.identity for builder in job.builders for file in builder.config.files],
        "images": job.images,
        "max_side": job.max_side,
        "selection": selection,
        **first.config.request.for_export(),
        "on_bad_image": job.on_bad_image,
        **({"rules": rules} if any(rules) else {}),
    }
