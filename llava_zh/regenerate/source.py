"""The rows of a run, in an order that is the same every time, read from where the last session stopped."""

from __future__ import annotations

import os
from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from llava_zh.errors import BadArgument, RunConflict
from llava_zh.gates.counts import counted
from llava_zh.gates.safe_text import get_logger
from llava_zh.regenerate.plan import Begun, Closed, Looked, Plan, Selection, Start, Unit
from llava_zh.rows.given import as_loaded, says_no_image
from llava_zh.rows.records import Place

if TYPE_CHECKING:
    from llava_zh.catalog.facts import DatasetFacts
    from llava_zh.images.names import Base
    from llava_zh.regenerate.dataset_rows import PublishedRows

logger = get_logger(__name__)

# A model is asked about a picture, so a row of text alone is none of the run's, as if the selection had left it out.
PASSED_OVER = "rows of text alone, about which no model is asked, left out"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a unit, by its position in the input."""

    unit: int
    position: int
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Passed:
    """The first row of a unit that is finished; the others are not looked at."""

    position: int
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Over:
    """The last row of a unit has come."""

    unit: int


#: What the reader tells: new parts of the plan, and rows. A unit's Begun comes before its rows, then Closed and Over.
Event = Begun | Looked | Closed | Over | Row | Passed


class Cursor(Protocol):
    """Rows from a place in the input on."""

    position: int

    def start(self) -> Start: ...

    def __iter__(self) -> Iterator[Any]:
        """``(position, row)``, with :class:`Looked` and :class:`Passed` between them."""
        ...


@dataclass
class Source:
    """Rows and what the manifest says of them.

    Attributes:
        rows: A stream; a ``datasets.IterableDataset`` can go on from a state, anything else is read from the start.
        dataset, config: Names that are part of every row's key.
        identity: What must be the same when the run goes on.
        total: Number of rows, if known.
        image_base: What was put before the images' published paths, or around them.
        published: The rows of a dataset given by name, in place of `rows`.
        asked: The request for that dataset, for whoever reads the manifest.
        facts: What is known of that dataset.
        place: Where its rows lie on this machine, see :mod:`llava_zh.files.our_folders`.
    """

    rows: Any
    dataset: str
    config: str | None
    identity: dict[str, Any]
    total: int | None = None
    image_base: Base = ""
    published: PublishedRows | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    facts: DatasetFacts | None = None
    place: dict[str, Any] | None = None

    def selection(self) -> Selection:
        """Which rows are asked for, and what that means now."""
        return Selection(0) if self.published is None else self.published.selection()

    def cursor(self, start: Start, plan: Plan, selection: int, firsts: Container[int]) -> Cursor:
        """The rows of a selection from `start` on; those at the positions `firsts` are shown when they are passed."""
        if self.published is not None:
            return self.published.cursor(start, plan, selection)
        return _Iterated(self.rows, start, firsts)


class _Iterated:
    """Rows given as such, each of which belongs to the run.

    Those that say that they have no image are passed over as if they had not been given: positions do not count them.
    """

    def __init__(self, rows: Any, start: Start, firsts: Container[int]) -> None:
        self._rows, self._firsts = rows, firsts
        self._has_state = hasattr(rows, "state_dict") and hasattr(rows, "load_state_dict")
        self._ended = False
        self._state: tuple[dict[str, Any] | None, int] = None, 0  # the last one taken, and its position
        self._skipped, self.position = start.position, 0
        if start.state is not None and self._has_state:
            rows.load_state_dict(start.state)
            self._skipped, self.position = start.row, start.position - start.row
            self._state = start.state, self.position

    def start(self) -> Start:
        """The place after what was read so far. What a stream says of its end is not asked: it may begin again."""
        if self._has_state and not self._ended:
            self._state = self._rows.state_dict(), self.position
        state, at = self._state
        return Start(self.position, row=0 if state is None else self.position - at, state=state)

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, Any]] | Passed]:
        rows = self._with_images()
        for row in islice(rows, self._skipped):
            if self.position in self._firsts:
                yield Passed(self.position, _as_row(row, self.position))
            self.position += 1
        for row in rows:
            self.position += 1
            yield self.position - 1, _as_row(row, self.position - 1)
        self._ended = True

    def _with_images(self) -> Iterator[Any]:
        passed_over = 0
        try:
            for row in self._rows:
                if isinstance(row, Mapping) and says_no_image(row):
                    passed_over += 1
                else:
                    yield row
        finally:  # a limit may end it anywhere
            if passed_over:
                logger.warning(counted(passed_over, PASSED_OVER))


def _as_row(row: Any, position: int) -> Mapping[str, Any]:
    """A row that was given, or an image alone, as rows of a dataset are."""
    return as_loaded(Place("rows", row=position), row) if isinstance(row, Mapping) else {"image": row}


def open_source(path_or_rows: Any, name: str | None, loading: Mapping[str, Any]) -> Source:
    """The rows of a dataset by name, or of any iterable of rows or images.

    Args:
        path_or_rows: A name or a path that ``load_dataset`` knows; a ``datasets`` dataset; or an iterable of rows
            (mappings with an ``image``) or of images. An iterable must give the same rows in the same order every time.
        name: The config; of an iterable, what to call its rows.
        loading: Arguments of ``load_dataset``, for a dataset given by name.
    """
    if isinstance(path_or_rows, str | os.PathLike):
        return _published(path_or_rows, name, loading)
    if loading:
        raise BadArgument(f"{', '.join(loading)}: only for a dataset given by name, not for rows given as such.")
    if not isinstance(path_or_rows, Iterable) or isinstance(path_or_rows, Mapping | bytes):
        raise BadArgument(f"Expected a dataset's name or an iterable of rows; found {type(path_or_rows).__name__}.")
    total = len(path_or_rows) if isinstance(path_or_rows, Sized) else None
    return Source(_streaming(path_or_rows), "rows", name, {"dataset": "rows", "config": name}, total)


def _published(path: str | os.PathLike[str], name: str | None, loading: Mapping[str, Any]) -> Source:
    from llava_zh.catalog.request import Request
    from llava_zh.load import builder_of, place_of
    from llava_zh.regenerate.dataset_rows import PublishedRows

    asked = {argument: value for argument, value in loading.items() if argument != "cache_dir"}
    request = Request.of(path, name, asked, "regenerate")
    if "row_format" in request.given():
        raise BadArgument(
            f"row_format={request.row_format!r}: a model is asked about rows as published, and its answers are written "
            "so. Load what comes out in the form you want."
        )
    if request.options.regenerated:
        raise BadArgument("options: regenerated is for loading what a run has written; a run has no use for it.")
    builder = builder_of(request, loading.get("cache_dir"))
    config = builder.config
    identity = {
        "dataset": builder.FACTS.name,
        "config": config.name,
        "version": str(config.version),
        "files": [{"name": file.name, "size": file.size, "revision": file.revision} for file in config.files],
        **config.request.for_run(Selection.__struct_fields__),
        # Of a dataset that is only registered no version says how its files are read.
        **({"rules": config.rules} if config.rules else {}),
    }
    rows = PublishedRows(builder)
    return Source(
        (), builder.FACTS.name, config.name, identity,
        image_base=rows.image_base, published=rows, asked=request.to_dict(),
        facts=builder.FACTS, place=place_of(builder, request.image_root),
    )  # fmt: skip


def _streaming(rows: Any) -> Any:
    """`rows` with images left as they are stored; a ``datasets.Dataset`` becomes a stream, which can tell its state."""
    if hasattr(rows, "to_iterable_dataset"):
        rows = rows.to_iterable_dataset()
    return rows.decode(False) if getattr(rows, "features", None) else rows


@dataclass(frozen=True)
class Standing:
    """What the ledger knows when a session begins.

    Attributes:
        finished: Rows of each finished unit.
        known: Of each unit that is not finished, the position after its last row that is done or given up.
    """

    finished: Mapping[int, int] = field(default_factory=dict)
    known: Mapping[int, int] = field(default_factory=dict)


def read_units(source: Source, plan: Plan, standing: Standing, unit_rows: int, limit: int | None) -> Iterator[Event]:
    """The rows that are not finished, unit by unit. Runs in a thread of its own.

    Args:
        limit: Only the first so many rows of the run. Rows beyond it are finished where a session with a higher limit
            came as far: every row before the last that is done, and units that are closed.
    """
    return _Reader(source, plan, standing, unit_rows, limit).events()


class _Reader:
    def __init__(self, source: Source, plan: Plan, standing: Standing, unit_rows: int, limit: int | None) -> None:
        self._source, self._plan, self._standing = source, plan, standing
        self._unit_rows = unit_rows
        self._units = list(plan.units.values())
        self._left = limit  # rows up to the limit
        self._cursor: Cursor | None = None
        self._items: Iterator[Any] = iter(())
        self._selection = 0
        self._firsts = {unit.start.position for unit in self._units if unit.number in standing.finished}

    def events(self) -> Iterator[Event]:
        number = len(self._units)
        for selection in range(len(self._plan.selections)):
            at: Start | None = Start()
            for unit in self._units:
                if unit.selection == selection:
                    at = yield from self._known_unit(unit)
            while at is not None and self._left != 0:
                rows, at = yield from self._new_unit(number, selection, at)
                number += rows > 0

    def _known_unit(self, unit: Unit) -> Generator[Event, None, Start | None]:
        """The rows of a unit that was begun, if it is not finished; where the next one begins, None if nowhere."""
        if unit.number in self._standing.finished:
            self._count(self._standing.finished[unit.number])
            return None if unit.last else unit.end
        cursor = self._seek(unit.start, unit.selection)
        known = self._standing.known.get(unit.number, 0)
        rows, ended = yield from self._rows(unit.number, unit.rows, known)
        if ended and (cursor.position < known or rows < (unit.rows or 0)):
            raise RunConflict(
                f"The input has changed: it ends after {counted(cursor.position, 'rows')}, and the run knows rows "
                "beyond. Give the input the run was begun with, or another output_dir."
            )
        if unit.rows is not None:
            yield Over(unit.number)
            return None if unit.last else unit.end
        if not rows and not ended:
            return None  # the limit comes before it
        closed = self._closed(unit.number, unit.selection, rows, ended)
        yield closed
        yield Over(unit.number)
        return None if ended else closed.end

    def _new_unit(self, number: int, selection: int, at: Start) -> Generator[Event, None, tuple[int, Start | None]]:
        """A unit that begins at `at`; how many rows it has, and where the next one begins, None if nowhere."""
        cursor = self._seek(at, selection)
        rows, ended = yield from self._rows(number, None, 0, Begun(number, selection, at))
        if rows:
            yield self._closed(number, selection, rows, ended)
            yield Over(number)
        return rows, None if ended else cursor.start()

    def _rows(
        self, unit: int, closed: int | None, known: int, begun: Begun | None = None
    ) -> Generator[Event, None, tuple[int, bool]]:
        """The rows of a unit from where the cursor is; how many there were, and whether nothing follows them.

        Args:
            closed: How many there are, if that is settled.
            known: Position after the last one that is done or given up.
            begun: Told before the first of them.
        """
        assert self._cursor is not None  # sought
        rows = 0
        while rows < (self._unit_rows if closed is None else closed):
            if self._left == 0 and closed is None and self._cursor.position >= known:
                break
            item = next(self._items, None)
            if item is None:
                return rows, True
            if not isinstance(item, tuple):
                yield item
                continue
            if begun is not None:
                yield begun
                begun = None
            rows += 1
            self._count(1)
            yield Row(unit, *item)
        return rows, False

    def _closed(self, unit: int, selection: int, rows: int, ended: bool) -> Closed:
        """A unit ends here. Published files do not grow, nor does a selection that was widened: their end is final."""
        final = self._source.published is not None or selection < len(self._plan.selections) - 1
        assert self._cursor is not None  # sought
        return Closed(unit, rows, self._cursor.start(), ended and final)

    def _count(self, rows: int) -> None:
        if self._left is not None:
            self._left = max(self._left - rows, 0)

    def _seek(self, start: Start, selection: int) -> Cursor:
        """The cursor at `start`; another is opened only where it does not stand there already."""
        if self._cursor is None or self._cursor.position != start.position or self._selection != selection:
            self._cursor = self._source.cursor(start, self._plan, selection, self._firsts)
            self._items = iter(self._cursor)
            self._selection = selection
        return self._cursor
