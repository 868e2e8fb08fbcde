"""The bytes of an image, wherever it is: in its row, in a file, or behind a URL that fsspec opens.

This is the library's one way to them: `decode_image`, exports and regeneration all take it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from ..errors import BadArgument, BadImage, ImageNotFound, LlavaZhError
from ..sa1b.remote import Unreadable


def image_bytes(source: Any) -> tuple[bytes, str]:
    """The bytes of the file of `source`, and what messages call it.

    Args:
        source: The bytes themselves; a path; a URL that fsspec opens; or an undecoded image of a row,
            ``{"bytes": …, "path": …}``, where a path beside bytes is only a name.

    Raises:
        BadArgument: A source of another kind.
        ImageNotFound: There is no such file.
        BadImage: It cannot be read; `Unreadable` where that may pass.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), f"image of {len(source)} bytes"
    if isinstance(source, Mapping):
        path, data = source.get("path"), source.get("bytes")
        if data is not None:
            return bytes(data), path or f"image of {len(data)} bytes"
        if not path and {"path", "bytes"} & source.keys():
            raise BadImage("An image has neither a path nor bytes: {'path': None, 'bytes': None}.")
        source = path or source
    if not isinstance(source, str | os.PathLike):
        raise BadArgument(
            f"Expected an image's bytes, path, URL or {{'bytes', 'path'}}, found {type(source).__name__}. "
            "Rows of a dataset hold decoded pictures; llava_zh.decode_images(dataset, …) has them decoded smaller."
        )
    name = os.fspath(source)
    return read_bytes(name), name


def read_bytes(name: str) -> bytes:
    """The bytes of the image at a path or URL; raises as :func:`image_bytes`."""
    import fsspec

    local = "://" not in name or name.startswith("file://")
    try:
        if local:
            return _read_file(name, fsspec.core.strip_protocol(name) if "://" in name else name)
        filesystem, path = fsspec.core.url_to_fs(name)
        return bytes(filesystem.cat_file(path))
    except LlavaZhError:
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ImageNotFound(f"No image {name}. Check the path, or image_root.") from error
    except Exception as error:  # every filesystem behind fsspec has errors of its own
        # Not chained: errors of clients quote what they were about to send.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise (BadImage if local else Unreadable)(f"{name}: cannot be read ({reason}).") from None


def _read_file(name: str, path: str) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would never end
        raise BadImage(f"{name}: cannot be read: it is no file.")
    with open(path, "rb") as handle:
        return handle.read()
