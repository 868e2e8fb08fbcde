"""Folders that verify, repack and download write into: one process at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from llava_zh.storage.durable import explained
from llava_zh.storage.held import held


@contextlib.contextmanager
def output_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """`folder`, made if need be and held until the end; what the system refuses comes out as an OutputError.

    Raises: RunConflict while another process works in it; OutputError.
    """
    path = Path(folder).expanduser().absolute()
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
        busy = f"Another process is working in {path}. Wait for it, or end it."
        with held(path / ".lock", lambda: busy, remove=True):
            yield path
