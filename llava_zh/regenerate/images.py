"""Images on their way to a model: read from wherever they are, checked, and turned into base64.

The bytes are sent as they are. An image is checked for what a server would get wrong in silence (lmdeploy captions a
truncated JPEG as if it were whole): its header must parse and its last marker must be there. Pixels are decoded only to
downscale.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from llava_zh import pictures
from llava_zh.decode import smaller
from llava_zh.errors import BadArgument, BadImage, ImageNotFound, LlavaZhError
from llava_zh.lines import write_lines
from llava_zh.regenerate.faults import Transient

if TYPE_CHECKING:
    from PIL import Image

#: A path, a URL (``sa1b://``, ``https://``, whatever fsspec opens), encoded bytes, a PIL image, or a ``datasets`` image
#: that was not decoded, ``{"path": str | None, "bytes": bytes | None}``.
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Mapping[str, Any]"

#: Quality of the JPEG that a PIL image, or a downscaled one, is sent as.
JPEG_QUALITY = 95

_KEEPING = threading.Lock()


class Picture:
    """An image ready to send: its URL in a request is `prefix` and `data`, base64 after ``data:`` or a ``file://`` URL.

    They are never put together: a request is mostly base64 text, and to copy it costs as much as to make it.
    """

    __slots__ = ("data", "prefix")

    def __init__(self, prefix: bytes, data: bytes) -> None:
        self.prefix, self.data = prefix, data


def image_name(image: ImageSource, base: str = "") -> str | None:
    """The name `image` goes by in a published file: its path without scheme and root; None for bare pixels.

    Args:
        image: The image.
        base: Folder or URL that was put before published paths, and is taken away again.
    """
    if isinstance(image, Mapping):
        image = image.get("path") or b""
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image).split("::", 1)[0].removeprefix("sa1b://")
        return (path.removeprefix(base.rstrip("/") + "/") if base else path) or None
    return getattr(image, "filename", None) or None


def image_identity(image: ImageSource, base: str = "") -> str:
    """What tells `image` from others: its name, or the hash of its bytes or pixels."""
    name = image_name(image, base)
    if name is not None:
        return name
    if isinstance(image, Mapping):
        image = image.get("bytes") or b""
    data = bytes(image) if isinstance(image, bytes | bytearray | memoryview) else image.tobytes()  # type: ignore[union-attr]
    return "blake2b:" + hashlib.blake2b(data, digest_size=16).hexdigest()


def load_picture(image: ImageSource, *, max_pixels: int | None = None, as_path: bool = False) -> Picture:
    """Read, check and encode one image.

    Args:
        image: Where the image is, or the image itself.
        max_pixels: Downscale, keeping the aspect ratio, to at most so many pixels; None keeps the original bytes.
        as_path: Name the file, to a server that shares the disk.

    Raises:
        ImageNotFound, BadImage: The image is not there, or cannot be decoded.
        Transient: A remote image could not be read this time.
    """
    return make_picture(fetch_image(image, max_pixels), image, as_path=as_path)


def fetch_image(image: ImageSource, max_pixels: int | None) -> bytes:
    """The bytes to send: what waits for a disk or a network, or takes long. Runs in a thread."""
    data = read_image(image)
    if max_pixels is None:
        return data
    where = _where(image)
    check_image(data, where)
    small = smaller(data, where, max_pixels=max_pixels, quality=JPEG_QUALITY, subsampling=0, keep_alpha=False)
    return small.data


def make_picture(data: bytes, image: ImageSource, *, as_path: bool = False) -> Picture:
    """Check the bytes of `image` and encode them; with `as_path`, name the file to a server that shares the disk."""
    mime = check_image(data, _where(image)).mime
    if as_path:
        return Picture(b"", _file_url(image))
    import pybase64

    return Picture(b"data:%b;base64," % mime.encode(), pybase64.b64encode(data))


def _where(image: ImageSource) -> str:
    return image_name(image) or "the image given"


def read_image(image: ImageSource) -> bytes:
    """The encoded bytes of `image`; a PIL image is encoded as JPEG."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, Mapping):
        if image.get("bytes") is not None:
            return bytes(image["bytes"])
        if not image.get("path"):
            raise BadImage("An image has neither a path nor bytes; expected {'path': str} or {'bytes': bytes}.")
        image = str(image["path"])
    if isinstance(image, str | os.PathLike):
        return _read(os.fspath(image))
    if hasattr(image, "tobytes") and hasattr(image, "save"):
        return _jpeg(image)
    raise BadArgument(
        "An image must be a path, a URL, bytes, a PIL image or {'path': …, 'bytes': …}; "
        f"found {type(image).__name__}."
    )


def _read(path: str) -> bytes:
    try:
        if "://" not in path:
            return Path(path).read_bytes()
        import fsspec

        filesystem, inner = fsspec.core.url_to_fs(path)
        data: bytes = filesystem.cat_file(inner)
        return data
    except LlavaZhError:
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ImageNotFound(f"Image {path} is not there. Check the path, or image_root.") from error
    except Exception as error:  # every filesystem behind fsspec has errors of its own
        if "://" not in path:
            raise BadImage(f"Image {path} cannot be read: {error}.") from error
        raise Transient(f"Image {path} cannot be read: {error!r}.", reason="image not readable") from error


def check_image(data: bytes, where: str) -> pictures.Header:
    """Kind, width and height (pixels) of an encoded image that is whole; `where` names it in errors."""
    return pictures.whole(data, where)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _file_url(image: ImageSource) -> bytes:
    path = image.get("path") if isinstance(image, Mapping) else image
    if not isinstance(path, str | os.PathLike) or (
        "://" in os.fspath(path) and not os.fspath(path).startswith("file:")
    ):
        raise BadArgument(
            f"send_paths needs images that are local files; found {image_name(image) or type(image).__name__}. "
            "Leave send_paths off, so that the bytes are sent."
        )
    return Path(os.fspath(path).removeprefix("file://")).absolute().as_uri().encode()


def keep_image(folder: Path, image: ImageSource) -> str:
    """Give an image that has no name one in ``folder/images``, so that a published row can refer to it; the name."""
    data = read_image(image)
    name = f"images/{hashlib.blake2b(data, digest_size=16).hexdigest()}{check_image(data, 'the image given').suffix}"
    path = folder / name
    with _KEEPING:  # two rows may have the same image
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_lines(path, [data])
    return name
