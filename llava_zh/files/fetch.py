"""Fetch published files whole: into the hub client's cache or into a folder, continued where it stopped, and checked.

Into a folder the bytes come over `files.hub.read` and not through the clients: huggingface_hub (1.33 and 2.4,
read in their source) throws the part away that a stopped download had, and 11.4 GB are not fetched twice gladly.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import BadFile
from ..gates.places import check_length, checked_name, inside
from ..storage import durable
from ..storage.atomic import give_name
from ..storage.continued import fetch_rest
from ..storage.durable import explained
from ..storage.held import held
from ..storage.progress import Progress
from . import hub
from .data_files import DataFile

_CHUNK = 4 << 20


def into_cache(file: DataFile, token: Any = None) -> tuple[DataFile, bool]:
    """`file` in the cache of its hub's client, checked, and whether it was there before.

    A damaged copy in the cache is replaced: it is nobody's work.

    Raises:
        HubError: The hub does not give it.
        BadFile: What the hub gave is not what it lists.
    """
    if file.path is not None:
        with contextlib.suppress(BadFile):
            check(file)
            return file, True
    fetched = hub.HUBS[file.source].download(file, token, force=file.path is not None)
    check(fetched)
    return fetched, False


def into_snapshot(file: DataFile, snapshot: Path, token: Any = None, *, force: bool = False) -> DataFile:
    """`file` in `snapshot`, a folder of a client's cache; other processes that want it wait for the one that fetches.

    Args:
        force: Fetch it anew where it is there already. What a link of the client's leads to is replaced with it.
    """
    target = _target(file, snapshot, links=True)
    if force and target.exists():
        blob = target.resolve()
        if blob != target and blob.parent == snapshot.parents[1] / "blobs":
            blob.unlink()
        target.unlink()
    if not target.exists():
        into_folder(replace(file, path=None), snapshot, token, wait=True)
    return replace(file, path=str(target))


def into_folder(file: DataFile, folder: Path, token: Any = None, *, wait: bool = False) -> tuple[DataFile, bool]:
    """`file` below `folder` under its published name, checked, and whether it was there before.

    What a stopped call left is continued. Nothing stands under the file's name before all of it is there and checked.

    Raises:
        HubError: The hub does not give it; what came is kept for the next call.
        BadFile: What came is not what the hub lists and was removed, or another file has its name.
        RunConflict: Another process is fetching it into the same folder; with `wait` its end is waited for.
        OutputError: The folder cannot be written.
        UnsafeName: Its name leads out of the folder, by itself or through a symbolic link.
    """
    target = _target(file, folder)
    placed = replace(file, path=str(target))
    if target.exists():
        check(placed, hint=f"It was not touched. Move it away or delete it, then run the command again: {target}")
        return placed, True
    part = _part(file, target)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        busy = f"Another process is fetching {target}. Wait for it, or end it."
        with held(Path(f"{part}.lock"), None if wait else lambda: busy):
            if target.exists():  # fetched by the process that was waited for
                return placed, True
            _append(file, part, token)
            try:
                check(replace(file, path=str(part)), hint="It was removed; run the command again.")
            except BadFile:
                part.unlink()
                raise
            give_name(part, target)
        _remove_parts(target)
    return placed, False


def missing_bytes(file: DataFile, folder: Path | None) -> int:
    """Bytes that fetching `file` into `folder`, or the client's cache when None, would still write."""
    if folder is None:
        return 0 if file.path is not None else file.size
    target = _target(file, folder)
    if target.exists():
        return 0
    part = _part(file, target)
    return file.size - (part.stat().st_size if part.exists() else 0)


def check_space(files: Sequence[DataFile], folder: Path | None) -> None:
    """Raise :class:`OutputError` when what is missing of `files` does not fit where it will be written."""
    place = folder if folder is not None else hub.HUBS[files[0].source].cache_folder()
    needed = sum(missing_bytes(file, folder) for file in files)
    durable.check_space(place, needed, "the download", "fetch one configuration only")


def check(file: DataFile, hint: str = "Fetch it again with `llava-zh download`.") -> None:
    """Raise :class:`BadFile` unless the file at ``file.path`` has the size and the hash that its hub lists."""
    assert file.path is not None
    what = f"{file.path} is not {file.source}:{file.repo}@{file.revision[:12]}/{file.name}"
    status = Path(file.path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadFile(f"{what}: it is no file. {hint}")
    found = status.st_size
    if found != file.size:
        raise BadFile(f"{what}: expected {file.size:,} bytes, found {found:,}. {hint}")
    if file.digest:
        digest = _digest(file)
        if digest != file.digest:
            raise BadFile(f"{what}: expected {hash_name(file)} {file.digest}, found {digest}. {hint}")


def hash_name(file: DataFile) -> str:
    """Which hash :attr:`DataFile.digest` is: hubs list SHA-256, or for files that are not LFS git's own SHA-1."""
    return {64: "SHA-256", 40: "git SHA-1"}.get(len(file.digest or ""), "no hash")


def _digest(file: DataFile) -> str:
    assert file.path is not None
    digest = hashlib.sha256()
    if hash_name(file) == "git SHA-1":
        digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with open(file.path, "rb") as handle, _progress("checking", file, 0) as progress:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
            progress.add(len(chunk))
    return digest.hexdigest()


def _append(file: DataFile, part: Path, token: Any) -> None:
    """Fetch into `part` what it lacks of `file`."""
    with _progress("fetching", file, part.stat().st_size if part.is_file() else 0) as progress:
        fetch_rest(
            part,
            file.size,
            lambda offset, length: hub.read(file, offset, length, token),
            progress.add,
            what=file.label,
            hint="Run the command again, or try the other --source.",
        )


def _target(file: DataFile, folder: Path, links: bool = False) -> Path:
    """Where `file` goes; with `links` the last step may be a link of a client's, which leads out to its blobs."""
    whose = f"{file.source}:{file.repo}@{file.revision[:12]}"
    name = PurePosixPath(checked_name(file.name, whose))
    check_length(file.name, whose)
    parent = inside(folder, str(name.parent), whose) if name.parent.parts else folder.absolute()
    return parent / name.name if links else inside(folder, str(name), whose)


def _part(file: DataFile, target: Path) -> Path:
    """Where the unfinished file is: hidden from ``data_dir=``, and bound to the content that the hub lists."""
    content = file.digest or f"{file.source}:{file.revision}:{file.size}"
    return target.with_name(f".{target.name}.{hashlib.sha256(content.encode()).hexdigest()[:16]}.part")


def _remove_parts(target: Path) -> None:
    """Remove what unfinished files, also of earlier contents, and their locks have left."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.part*"):
        leftover.unlink(missing_ok=True)


def _progress(doing: str, file: DataFile, start: int) -> Progress:
    return Progress(f"{doing} {PurePosixPath(file.name).name}", file.size, done=start)
