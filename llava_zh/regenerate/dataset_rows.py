"""The rows of a published dataset as a run reads them: every row with its position, and which of them it selects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llava_zh.errors import NothingLeft, RunConflict
from llava_zh.files.shards import Shard
from llava_zh.gates.counts import counted
from llava_zh.gates.safe_text import get_logger
from llava_zh.images.names import Base
from llava_zh.images.prefixed import PrefixedImages
from llava_zh.images.written_paths import around
from llava_zh.regenerate.plan import Looked, Mask, Plan, Selection, Start
from llava_zh.regenerate.source import PASSED_OVER
from llava_zh.rows.arrays import one_array
from llava_zh.streams.builder import PublishedBuilder
from llava_zh.streams.left_out import Tally
from llava_zh.streams.python_rows import python_rows

logger = get_logger(__name__)

_SELECTED = "selected"
_NUMBER = "number"


class Tallies(NamedTuple):
    """What reading came across, and what the selection has left out."""

    read: Tally
    selected: Tally


class PublishedRows:
    """The rows of a builder, read from any place on.

    Positions count what the files hold, before archives, bad images or missing ones leave rows out, so that none of
    these changes what a position means.
    """

    def __init__(self, builder: PublishedBuilder) -> None:
        self._builder = builder.asking(archives=None, bad_images=None, on_missing_image="raise")
        self._asked = builder.config.request
        self._images = builder.config.images
        self._chooser: PublishedBuilder | None = None
        self._arrived: frozenset[str] = frozenset()
        self._gone: frozenset[str] = frozenset()
        self._shards: list[Shard] | None = None

    @property
    def image_base(self) -> Base:
        """What the rows have before the published paths of their images, or around them."""
        return around(self._images) if isinstance(self._images, PrefixedImages) else getattr(self._images, "base", "")

    def selection(self) -> Selection:
        """What is asked for, and what it means now."""
        asked = self._asked
        archives = asked.archives if isinstance(asked.archives, str | None) else tuple(sorted(asked.archives))
        missing = asked.on_missing_image if asked.on_missing_image == "skip" else "raise"
        looks = asked.archives == "available" or missing == "skip"
        available, contents = self._images.held() if looks else (None, "")
        return Selection(0, archives, missing, tuple(sorted(asked.bad_images)), available, contents)

    def use(self, selection: Selection, now: Selection) -> None:
        """Select rows as `selection` says from here on; `now` tells which archives are there today."""
        self._chooser = self._builder.asking(
            archives=selection.archives,
            bad_images=frozenset(selection.bad_images),
            on_missing_image=selection.on_missing_image,
        )
        before, there = frozenset(selection.available or ()), frozenset(now.available or ())
        self._arrived, self._gone = there - before, before - there

    def cursor(self, start: Start, plan: Plan, selection: int) -> PublishedCursor:
        """The rows of a selection from `start` on. The last selection takes in more of the input, the others end."""
        return PublishedCursor(self, start, plan, selection)

    def nothing_left(self) -> NothingLeft:
        """The error for a run that has no row at all."""
        return (self._chooser or self._builder).nothing_left(choose=_with_images)

    def shards_from(self, start: Start) -> list[tuple[tuple[int, int, int], Shard]]:
        """The shards from that of `start` on, each with what names it.

        Raises:
            RunConflict: The files are cut into other shards than when the run began.
        """
        if self._shards is None:
            self._shards = self._builder.shards()
        files = {file: number for number, file in enumerate(self._builder.config.files)}
        named = [((files[shard.file], shard.start, shard.end), shard) for shard in self._shards]
        if start.shard is None:
            return named
        at = next((number for number, (name, _) in enumerate(named) if name == start.shard), None)
        if at is None:
            raise RunConflict(
                f"The input is cut into other shards than when the run began: none has the place {start.shard}. Go on "
                "with the version of llava-zh that the run was begun with (manifest.json names it), or begin anew."
            )
        return named[at:]

    def annotated(self, shard: Shard, tallies: Tallies) -> Iterator[pa.Table]:
        """What the file says of all rows of a shard, with a column that tells which the selection takes."""
        choose = partial(self._with_choice, tally=tallies.selected)
        for _, table in self._builder.annotations([shard], tallies.read, choose):
            yield table

    def rows(self, annotations: pa.Table, tally: Tally) -> Iterator[dict[str, Any]]:
        return python_rows(self._builder.row_maker(tally)(annotations.drop_columns([_SELECTED])))

    def tallies(self) -> Tallies:
        assert self._chooser is not None  # `use` comes before reading
        return Tallies(self._builder.tally(), self._chooser.tally())

    def _with_choice(self, table: pa.Table, tally: Tally) -> pa.Table:
        assert self._chooser is not None  # `use` comes before reading
        chosen = _chosen(self._chooser, table, tally)
        if self._arrived:
            chosen &= ~_any_image(self._builder, table, self._arrived)
        if self._gone:
            # The run means these archives. That they are gone is a fault of each of their rows, and told as such.
            everything = self._chooser.asking(archives=None, on_missing_image="raise")
            chosen |= _chosen(everything, table, everything.tally()) & _any_image(self._builder, table, self._gone)
        return table.append_column(_SELECTED, pa.array(chosen & _has_image(table)))


class PublishedCursor:
    """The rows of one selection from a place on, as ``(position, row)``, with a :class:`Looked` before new ones."""

    def __init__(self, rows: PublishedRows, start: Start, plan: Plan, selection: int) -> None:
        self._rows, self._plan, self._selection = rows, plan, selection
        self._admits = selection == len(plan.selections) - 1
        self._start = start
        self.position = start.position
        self._shard, self._first = start.shard, start.position - start.row
        self._passed_over = 0

    def start(self) -> Start:
        """The place after what was read so far."""
        return Start(self.position, self._shard, self.position - self._first)

    def __iter__(self) -> Iterator[Looked | tuple[int, dict[str, Any]]]:
        try:
            yield from self._read()
        finally:  # a limit may end it anywhere
            if self._passed_over:
                logger.warning(counted(self._passed_over, PASSED_OVER))
            self._passed_over = 0

    def _read(self) -> Iterator[Looked | tuple[int, dict[str, Any]]]:
        tallies = self._rows.tallies()
        frontier = self._plan.frontier(self._selection)
        first = self._first
        for name, shard in self._rows.shards_from(self._start):
            self._shard, self._first = name, first
            for table in self._rows.annotated(shard, tallies):
                low, end = max(first, self._start.position), first + len(table)
                first = end
                if low >= end:
                    continue
                if not self._admits and low >= frontier:
                    return
                table = table.slice(len(table) - (end - low))
                mask = self._known(low, min(end, frontier))
                if self._admits and end > frontier:
                    fresh = self._fresh(table, low, max(low, frontier), end)
                    yield Looked.of(self._selection, end - len(fresh), fresh)
                    self._passed_over += int((~_has_image(table.slice(len(table) - len(fresh)))).sum())
                    mask, frontier = np.concatenate([mask, fresh]), end
                mask = np.concatenate([mask, np.zeros(len(table) - len(mask), dtype=bool)])
                kept = table.filter(pa.array(mask))
                for number, row in zip(np.flatnonzero(mask).tolist(), self._rows.rows(kept, tallies.read), strict=True):
                    self.position = low + number + 1
                    yield low + number, row
                self.position = end
        tallies.read.report()
        if not self._start.position:  # else entries of bad_images may match rows before
            tallies.selected.report()

    def _known(self, low: int, end: int) -> Mask:
        return self._plan.chosen(self._selection, low, end)

    def _fresh(self, table: pa.Table, low: int, first: int, end: int) -> Mask:
        """Which rows from position `first` to `end` come into the run: selected now, and by no selection before."""
        selected: Mask = table[_SELECTED].to_numpy()[first - low :]
        return selected & ~self._plan.taken_before(self._selection, first, end)


def _chosen(builder: PublishedBuilder, table: pa.Table, tally: Tally) -> Mask:
    numbered = table.append_column(_NUMBER, pa.array(np.arange(len(table))))
    mask = np.zeros(len(table), dtype=bool)
    mask[builder.kept(numbered, tally)[_NUMBER].to_numpy()] = True
    return mask


def _has_image(table: pa.Table) -> Mask:
    found: Mask = pc.list_value_length(one_array(table["images"])).to_numpy() > 0
    return found


def _with_images(table: pa.Table, count: Callable[[str, int], None]) -> pa.Table:
    """The rows that have an image."""
    shown = table.filter(pa.array(_has_image(table)))
    count(PASSED_OVER, len(table) - len(shown))
    return shown


def _any_image(builder: PublishedBuilder, table: pa.Table, archives: Iterable[str]) -> Mask:
    """Which rows have an image in one of `archives`."""
    names = sorted(archives)
    mask = np.zeros(len(table), dtype=bool)
    rows = np.repeat(np.arange(len(table)), pc.list_value_length(table["images"]).to_numpy())
    images = one_array(pc.list_flatten(table["images"]))
    found = pc.is_in(builder.config.images.archive_of(images, names), value_set=pa.array(names, pa.string()))
    mask[rows[found.to_numpy(zero_copy_only=False)]] = True
    return mask
