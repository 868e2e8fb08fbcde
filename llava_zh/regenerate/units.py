"""What the files of one unit hold: rows so far in journals, and how a finished unit is committed.

::

    journal/000007.r0.a2.log    rows and failures of unit 7, round 0, as the third session to work on it saw them arrive
    journal/000007.r0.rows      the same rows in order, whole, about to be renamed to data/000007.jsonl
    journal/000007.r0.failed    failures, in order
    journal/000007.r0.keys      a hash of each row's key
    journal/000007.r0.done      the commit: with it the unit is finished, without it nothing of the above counts

An attempt's journal is written by one session and afterwards only read. A commit is one rename; whoever comes across a
commit whose rows are not yet in their place puts them there. A round is over when its commit is there; asking again for
failed rows begins another round, whose commit takes the place of the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np

from llava_zh.errors import OutputError
from llava_zh.gates.counts import counted
from llava_zh.regenerate.plan import Count, Positions
from llava_zh.regenerate.tally import Line, Tally
from llava_zh.storage.atomic import give_name
from llava_zh.storage.durable import open_regular
from llava_zh.storage.lines import is_whole, read_lines, write_lines

KeyHashes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"

_ATTEMPT = re.compile(r"(\d{6,9})\.r(\d{1,6})\.a(\d{1,9})\.log")
_DONE = re.compile(r"(\d{6,9})\.r(\d{1,6})\.done")
_DONE_BYTES = 1 << 20
#: How a line of a journal begins that tells of a failure; a published row begins with its id or its image.
_FAILED = b'{"failed":{'
FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Done(msgspec.Struct):
    """A commit: so many rows of the input, `size` bytes of rows in the output, and what was given up, by reason."""

    rows: Count
    size: Count
    first_key: str
    tally: Tally
    failed: dict[str, Count]


class _Failure(msgspec.Struct):
    position: Count
    key: str
    reason: str


class _Failed(msgspec.Struct):
    failed: _Failure


@dataclass
class Content:
    """The rows of a unit that are done or given up.

    Attributes:
        keys: Position → key of each.
        lost: Position → reason of those given up.
        files: The journals (and the data file of an earlier round) that they are in, each with the position of every
            line; None for a line that does not count.
    """

    keys: dict[int, str] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    files: list[tuple[Path, list[int | None]]] = field(default_factory=list)

    def done(self, line: Line) -> None:
        """Count a row whose line is now the last of the last file."""
        self.files[-1][1].append(line.regenerated.position)
        self.keys[line.regenerated.position] = line.regenerated.key
        self.tally.add(line)

    def give_up(self, position: int, key: str, reason: str) -> None:
        """Count a failure whose line is now the last of the last file."""
        self.files[-1][1].append(position)
        self.keys[position] = key
        self.lost[position] = reason

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Position and line of everything that counts.

        Raises:
            OutputError: A journal was changed since it was read.
        """
        for path, positions in self.files:
            try:
                for position, line in zip(positions, read_lines(path), strict=True):
                    if position is not None:
                        yield position, line
            except ValueError:
                raise OutputError(
                    f"{path} was changed by another while the run went on. Run the same command again: rows that are "
                    "not in it any more are asked once more."
                ) from None


_decode_line = msgspec.json.Decoder(Line).decode
_decode_failed = msgspec.json.Decoder(_Failed).decode
_decode_done = msgspec.json.Decoder(Done).decode
encode = msgspec.json.Encoder().encode


def failure_line(position: int, key: str, reason: str, details: dict[str, Any]) -> bytes:
    """The line of a journal for a row that was given up."""
    return b'{"failed":' + encode({"position": position, "key": key, "reason": reason, **details}) + b"}\n"


def is_failure(line: bytes) -> bool:
    """Whether a line of a journal tells of a row that was given up."""
    return line.startswith(_FAILED)


def unfinished_units(journal: Path) -> dict[str, list[Path]]:
    """The journals of each unit that is not finished, by its name; in the order in which they were begun."""
    files = UnitFiles(journal, journal.parent / "data")
    return {f"{unit:06d}": paths for unit in sorted(files.numbers_begun()) if (paths := files.open_attempts(unit))}


def has_rows(journal: Path) -> bool:
    """Whether a row is finished, in whatever file of a journal; a commit that cannot be read may be one of rows."""
    with os.scandir(journal) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        if _ATTEMPT.fullmatch(name) and any(map(_is_row, read_lines(journal / name))):
            return True
        if _DONE.fullmatch(name) and _rows_of(journal / name):
            return True
    return False


def _is_row(line: bytes) -> bool:
    with contextlib.suppress(*FAULTS):
        return is_whole(line) and not is_failure(line) and bool(_decode_line(line).regenerated.key)
    return False


