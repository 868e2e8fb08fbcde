"""What every writer of files needs: errors that say what to do, and names that survive a power cut."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from llava_zh.errors import LlavaZhError, OutputError


class explained:
    """Turns the system's refusal to write `path` (a full disk, no permission) into one that says what to do.

    Raises:
        OutputError: In place of an OSError; errors of our own pass, for what was to be written could not be had.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, LlavaZhError):
            raise OutputError(
                f"{self._path}: cannot be written: {error.strerror or type(error).__name__}. Nothing that was finished "
                "is lost; make room or give permission and run the same command again."
            ) from error


def refuse_planted(path: Path, *, folder: bool = False) -> None:
    """Raise OutputError where something stands at `path` that this library does not make there.

    Files of ours are regular files and folders. Through a link, what is written would land elsewhere.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        found = (
            "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a file" if folder else "no file"
        )
        raise OutputError(
            f"{path} is {found}, where {'a folder' if folder else 'a file'} of this library is expected. Nothing was "
            "written through it. Move it away, or choose another folder, and run the same command again."
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
