"""Building the indexes of many archives, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from llava_zh.errors import UnknownName
from llava_zh.sa1b.contents import trouble
from llava_zh.sa1b.gzip_points import cores
from llava_zh.sa1b.layout import Root
from llava_zh.sa1b.tree import ArchiveInfo, archive_info


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
    with _Bar(todo) as bar, ThreadPoolExecutor(workers) as pool:

        def build_one(job: tuple[Root, str, str]) -> ArchiveInfo:
            root, name, path = job
            progress = partial(bar.update, root.full_name(path))
            try:
                root.build(path, sidecar=sidecar, threads=threads, rebuild=rebuild, progress=progress)
                return archive_info(root, name, path)
            except Exception as error:  # one archive's, whatever it is
                return ArchiveInfo(name, "unusable", root.name, path, problem=trouble(error))

        return list(pool.map(build_one, todo))


class _Bar:
    """One progress bar over the bytes of all archives."""

    def __init__(self, jobs: list[tuple[Root, str, str]]) -> None:
        from huggingface_hub.utils.tqdm import tqdm

        total = 0
        for root, _, path in jobs:
            hit = root.file(path)
            total += hit.size if hit is not None else 0
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()
        label = f"Indexing {len(jobs)} archives"
        self._bar: Any = tqdm(total=total, unit="B", unit_scale=True, desc=label, delay=1)  # type: ignore[no-untyped-call]

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, path: str, done: int) -> None:
        with self._lock:
            self._bar.update(done - self._done.get(path, 0))
            self._done[path] = done
