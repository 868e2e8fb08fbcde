"""The shards of an export, and how a process writes one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from ..errors import BadArgument
from ..files import hub, jsonl, readers
from ..files.shards import Shard
from ..gates import places
from ..rows.formats import RowShape, to_rows
from ..streams.builder import PublishedBuilder
from . import files
from .files import appearing, write_bytes
from .images import ImageExport, missing
from .selection import Count, Draw, Selection, Taken, count
from .targets import TARGETS, DataFile
from .writers import PICTURE_ROWS

# Published files are read in pieces of this many bytes; which rows a sample takes depends on them, so it is fixed.
PIECE_BYTES = 32_000_000
# About how large a shard of the export is to be, and an image of SA-1B in bytes and in pixels of its longer side.
TEXT_SHARD, PICTURE_SHARD, TRAINER_SHARD = 256 << 20, 1 << 30, 2 << 30
IMAGE_BYTES, IMAGE_SIDE, ROW_BYTES = 1_000_000, 2250, 1_000

HIDDEN = ".export"


@dataclass(frozen=True)
class Piece:
    """A piece of the published files of the `config`-th configuration; `name` is the same for every export."""

    config: int
    number: int
    shard: Shard

    @property
    def name(self) -> str:
        return f"{self.config}-{self.number}"


@dataclass(frozen=True)
class OutputShard:
    """A file to write: its name within ``data/`` and the pieces whose rows go into it."""

    name: str
    config: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Job:
    """All that a process needs to write a shard. It travels by pickle."""

    builders: tuple[PublishedBuilder, ...]
    to: str
    images: str
    max_side: int | None
    selection: Selection
    taken: Taken | None
    folder: Path
    on_bad_image: str = "raise"

    @property
    def hidden(self) -> Path:
        """The folder for what is not data: the request, records of finished shards, unfinished files."""
        return self.folder / HIDDEN

    def account(self, config: int) -> Path:
        """The folder in which processes leave their counts of rows of a configuration that they have left out."""
        return self.hidden / "left_out" / str(config)

    def image_export(self, config: int) -> ImageExport:
        """The way of one configuration's images into this export."""
        target = TARGETS[self.to]
        return ImageExport(
            images=self.builders[config].config.images,
            mode=self.images,
            max_side=self.max_side,
            folder=self.folder,
            temporary=self.hidden / "unfinished",
            absolute=target.absolute,
            local=target.trainer,
            on_bad_image=self.on_bad_image,
            on_missing_image=self.builders[config].config.request.on_missing_image,
        )

    def shape(self, config: int) -> RowShape:
        """The shape of the rows that are written; whoever reads the export decodes its images."""
        return replace(self.builders[config].shape, decode=True)


def plan(builders: tuple[PublishedBuilder, ...], chunk_size: int) -> list[Piece]:
    """The pieces of all published files, in order."""
    pieces = []
    for config, builder in enumerate(builders):
        for file in builder.config.files:
            hub.check_is_data(file, builder.token)
        shards = readers.plan(builder.config.files, chunk_size=chunk_size, num_shards=None, token=builder.token)
        pieces += [Piece(config, number, shard) for number, shard in enumerate(shards)]
    return pieces


