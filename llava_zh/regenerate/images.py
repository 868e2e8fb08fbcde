"""Images on their way to a model: read from wherever they are, checked, and turned into base64.

The bytes are sent as they are. An image is checked for what a server would get wrong in silence (lmdeploy captions a
truncated JPEG as if it were whole): it must be a picture, and there to its end. To send fewer pixels it is decoded by
:mod:`llava_zh.images.decode`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llava_zh.errors import BadArgument
from llava_zh.forks import Lock
from llava_zh.gates import pictures
from llava_zh.images.decode import QUALITY_SENT, as_jpeg, smaller
from llava_zh.images.names import ImageSource, image_label, path_of
from llava_zh.images.reading import image_bytes
from llava_zh.regenerate.faults import Transient
from llava_zh.sa1b.remote import Unreadable
from llava_zh.storage.durable import explained, holds
from llava_zh.storage.lines import write_lines

if TYPE_CHECKING:
    from PIL.Image import Image

_KEEPING = Lock()


class Picture:
    """An image ready to send: its URL in a request is `prefix` and `data`, base64 after ``data:`` or a ``file://`` URL.

    They are never put together: a request is mostly base64 text, and to copy it costs as much as to make it.
    """

    __slots__ = ("data", "prefix")

    def __init__(self, prefix: bytes, data: bytes) -> None:
        self.prefix, self.data = prefix, data


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
    pictures.whole(data, where)
    small = smaller(data, where, max_pixels=max_pixels, quality=QUALITY_SENT, subsampling=0, keep_alpha=False)
    return small.data


def make_picture(data: bytes, image: ImageSource, *, as_path: bool = False) -> Picture:
    """Check the bytes of `image` and encode them.

    With `as_path`, a server that shares the disk is told the file that they were read from. An image whose bytes or
    pixels were given was read from none, whatever path may stand beside them, and one that was downscaled is in none:
    its bytes are sent.
    """
    mime = pictures.whole(data, _where(image)).mime
    if as_path and path_of(image) is not None and (file := _file(image)).stat().st_size == len(data):
        return Picture(b"", file.as_uri().encode())
    import pybase64

    return Picture(b"data:%b;base64," % mime.encode(), pybase64.b64encode(data))


def _where(image: ImageSource) -> str:
    return image_label(image) or "the image given"


def read_image(image: ImageSource) -> bytes:
    """The encoded bytes of `image`; a PIL image is encoded as JPEG."""
    if hasattr(image, "tobytes") and hasattr(image, "save"):
        return as_jpeg(cast("Image", image), quality=QUALITY_SENT, subsampling=0)
    try:
        return image_bytes(image)[0]
    except Unreadable as error:
        raise Transient(str(error), reason="image not readable") from None


def _file(image: ImageSource) -> Path:
    if not isinstance(path := path_of(image), str) or ("://" in path and not path.startswith("file:")):
        raise BadArgument(
            f"send_paths needs images that are local files; found {image_label(image) or type(image).__name__}. "
            "Leave send_paths off, so that the bytes are sent."
        )
    return Path(path.removeprefix("file://")).absolute()


def keep_image(folder: Path, image: ImageSource) -> str:
    """Give an image that has no name one in ``folder/images``, so that a published row can refer to it; the name.

    What stands there under that name is believed only if it is this image to the byte, and is written anew if not.

    Raises:
        OutputError: A link, a pipe or a folder stands there, or it cannot be written.
    """
    data = read_image(image)
    name = f"images/{hashlib.blake2b(data, digest_size=16).hexdigest()}{pictures.whole(data, 'the image given').suffix}"
    path = folder / name
    with _KEEPING, explained(path):  # two rows may have the same image
        path.parent.mkdir(exist_ok=True)
        if not holds(path, data):
            write_lines(path, [data])
    return name
