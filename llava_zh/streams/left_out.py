"""What reading leaves out, counted by reason and told: by each process for itself, or once for all that share a job."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BadFile, BadRow, NothingLeft
from ..files import hub
from ..files.data_files import DataFile
from ..gates.counts import counted
from ..gates.safe_text import get_logger
from ..rows import records
from ..rows.columns import USUAL, Columns
from ..storage.atomic import atomic

logger = get_logger(__name__)

# Bad rows, and entries of a list that match nothing, named one by one in the log of a process; all are counted.
SHOWN = 5
# What was left out, in the folder of rows that were prepared.
KEPT = "left_out.json"
BAD_ROWS = "bad rows left out"
DAMAGED = "damaged files read as far as they could be"
UNPLACED = "images given undecoded, as it is not known where they are"


class Tally:
    """What a process has left out or come across while reading; told from several threads at once.

    Args:
        name: The dataset, for the log.
        on_bad_row: ``"raise"`` or ``"skip"``.
        bad_images: The entries of ``bad_images=``, each of which should match some row.
        columns: The names under which rows have each field.
        account: A folder in which the processes of one job leave their counts, so that :meth:`Account.tell` tells of
            all of them together. Without one this process tells of its own.
    """

    def __init__(
        self,
        name: str,
        on_bad_row: str,
        bad_images: frozenset[str] = frozenset(),
        account: str | None = None,
        columns: Columns = USUAL,
    ) -> None:
        self._name, self._on_bad_row, self._bad_images, self._account = name, on_bad_row, bad_images, account
        self._known = columns
        self._counts: Counter[str] = Counter()
        self._rows = 0
        self._matched: set[str] = set()
        self._columns: set[str] = set()
        self._unplaced = False
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # Each process counts what it has left out itself.
        return Tally, (self._name, self._on_bad_row, self._bad_images, self._account, self._known)

    def rows(self, number: int) -> None:
        """Count good rows that the files gave, before any selection."""
        with self._lock:
            self._rows += number

    def count(self, what: str, number: int) -> None:
        """Count `number` rows (or images) left out; `what` says why, in the plural."""
        if number:
            with self._lock:
                self._counts[what] += number

    def matched(self, entries: Iterable[str]) -> None:
        """Take note of entries of ``bad_images=`` that some row has."""
        with self._lock:
            self._matched.update(entries)

    def bad_row(self, error: BadRow) -> None:
        """Raise `error`, or count it and name the first few."""
        if self._on_bad_row == "raise":
            raise _numbered(error)
        self.count(BAD_ROWS, 1)
        if self._counts[BAD_ROWS] <= SHOWN:
            logger.warning("left out: %s", error)

    def unplaced(self, path: str, number: int) -> None:
        """Count images that come undecoded though those of the first rows do not, and name the first of them."""
        self.count(UNPLACED, number)
        with self._lock:
            told, self._unplaced = self._unplaced, True
        if not told:
            logger.warning(
                "%s: it is not known where the image %s is, which is called unlike those of the first rows; it comes "
                "undecoded, as do others like it. Pass image_root=, the folder that all paths start from; where those "
                "of the first rows are SA-1B's, load the rows as 'llava' with data_files= and image_root=.",
                self._name, path[:200],
            )  # fmt: skip

    def damage(self, error: BadFile) -> None:
        """Raise `error`, or count and name it, when all that could be read of a damaged file was read."""
        if self._on_bad_row == "raise":
            raise error
        self.count(DAMAGED, 1)
        logger.warning("damaged: %s", error)

    def columns(self, names: Iterable[str]) -> None:
        """Tell once of keys that no field is known by."""
        new = set(self._known.unknown(names)) - self._columns
        if not new:
            return
        with self._lock:
            new -= self._columns
            self._columns |= new
        if new:
            logger.warning("%s: keys that are not loaded: %s", self._name, ", ".join(sorted(new)))

    def report(self) -> None:
        """Tell what was left out since the last report, or leave it to the account."""
        if self._account is None:
            total = Account(self._name, self._bad_images)
            total.add(self._rows, self._counts, self._matched)
            total.tell()
        else:
            text = json.dumps({"rows": self._rows, "counts": self._counts, "matched": sorted(self._matched)})
            # No job reads what a killed one left, so that it need be neither whole nor synced.
            Path(self._account, f"{uuid.uuid4().hex}.json").write_text(text, encoding="utf-8")
        self._counts.clear()
        self._rows = 0


class Account:
    """The counts of all processes of one job."""

    def __init__(self, name: str, bad_images: frozenset[str] = frozenset()) -> None:
        self._name, self._bad_images = name, bad_images
        self.rows = 0
        self.counts: Counter[str] = Counter()
        self._matched: set[str] = set()

    def add(self, rows: int, counts: Counter[str], matched: Iterable[str]) -> None:
        self.rows += rows
        self.counts.update(counts)
        self._matched.update(matched)

    @classmethod
    def of(cls, folder: str, name: str, bad_images: frozenset[str]) -> Account:
        """What the processes of a job have left in `folder`, see :class:`Tally`."""
        account = cls(name, bad_images)
        for path in Path(folder).glob("*.json"):
            left = json.loads(path.read_text(encoding="utf-8"))
            account.add(left["rows"], left["counts"], left["matched"])
        return account

    def tell(self) -> None:
        """Log what was left out, and which entries of ``bad_images=`` matched no row."""
        if self.counts:
            logger.warning("%s: %s", self._name, self._listed())
        unmatched = sorted(self._bad_images - self._matched)
        if self.rows and unmatched:
            shown = ", ".join(unmatched[:SHOWN]) + (" …" if len(unmatched) > SHOWN else "")
            logger.warning(
                "%s: %d of %d entries of bad_images match no row that was read: %s",
                self._name, len(unmatched), len(self._bad_images), shown,
            )  # fmt: skip

    def keep(self, folder: Path) -> None:
        """Write what was left out to the `folder` of rows that were prepared, for :func:`tell_kept`."""
        if self.counts:
            with atomic(folder / KEPT) as file:
                file.write(json.dumps(self.counts).encode())

    def nothing_left(self, selection: str, *, in_sa1b: bool) -> NothingLeft:
        """The error for a job that gave no row at all; `selection` is what was asked for, in words."""
        read = self.rows + self.counts[BAD_ROWS]
        if not read:
            return NothingLeft(f"{self._name}: the files hold no row.", rows=0)
        listed = self._listed()
        look = ", or look at where the images are with `llava-zh sa1b status`" if in_sa1b else ""
        return NothingLeft(
            f"{self._name}: none of {counted(read, 'rows')} is left{listed and f': {listed}'}. "
            f"Asked for: {selection or 'all rows'}. Widen the selection{look}.",
            rows=read,
        )

    def _listed(self) -> str:
        return _listed(self.counts)


def tell_kept(folder: Path, name: str) -> None:
    """Log what was left out when the rows in `folder` were prepared."""
    try:
        counts = json.loads((folder / KEPT).read_text(encoding="utf-8"))
        logger.warning("%s: when these rows were prepared, %s", name, _listed(counts))
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, AttributeError) as error:  # a cache is anybody's to change
        logger.warning("%s: it is not known what was left out of these rows (%s: %s)", name, folder / KEPT, error)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(counted(number, what) for what, number in counts.items() if number)


def _numbered(error: BadRow) -> BadRow:
    """`error` with its line's number where the file is on disk and can be counted through."""
    if error.byte is None or not error.file.endswith((".jsonl", ".ndjson")) or error.file.startswith(tuple(hub.HUBS)):
        return error
    file = DataFile(name=error.file, size=error.byte, source="local", path=error.file)
    lines = sum(piece.count(b"\n") for piece in hub.read(file, 0, error.byte))
    return records.with_line(error, lines + 1)
