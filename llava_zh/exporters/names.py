"""What the image files of an export are called.

A picture is its bytes; a name is a label. Where a label alone does not tell pictures apart (many rows embed different
pictures under one name, and what is put right in a name may be all that told it from another), the name is given a
digest of the bytes. The same picture thus has the same name in every process and every run.
"""

from __future__ import annotations

import hashlib
import re

from ..gates import pictures
from ..gates.places import is_device
from ..gates.safe_text import printable

# Steps of a path that are kept, the last ones, and bytes of each, so that every file system takes the name.
_STEPS, _STEP_BYTES = 8, 120
_FOREIGN = re.compile(r'[<>:"|?*\x00-\x1f]')
_SPELLINGS = {"jpeg": ".jpg", "tiff": ".tif"}


def file_name(path: str | None, data: bytes, *, embedded: bool) -> str:
    """The name of the file for the picture `data`, relative, with ``/``.

    Args:
        path: Its published path, which is only a name where the row holds the picture itself; any text.
        embedded: Whether the row does.

    Raises:
        BadImage: `data` is no picture.
    """
    suffix = pictures.header(data, path or "embedded image").suffix
    if path is None:
        return f"{digest(data)}{suffix}"
    name = readable(path, suffix)
    return with_digest(name, data) if embedded or name != path else name


def with_digest(name: str, data: bytes, length: int = 16) -> str:
    """`name` with the beginning of the digest of `data` before its ending."""
    stem, dot, ending = name.rpartition(".")
    return f"{stem}-{digest(data)[:length]}{dot}{ending}"


def digest(data: bytes) -> str:
    """What tells pictures apart."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def readable(path: str, suffix: str) -> str:
    """`path` as a name that every file system takes, below any folder, with the ending `suffix` or its like."""
    steps = [_step(step) for step in re.split(r"[/\\]", path) if step not in ("", ".", "..")][-_STEPS:]
    name = "/".join(steps) or "image"
    stem, dot, ending = name.rpartition(".")
    if dot and "/" not in ending and _SPELLINGS.get(ending.lower(), f".{ending.lower()}") == suffix:
        return name
    return f"{stem if dot and '/' not in ending and len(ending) <= 5 else name}{suffix}"


def _step(step: str) -> str:
    """One step of a path without what a system refuses, forbids or hides."""
    text = _FOREIGN.sub("_", printable(step).replace("\\", "_"))
    kept = text.encode("utf-8", "replace")
    if len(kept) > _STEP_BYTES:  # the end of a name tells more than its beginning
        text = kept[-_STEP_BYTES:].decode("utf-8", "ignore")
    if text != (stripped := text.strip().rstrip(".")) or not stripped:
        text = f"{stripped}_"
    return f"_{text}" if is_device(text) else text
