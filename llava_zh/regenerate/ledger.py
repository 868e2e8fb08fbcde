"""The output folder of a run: what is done, what failed, and how to go on after a crash at any moment.

::

    OUT/manifest.json      what the run is: input, prompt, model, parameters
    OUT/data/000000.jsonl  finished units in the published form, each renamed into place when it is whole
    OUT/failed.jsonl       rows given up, with the reason and the raw answer
    OUT/report.json        figures of the last session and of the whole
    OUT/journal/units.log  which units are finished, and where the input stream stood at their starts
    OUT/journal/000007.log rows of unit 7 so far, in order of arrival; gone once the unit is finished

A unit is `unit_rows` consecutive rows of the input. Its journal holds the very lines that its data file will hold, so
finishing a unit is to sort them. The order of writing makes every crash harmless: a data file counts only once
units.log says so, and a journal goes only after that.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from llava_zh.durable import explained
from llava_zh.errors import OutputError, RunConflict
from llava_zh.lines import AppendFile, read_lines, write_lines
from llava_zh.regenerate.manifest import check_manifest
from llava_zh.regenerate.tally import Line, Tally


class Place(msgspec.Struct, frozen=True):
    """A row of the run: its position in the input stream and the key that says which row it is."""

    position: int
    key: str


class _Entry(msgspec.Struct, omit_defaults=True):
    """A line of units.log: a unit begun (`state`), finished (`rows` and what follows) or taken up again."""

    unit: int
    state: dict[str, Any] | None = None
    reopened: bool = False
    rows: int | None = None
    size: int = 0
    first_key: str = ""
    tally: Tally | None = None


class _Failure(msgspec.Struct):
    """What is read back of a line of failed.jsonl."""

    position: int
    key: str
    reason: str


class _Unit:
    """A unit that is being worked on."""

    def __init__(self, number: int, log: AppendFile) -> None:
        self.number = number
        self.log = log
        self.keys: dict[int, str] = {}  # position → key of the rows done or failed
        self.order: list[int] = []  # positions of the journal's lines
        self.rows: int | None = None  # known once the reader has passed the unit's last row
        self.first_key = ""
        self.tally = Tally()


_decode_line = msgspec.json.Decoder(Line).decode
_decode_entry = msgspec.json.Decoder(_Entry).decode
_decode_failure = msgspec.json.Decoder(_Failure).decode
_encode = msgspec.json.Encoder().encode


class Ledger:
    """The output folder, open for one run. All methods belong to one thread.

    Raises:
        RunConflict: The folder holds another run, or a living process works in it.
        OutputError: The folder cannot be written, or a finished file is gone.
    """

    def __init__(self, folder: Path, unit_rows: int, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.unit_rows = unit_rows
        self._journal = folder / "journal"
        self._data = folder / "data"
        with explained(folder):
            self._journal.mkdir(parents=True, exist_ok=True)
            self._data.mkdir(exist_ok=True)
        self._lock = FileLock(self._journal / "lock")
        self._take_lock()
        try:
            check_manifest(folder, manifest)
            self._recover()
        except BaseException:
            self._lock.release()
            raise
        # One thread for everything that waits for the disk: a journal is never synced while it is being closed.
        self._disk = ThreadPoolExecutor(1, "llava-zh-disk")
        self._pending: list[Future[None]] = []

    def close(self) -> None:
        """Sync what is there and give the folder back."""
        try:
            self.flush()
            self._submit(self._sync_all, [unit.log for unit in self._open.values()])
            self.raise_disk_errors(wait=True)
        finally:
            self._disk.shutdown()
            for log in (self._failed, self._units, *(unit.log for unit in self._open.values())):
                log.close()
            self._lock.release()

    def _take_lock(self) -> None:
        owner = self._journal / "owner.json"
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            who = owner.read_text() if owner.exists() else "unknown"
            raise RunConflict(
                f"{self.folder} is in use by a living run ({who.strip()}). Wait for it or end it."
            ) from None
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))

    # -- what earlier sessions left ------------------------------------------------------------------------

    def _recover(self) -> None:
        self.finished: dict[int, _Entry] = {}
        self.states: dict[int, dict[str, Any]] = {}
        self.tally = Tally()
        self.failures: Counter[str] = Counter()
        self._open: dict[int, _Unit] = {}
        self._given_up: dict[int, dict[int, str]] = {}  # unit → position → key, of units that are not finished
        self._units = AppendFile(self._journal / "units.log", self._know_entry)
        self._failed = AppendFile(self.folder / "failed.jsonl", self._know_failure)
        for unit, entry in self.finished.items():
            self.tally.merge(entry.tally or Tally())
            self._check_size(unit, entry)
            self._journal_path(unit).unlink(missing_ok=True)  # the crash came between the entry and this

    def _know_entry(self, line: bytes) -> None:
        entry = _decode_entry(line)
        if entry.state is not None:
            self.states[entry.unit] = entry.state
        if entry.reopened:
            self.finished.pop(entry.unit, None)
        if entry.rows is not None:
            self.finished[entry.unit] = entry

    def _know_failure(self, line: bytes) -> None:
        failure = _decode_failure(line)
        self.failures[failure.reason] += 1
        unit = failure.position // self.unit_rows
        if unit not in self.finished:
            self._given_up.setdefault(unit, {})[failure.position] = failure.key

    def _check_size(self, unit: int, entry: _Entry) -> None:
        path = self._data_path(unit)
        size = path.stat().st_size if path.exists() else 0
        if size != entry.size:
            raise OutputError(
                f"{path} was finished with {entry.size:,} bytes and now has {size:,}. "
                "Put it back, or start again in a new output folder."
            )

    def covered(self, unit: int) -> int:
        """How many rows of `unit`, from its first, are finished."""
        entry = self.finished.get(unit)
        return entry.rows or 0 if entry else 0

    def reopen(self, unit: int) -> None:
        """Turn a finished unit back into a journal, because the input has more rows for it now."""
        write_lines(self._journal_path(unit), read_lines(self._data_path(unit)))
        entry = self.finished.pop(unit)
        self._note(_Entry(unit, reopened=True))
        self.tally.merge(entry.tally or Tally(), -1)
        self._given_up[unit] = {
            failure.position: failure.key
            for failure in map(_decode_failure, read_lines(self.folder / "failed.jsonl"))
            if failure.position // self.unit_rows == unit
        }

    def forgive(self) -> int:
        """Forget every failure, so that those rows are asked again; how many there were."""
        count = sum(self.failures.values())
        for failure in map(_decode_failure, read_lines(self.folder / "failed.jsonl")):
            if failure.position // self.unit_rows in self.finished:
                self.reopen(failure.position // self.unit_rows)
        self._failed.close()
        write_lines(self.folder / "failed.jsonl", ())  # after the last reopening: until then a crash changes nothing
        self._failed = AppendFile(self.folder / "failed.jsonl")
        self.failures.clear()
        self._given_up.clear()
        return count

    # -- rows ----------------------------------------------------------------------------------------------

    def begin(self, unit: int, state: dict[str, Any] | None) -> None:
        """The reader has come to rows of `unit` that are not finished; `state` is where its stream stood before."""
        if unit in self.finished:
            self.reopen(unit)
        if state is not None and unit not in self.states:
            self.states[unit] = state
            self._submit(self._note, _Entry(unit, state=state))
        lines: list[Line] = []
        log = AppendFile(self._journal_path(unit), lambda line: lines.append(_decode_line(line)))
        opened = self._open[unit] = _Unit(unit, log)
        for line in lines:
            self._count(opened, line)
        opened.keys.update(self._given_up.pop(unit, {}))
        opened.first_key = opened.keys.get(unit * self.unit_rows, "")

    def is_known(self, place: Place) -> bool:
        """Whether the row is done or given up; its unit has begun.

        Raises:
            RunConflict: At this position stood another row when the run began.
        """
        key = self._open[place.position // self.unit_rows].keys.get(place.position)
        if key is not None and key != place.key:
            raise self._changed_input(place.position)
        return key is not None

    def check_first(self, place: Place) -> None:
        """Make sure that a finished unit still begins with the row it began with."""
        expected = self.finished[place.position // self.unit_rows].first_key
        if expected and expected != place.key:
            raise self._changed_input(place.position)

    def _changed_input(self, position: int) -> RunConflict:
        return RunConflict(
            f"The input has changed: row {position} of it is not the row that {self.folder} knows at this position "
            "(another image, config or human turn). Give the input the run was begun with, or another output_dir."
        )

    def done(self, place: Place, row: dict[str, Any]) -> None:
        """Keep a finished row, as soon as :meth:`flush` is called."""
        unit = self._open[place.position // self.unit_rows]
        encoded = _encode(row)
        unit.log.append(encoded + b"\n")
        self._count(unit, _decode_line(encoded))
        self._finish_if_complete(unit)

    def failed(self, place: Place, reason: str, details: dict[str, Any]) -> None:
        """Keep a row that was given up, as soon as :meth:`flush` is called."""
        unit = self._open[place.position // self.unit_rows]
        self._failed.append(
            _encode({"position": place.position, "key": place.key, "reason": reason, **details}) + b"\n"
        )
        self.failures[reason] += 1
        self._keep_key(unit, place.position, place.key)
        self._finish_if_complete(unit)

    def end(self, unit: int, rows: int) -> None:
        """The reader has passed the last row of `unit`, which has so many."""
        opened = self._open[unit]
        opened.rows = rows
        self._finish_if_complete(opened)

    def _count(self, unit: _Unit, line: Line) -> None:
        unit.order.append(line.regenerated.position)
        unit.tally.add(line)
        self.tally.add(line)
        self._keep_key(unit, line.regenerated.position, line.regenerated.key)

    def _keep_key(self, unit: _Unit, position: int, key: str) -> None:
        unit.keys[position] = key
        if position == unit.number * self.unit_rows:
            unit.first_key = key

    # -- the disk ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand every row kept so far to the operating system; a killed process loses none of them."""
        for log in (self._failed, *(unit.log for unit in self._open.values())):
            log.flush()

    def _note(self, entry: _Entry) -> None:
        self._units.append(_encode(entry) + b"\n")
        self._units.flush()
        self._units.sync()

    def _finish_if_complete(self, unit: _Unit) -> None:
        if unit.rows is None or len(unit.keys) < unit.rows:
            return
        first = unit.number * self.unit_rows
        # A smaller limit than last time can leave keys beyond the end, so the count alone does not tell.
        if all(position in unit.keys for position in range(first, first + unit.rows)):
            self.flush()
            del self._open[unit.number]
            self._submit(self._finish, unit)

    def _finish(self, unit: _Unit) -> None:
        """Sort the journal into the data file, then say so, then drop the journal."""
        by_position = dict(zip(unit.order, read_lines(unit.log.path), strict=True))
        lines = [by_position[position] for position in sorted(by_position)]
        size = write_lines(self._data_path(unit.number), lines) if lines else 0
        self._failed.sync()
        entry = _Entry(unit.number, rows=unit.rows, size=size, first_key=unit.first_key, tally=unit.tally)
        self._note(entry)
        self.finished[unit.number] = entry
        unit.log.close()
        unit.log.path.unlink()

    def sync(self) -> None:
        """Have everything so far synced in the background, all files in one go.

        Raises:
            OutputError: Something could not be written since the last call.
        """
        self.raise_disk_errors()
        if not self._pending:
            self._submit(self._sync_all, [unit.log for unit in self._open.values()])

    def _sync_all(self, logs: list[AppendFile]) -> None:
        for log in (*logs, self._failed, self._units):
            log.sync()

    def _submit(self, work: Any, *arguments: Any) -> None:
        self._pending.append(self._disk.submit(work, *arguments))

    def raise_disk_errors(self, *, wait: bool = False) -> None:
        pending, self._pending = self._pending, []
        for future in pending:
            if wait or future.done():
                future.result()
            else:
                self._pending.append(future)

    def _journal_path(self, unit: int) -> Path:
        return self._journal / f"{unit:06d}.log"

    def _data_path(self, unit: int) -> Path:
        return self._data / f"{unit:06d}.jsonl"
