"""Check SA-1B on disk: MD5 and checksums of archives, that every member can be read, that every JPEG decodes.

::

    OUT/report.json      what was found
    OUT/bad-images.txt   the images to leave out, for load_dataset(bad_images=): a path, a tab and the reason a line
    OUT/state.jsonl      what has been checked, appended to as it is; a later call goes on from there
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llava_zh.errors import BadArchive, BadArgument, BadImage, LlavaZhError, RootNotFound
from llava_zh.gates import pictures
from llava_zh.gates.magic import JPEG
from llava_zh.gates.pictures import JPEG_SUFFIXES
from llava_zh.gates.safe_text import json_text, one_line
from llava_zh.sa1b.contents import ARCHIVE_FILES, Contents, Item, chosen, trouble
from llava_zh.sa1b.gzip_pass import decompressed
from llava_zh.sa1b.gzip_points import cores
from llava_zh.sa1b.index import HARMLESS_PROBLEMS, Problem
from llava_zh.sa1b.lists import read_checklist
from llava_zh.sa1b.source import Source
from llava_zh.sa1b.tools.output import output_folder
from llava_zh.sa1b.tree import ArchiveInfo
from llava_zh.sa1b.urls import key_name
from llava_zh.storage.atomic import write_atomically
from llava_zh.storage.durable import check_kind, explained
from llava_zh.storage.lines import AppendFile
from llava_zh.storage.progress import Progress

if TYPE_CHECKING:
    from llava_zh.sa1b.filesystem import Sa1bFileSystem

#: Members that are checked and recorded together.
PIECE = 512
_SHOWN_TWICE = 20
_READ = 8 << 20


class BadMember(msgspec.Struct, frozen=True):
    """An image or other member that cannot be used. `offset` as in `Member`; None for a file of its own."""

    path: str
    offset: int | None
    reason: str

    @property
    def is_image(self) -> bool:
        return self.path.lower().endswith(JPEG_SUFFIXES)


class Piece(msgspec.Struct, omit_defaults=True):
    """A line of the state file: members `start` to `stop` of an archive in its `stamp`; all its bytes for stop 0."""

    archive: str
    stamp: str
    start: int = 0
    stop: int = 0
    images: int = 0
    size: int = 0
    bad: list[BadMember] = []
    md5: str | None = None
    damage: str | None = None


class ArchiveReport(msgspec.Struct):
    """What was found in one archive or folder.

    `md5` is "ok", "differs" (`md5_found` says which it is), "not listed", or None where it was not looked at.
    """

    name: str
    file: str
    kind: str
    members: int = 0
    images: int = 0
    bytes: int = 0
    md5: str | None = None
    md5_found: str | None = None
    bad: list[BadMember] = []
    problems: list[dict[str, Any]] = []  #: what the index knows: kind, member, offset, detail
    problem: str | None = None  #: why nothing in it can be read

    @property
    def lost(self) -> list[BadMember]:
        """The members that problems name, which nobody can open."""
        served = {bad.path for bad in self.bad}
        named = [one for one in self.problems if one["member"] and one["kind"] not in HARMLESS_PROBLEMS]
        paths = (f"{self.name}/{one['member']}".lstrip("/") for one in named)
        lost = (
            BadMember(path, one["offset"], f"{one['kind']}: {one['detail']}")
            for path, one in zip(paths, named, strict=True)
        )
        return [bad for bad in lost if bad.path not in served]

    @property
    def ok(self) -> bool:
        """Whether all of it can be used and is what was published, as far as was checked.

        A name that several members have is told of and no fault: the last of them is what every reader of tars gives.
        """
        harmless = all(problem["kind"] in HARMLESS_PROBLEMS for problem in self.problems)
        return not self.bad and self.problem is None and harmless and self.md5 != "differs"


class VerifyReport(msgspec.Struct):
    """The outcome of `verify`. `twice` names images that are in several archives of different names."""

    archives: list[ArchiveReport]
    twice: dict[str, list[str]]
    twice_count: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(archive.ok for archive in self.archives)

    @property
    def bad_images(self) -> list[BadMember]:
        """The images that cannot be read or decoded, and those that are known by name to be lost to damage."""
        return [bad for archive in self.archives for bad in (*archive.bad, *archive.lost) if bad.is_image]


def verify(
    fs: Sa1bFileSystem,
    output_dir: str | os.PathLike[str],
    *,
    archives: int | str | Iterable[int | str] | None = None,
    checklist: str | os.PathLike[str] | None = None,
    num_proc: int | None = None,
    fresh: bool = False,
) -> VerifyReport:
    """Read and decode everything in the roots of `fs`; see the module for what is written to `output_dir`.

    A call that was stopped, even by ``kill -9``, goes on where it was. Later calls check what is new, what changed
    (size or time of an archive, names in a folder), and again what was bad. Pillow decodes; like every decoder it
    fills in some damage silently. The checksums of gzip tell of that, or the MD5; a plain tar has none.

    Args:
        fs: ``fsspec.filesystem("sa1b", fo=ROOT)``.
        archives: numbers or names; all by default.
        checklist: Meta's ``checklist.chk``, to compare the MD5 of archive files with.
        num_proc: processes at most, by default one a core. 1, or little to check, keeps it in this process.
        fresh: check everything anew.

    Raises: RootNotFound, also when there is nothing to verify; UnknownName; BadArgument; RunConflict while another
        process uses `output_dir`; OutputError.
    """
    started = time.monotonic()
    sums = None if checklist is None else read_checklist(checklist)
    if num_proc is not None and num_proc < 1:
        raise BadArgument(f"num_proc={num_proc}: expected at least 1, or None for one a core.")
    infos = chosen(fs, archives)
    if not infos:
        raise RootNotFound(f"{', '.join(root.name for root in fs.roots)}: no archive and no folder of SA-1B's images.")
    with output_folder(output_dir) as folder:
        state = folder / "state.jsonl"
        check_kind(state)
        if fresh:
            state.unlink(missing_ok=True)
        _build_indexes(fs, infos)
        with _State(state) as done:
            run = _Run(fs, infos, sums, done)
            run.work(cores() if num_proc is None else num_proc)
        report = run.report(time.monotonic() - started)
        for name, data in (("bad-images.txt", _bad_list(report).encode()), ("report.json", _as_json(report))):
            with explained(folder / name):
                write_atomically(folder / name, data)
    return report


def _build_indexes(fs: Sa1bFileSystem, infos: list[ArchiveInfo]) -> None:
    missing = {info.name for info in infos if info.kind in ARCHIVE_FILES and not info.indexed}
    local = {root.name for root in fs.roots if root.local}
    if any(info.name in missing and info.root in local for info in infos):
        fs.build_index(sorted(missing))


class _State:
    """The state file: the pieces of each archive that were found good, and those checked now."""

    def __init__(self, path: Path) -> None:
        self.pieces: dict[tuple[str, str], list[Piece]] = {}
        self._decode = msgspec.json.Decoder(Piece).decode
        self._file = AppendFile(path, self._know)

    def _know(self, line: bytes) -> None:
        try:
            piece = self._decode(line)
        except msgspec.ValidationError:  # of another version: what it says is checked again
            return
        # So is what was bad: it may have been mended, or the disk have had a bad moment.
        if not piece.bad and piece.damage is None:
            self.pieces.setdefault((piece.archive, piece.stamp), []).append(piece)

    def add(self, piece: Piece) -> None:
        self._file.append(msgspec.json.encode(piece) + b"\n")
        self._file.flush()

    def __enter__(self) -> _State:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.sync()
        self._file.close()


class _Run:
    """One call of `verify`: what there is to do, and the reports that fill up."""

    def __init__(
        self, fs: Sa1bFileSystem, infos: list[ArchiveInfo], sums: dict[str, str] | None, state: _State
    ) -> None:
        self.fs, self.infos, self.sums, self.state = fs, infos, sums, state
        self.reports = {_file(info): ArchiveReport(info.name, _file(info), info.kind) for info in infos}
        self.keys: list[tuple[str, np.ndarray[Any, Any]]] = []
        self.todo: list[tuple[ArchiveInfo, str, int, int]] = []  # archive, stamp, start, stop
        self.total = 0
        for info in infos:
            self._plan(info)

    def _plan(self, info: ArchiveInfo) -> None:
        report = self.reports[_file(info)]
        try:
            contents = Contents(self.fs, info)
            stamp = contents.stamp
            report.members = len(contents)
            report.problems = [problem._asdict() for problem in contents.problems]
        except Exception as error:  # one archive's, whatever it is
            report.problem = trouble(error)
            return
        if info.kind in ARCHIVE_FILES and not report.members:
            report.problem = f"{report.file} holds no member. Fetch it again."
        self.keys.append((info.name, np.array(contents.keys)))
        known = {(piece.start, piece.stop): piece for piece in self.state.pieces.get((report.file, stamp), [])}
        pieces = [(at, min(at + PIECE, len(contents))) for at in range(0, len(contents), PIECE)]
        listed = self.sums is not None and info.path.rpartition("/")[2] in self.sums
        if self.sums is not None and info.kind in ARCHIVE_FILES and not listed:
            report.md5 = "not listed"
        # Reads of members do not see gzip's checksum, so all of the archive is gone through too.
        known_damaged = any(problem.kind not in HARMLESS_PROBLEMS for problem in contents.problems)
        if listed or (info.kind == "gzip" and not known_damaged):
            pieces.append((0, 0))
        for start, stop in pieces:
            if (start, stop) in known:
                self._take(info, known[start, stop])
            else:
                self.todo.append((info, stamp, start, stop))
                self.total += stop - start

    def work(self, workers: int) -> None:
        """Check what is to be checked; each piece is in the state file before the next is waited for."""
        # Whole archives go first: each is one long piece, and a long piece at the end would have a core to itself.
        jobs = sorted(self.todo, key=lambda job: job[3] > 0)
        # A process takes as long to start as some hundreds of images, or megabytes, to check.
        weight = sum(stop - start or (info.size or 0) >> 20 for info, _, start, stop in jobs)
        workers = min(workers, weight // PIECE, len(jobs))
        with Progress("Verifying", self.total, unit="members") as progress:
            for info, piece in _checked(self.fs, jobs, workers):
                if isinstance(piece, str):
                    self.reports[_file(info)].problem = piece
                    continue
                self.state.add(piece)
                self._take(info, piece)
                progress.add(piece.stop - piece.start)

    def _take(self, info: ArchiveInfo, piece: Piece) -> None:
        report = self.reports[_file(info)]
        report.images += piece.images
        report.bytes += piece.size
        report.bad += piece.bad
        expected = None if self.sums is None else self.sums.get(info.path.rpartition("/")[2])
        if piece.md5 is not None and expected is not None:
            report.md5_found = piece.md5
            report.md5 = "ok" if piece.md5 == expected else "differs"
        if piece.damage is not None:
            report.problems.append(Problem("checksum", "", 0, piece.damage)._asdict())

    def report(self, seconds: float) -> VerifyReport:
        for one in self.reports.values():
            one.bad.sort(key=lambda bad: (bad.offset or 0, bad.path))
        twice, count = _twice(self.keys)
        return VerifyReport(list(self.reports.values()), twice, count, round(seconds, 1))


def _file(info: ArchiveInfo) -> str:
    return f"{info.root}/{info.path}".rstrip("/")


def _twice(keys: list[tuple[str, np.ndarray[Any, Any]]]) -> tuple[dict[str, list[str]], int]:
    """Images that archives of different names hold: the first some with the archives' names, and how many."""
    by_name: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name, held in keys:
        if name:
            by_name.setdefault(name, []).append(held[held % 2 == 0])
    images = {name: np.unique(np.concatenate(held)) for name, held in by_name.items()}
    if not images:
        return {}, 0
    ids, counts = np.unique(np.concatenate(list(images.values())), return_counts=True)
    shared = ids[counts > 1]
    shown = {
        key_name(key): [name for name, held in images.items() if np.isin(key, held)]
        for key in shared[:_SHOWN_TWICE].tolist()
    }
    return shown, len(shared)


