"""The output folder of a run: what is done, what failed, and how to go on after a crash at any moment.

::

    OUT/manifest.json      what the run is: input, prompt, model, parameters
    OUT/data/000000.jsonl  finished units in the published form, each renamed into place when it is whole
    OUT/failed.jsonl       rows given up, with the reason and the raw answer; made from the units' own files
    OUT/report.json        figures of the last session and of the whole
    OUT/journal/plan-*.log which rows belong to the run and how they are cut into units: see plan.py
    OUT/journal/000007.*   rows of unit 7 so far, and its commit: see units.py
    OUT/journal/owner.json who works in the folder: see folder.py

A unit is at most `unit_rows` rows that follow each other in the input. No file is ever changed by another process than
the one that made it, and what a crash left unfinished is not mended but passed over: the plan and the journals go on in
files of their own. So a run is in the same state whichever two writes a crash comes between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from llava_zh.errors import OutputError, RunConflict
from llava_zh.gates.counts import counted
from llava_zh.regenerate.binding import forget, what_binds
from llava_zh.regenerate.folder import RunFolder
from llava_zh.regenerate.manifest import check_manifest
from llava_zh.regenerate.plan import Again, Begun, Closed, Looked, Plan, Positions, Selection, Unit
from llava_zh.regenerate.source import Over, Standing
from llava_zh.regenerate.tally import Line, Tally
from llava_zh.regenerate.units import Content, Done, KeyHashes, UnitFiles, encode, failure_line, hashes_of
from llava_zh.storage.durable import explained
from llava_zh.storage.lines import AppendFile, write_lines


class Place(msgspec.Struct, frozen=True):
    """A row of the run: its unit, its position in the input, and the key that says which row it is."""

    unit: int
    position: int
    key: str


class _Open:
    """A unit that is not finished."""

    def __init__(self, unit: Unit, content: Content) -> None:
        self.unit, self.content = unit, content
        self.over = False  # the reader has passed its last row
        self.log: AppendFile | None = None  # made with the first row of this session


_decode_line = msgspec.json.Decoder(Line).decode


class Ledger:
    """The output folder, open for one run. All methods belong to one thread.

    Attributes:
        tally, failures: Of everything that is done or given up so far.
        notes: What a reader should know of how the run was taken up.
        plan: Which rows belong to the run.

    Raises:
        RunConflict: The folder holds another run, or a living process works in it.
        OutputError: The folder cannot be written, or something in it is gone or damaged.
    """

    def __init__(self, folder: Path, unit_rows: int, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.unit_rows = unit_rows
        self._home = RunFolder(folder)
        self._opened: list[AppendFile] = []
        try:
            self.notes = [note for note in (check_manifest(folder, manifest),) if note]
            with explained(self._home.journal, "read or written"):
                self._recover()
        except BaseException:
            for log in self._opened:
                log.close()
            self._home.close()
            raise
        # One thread for everything that waits for the disk: a journal is never synced while it is being closed.
        self._disk = ThreadPoolExecutor(1, "llava-zh-disk")
        self._pending: list[Future[Any]] = []

    def close(self) -> None:
        """Sync what is there and give the folder back."""
        try:
            self.flush()
            self._submit(self._sync_all, self._logs())
            self.raise_disk_errors(wait=True)
        finally:
            self._disk.shutdown()
            self.plan.close()
            self._failed.close()
            for unit in self._open.values():
                if unit.log is not None:
                    unit.log.close()
            self._home.close()

    # -- what earlier sessions left --------------------------------------------------------------------------

    def _recover(self) -> None:
        self.finished: dict[int, Done] = {}
        self.tally = Tally()
        self.failures: Counter[str] = Counter()
        self._open: dict[int, _Open] = {}
        self._firsts: dict[int, str] = {}  # position → key of the first row of finished units
        self.plan = Plan(self._home.journal)
        self._files = UnitFiles(self._home.journal, self._home.data)
        if unknown := sorted(self._files.numbers() - self.plan.units.keys()):
            raise self._lost_plan(unknown[0])
        for number, unit in self.plan.units.items():
            done = self._files.committed(number, unit.round)
            if done is None:
                self._take_up(unit)
            elif done.rows != unit.rows:  # the plan is synced before a commit, so no crash can cause this
                raise self._lost_plan(number)
            else:
                self._finished(unit, done)
                self.tally.merge(done.tally)
                self.failures.update(done.failed)
        self._failed = self._failures_anew()
        self._opened.append(self._failed)

    def _lost_plan(self, unit: int) -> OutputError:
        return OutputError(
            f"{self._home.journal}: unit {unit} is finished, and no plan-*.log says which rows it has. Put the plan "
            "back from a copy, or start again in a new output folder; rows in data/*.jsonl stay good and load as they "
            "are."
        )

    def _take_up(self, unit: Unit) -> None:
        """Read what is known of a unit that is not finished."""
        content = self._files.content(unit.number, unit.round, self._belonging(unit))
        self._open[unit.number] = _Open(unit, content)
        self.tally.merge(content.tally)
        self.failures.update(content.lost.values())

    def _belonging(self, unit: Unit) -> Callable[[int], bool]:
        """Whether the row at a position is the unit's, as far as the plan tells by now."""
        if unit.rows is not None:
            return set(self.plan.members(unit).tolist()).__contains__
        first, frontier = unit.start.position, self.plan.frontier(unit.selection)
        if not frontier:
            return lambda position: first <= position < first + self.unit_rows
        chosen = self.plan.chosen(unit.selection, first, frontier)
        return lambda position: first <= position < frontier and bool(chosen[position - first])

    def _finished(self, unit: Unit, done: Done) -> None:
        self.finished[unit.number] = done
        self._firsts[unit.start.position] = done.first_key

    def _failures_anew(self) -> AppendFile:
        """Make failed.jsonl from what the units say, whatever it held."""
        path = self.folder / "failed.jsonl"
        write_lines(path, self._failure_lines())
        return AppendFile(path)

    def _failure_lines(self) -> Iterator[bytes]:
        for number, unit in self.plan.units.items():
            if number in self._open:
                yield from self._files.open_failures(self._open[number].content)
            elif self.finished[number].failed:
                yield from self._files.failures(number, unit.round)

    def standing(self) -> Standing:
        """What the reader has to know of the units."""
        known = {number: max(each.content.keys, default=-1) + 1 for number, each in self._open.items()}
        return Standing({number: done.rows for number, done in self.finished.items()}, known)

    def forgive(self) -> int:
        """Forget every failure, so that those rows are asked again; how many there were."""
        count = self.failures.total()
        for unit in self.plan.units.values():
            done = self.finished.get(unit.number)
            if not (done.failed if done else self._open[unit.number].content.lost):
                continue
            self.plan.add(Again(unit.number, unit.round + 1))
            if done:
                del self.finished[unit.number]
            old = done.tally if done else self._open.pop(unit.number).content.tally
            self.tally.merge(old, -1)
            self._take_up(unit)
        self.plan.flush()
        self.plan.sync()
        self.failures.clear()
        self._failed.close()
        self._failed = self._failures_anew()
        return count

    def begin_anew(self) -> bool:
        """Forget what earlier sessions have planned and given up if nothing binds the run to it; whether that is so."""
        if what_binds(self.folder) is not None:
            return False
        self._failed.close()
        self.plan.close()
        forget(self._home.journal)
        with explained(self._home.journal, "read or written"):
            self._recover()
        return True

    # -- the plan --------------------------------------------------------------------------------------------

    def select(self, selection: Selection) -> None:
        """Write down which rows the run means from here on."""
        self.plan.add(selection)
        self.plan.flush()
        self.plan.sync()

    def tell(self, event: Begun | Looked | Closed | Over) -> None:
        """The reader has come to new rows, to a new unit, or to the end of one."""
        if isinstance(event, Over):
            self._open[event.unit].over = True
            self._finish_if_complete(self._open[event.unit])
            return
        self.plan.add(event)
        if isinstance(event, Begun):
            self._take_up(self.plan.units[event.unit])
            # Rows that a power cut kept while it lost the plan that they are of: failed.jsonl has not heard of them.
            for line in self._files.open_failures(self._open[event.unit].content):
                self._failed.append(line)
        elif isinstance(event, Closed):
            opened = self._open[event.unit]
            members = set(self.plan.members(opened.unit).tolist())
            if not opened.content.keys.keys() <= members:
                self._read_again(opened, members)

    def _read_again(self, opened: _Open, members: set[int]) -> None:
        """Leave out rows that the unit does not have: a power cut kept them and lost the plan that they are of."""
        self.flush()
        self.tally.merge(opened.content.tally, -1)
        self.failures.subtract(opened.content.lost.values())
        opened.content = self._files.content(opened.unit.number, opened.unit.round, members.__contains__)
        self.tally.merge(opened.content.tally)
        self.failures.update(opened.content.lost.values())

    # -- rows ------------------------------------------------------------------------------------------------

    def is_known(self, place: Place) -> bool:
        """Whether the row is done or given up; its unit has begun.

        Raises:
            RunConflict: At this position stood another row when the run began.
        """
        key = self._open[place.unit].content.keys.get(place.position)
        if key is not None and key != place.key:
            raise self._changed_input(place.position)
        return key is not None

    def check_first(self, position: int, key: str) -> None:
        """Make sure that a finished unit still begins with the row it began with."""
        expected = self._firsts.get(position)
        if expected and expected != key:
            raise self._changed_input(position)

    def _changed_input(self, position: int) -> RunConflict:
        return RunConflict(
            f"The input has changed: row {position} of it is not the row that {self.folder} knows at this position "
            "(another image, config or human turn). Give the input the run was begun with, or another output_dir"
            + ("." if self.tally.rows else "; or delete that folder: no row of it is finished.")
        )

    def done(self, place: Place, row: dict[str, Any]) -> None:
        """Keep a finished row, as soon as :meth:`flush` is called."""
        opened = self._open[place.unit]
        encoded = encode(row)
        line = _decode_line(encoded)
        self._log_of(opened).append(encoded + b"\n")
        opened.content.done(line)
        self.tally.add(line)
        self._finish_if_complete(opened)

    def failed(self, place: Place, reason: str, details: dict[str, Any]) -> None:
        """Keep a row that was given up, as soon as :meth:`flush` is called."""
        opened = self._open[place.unit]
        line = failure_line(place.position, place.key, reason, details)
        self._log_of(opened).append(line)
        self._failed.append(line.removeprefix(b'{"failed":').removesuffix(b"}\n") + b"\n")
        opened.content.give_up(place.position, place.key, reason)
        self.failures[reason] += 1
        self._finish_if_complete(opened)

    def _log_of(self, opened: _Open) -> AppendFile:
        if opened.log is None:
            path = self._files.new_attempt(opened.unit.number, opened.unit.round)
            opened.log = AppendFile(path, exclusive=True)
            opened.content.files.append((path, []))
        return opened.log

    # -- the disk --------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand every row kept so far to the operating system; a killed process loses none of them."""
        self.plan.flush()  # before the rows that it says belong to the run
        self._failed.flush()
        for log in self._logs():
            log.flush()

    def _logs(self) -> list[AppendFile]:
        return [each.log for each in self._open.values() if each.log is not None]

    def _finish_if_complete(self, opened: _Open) -> None:
        if not opened.over or len(opened.content.keys) < (opened.unit.rows or 0):
            return
        self.flush()
        del self._open[opened.unit.number]
        self._submit(self._finish, opened, self.plan.members(opened.unit))

    def _finish(self, opened: _Open, members: Positions) -> None:
        self.plan.sync()  # a commit counts for nothing without the plan that says what it is
        if opened.log is not None:
            opened.log.close()
        unit = opened.unit
        self._finished(unit, self._files.commit(unit.number, unit.round, opened.content, members))

    def sync(self) -> None:
        """Have everything so far synced in the background, all files in one go.

        Raises:
            OutputError: Something could not be written since the last call.
            RunConflict: Another process has taken the run over.
        """
        self.raise_disk_errors()
        if not self._pending:
            self._submit(self._sync_all, self._logs())

    def _sync_all(self, logs: list[AppendFile]) -> None:
        self._home.beat()
        self.plan.sync()
        for log in (*logs, self._failed):
            log.sync()

    def _submit(self, work: Callable[..., None], *arguments: Any) -> None:
        self._pending.append(self._disk.submit(work, *arguments))

    def raise_disk_errors(self, *, wait: bool = False) -> None:
        pending, self._pending = self._pending, []
        for future in pending:
            if wait or future.done():
                future.result()
            else:
                self._pending.append(future)

    # -- after all -------------------------------------------------------------------------------------------

    def distinct_keys(self) -> int:
        """How many different rows there are in the output and on their way to it, by their keys."""
        hashes = self._key_hashes()
        return len(np.unique(np.concatenate(list(hashes.values())))) if hashes else 0

    def _key_hashes(self) -> dict[int, KeyHashes]:
        found = {
            number: self._files.key_hashes(number, self.plan.units[number].round, done.tally.rows)
            for number, done in self.finished.items()
        }
        for number, opened in self._open.items():
            content = opened.content
            found[number] = hashes_of(key for position, key in content.keys.items() if position not in content.lost)
        return found

    def twice(self) -> OutputError:
        """The error for rows that are in the output twice: names units and keys."""
        hashes = self._key_hashes()
        values, counts = np.unique(np.concatenate(list(hashes.values())), return_counts=True)
        repeated = values[counts > 1]
        units = [number for number, found in hashes.items() if np.isin(found, repeated).any()]
        keys = Counter(key for number in units if number in self.finished for _, key in self._files.output_keys(number))
        shown = ", ".join(f"{key} ({count} times)" for key, count in keys.most_common(3) if count > 1)
        return OutputError(
            f"{self.folder}: {counted(self.tally.rows, 'rows')} have only {len(values):,} different keys: "
            f"{counted(len(repeated), 'rows')} are in the output more than once, in the units "
            f"{', '.join(map(str, units[:10]))}; {shown}. Please report this, with the folder journal/."
        )