def usual_number(job: Job, rows: int) -> int:
    """How many shards of a usual size about `rows` rows make."""
    size, usual = ROW_BYTES, TRAINER_SHARD if TARGETS[job.to].trainer else TEXT_SHARD
    if job.images == "embed":
        size += int(IMAGE_BYTES * min((job.max_side or IMAGE_SIDE) / IMAGE_SIDE, 1) ** 2)
        usual = PICTURE_SHARD
    return max(-(-rows * size // usual), 1)


def arrange(job: Job, pieces: list[Piece], num_shards: int | None, rows: int) -> list[OutputShard]:
    """The files to write: `num_shards` a configuration, or as many as make `rows` rows shards of a usual size."""
    target = TARGETS[job.to]
    shards = []
    for config, builder in enumerate(job.builders):
        mine = [piece for piece in pieces if piece.config == config]
        usual = 1 if target.one_file else min(usual_number(job, rows), len(mine))
        wanted = usual if num_shards is None else num_shards
        if wanted > len(mine):
            raise BadArgument(
                f"num_shards={wanted}: the files of {builder.config.name} can be cut into {len(mine)} pieces only."
            )
        name = builder.config.name
        shards += [
            OutputShard(f"{name}-{i:05d}-of-{wanted:05d}{target.suffix}", name, tuple(mine[run.start : run.end]))
            for i, run in enumerate(jsonl.split(jsonl.Range(0, len(mine)), wanted))
        ]
    return shards


def published(job: Job, piece: Piece, counted: bool = True) -> Iterator[pa.Table]:
    """What the published files say of the rows of a piece, those left out by the loader gone (and counted, once)."""
    builder = job.builders[piece.config]
    tally = builder.tally(str(job.account(piece.config)))
    for _, table in builder.annotations([piece.shard], tally):
        yield table
    if counted:
        tally.report()


def count_piece(job: Job, piece: Piece) -> tuple[str, Count]:
    """The first pass over a piece; see :func:`llava_zh.exporters.selection.count`."""
    draw = Draw(job.selection.seed, piece.config, piece.number)
    return piece.name, count(published(job, piece, counted=False), job.selection, draw)


def _taken(job: Job, piece: Piece) -> Iterator[pa.Table]:
    tables = published(job, piece)
    if job.taken is not None:
        yield from job.taken.rows(
            tables, piece.name, job.selection, Draw(job.selection.seed, piece.config, piece.number)
        )
    else:
        yield from (fitting for table in tables if len(fitting := job.selection.fitting(table)))


@dataclass(frozen=True)
class Written:
    """The record of a finished shard: its file, its bytes, the images of its rows, and image files new with it.

    `left_out` rows had a picture that proved to be bad or missing. `digest` is the SHA-256 of the file, and `pictures`
    that of the list of names and sizes of the image files that its rows name. `kinds` are those of its writer.
    """

    file: DataFile
    size: int
    digest: str
    pictures: str
    images: int
    image_files: int
    left_out: int = 0
    kinds: tuple[str, ...] = ()


def write_shard(job: Job, shard: OutputShard) -> Written:
    """Write one shard and the record that it is finished."""
    target, hidden = TARGETS[job.to], job.hidden
    path = places.inside(job.folder, f"data/{shard.name}", "the export")
    config = shard.pieces[0].config
    builder, shape, export = job.builders[config], job.shape(config), job.image_export(config)
    schema = shape.features().arrow_schema
    constants = {"config": shard.config, "language": builder.config_facts.language}
    rows = images = 0
    with appearing(path, hidden / "unfinished") as file, ThreadPoolExecutor(1) as behind:
        writer = target.writer(file, schema, Path(shard.name).stem)
        writing: Future[Any] = behind.submit(int)  # a table is written while the next is read and its images are
        try:
            for table in (table for piece in shard.pieces for table in _taken(job, piece)):
                for batch in _batches(table, None if job.images == "url" else PICTURE_ROWS):
                    ready, paths = export.convert(batch)
                    made = to_rows(ready, shape, schema, lambda _, paths=paths: paths, constants)  # type: ignore[misc]
                    writing.result()
                    writing = behind.submit(writer.write, made)
                    rows += len(ready)
                    images += len(paths)
            writing.result()
        finally:
            behind.shutdown()
            writer.close()
        digest = files.digest_of(file)
        size = file.tell()
    write_bytes(pictures_path(hidden, shard), bytes(export.listed), hidden / "unfinished")
    written = Written(
        DataFile(f"data/{shard.name}", shard.config, rows),
        size,
        digest,
        hashlib.sha256(export.listed).hexdigest(),
        images,
        export.written,
        export.left_out,
        tuple(sorted(writer.kinds)),
    )
    record = json.dumps(asdict(written), ensure_ascii=False).encode()
    write_bytes(record_path(hidden, shard), record, hidden / "unfinished")
    return written


def _batches(table: pa.Table, rows: int | None) -> Iterator[pa.Table]:
    if rows is None:
        yield table
        return
    for start in range(0, len(table), rows):
        yield table.slice(start, rows)


def record_path(hidden: Path, shard: OutputShard) -> Path:
    """Where it is noted that a shard is finished."""
    return hidden / "finished" / f"{shard.name}.json"


def pictures_path(hidden: Path, shard: OutputShard) -> Path:
    """Where the image files that a finished shard's rows name are listed."""
    return hidden / "pictures" / f"{shard.name}.txt"


def finished(job: Job, shard: OutputShard) -> Written | str:
    """The record of a shard that an earlier run finished, or why it has to be written again.

    The shard's file is read and its digest compared. Its pictures, of which there may be millions, are not read: each
    is looked up, and has to be a file of the size that was written.

    Raises:
        RunConflict: The record or the list of pictures is a pipe, a link, a device or a folder.
    """
    path = places.inside(job.folder, f"data/{shard.name}", "the export")
    try:
        written = msgspec.json.decode(files.read_kept(record_path(job.hidden, shard)), type=Written)
        listed = files.read_kept(pictures_path(job.hidden, shard))
    except (OSError, ValueError, RecursionError):
        return "its record in .export is missing, damaged or of another version"
    numbers = (written.file.rows, written.images, written.image_files, written.left_out)
    if (written.file.path, written.file.config) != (f"data/{shard.name}", shard.config) or min(numbers) < 0:
        return "its record in .export was changed"
    if hashlib.sha256(listed).hexdigest() != written.pictures:
        return "the list of its pictures in .export was changed"
    if not files.same(path, written.size, written.digest):
        return "the file was changed or is gone"
    if (picture := missing(job.folder, listed)) is not None:
        return f"images/{picture} was changed or is gone"
    return written
