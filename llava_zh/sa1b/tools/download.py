"""Fetch SA-1B's archives by the links that its download page gives, which expire; continued where it stopped."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llava_zh.errors import BadArchive, BadArgument, BadFile, HubError, LlavaZhError, UnknownName
from llava_zh.gates.counts import counted
from llava_zh.gates.places import checked_name
from llava_zh.gates.safe_text import public_name
from llava_zh.sa1b import store
from llava_zh.sa1b.lists import is_archive, read_checklist, read_links
from llava_zh.sa1b.source import LocalSource
from llava_zh.sa1b.tools.output import output_folder
from llava_zh.sa1b.urls import archive_names, archive_stem
from llava_zh.storage import http
from llava_zh.storage.atomic import give_name
from llava_zh.storage.continued import fetch_rest
from llava_zh.storage.durable import check_kind, check_space, explained
from llava_zh.storage.progress import Progress

#: What servers of signed links answer once the link is too old, or not the one that was given out.
_EXPIRED = (400, 401, 403, 410)
_RENEW = (
    "Get a new list of links from SA-1B's download page and run the same command with it: what came so far is kept."
)


@dataclass
class Downloaded:
    """What became of one archive file."""

    name: str  #: of the file
    path: str
    size: int | None = None  #: bytes
    kept: bool = False  #: it was there already
    md5: bool = False  #: its MD5 was compared
    expired: bool = False  #: the server refused the link
    skipped: bool = False  #: it is no archive, and was not asked for
    problem: str | None = None  #: why it is not there


def download(
    links: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    archives: int | str | Iterable[int | str] | None = None,
    files: Iterable[str] = (),
    checklist: str | os.PathLike[str] | None = None,
    num_proc: int = 4,
) -> list[Downloaded]:
    """Fetch archives into `output_dir`, several at once, each continued where an earlier call stopped.

    Nothing stands under a file's name before all of it is there and checked: its size, what it starts with, and
    its MD5 if `checklist` has it. Files that are there already are kept as they are.

    Args:
        links: the list of links, ``file_name<TAB>cdn_link``.
        archives: numbers or names; all that are listed by default, or none with `files` alone.
        files: other files of the list, by name: ``sa_images_ids.txt``, ``sa_co_gold.tar``.
        checklist: Meta's ``checklist.chk`` with the MD5 of every archive.
        num_proc: archives at a time.

    Returns one entry a file, with `problem` set where it could not be fetched; by default also one for each other file
    that is listed, with `skipped`.

    Raises: DataFileNotFound and BadFile for the lists; UnknownName for a file that is not in `links`; BadArgument for a
        choice of nothing; RunConflict; OutputError when the disk is too small, full or not writable.
    """
    if num_proc < 1:
        raise BadArgument(f"num_proc={num_proc}: expected at least 1.")
    listed = read_links(links)
    urls = _chosen(listed, archives, files)
    skipped = [] if archives is not None or files else sorted(listed.keys() - urls.keys())
    sums = {} if checklist is None else read_checklist(checklist)
    if checklist is not None and (unlisted := sorted(filter(is_archive, urls.keys() - sums.keys()))):
        raise BadFile(f"{os.fspath(checklist)} has no MD5 of {unlisted[0]} and {len(unlisted) - 1} others.")
    with output_folder(output_dir) as folder, ThreadPoolExecutor(num_proc) as pool:
        jobs = [_Job(folder, name, url, sums.get(name)) for name, url in urls.items()]
        try:
            list(pool.map(_Job.prepare, jobs))
            needed = sum(job.lacking for job in jobs)
            check_space(folder, needed, f"Fetching {counted(len(jobs), 'files')}", "choose fewer archives")
            with _progress(jobs) as progress:
                for job in jobs:
                    job.progress = progress.add
                list(pool.map(_Job.run, jobs))
        except BaseException:
            for job in jobs:
                job.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    others = [Downloaded(name, str(Path(output_dir) / name), skipped=True) for name in skipped]
    return [job.result for job in jobs] + others


def _chosen(
    links: dict[str, str], archives: int | str | Iterable[int | str] | None, files: Iterable[str]
) -> dict[str, str]:
    """The links to fetch by, archives in the order of their names."""
    by_archive = {archive_stem(name): name for name in sorted(links) if is_archive(name)}
    names = [] if files and archives is None else list(by_archive.values())
    if archives is not None:
        wanted = list(dict.fromkeys(archive_names(archives)))
        for archive in wanted:
            if archive not in by_archive:
                raise UnknownName.of("archive in the list of links", archive, list(map(str, by_archive))[:20])
        names = [by_archive[archive] for archive in wanted]
    for name in files:
        if name not in links:
            raise UnknownName.of("file in the list of links", name, [n for n in links if not is_archive(n)][:20])
        names.append(name)
    if not names:
        raise BadArgument("No file of the list of links is chosen: name archives= or files=, or leave both out.")
    return {name: links[name] for name in names}


def _progress(jobs: list[_Job]) -> Progress:
    total = sum(job.result.size or 0 for job in jobs if not job.finished)
    return Progress(f"Fetching {counted(len(jobs), 'files')}", total, done=total - sum(job.lacking for job in jobs))


class _Job:
    """One archive to fetch. Its messages name the server but never the link, whose signature gives access."""

    def __init__(self, folder: Path, name: str, url: str, md5: str | None) -> None:
        # A file that is there may be a link to another disk, but its name never leads out of the folder.
        self.target = folder / checked_name(name, "the list of links")
        self.part = folder / f".{self.target.name}.part"
        self.is_archive = archive_stem(name) is not None
        self.url, self.md5 = url, md5
        self.result = Downloaded(name, str(self.target))
        self.stop = threading.Event()
        self.progress: Callable[[int], object] = lambda size: None

    @property
    def what(self) -> str:
        return f"{self.target.name} from {public_name(self.url).partition('://')[2].partition('/')[0]}"

    @property
    def finished(self) -> bool:
        return self.result.kept or self.result.problem is not None

    @property
    def lacking(self) -> int:
        """Bytes that are still to be fetched."""
        return 0 if self.finished else (self.result.size or 0) - self._there()

    def _there(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def prepare(self) -> None:
        """Find out its size; leave a file that is there as it is."""
        try:
            if self.target.is_file():
                self.result.kept, self.result.size = True, self.target.stat().st_size
                return
            check_kind(self.target)
            check_kind(self.part)
            self.result.size, _ = http.size_and_stamp(self.url, dict, what=self.what, hint=_RENEW)
            with explained(self.target):
                if self.part.exists() and (self._there() > self.result.size or not self._begins_well()):
                    self.part.unlink()  # of another file, a server's page, or too little to tell
        except LlavaZhError as error:
            self._failed(error)

    def run(self) -> None:
        """Fetch it, check it, give it its name."""
        if self.finished:
            return
        try:
            with explained(self.target):
                self._fetch()
                self._check()
                give_name(self.part, self.target)
        except (HubError, BadArchive, BadFile) as error:
            self._failed(error)

    def _failed(self, error: LlavaZhError) -> None:
        status = getattr(error, "status", None)
        self.result.expired = status in _EXPIRED
        self.result.problem = (
            f"{self.what}: the link has expired (status {status}). {_RENEW}" if self.result.expired else str(error)
        )

    def _fetch(self) -> None:
        size, hint = self.result.size or 0, "Run the command again to start anew."
        fetch_rest(self.part, size, self._read, self.progress, what=self.what, hint=hint)

    def _read(self, offset: int, length: int) -> Iterator[bytes]:
        for piece in http.read_range(self.url, dict, offset, length, what=self.what, hint=_RENEW):
            if self.stop.is_set():
                raise HubError(f"{self.what}: stopped.")
            yield piece

    def _check(self) -> None:
        if not self._begins_well():
            self.part.unlink()
            expected = "no tar, gzip or zip file" if self.is_archive else "a web page"
            raise BadFile(f"{self.what}: what the server sent is {expected}. It was removed. {_RENEW}")
        if self.md5 is None:
            return
        digest = hashlib.md5(usedforsecurity=False)
        with self.part.open("rb") as file:
            while chunk := file.read(8 << 20):
                digest.update(chunk)
        if digest.hexdigest() != self.md5:
            self.part.unlink()
            raise BadFile(
                f"{self.what}: expected MD5 {self.md5}, found {digest.hexdigest()} in {self.result.size:,} bytes. "
                "They were removed; run the command again, and if it happens again, compare the checklist's date."
            )
        self.result.md5 = True

    def _begins_well(self) -> bool:
        """Whether what came so far starts as such a file does."""
        if self.is_archive:
            return _may_be_archive(self.part)
        with self.part.open("rb") as file:
            return not file.read(64).lstrip().startswith(b"<")


def _may_be_archive(part: Path) -> bool:
    """Whether a file, or the first part of one, starts as an archive does."""
    try:
        store.detect(LocalSource(str(part)))
    except BadArchive:
        return False
    return True
