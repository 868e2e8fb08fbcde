"""The plan of a run: which rows belong to it, in which order, and into which units they are cut.

A row is named by its position: its number from 0 in the published input, before anything is left out. The plan says of
every position that the run has come to whether its row belongs to the run. That is decided once; archives that come or
go later, or another list of bad images, change nothing about it.

The plan is a log. Each process that has something to add writes a segment of its own, ``journal/plan-0003.log``, whose
first line says how far the segment before it counts; no segment is written by two processes or after its successor has
begun. What is here:

- a :class:`Selection` for every time that the run was begun or widened: what was asked for, and what that meant then;
- :class:`Looked` for every stretch of the input that was come to: which of its rows belong to the run;
- :class:`Begun` and :class:`Closed` for every unit: where it starts in the input, how many rows it has, where it ends;
- :class:`Again` for a unit whose failed rows are to be asked once more.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from bisect import bisect_right
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np

from llava_zh.errors import OutputError
from llava_zh.gates.counts import counted
from llava_zh.storage.durable import sync_folder
from llava_zh.storage.lines import AppendFile, read_lines

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"
Positions: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]

#: Rows of the input in one stretch at most; the bound keeps a planted record from taking all memory.
_STRETCH = 1 << 26


class Start(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place in the input between two rows.

    Attributes:
        position: Of the row that follows.
        shard: Number of the file, and where in it the shard begins and ends, for published files.
        row: Rows between the start of the shard, or the place that `state` means, and this one.
        state: What a stream of `datasets` says of a place.
    """

    position: Count = 0
    shard: tuple[Count, Count, Count] | None = None
    row: Count = 0
    state: dict[str, Any] | None = None


class Selection(msgspec.Struct, frozen=True, tag="selection", tag_field="is", omit_defaults=True):
    """Which rows were asked for, and what that meant when it was written down.

    Attributes:
        number: From 0; a run has more than one once it was widened.
        archives: Archives asked for by name, or "available"; None for all.
        on_missing_image: As given.
        bad_images: As given, sorted.
        available: The archives that were there, where `archives` or `on_missing_image` look at what is there.
        contents: Text that changes when images outside of archives come or go.
    """

    number: Count
    archives: tuple[str, ...] | str | None = None
    on_missing_image: str = "raise"
    bad_images: tuple[str, ...] = ()
    available: tuple[str, ...] | None = None
    contents: str = ""


class Looked(msgspec.Struct, frozen=True, tag="looked", tag_field="is", omit_defaults=True):
    """The rows from position `first` up to `end` were looked at; `mask` says which belong to the run (None: all)."""

    selection: Count
    first: Count
    end: Count
    mask: str | None = None

    @classmethod
    def of(cls, selection: int, first: int, mask: Mask) -> Looked:
        packed = None if mask.all() else base64.b85encode(zlib.compress(np.packbits(mask).tobytes(), 1)).decode()
        return cls(selection, first, first + len(mask), packed)

    def rows(self) -> Mask:
        """The mask as it was.

        Raises:
            ValueError: It is damaged.
        """
        count = self.end - self.first
        if not 0 <= count <= _STRETCH:
            raise ValueError(f"a stretch of {count} rows")
        if self.mask is None:
            return np.ones(count, dtype=bool)
        try:
            packed = zlib.decompressobj().decompress(base64.b85decode(self.mask), count // 8 + 1)
        except (zlib.error, binascii.Error) as error:
            raise ValueError(str(error)) from None
        if len(packed) != (count + 7) // 8:
            raise ValueError("a mask of another length")
        return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)


class Begun(msgspec.Struct, frozen=True, tag="begun", tag_field="is"):
    """A unit begins at a place in the input."""

    unit: Count
    selection: Count
    start: Start


class Closed(msgspec.Struct, frozen=True, tag="closed", tag_field="is", omit_defaults=True):
    """A unit has so many rows and ends at a place in the input; `last` where the input of its selection ends there."""

    unit: Count
    rows: Count
    end: Start
    last: bool = False


class Again(msgspec.Struct, frozen=True, tag="again", tag_field="is"):
    """The rows of a unit that were given up before `round` are to be asked once more."""

    unit: Count
    round: Count


class _Segment(msgspec.Struct, frozen=True, tag="segment", tag_field="is"):
    """The first line of a segment: so many bytes of the segment before it count."""

    number: Count
    before: Count


Record: TypeAlias = "Selection | Looked | Begun | Closed | Again"
_decode = msgspec.json.Decoder(Selection | Looked | Begun | Closed | Again | _Segment).decode
_encode = msgspec.json.Encoder().encode
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Unit:
    """A unit as the plan has it; `rows`, `end` and `last` once it is closed."""

    __slots__ = ("end", "last", "number", "round", "rows", "selection", "start")

    def __init__(self, begun: Begun) -> None:
        self.number, self.selection, self.start = begun.unit, begun.selection, begun.start
        self.round = 0
        self.rows: int | None = None
        self.end: Start | None = None
        self.last = False


