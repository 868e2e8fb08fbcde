"""The rows of a run, in an order that is the same every time, read from where the last session stopped."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llava_zh.errors import BadArgument


@dataclass(frozen=True, slots=True)
class Begin:
    """Rows of this unit follow; `state` is where the stream stood before its first row, if it can tell."""

    unit: int
    state: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Row:
    position: int
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Passed:
    """The first row of a unit that is finished; the others are not looked at."""

    position: int
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """The rows of this unit are over; it has so many."""

    unit: int
    rows: int


@dataclass
class Source:
    """Rows and what the manifest says of them.

    Attributes:
        rows: A stream; a ``datasets.IterableDataset`` can go on from a state, anything else is read from the start.
        dataset, config: Names that are part of every row's key.
        identity: What must be the same when the run goes on.
        total: Number of rows, if known.
        image_base: Folder or URL that was put before the images' published paths.
    """

    rows: Any
    dataset: str
    config: str | None
    identity: dict[str, Any]
    total: int | None = None
    image_base: str = ""

    @property
    def has_state(self) -> bool:
        return hasattr(self.rows, "state_dict") and hasattr(self.rows, "load_state_dict")


def open_source(path_or_rows: Any, name: str | None, loading: Mapping[str, Any]) -> Source:
    """The rows of a dataset by name, or of any iterable of rows or images.

    Args:
        path_or_rows: A name that ``load_dataset`` knows; a ``datasets`` dataset; or an iterable of rows (mappings with
            an ``image``) or of images. An iterable must give the same rows in the same order every time.
        name: The config; of an iterable, what to call its rows.
        loading: Arguments of ``load_dataset``, for a dataset given by name.
    """
    if isinstance(path_or_rows, str):
        return _published(path_or_rows, name, loading)
    if loading:
        raise BadArgument(f"{', '.join(loading)}: only for a dataset given by name, not for rows given as such.")
    if not isinstance(path_or_rows, Iterable) or isinstance(path_or_rows, Mapping | bytes):
        raise BadArgument(f"Expected a dataset's name or an iterable of rows; found {type(path_or_rows).__name__}.")
    total = len(path_or_rows) if isinstance(path_or_rows, Sized) else None
    return Source(_streaming(path_or_rows), "rows", name, {"dataset": "rows", "config": name}, total)


def _published(path: str, name: str | None, loading: Mapping[str, Any]) -> Source:
    from llava_zh import load_dataset_builder

    builder = load_dataset_builder(path, name, **{**loading, "row_format": "llava"})
    config = builder.config
    identity = {
        "dataset": builder.FACTS.name,
        "config": config.name,
        "version": str(config.version),
        "files": [{"name": file.name, "size": file.size, "revision": file.revision} for file in config.files],
        # What decides which rows there are, and (the last two) what the positions in units.log refer to.
        "archives": None if config.archives is None else sorted(config.archives),
        "bad_images": sorted(config.bad_images),
        "on_bad_row": config.on_bad_row,
        "on_missing_image": config.on_missing_image,
        "chunk_size": config.chunk_size,
        "num_shards": config.num_shards,
    }
    rows = _streaming(builder.as_streaming_dataset(split="train"))
    return Source(rows, builder.FACTS.name, config.name, identity, image_base=getattr(config.images, "base", ""))


def _streaming(rows: Any) -> Any:
    """`rows` with images left as they are stored; a ``datasets.Dataset`` becomes a stream, which can tell its state."""
    if hasattr(rows, "to_iterable_dataset"):
        rows = rows.to_iterable_dataset()
    return rows.decode(False) if getattr(rows, "features", None) else rows


def read_units(
    source: Source,
    unit_rows: int,
    limit: int | None,
    covered: Callable[[int], int],
    states: Mapping[int, dict[str, Any]],
) -> Iterator[Begin | Row | Passed | End]:
    """The rows that are not finished, unit by unit. Runs in a thread of its own.

    Args:
        covered: How many rows of a unit, from its first, are finished.
        states: Where the stream stood at the start of units, from earlier sessions.
    """
    first = 0
    if source.has_state:
        while covered(first) == unit_rows:
            first += 1
        while first and first not in states:
            first -= 1
        if first:
            source.rows.load_state_dict(states[first])
    rows = iter(source.rows)
    unit = first
    while limit is None or unit * unit_rows < limit:
        start = unit * unit_rows
        wanted = unit_rows if limit is None else min(unit_rows, limit - start)
        state = source.rows.state_dict() if source.has_state else None
        read = yield from _read_unit(unit, start, islice(rows, wanted), state, covered(unit))
        if read < wanted:
            return
        unit += 1


def _read_unit(
    unit: int, start: int, rows: Iterator[Any], state: dict[str, Any] | None, finished: int
) -> Generator[Begin | Row | Passed | End, None, int]:
    """The events of one unit; returns how many rows there were."""
    read = 0
    for row in rows:
        if not isinstance(row, Mapping):
            row = {"image": row}
        if read == 0 and finished:
            yield Passed(start, row)
        if read == finished:
            yield Begin(unit, state)
        if read >= finished:
            yield Row(start + read, row)
        read += 1
    if read > finished:
        yield End(unit, read)
    return read
