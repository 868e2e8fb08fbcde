"""An export from beginning to end: what was asked, what is done already, what is left, and the summary."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from ..errors import OutputError, RunConflict
from ..gates import places, sizes
from ..gates.counts import counted
from ..gates.html_tables import html_table
from ..gates.safe_text import get_logger
from ..storage.durable import explained, sync_folder
from ..storage.held import held
from ..storage.progress import Progress
from ..streams.left_out import Account
from . import shards
from .card import card
from .files import read_kept, write_bytes
from .selection import Taken
from .shards import Job, OutputShard, Piece, Written
from .targets import TARGETS, labels

logger = get_logger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

REQUEST = "request.json"
SELECTION = "selection.json"


@dataclass(frozen=True)
class ExportSummary:
    """What an export has come to.

    Args:
        folder: Where it is.
        files: The data files, in order.
        rows: Rows in them; `fitting` is how many there were to draw a sample from.
        images: Images of these rows; `image_files` of them were written as files by this run.
        size: Bytes of the data files.
        written, found: Data files that this run wrote, and those that an earlier one had finished and that are
            still whole, with their pictures.
        seconds: What this run took.
        left_out: Rows left out because a picture proved to be bad or missing when it was read.
        usage: How the export is read.
    """

    folder: str
    files: tuple[str, ...]
    rows: int
    fitting: int | None
    images: int
    image_files: int
    size: int
    written: int
    found: int
    seconds: float
    usage: str
    left_out: int = 0

    def _repr_html_(self) -> str:
        """A table for a notebook."""
        return html_table(
            "Export",
            {
                "folder": self.folder,
                "files": len(self.files),
                "rows": self.rows,
                "to draw from": self.fitting,
                "images": self.images,
                "image files": self.image_files or None,
                "size": sizes.show(self.size),
                "left out": self.left_out or None,
                "seconds": round(self.seconds, 1),
                "read it with": self.usage.splitlines(),
            },
        )

    def __str__(self) -> str:
        drawn = f" of {self.fitting:,}" if self.fitting is not None else ""
        earlier = f" ({self.found} finished earlier)" if self.found else ""
        pictures = f", {counted(self.image_files, 'image files')}" if self.image_files else ""
        left_out = f", {counted(self.left_out, 'rows')} with a bad or missing picture left out" if self.left_out else ""
        return (
            f"{counted(self.rows, 'rows')}{drawn} with {counted(self.images, 'images')} "
            f"in {counted(len(self.files), 'files')}{earlier}, {sizes.show(self.size)}{pictures}{left_out}, "
            f"{self.seconds:.1f} s\n{self.folder}\n{self.usage}"
        )


def run(job: Job, request: dict[str, Any], num_shards: int | None, rows: int, num_proc: int) -> ExportSummary:
    """Write what is not there yet.

    Args:
        request: All that decides what the export holds, as JSON.
        rows: About how many rows there will be.

    Raises:
        RunConflict: The folder holds something else, or another process is writing to it.
    """
    start = time.perf_counter()
    for config in range(len(job.builders)):
        job.image_export(config).check()
    busy = f"{job.folder}: another process is exporting to this folder. Wait for it to end."
    with contextlib.ExitStack() as stack:
        with explained(job.folder, "written to"):
            _check_usable(job.folder)
            job.hidden.mkdir(parents=True, exist_ok=True)
            _check_no_links(job)
            stack.enter_context(held(job.hidden / "lock", lambda: busy))
        pieces = shards.plan(job.builders, _chunk_size(job, num_shards or shards.usual_number(job, rows)))
        outputs = shards.arrange(job, pieces, num_shards, rows)
        _agree(job, request | {"num_shards": len(outputs) // len(job.builders)})
        with _Workers(num_proc) as workers:
            job = replace(job, taken=_taken(job, pieces, workers))
            written, found = _write(job, outputs, workers)
        _tell(job, whole=not found and job.selection.limit is None)
        summary = _summary(job, outputs, written, found, time.perf_counter() - start)
        if not summary.rows and 0 not in (job.selection.limit, job.selection.sample):
            # Of several configurations the first one's account stands for all: the same was asked of each.
            asked = [f"{name}={value!r}" for name, value in request["selection"].items()]
            asked += [f"whole pictures, missing in {counted(summary.left_out, 'rows')}"] if summary.left_out else []
            raise job.builders[0].nothing_left(", ".join(asked), job.selection.fitting_counted)
        _beside(job, request, written, summary.usage)
        with explained(job.folder / "data"):
            sync_folder(job.folder / "data")
    return summary


def _chunk_size(job: Job, num_shards: int) -> int:
    """Bytes a piece: always the same, unless more shards are wanted than there would be pieces."""
    smallest = min(sum(file.size for file in builder.config.files) for builder in job.builders)
    return max(min(shards.PIECE_BYTES, smallest // num_shards), 1)


# -- what was asked, and what is there ---------------------------------------------------------------------


def _check_usable(folder: Path) -> None:
    """Raise RunConflict when the folder holds anything but an export."""
    if folder.exists() and not folder.is_dir():
        raise RunConflict(f"{folder} is a file. Give a folder, which may be new.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / shards.HIDDEN).is_dir():
        raise RunConflict(f"{folder} holds files that are not of an export. Give another folder, or an empty one.")


def _check_no_links(job: Job) -> None:
    """Raise RunConflict where a part of the export is a link, by which files elsewhere would be written to."""
    kept = (
        job.hidden / name for name in ("lock", REQUEST, SELECTION, "finished", "pictures", "unfinished", "left_out")
    )
    for path in (job.hidden, *kept, job.folder / "data", job.folder / "images"):
        if path.is_symlink():
            raise RunConflict(
                f"{path} is a symbolic link, which no export makes. Delete it, or export to the folder it leads to."
            )


def _agree(job: Job, request: dict[str, Any]) -> None:
    """Note the request, or hold it to the one that the folder was begun with."""
    request = json.loads(json.dumps(request))
    path = job.hidden / REQUEST
    try:
        before = msgspec.json.decode(read_kept(path), type=dict[str, Any])
    except FileNotFoundError:
        before = request
    except (OSError, ValueError, RecursionError) as error:
        raise RunConflict(f"{path} cannot be read ({error}). Delete {job.folder} and export again.") from None
    if before != request:
        names = [name for name in {**before, **request} if before.get(name) != request.get(name)]
        differences = "; ".join(
            f"{n}: {_shown(before.get(n))} there, {_shown(request.get(n))} asked for" for n in names
        )
        raise RunConflict(
            f"{job.folder} holds an export of another request. {differences}. "
            "Ask for the same to finish it, give another folder, or delete this one."
        )
    unfinished = job.hidden / "unfinished"
    with explained(unfinished):
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
        unfinished.mkdir(parents=True)
        shutil.rmtree(job.hidden / "left_out", ignore_errors=True)
        for config in range(len(job.builders)):
            job.account(config).mkdir(parents=True)
    write_bytes(path, json.dumps(request, indent=1, ensure_ascii=False).encode(), unfinished)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _taken(job: Job, pieces: Sequence[Piece], workers: _Workers) -> Taken | None:
    """Which rows are taken, found out by a first pass where that is needed, once for the folder."""
    if not job.selection.counts_first:
        return None
    path = job.hidden / SELECTION
    try:
        return msgspec.json.decode(read_kept(path), type=Taken)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        # Chosen anew from other files, the rows might not be those of the shards that are finished.
        raise RunConflict(f"{path} cannot be read ({error}). Delete {job.folder} and export again.") from None
    counts = workers.in_order(shards.count_piece, job, pieces, "Choosing rows")
    taken = Taken.decide(job.selection, counts)
    write_bytes(path, json.dumps(asdict(taken)).encode(), job.hidden / "unfinished")
    return taken


# -- writing -----------------------------------------------------------------------------------------------


def _write(job: Job, outputs: Sequence[OutputShard], workers: _Workers) -> tuple[list[Written], int]:
    """Write the shards that are not there; the records of all, and how many were there."""
    there = [shard for shard in outputs if os.path.lexists(shards.record_path(job.hidden, shard))]
    records: dict[str, Written] = {}
    for shard, record in zip(there, workers.in_order(shards.finished, job, there, "Checking"), strict=True):
        if isinstance(record, Written):
            records[shard.name] = record
        else:
            logger.warning("data/%s was finished earlier, but %s. It is written again.", shard.name, record)
    found = len(records)
    left = [shard for shard in outputs if shard.name not in records]
    for shard, record in zip(left, workers.in_order(shards.write_shard, job, left, "Exporting"), strict=True):
        records[shard.name] = record
    return [records[shard.name] for shard in outputs], found


def _tell(job: Job, whole: bool) -> None:
    """Log what all processes have left out; `whole` says that all rows were read in this run."""
    for config, builder in enumerate(job.builders):
        name, bad_images = f"{builder.FACTS.name}/{builder.config.name}", builder.config.request.bad_images
        # Entries that match none of the rows that were read may match others.
        Account.of(str(job.account(config)), name, bad_images if whole else frozenset()).tell()


class _Workers:
    """Processes that work through a list; with one, the work is done in this process."""

    def __init__(self, num_proc: int) -> None:
        self._count = num_proc
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Workers:
        if self._count > 1:
            # Forking spares the caller's script a main guard, as in `datasets`; elsewhere it is unsafe or missing.
            method = "fork" if sys.platform == "linux" else "spawn"
            self._pool = ProcessPoolExecutor(self._count, multiprocessing.get_context(method))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=kind is not None)

    def in_order(
        self, work: Callable[[Job, Item], Result], job: Job, items: Sequence[Item], what: str
    ) -> Iterator[Result]:
        """The results for `items`, in order. Few are begun ahead, so that leaving off early wastes little.

        Raises:
            OutputError: A process died.
        """
        with Progress(what, len(items), unit="files") as progress:
            if self._pool is None:
                for item in items:
                    result = work(job, item)
                    progress.add(1)
                    yield result
                return
            futures: dict[int, Future[Result]] = {}
            begun = 0
            try:
                for number in range(len(items)):
                    while begun < len(items) and begun < number + 2 * self._count:
                        futures[begun] = self._pool.submit(work, job, items[begun])
                        begun += 1
                    wait([futures[number]], return_when=FIRST_COMPLETED)
                    result = futures.pop(number).result()
                    progress.add(1)
                    yield result
            except BrokenProcessPool as error:
                raise OutputError(
                    "A process of the export died, perhaps for want of memory. What is finished stays; run it again, "
                    "with a smaller num_proc or more num_shards."
                ) from error
            finally:
                for future in futures.values():
                    future.cancel()


# -- what goes beside the data -----------------------------------------------------------------------------


def _summary(
    job: Job, outputs: Sequence[OutputShard], written: Sequence[Written], found: int, seconds: float
) -> ExportSummary:
    names = labels(label(job), [record.file for record in written])
    paths = [str(job.folder / record.file.path) for record in written]
    shown = " ".join(names[:4]) + " …" * (len(names) > 4)
    return ExportSummary(
        folder=str(job.folder),
        files=tuple(record.file.path for record in written),
        rows=sum(record.file.rows for record in written),
        fitting=None if job.taken is None else job.taken.fitting,
        images=sum(record.images for record in written),
        image_files=sum(record.image_files for record in written),
        size=sum(record.size for record in written),
        written=len(outputs) - found,
        found=found,
        seconds=seconds,
        left_out=sum(record.left_out for record in written),
        usage=TARGETS[job.to].usage.format(
            folder=str(job.folder),
            name=label(job),
            names=shown,
            files=" or ".join(paths[:4]) + " …" * (len(paths) > 4),
            listed=",".join(paths[:4]) + ",…" * (len(paths) > 4),
        ),
    )


def label(job: Job) -> str:
    """What a trainer's registration calls the dataset."""
    configs = "_".join(builder.config.name for builder in job.builders)
    return f"{job.builders[0].FACTS.name.replace('-', '_')}_{configs}"


