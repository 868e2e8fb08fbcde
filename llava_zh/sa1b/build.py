"""Building the indexes of many archives, several at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from llava_zh.errors import UnknownName
from llava_zh.gates.counts import counted
from llava_zh.sa1b.contents import trouble
from llava_zh.sa1b.gzip_points import cores
from llava_zh.sa1b.layout import Root
from llava_zh.sa1b.tree import ArchiveInfo, archive_info
from llava_zh.storage.progress import Progress


def build_all(
    roots: list[Root], names: Sequence[str] | None, *, sidecar: bool, num_proc: int | None, rebuild: bool
) -> list[ArchiveInfo]:
    """See `Sa1bFileSystem.build_index`. rapidgzip and reads release the GIL, so threads keep all cores busy."""
    found = [(root, name, path) for root in roots for name, paths in root.stems().items() for path in paths]
    if names is not None:
        known = {name for _, name, _ in found}
        for name in names:
            if name not in known:
                raise UnknownName.of("archive", name, sorted(known) or ["none"])
        found = [job for job in found if job[1] in set(names)]
    todo = [job for job in found if rebuild or sidecar or not archive_info(*job).indexed]
    workers = max(1, min(num_proc or cores(), len(todo)))
    threads = max(1, cores() // workers)
    label = f"Indexing {counted(len(todo), 'archives')}"
    with Progress(label, _bytes(todo)) as shown, ThreadPoolExecutor(workers) as pool:
        all_done = _Done(shown)

        def build_one(job: tuple[Root, str, str]) -> ArchiveInfo:
            root, name, path = job
            progress = partial(all_done.reach, root.full_name(path))
            try:
                root.build(path, sidecar=sidecar, threads=threads, rebuild=rebuild, progress=progress)
                return archive_info(root, name, path)
            except Exception as error:  # one archive's, whatever it is
                return ArchiveInfo(name, "unusable", root.name, path, problem=trouble(error))

        return list(pool.map(build_one, todo))


class _Done:
    """The bytes that are done of all archives, which are indexed at the same time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._of: dict[str, int] = {}

    def reach(self, path: str, done: int) -> None:
        """So much of the archive at `path` is done; one thread at a time tells of it."""
        self._progress.add(done - self._of.get(path, 0))
        self._of[path] = done


def _bytes(jobs: list[tuple[Root, str, str]]) -> int:
    hits = [root.file(path) for root, _, path in jobs]
    return sum(hit.size for hit in hits if hit is not None)