# -- in the worker processes -------------------------------------------------------------------------------

_worker_fs: Sa1bFileSystem | None = None


def _checked(
    fs: Sa1bFileSystem, jobs: list[tuple[ArchiveInfo, str, int, int]], workers: int
) -> Iterator[tuple[ArchiveInfo, Piece | str]]:
    """Each job with its piece as it is done, or with why its archive cannot be read."""
    if workers < 2:
        for job in jobs:
            yield job[0], _check(fs, *job)
        return
    # Processes that are started anew: a fork would take over the threads' locks of the libraries that decompress.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(fs,))
    waiting: dict[Future[Piece | str], ArchiveInfo] = {}
    queue = iter(jobs)
    try:
        while True:
            for job in islice(queue, 4 * workers - len(waiting)):
                waiting[pool.submit(_check_in_worker, *job)] = job[0]
            if not waiting:
                break
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool:
        raise LlavaZhError(
            "A checking process was killed (by the system for want of memory, or a crash of a decoder). What was "
            "checked is recorded: run the same command again, with --num-proc 1 if it happens again."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(fs: Sa1bFileSystem) -> None:
    global _worker_fs
    _worker_fs = fs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to deal with
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # the pool's queue does not tell a worker that its parent was killed
        os._exit(1)


def _check_in_worker(info: ArchiveInfo, stamp: str, start: int, stop: int) -> Piece | str:
    assert _worker_fs is not None
    return _check(_worker_fs, info, stamp, start, stop)


def _check(fs: Sa1bFileSystem, info: ArchiveInfo, stamp: str, start: int, stop: int) -> Piece | str:
    try:
        contents = Contents(fs, info)
        piece = Piece(_file(info), stamp, start, stop)
        if stop == 0:
            piece.md5, piece.damage = _whole(fs.open_archive(info).source, info.kind)
            return piece
        items = contents.items[start:stop]
    except Exception as error:  # one archive's, whatever it is
        return trouble(error)
    for item in items:
        reason, size = _reason(contents, item)
        piece.size += size
        if reason is not None:
            path = item.path.encode("utf-8", "backslashreplace").decode()  # names in archives may be any bytes
            piece.bad.append(BadMember(path, None if item.member is None else item.member.offset, reason))
        elif _is_image(item):
            piece.images += 1
    return piece


def _whole(source: Source, kind: str) -> tuple[str, str | None]:
    """The MD5 of all bytes of an archive, and what is wrong with its compressed data."""
    digest, damage = hashlib.md5(usedforsecurity=False), None
    if kind == "gzip":
        try:
            for _ in decompressed(source, digest):
                pass
            return digest.hexdigest(), None
        except BadArchive as error:
            digest, damage = hashlib.md5(usedforsecurity=False), str(error)
    for offset in range(0, source.size, _READ):
        digest.update(source.pread(offset, _READ))
    return digest.hexdigest(), damage


def _is_image(item: Item) -> bool:
    return item.path.lower().endswith(JPEG_SUFFIXES)


def _reason(contents: Contents, item: Item) -> tuple[str | None, int]:
    """What is wrong with `item`, None if nothing is, and the bytes it has."""
    try:
        data = contents.read(item)
    except Exception as error:  # one member's, whatever it is
        return f"cannot be read: {trouble(error)}", 0
    if _is_image(item):
        return jpeg_problem(data), len(data)
    if item.path.endswith(".json"):
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return f"is no JSON: {error}", len(data)
    return None, len(data)


def jpeg_problem(data: bytes) -> str | None:
    """Why `data` is no JPEG that decodes in full, or None if it is one."""
    if not data.startswith(JPEG):
        return f"is no JPEG: {len(data):,} bytes that start with {data[:8]!r}"
    try:
        pictures.decodes(data, "")
    except BadImage as error:
        return f"does not decode: {error}".replace("\n", " ").replace("\t", " ")
    return None


# -- what is written ---------------------------------------------------------------------------------------


def _bad_list(report: VerifyReport) -> str:
    lines = ["# images that cannot be used, for load_dataset(bad_images=...) and llava-zh show --bad-images"]
    lines += [f"{one_line(bad.path)}\t{one_line(' '.join(bad.reason.split()))}" for bad in report.bad_images]
    return "\n".join(lines) + "\n"


def _as_json(report: VerifyReport) -> bytes:
    fields = msgspec.to_builtins(report) | {"ok": report.ok}
    for archive, one in zip(fields["archives"], report.archives, strict=True):
        archive["ok"] = one.ok
    return json_text(fields, indent=1).encode("utf-8", "backslashreplace") + b"\n"
