"""What every writer of files needs: errors that say what to do, and names that survive a power cut."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from llava_zh.errors import LlavaZhError, OutputError
from llava_zh.gates import sizes

# What another planted at a name of ours is neither followed nor waited for. Windows has no such flags.
_CAREFUL = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)


class explained:
    """Turns the system's refusal to write `path` (a full disk, no permission) into one that says what to do.

    Args:
        path: What is written.
        what: What is done with it, for the message.

    Raises:
        OutputError: In place of an OSError; errors of our own pass, for what was to be written could not be had.
    """

    def __init__(self, path: Path, what: str = "written") -> None:
        self._path, self._what = path, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, LlavaZhError):
            raise OutputError(
                f"{self._path}: cannot be {self._what}: {error.strerror or type(error).__name__}. {_way_out(error)}"
            ) from error


def _way_out(error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "A file stands where a folder is wanted: name a folder that is new or empty."
    return "Nothing that was finished is lost; make room or give permission and run the same command again."


def open_regular(path: str | os.PathLike[str], flags: int) -> int:
    """A descriptor of `path`, which must be a file of its own: no link, pipe, device or folder.

    Args:
        flags: As for ``os.open``; ``O_CREAT`` makes a file that only its owner can write.

    Raises:
        OutputError: Something else stands there.
        FileNotFoundError, FileExistsError, OSError: As ``os.open`` says.
    """
    path = Path(path)
    try:
        descriptor = os.open(path, flags | _CAREFUL | _BINARY, 0o644)
    except OSError:
        if (found := _kind(path)) is not None:
            raise _not_a_file(path, found) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_a_file(path, _kind(path) or "something else")
    return descriptor


def holds(path: Path, data: bytes) -> bool:
    """Whether `path` is a file of its own that holds `data`; a name says nothing, since another may have planted it.

    Raises:
        OutputError: Something else than a file stands there.
    """
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        return os.fstat(descriptor).st_size == len(data) and file.read(len(data) + 1) == data


def check_kind(path: Path, *, folder: bool = False) -> None:
    """Make sure that `path` is nothing yet, or a file of its own (a folder of its own, with `folder`).

    Raises:
        OutputError: It is a link, a pipe, a device, or a folder in place of a file.
    """
    found = _kind(path, folder=folder)
    if found is not None:
        raise _not_a_file(path, found, "a folder" if folder else "a file")


def _kind(path: Path, *, folder: bool = False) -> str | None:
    """What stands at `path` in the way of a file or folder of its own; None for the right thing or nothing."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    if stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _not_a_file(path: Path, found: str, expected: str = "a file") -> OutputError:
    return OutputError(
        f"{path} is {found} where {expected} is expected. Nothing was read or written there. Move it away, or choose "
        "another output folder."
    )


def check_space(folder: Path, needed: int, what: str, less: str) -> None:
    """Raise OutputError when `needed` bytes do not fit on the disk of `folder`, which need not be there yet.

    Args:
        what: What needs them, for the message.
        less: What to do so that fewer are needed.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OutputError(
            f"{folder}: {what} needs {sizes.show(needed)}, and {sizes.show(free)} are free. "
            f"Make room, choose another disk, or {less}."
        )


def sync_folder(folder: Path) -> None:
    """Make renames and new files in `folder` survive a power cut; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