def _rows_of(path: Path) -> int:
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file, contextlib.suppress(*FAULTS):
        return _decode_done(file.read(_DONE_BYTES)).tally.rows
    return 1


class UnitFiles:
    """The files of all units of a run; knows from one look at the journal which there are."""

    def __init__(self, journal: Path, data: Path) -> None:
        self.journal, self.data = journal, data
        self._attempts: dict[int, set[tuple[int, int]]] = {}
        self._done: dict[int, set[int]] = {}
        with os.scandir(journal) as entries:
            for entry in entries:
                if match := _ATTEMPT.fullmatch(entry.name):
                    unit, round_, attempt = map(int, match.groups())
                    self._attempts.setdefault(unit, set()).add((round_, attempt))
                elif match := _DONE.fullmatch(entry.name):
                    self._done.setdefault(int(match[1]), set()).add(int(match[2]))

    def numbers(self) -> set[int]:
        """The units that are committed, in whatever round."""
        return set(self._done)

    def numbers_begun(self) -> set[int]:
        """The units that have a journal."""
        return set(self._attempts)

    def open_attempts(self, unit: int) -> list[Path]:
        """The journals of the round of a unit that is not committed; none where every round is."""
        last = max(self._done.get(unit, ()), default=-1)
        attempts = sorted(self._attempts.get(unit, ()))
        if not attempts or attempts[-1][0] <= last:
            return []
        return [self.path(unit, round_, f"a{number}.log") for round_, number in attempts]

    def path(self, unit: int, round_: int, kind: str) -> Path:
        return self.journal / f"{unit:06d}.r{round_}.{kind}"

    def rows_path(self, unit: int) -> Path:
        """Where the rows of a finished unit are."""
        return self.data / f"{unit:06d}.jsonl"

    def new_attempt(self, unit: int, round_: int) -> Path:
        """The name of a journal that is not there yet."""
        attempts = self._attempts.setdefault(unit, set())
        number = 1 + max((number for _, number in attempts), default=-1)
        attempts.add((round_, number))
        return self.path(unit, round_, f"a{number}.log")

    # -- what is there ---------------------------------------------------------------------------------------

    def committed(self, unit: int, round_: int) -> Done | None:
        """The commit of a unit, its rows put into their place; None if this round has none.

        Raises:
            OutputError: The commit is damaged, or the rows that it tells of are gone.
        """
        if round_ not in self._done.get(unit, ()):
            return None
        path = self.path(unit, round_, "done")
        try:
            with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
                done = _decode_done(file.read(_DONE_BYTES))
        except FAULTS as error:
            raise OutputError(
                f"{path} is damaged: {error}. It says what {self.rows_path(unit)} holds. Put it back from a copy, or "
                "start again in a new output folder."
            ) from None
        self._publish(unit, round_, done)
        self._drop_before(unit, round_)
        return done

    def _publish(self, unit: int, round_: int, done: Done) -> None:
        finished, path = self.path(unit, round_, "rows"), self.rows_path(unit)
        if finished.exists():
            give_name(finished, path)
        size = path.stat().st_size if path.exists() else 0
        if size != done.size:
            raise OutputError(
                f"{path} was finished with {done.size:,} bytes and now has {size:,}. "
                "Put it back, or start again in a new output folder."
            )

    def _drop_before(self, unit: int, round_: int) -> None:
        """Remove what the commit of this round has made superfluous."""
        for old, attempt in self._attempts.pop(unit, set()):
            self.path(unit, old, f"a{attempt}.log").unlink(missing_ok=True)
        for old in sorted(self._done[unit] - {round_}):
            for kind in ("done", "rows", "failed", "keys"):
                self.path(unit, old, kind).unlink(missing_ok=True)
        self._done[unit] = {round_}

    def content(self, unit: int, round_: int, belongs: Callable[[int], bool]) -> Content:
        """What is known of a unit that is not finished in this round; lines that are none count as not there.

        Args:
            belongs: Whether the row at a position is the unit's.
        """
        content = Content()
        if any(earlier < round_ for earlier in self._done.get(unit, ())):
            self._read(self.rows_path(unit), content, belongs, failures=False)
        for of_round, attempt in sorted(self._attempts.get(unit, ())):
            path = self.path(unit, of_round, f"a{attempt}.log")
            self._read(path, content, belongs, failures=of_round == round_)
        return content

    @staticmethod
    def _read(path: Path, content: Content, belongs: Callable[[int], bool], *, failures: bool) -> None:
        positions: list[int | None] = []
        content.files.append((path, positions))
        for number, line in enumerate(read_lines(path)):
            if is_whole(line):
                with contextlib.suppress(*FAULTS):
                    if is_failure(line):
                        failure = _decode_failed(line).failed
                        if failures and failure.position not in content.keys and belongs(failure.position):
                            content.give_up(failure.position, failure.key, failure.reason)
                    else:
                        row = _decode_line(line)
                        if row.regenerated.position not in content.keys and belongs(row.regenerated.position):
                            content.done(row)
            if len(positions) == number:
                positions.append(None)

    def failures(self, unit: int, round_: int) -> Iterator[bytes]:
        """The lines of failed.jsonl that a finished unit gives."""
        return read_lines(self.path(unit, round_, "failed"))

    @staticmethod
    def open_failures(content: Content) -> Iterator[bytes]:
        """The lines of failed.jsonl that an unfinished unit gives."""
        return (_unwrapped(line) for position, line in content.lines() if position in content.lost)

    def key_hashes(self, unit: int, round_: int, rows: int) -> KeyHashes:
        """A hash of the key of each row in the output of a finished unit."""
        path = self.path(unit, round_, "keys")
        try:
            with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
                data = file.read(8 * rows + 1)
        except FileNotFoundError:
            data = b""
        if len(data) != 8 * rows:  # the data file has them too, it only takes longer
            return hashes_of(key for _, key in self.output_keys(unit))
        return np.frombuffer(data, np.uint64)

    def output_keys(self, unit: int) -> Iterator[tuple[int, str]]:
        """Position and key of each row in the output of a finished unit."""
        for line in read_lines(self.rows_path(unit)):
            try:
                row = _decode_line(line).regenerated
            except FAULTS as error:
                raise OutputError(f"{self.rows_path(unit)} is damaged: a line is no row of a run ({error}).") from None
            yield row.position, row.key

    # -- commit ----------------------------------------------------------------------------------------------

    def commit(self, unit: int, round_: int, content: Content, members: Positions) -> Done:
        """Put the rows of a unit in order into its data file, all of them or none.

        Raises:
            OutputError: Its rows are not exactly `members`, or two have the same key; or it cannot be written.
        """
        rows: dict[int, bytes] = {}
        failed: dict[int, bytes] = {}
        for position, line in content.lines():
            (failed if position in content.lost else rows)[position] = line
        _check(self.rows_path(unit), unit, content, rows, failed, members)
        positions = sorted(rows)
        finished = self.path(unit, round_, "rows")
        size = write_lines(finished, (rows[position] for position in positions)) if rows else 0
        given_up = self.path(unit, round_, "failed")
        if failed:
            write_lines(given_up, (_unwrapped(failed[position]) for position in sorted(failed)))
        else:
            given_up.unlink(missing_ok=True)  # of an attempt to commit that a crash cut short
        write_lines(self.path(unit, round_, "keys"), [hashes_of(content.keys[p] for p in positions).tobytes()])
        first_key = content.keys[int(members[0])] if len(members) else ""
        done = Done(len(members), size, first_key, content.tally, dict(Counter(content.lost.values())))
        write_lines(self.path(unit, round_, "done"), [encode(done), b"\n"])  # the one rename that finishes the unit
        self._done.setdefault(unit, set()).add(round_)
        if not rows:  # an earlier round had none either, for no row is ever lost
            finished.unlink(missing_ok=True)
        self._publish(unit, round_, done)
        self._drop_before(unit, round_)
        return done


