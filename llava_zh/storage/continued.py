"""Files that come from elsewhere, continued where an earlier call stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import HubError, RangeNotSupported
from .durable import open_regular


def fetch_rest(
    part: Path,
    size: int,
    read: Callable[[int, int], Iterator[bytes]],
    progress: Callable[[int], object],
    *,
    what: str,
    hint: str,
) -> None:
    """Append to `part` what it lacks of `size` bytes, and sync it; from the start where no server continues in a file.

    Args:
        part: The unfinished file, which need not be there yet.
        read: Gives the bytes from an offset on, so many of them, in pieces.
        progress: Told of the bytes that came; of fewer than none when those that were there are thrown away.
        what, hint: The name of the file, and what to do, for messages.

    Raises:
        HubError: The connection broke, and the server cannot continue; or as `read` says.
        OutputError, OSError: `part` cannot be written.
    """
    if part.exists() and part.lstat().st_nlink > 1:
        part.unlink()  # what stands there has another name, elsewhere
    with open(part, "ab", opener=open_regular) as file:
        for again in (True, False):
            file.seek(0, os.SEEK_END)
            try:
                for piece in read(file.tell(), size - file.tell()):
                    file.write(piece)
                    progress(len(piece))
                break
            except RangeNotSupported as error:
                if not again:
                    raise HubError(
                        f"{what}: the connection broke at byte {file.tell():,} of {size:,}, and the server ignores "
                        f"Range, so it cannot continue there. {hint}"
                    ) from error
                progress(-file.tell())
                file.truncate(0)
        file.flush()
        os.fsync(file.fileno())
