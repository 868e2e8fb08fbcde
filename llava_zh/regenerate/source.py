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
    """

    rows: Iterable[Any]
    dataset: str
    config: str | None
    identity: dict[str, Any]
    total: int | None

    @property
    def has_state(self) -> bool:
        return hasattr(self.rows, "state_dict") and hasattr(self.rows, "load_state_dict")


def open_source(path_or_rows: Any, name: str | None, **loading: Any) -> Source:
    """The rows of a dataset by name, or of any iterable of rows or images.

    Args:
        path_or_rows: A name that ``load_dataset`` knows; a ``datasets`` dataset; or an iterable of rows (mappings with
            an ``image``) or of images. An iterable must give the same rows in the same order every time.
        name: The config; of an iterable, what to call its rows.
        loading: Arguments of ``load_dataset``; those that are None are left out.
    """
    given = {key: value for key, value in loading.items() if value is not None}
    if isinstance(path_or_rows, str):
        return _published(path_or_rows, name, given)
    given.pop("image_root", None)  # the rows say themselves where their images are
    if given:
        raise BadArgument(f"{', '.join(given)}: only for a dataset given by name, not for rows given as such.")
    if not isinstance(path_or_rows, Iterable):
        raise BadArgument(f"Expected a dataset's name or an iterable of rows; found {type(path_or_rows).__name__}.")
    total = len(path_or_rows) if isinstance(path_or_rows, Sized) else None
    identity = {"dataset": "rows", "config": name}
    return Source(_streaming(path_or_rows), "rows", name, identity, total)


def _published(path: str, name: str | None, loading: dict[str, Any]) -> Source:
    from llava_zh import load_dataset

    rows = load_dataset(path, name, split="train", streaming=True, row_format="llava", **loading)
    config = rows.info.config_name
    splits = rows.info.splits or {}
    total = splits["train"].num_examples if "train" in splits else None
    identity = {"dataset": path, "config": config, "version": str(rows.info.version)}
    identity |= {key: str(value) for key, value in loading.items() if key in ("revision", "source", "archives")}
    return Source(_streaming(rows), path, config, identity, total or None)


def _streaming(rows: Any) -> Iterable[Any]:
    """`rows` with images left as they are stored; a ``datasets.Dataset`` becomes a stream, which can tell its state."""
    if not hasattr(rows, "features") or not hasattr(rows, "cast_column"):
        return rows  # type: ignore[no-any-return]
    from datasets import Dataset, Image

    for column, feature in (rows.features or {}).items():
        if isinstance(feature, Image) and feature.decode:
            rows = rows.cast_column(column, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image) and feature.feature.decode:
            rows = rows.cast_column(column, type(feature)(Image(decode=False)))
    return rows.to_iterable_dataset() if isinstance(rows, Dataset) else rows  # type: ignore[no-any-return]


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
            source.rows.load_state_dict(states[first])  # type: ignore[attr-defined]
    rows = iter(source.rows)
    unit = first
    while limit is None or unit * unit_rows < limit:
        start = unit * unit_rows
        wanted = unit_rows if limit is None else min(unit_rows, limit - start)
        state = source.rows.state_dict() if source.has_state else None  # type: ignore[attr-defined]
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