class Plan:
    """The plan in memory, and the segment that this process adds to. All methods belong to one thread.

    Raises:
        OutputError: A segment is damaged before the place up to which it counts, or does not fit what is before it.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self.selections: list[Selection] = []
        self.units: dict[int, Unit] = {}
        self._looked: list[list[Looked]] = []  # by selection, in order of positions
        self._log: AppendFile | None = None
        self._count = self._bytes = 0
        self._read()

    # -- records ---------------------------------------------------------------------------------------------

    def _read(self) -> None:
        paths = sorted(self._journal.glob("plan-*.log"))
        befores = [self._head(path, number) for number, path in enumerate(paths)]
        if befores and befores[-1] is None:
            paths.pop().unlink()  # nothing else was in it, and its name is used again
            befores.pop()
        if None in befores:
            raise _damaged(paths[befores.index(None)], "it has no first line, and another segment follows")
        for number, path in enumerate(paths):
            self._read_segment(path, befores[number + 1] if number + 1 < len(paths) else None)
        self._count = len(paths)

    def _head(self, path: Path, number: int) -> int | None:
        """How much of the segment before this one counts; None for one that was cut before that was written."""
        head = next(read_lines(path), b"")
        if not head.endswith(b"\n"):
            return None
        try:
            record = _decode(head)
        except _FAULTS:
            record = None
        if isinstance(record, _Segment) and record.number == number and path.name == _name(number):
            return record.before
        raise _damaged(path, "its first line does not fit its name and the segments before it")

    def _read_segment(self, path: Path, size: int | None) -> None:
        """Take in the records of a segment; without `size` (the last one), those before the first that is torn."""
        self._bytes = 0
        for number, line in enumerate(read_lines(path, size)):
            try:
                record = _decode(line) if line.endswith(b"\n") else None
            except _FAULTS:
                record = None
            if record is None:
                break
            if not isinstance(record, _Segment):
                try:
                    self._take(record)
                except (ValueError, LookupError) as error:
                    raise _damaged(path, f"line {number + 1} does not fit what is before it ({error})") from None
            elif number:
                raise _damaged(path, f"line {number + 1} is a first line")
            self._bytes += len(line)
        if size is not None and self._bytes != size:
            raise _damaged(path, f"no record at byte {self._bytes:,}, where one was when the run went on")

    def add(self, record: Record) -> None:
        """Take a record in and write it, as soon as :meth:`flush` is called."""
        self._take(record)
        if self._log is None:
            self._log = AppendFile(self._journal / _name(self._count), exclusive=True)
            self._log.append(_encode(_Segment(self._count, self._bytes)) + b"\n")
            self._log.flush()
            self._log.sync()
            sync_folder(self._journal)
        self._log.append(_encode(record) + b"\n")

    def flush(self) -> None:
        if self._log is not None:
            self._log.flush()

    def sync(self) -> None:
        if self._log is not None:
            self._log.sync()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _take(self, record: Record) -> None:
        match record:
            case Selection():
                if record.number != len(self.selections):
                    raise ValueError(f"selection {record.number}")
                self.selections.append(record)
                self._looked.append([])
            case Looked():
                if record.first != self.frontier(record.selection) or record.end < record.first:
                    raise ValueError(f"rows {record.first} to {record.end}")
                record.rows()
                self._looked[record.selection].append(record)
            case Begun():
                if record.unit != len(self.units) or record.selection >= len(self.selections):
                    raise ValueError(f"unit {record.unit}")
                self.units[record.unit] = Unit(record)
            case Closed():
                unit = self.units[record.unit]
                if unit.rows is not None or record.end.position < unit.start.position:
                    raise ValueError(f"unit {record.unit} ends twice, or before it starts")
                unit.rows, unit.end, unit.last = record.rows, record.end, record.last
            case Again():
                unit = self.units[record.unit]
                if record.round != unit.round + 1:
                    raise ValueError(f"round {record.round} of unit {record.unit}")
                unit.round = record.round

    # -- what it says ----------------------------------------------------------------------------------------

    def frontier(self, selection: int) -> int:
        """The position up to which `selection` has decided which rows belong to the run."""
        looked = self._looked[selection]
        return looked[-1].end if looked else 0

    def chosen(self, selection: int, first: int, end: int) -> Mask:
        """Which rows from position `first` to `end` `selection` has taken; those beyond its frontier count as not."""
        mask = np.zeros(max(end - first, 0), dtype=bool)
        looked = self._looked[selection]
        for record in looked[max(bisect_right(looked, first, key=lambda each: each.first) - 1, 0) :]:
            if record.first >= end:
                break
            low, high = max(record.first, first), min(record.end, end)
            if low < high:
                mask[low - first : high - first] = record.rows()[low - record.first : high - record.first]
        return mask

    def taken_before(self, selection: int, first: int, end: int) -> Mask:
        """Which rows from position `first` to `end` the selections before this one have taken."""
        mask = np.zeros(max(end - first, 0), dtype=bool)
        for earlier in range(selection):
            mask |= self.chosen(earlier, first, end)
        return mask

    def members(self, unit: Unit) -> Positions:
        """The positions of the rows of a closed unit, ascending.

        Raises:
            OutputError: They are not as many as the plan says.
        """
        assert unit.rows is not None and unit.end is not None  # closed
        first, end = unit.start.position, unit.end.position
        if self._looked[unit.selection]:
            positions = np.flatnonzero(self.chosen(unit.selection, first, end)).astype(np.int64) + first
        else:  # rows given as such: all of them
            positions = np.arange(first, first + unit.rows, dtype=np.int64)
        if len(positions) != unit.rows or (unit.rows and positions[-1] >= end):
            raise OutputError(
                f"{self._journal}: the plan says that unit {unit.number} has {counted(unit.rows, 'rows')} between "
                f"positions {first:,} and {end:,} of the input, and names {len(positions):,}. The plan is damaged; "
                "put it back from a copy, or start again in a new output folder."
            )
        return positions


def _name(number: int) -> str:
    return f"plan-{number:04d}.log"


def _damaged(path: Path, why: str) -> OutputError:
    return OutputError(
        f"{path} is damaged: {why}. It says which rows belong to the run, so nothing was changed. Put it back from a "
        "copy, or start again in a new output folder; rows in data/*.jsonl stay good and load as they are."
    )