def _check(
    path: Path,
    unit: int,
    content: Content,
    rows: dict[int, bytes],
    failed: dict[int, bytes],
    members: Positions,
) -> None:
    found = np.array(sorted([*rows, *failed]), np.int64)
    if not np.array_equal(found, members):
        missing, more = np.setdiff1d(members, found).tolist(), np.setdiff1d(found, members).tolist()
        raise OutputError(
            f"{path}: unit {unit} cannot be finished: expected {counted(len(members), 'rows')}, found {len(found):,}; "
            f"missing positions {missing[:5]}, too many {more[:5]}. Its journals were changed by another; run the same "
            "command again, and the rows that are missing are asked once more."
        )
    keys = Counter(content.keys[position] for position in found.tolist())
    if len(keys) != len(found):
        twice = [f"{key} ({count} times)" for key, count in keys.items() if count > 1]
        raise OutputError(
            f"{path}: unit {unit} cannot be finished: {counted(len(found), 'rows')} have only {len(keys):,} different "
            f"keys, twice for instance {', '.join(twice[:3])}. A row would be in the output twice. Please report this, "
            "with the folder journal/."
        )


def _unwrapped(line: bytes) -> bytes:
    """The failure itself, as failed.jsonl has it."""
    return line.removeprefix(b'{"failed":').rstrip(b"\n").removesuffix(b"}") + b"\n"


def hashes_of(keys: Iterable[str]) -> KeyHashes:
    """Eight bytes for each key."""
    digests = (hashlib.blake2b(key.encode(errors="replace"), digest_size=8).digest() for key in keys)
    return np.frombuffer(b"".join(digests), np.uint64)
