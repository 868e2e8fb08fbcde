"""The folder of a run, held by one process: what may stand in it, and who works in it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from llava_zh.catalog.row_files import BATCH
from llava_zh.errors import RunConflict
from llava_zh.gates.safe_text import get_logger, one_line
from llava_zh.storage.durable import check_kind, explained, open_regular
from llava_zh.storage.held import held

logger = get_logger(__name__)

#: Seconds between two marks of life of the process that holds a run.
HEARTBEAT = 10.0
#: Seconds for which the record of a process on another machine is watched: one that marks none in them has ended.
#: Only whether the record changes counts, never the time in it, so the clocks of the machines may differ by any amount.
WATCHED = 25.0

_FOLDERS = ("journal", "data", "images", BATCH)
_FILES = ("manifest.json", "failed.jsonl", "report.json")
_OWNER_BYTES = 4096


class Owner(msgspec.Struct):
    """Who holds a run, as written in ``journal/owner.json``."""

    host: str = "unknown"
    pid: int = 0
    token: str = ""  # tells this session from any other
    beat: int = 0  # counts the marks of life
    time: str = ""  # of the last mark, for a reader

    def __str__(self) -> str:
        return one_line(f'"pid": {self.pid}, "host": "{self.host[:100]}", last seen {self.time[:40] or "never"}')


def holder_of(journal: Path) -> Owner | None:
    """Who holds the run with this folder ``journal`` by its record; None if there is none, or none that can be read."""
    try:
        descriptor = open_regular(journal / "owner.json", os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            return msgspec.json.decode(file.read(_OWNER_BYTES), type=Owner)
    except (OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors, as is bad UTF-8
        return None


class RunFolder:
    """The folder, made if need be and held by this process until :meth:`close`.

    Processes of one machine exclude each other by a lock, and those of several by the record of who holds the run: a
    file lock may be known to one machine only (Lustre with ``localflock``).

    Raises:
        RunConflict: A living process works in it.
        OutputError: It cannot be written; or something else stands where a file or folder of the run belongs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal, self.data = path / "journal", path / "data"
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
            self._check_kinds()
            self.journal.mkdir(exist_ok=True)
            self.data.mkdir(exist_ok=True)
        self._held = contextlib.ExitStack()
        self._record = self.journal / "owner.json"
        self._owner = Owner(socket.gethostname(), os.getpid(), secrets.token_hex(8))
        self._lock_it()
        try:
            self._wait_for_other_machines()
            self._mark()
        except BaseException:
            self._held.close()
            raise

    def close(self) -> None:
        """Give the folder back."""
        with contextlib.suppress(OSError):
            if self._holder().token == self._owner.token:
                self._record.unlink(missing_ok=True)
        self._held.close()

    def beat(self) -> None:
        """Mark that this process lives, if it is time to.

        Raises:
            RunConflict: Another process has taken the run over, since this one gave no sign for long.
        """
        if time.monotonic() < self._next_mark:
            return
        holder = self._holder()
        if holder.token != self._owner.token and holder.token:
            raise RunConflict(
                f"{self.path} was taken over by another run ({holder}), since this process gave no sign of life for "
                f"over {WATCHED:.0f} s. It ends here; the other goes on."
            )
        self._mark()

    def _check_kinds(self) -> None:
        """Everything that a run reads or writes by name must be what it is called, and no way to another place."""
        for name in _FOLDERS:
            check_kind(self.path / name, folder=True)
        for name in _FILES:
            check_kind(self.path / name)
        for folder in (self.journal, self.data):
            if folder.is_dir():
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if not entry.is_file(follow_symlinks=False):
                            check_kind(folder / entry.name)

    def _lock_it(self) -> None:
        def busy() -> str:
            return f"{self.path} is in use by a living run ({self._holder()}). Wait for it or end it."

        with explained(self._record):
            self._held.enter_context(held(self.journal / "lock", busy))

    def _holder(self) -> Owner:
        """Who holds the run by its record; one without a token if there is none, or none that can be read."""
        return holder_of(self.journal) or Owner()

    def _wait_for_other_machines(self) -> None:
        first = self._holder()
        if not first.token or first.host == self._owner.host:
            return  # on this machine the lock tells
        logger.warning(
            "%s was last used from another machine (%s) and not given back. Waiting %.0f s to see whether it still "
            "works there.", self.path, first, WATCHED,
        )  # fmt: skip
        end = time.monotonic() + WATCHED
        while time.monotonic() < end:
            time.sleep(min(1.0, WATCHED / 20))
            now = self._holder()
            if not now.token:
                return
            if (now.token, now.beat) != (first.token, first.beat):
                raise RunConflict(
                    f"{self.path} is in use by a living run on another machine ({now}). Wait for it or end it; two "
                    "machines cannot work on one run."
                )
        logger.warning("%s: the run on %s gave no sign of life and is taken over.", self.path, one_line(first.host))

    def _mark(self) -> None:
        """Write the record in place: over NFS another machine sees the change of a file sooner than that of a name."""
        self._next_mark = time.monotonic() + HEARTBEAT
        self._owner.beat += 1
        self._owner.time = datetime.now(UTC).isoformat(timespec="seconds")
        data = msgspec.json.encode(self._owner)
        with explained(self._record):
            descriptor = open_regular(self._record, os.O_WRONLY | os.O_CREAT)
            if os.fstat(descriptor).st_nlink > 1:  # it is another file too, which is none of ours
                os.close(descriptor)
                self._record.unlink()
                descriptor = open_regular(self._record, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                os.write(descriptor, data + b"\n")
                os.ftruncate(descriptor, len(data) + 1)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
