"""Files that are seen whole or not at all: written to a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..durable import explained


@contextlib.contextmanager
def appearing(path: Path, temporary: Path) -> Iterator[Path]:
    """A name in the folder `temporary` to write to; the file is moved to `path` at the end, or removed on an error.

    Raises:
        OutputError: The file cannot be written.
    """
    part = temporary / f"{os.getpid()}-{path.name}"
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with open(part, "rb+") as handle:
                os.fsync(handle.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, temporary: Path) -> None:
    """Write a whole file; see :func:`appearing`."""
    with appearing(path, temporary) as part:
        part.write_bytes(data)