def _beside(job: Job, request: dict[str, Any], written: Sequence[Written], usage: str) -> None:
    """The registration file and the card. Written last: where they are, the export is whole."""
    from ..version import __version__

    files = [record.file for record in written]
    notes = TARGETS[job.to].notes(sorted({kind for record in written for kind in record.kinds}))
    typed = job.to == "parquet" or (job.to == "jsonl" and job.images == "url")
    features = job.shape(0).features() if typed else None
    texts = dict(TARGETS[job.to].register(label(job), job.folder, files))
    texts["README.md"] = card(job.builders[0].FACTS, request, files, features, usage, notes, __version__)
    for name, text in texts.items():
        # In JSON what is written for half a surrogate pair (in the name of a folder) is its escape.
        data = text.encode("utf-8", "backslashreplace")
        write_bytes(places.inside(job.folder, name, "the export"), data, job.hidden / "unfinished")


def processes(num_proc: int | None) -> int:
    """The number of processes that was asked for; 1 by default."""
    return 1 if num_proc is None else max(min(num_proc, 4 * (os.cpu_count() or 1)), 1)


def about_rows(job: Job) -> int:
    """About how many rows a configuration of this export will have."""
    wanted = job.selection.sample if job.selection.sample is not None else job.selection.limit
    if wanted is not None:
        return wanted
    return int(np.mean([sum(file.size for file in b.config.files) for b in job.builders])) // shards.ROW_BYTES
