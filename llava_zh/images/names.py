"""What an image is called: by the path that a published file has for it, by a label in messages, or by its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from llava_zh.sa1b.published import name_of

if TYPE_CHECKING:
    from PIL import Image

    from .written_paths import Around

#: A path, a URL (``sa1b://``, ``https://``, whatever fsspec opens), encoded bytes, a PIL image, or a ``datasets`` image
#: that was not decoded, ``{"path": str | None, "bytes": bytes | None}``.
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Mapping[str, Any]"
#: Folder or URL that was put before published paths; of images in several places, what was put around those.
Base: TypeAlias = "str | tuple[Around, ...]"


def path_of(image: ImageSource) -> str | None:
    """Where `image` is read from; None where its bytes or pixels are given: a path beside them is only a label."""
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else None  # type: ignore[assignment]
    return os.fspath(image) if isinstance(image, str | os.PathLike) else None


def image_name(image: ImageSource, base: Base = "") -> str | None:
    """The name `image` goes by in a published file: its path without scheme and root; None for bytes and pixels.

    Args:
        image: The image.
        base: What was put before published paths, or around them, and is taken away again.
    """
    if (path := path_of(image)) is None:
        return getattr(image, "filename", None) or None
    if not isinstance(base, str):
        from .written_paths import published  # which brings pyarrow

        return name_of(published(path, base)) or None
    path = name_of(path)
    return (path.removeprefix(base.rstrip("/") + "/") if base else path) or None


def image_label(image: ImageSource, base: Base = "") -> str | None:
    """What messages call `image`: its name, or the label that came with its bytes or pixels."""
    label = image.get("path") if isinstance(image, Mapping) else None
    return image_name(image, base) or (label if isinstance(label, str) and label else None)


def image_identity(image: ImageSource, base: Base = "") -> str:
    """What tells `image` from others: its name, or the hash of its bytes or pixels."""
    name = image_name(image, base)
    if name is not None:
        return name
    if isinstance(image, Mapping):
        image = image.get("bytes") or b""
    data = bytes(image) if isinstance(image, bytes | bytearray | memoryview) else image.tobytes()  # type: ignore[union-attr]
    return "blake2b:" + hashlib.blake2b(data, digest_size=16).hexdigest()
