"""What every writer of files needs: errors that say what to do, and names that survive a power cut."""

from __future__ import annotations

import os
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


def sync_folder(folder: Path) -> None:
    """Make renames and new files in `folder` survive a power cut; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
