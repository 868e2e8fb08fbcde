"""The one gate for pictures: what is sent, exported, embedded or decoded is an image of a kind that caption sets have.

Bytes are never handed to Pillow to find out by itself what they are: of its many decoders some start other programs
(Ghostscript for EPS). Only those of :data:`FORMATS` are tried, on a picture of a bounded size, and whatever they raise
becomes BadImage.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadImage, LlavaZhError
from ..forks import RLock
from .limits import PICTURE_PIXELS
from .magic import JPEG, begins_as

if TYPE_CHECKING:
    from PIL.Image import Image

#: What Pillow calls the kinds of files that are pictures here. An MPO is a JPEG with further ones after it.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")

#: How the names of picture files end, in lower case: what is an image file, everywhere. SA-1B has JPEG only.
JPEG_SUFFIXES = (".jpg", ".jpeg")
SUFFIXES = (*JPEG_SUFFIXES, ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

_SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
}

# A JPEG has a few dozen segments before its pixels, a PNG a chunk for some kB; a file made of nothing else would keep
# the walk over them busy for minutes.
_MOST_SEGMENTS, _MOST_CHUNKS = 1 << 16, 1 << 20
# Tables, application data and comments: what may stand before and after the size. Others are for Pillow to judge.
_SEGMENTS = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE})

_told: list[bool] = []  # what the program has told Pillow about truncated files, while pictures are decoded


def _tell_again() -> None:
    """In a child, which does not have the thread that was decoding, tell Pillow what the program had told it."""
    from PIL import ImageFile

    if _told:
        ImageFile.LOAD_TRUNCATED_IMAGES = _told[0]
        _told.clear()


_strictly = RLock(_tell_again)


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a picture says: one of :data:`FORMATS`, and width and height in pixels, as stored."""

    format: str
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def mime(self) -> str:
        """The MIME type, such as ``image/jpeg``."""
        return f"image/{'jpeg' if self.format == 'MPO' else self.format.lower()}"

    @property
    def suffix(self) -> str:
        """The usual ending of such a file, such as ``.jpg``."""
        return _SUFFIXES[self.format]


def header(data: bytes, name: str) -> Header:
    """What kind of picture `data` is, from its header alone; `name` is what messages call it, if anything.

    Raises:
        BadImage: It is no picture (the message says what it is), damaged in its header, or has too many pixels.
    """
    return _header(data, name)[0]


def whole(data: bytes, name: str) -> Header:
    """As :func:`header`, for a picture that is there to its end.

    An ordinary JPEG has its end marker, which cannot occur among its pixels (ITU-T T.81, B.1.1.5), after their
    beginning; any other picture is decoded.

    Raises:
        BadImage: As :func:`header`, and where the picture is cut short or cannot be decoded.
    """
    found, pixels = _header(data, name)
    if pixels is None:
        if found.format == "PNG":
            _check_chunks(data, name)
        _decode(data, name)
    elif data.rfind(b"\xff\xd9", pixels) < 0:
        raise _bad(name, f"truncated: {len(data):,} bytes of JPEG without its end marker. Fetch the file again.")
    return found


def decodes(data: bytes, name: str) -> Header:
    """As :func:`whole`, with every picture decoded, a JPEG too: some ten times as slow.

    Raises:
        BadImage: As :func:`whole`.
    """
    found = whole(data, name)
    if found.format == "JPEG":
        _decode(data, name)
    return found


@contextlib.contextmanager
def opened(data: bytes, name: str) -> Iterator[Image]:
    """The picture in `data` for Pillow to work on, which decodes it when it needs the pixels.

    Raises:
        BadImage: It is no picture or too large; or, from the block, that Pillow could not decode it.
    """
    try:
        image = _open(data, name)
        yield image
    except LlavaZhError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError and others
        reason = str(error) or type(error).__name__
        raise _bad(name, f"cannot be decoded ({reason}). Is the file complete ({len(data)} bytes)?") from error


def _header(data: bytes, name: str) -> tuple[Header, int | None]:
    """The header, and for an ordinary JPEG where its pixels begin."""
    ordinary = _jpeg(data, name)
    if ordinary is not None:
        found, pixels = ordinary
        _check_pixels(found.size, name)
        return found, pixels
    with opened(data, name) as image:
        return Header(image.format or "", *image.size), None


def _jpeg(data: bytes, name: str) -> tuple[Header, int] | None:
    """The header of an ordinary JPEG and where its first scan begins; None leaves the judgement to Pillow.

    Nearly every picture is a JPEG, and a walk over its segments takes a tenth of the time of opening it with Pillow.
    """
    if not data.startswith(JPEG):
        return None
    at, found = 2, None
    for _ in range(_MOST_SEGMENTS):
        if at + 9 >= len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xDA:
            return None if found is None else (found, at)
        length = int.from_bytes(data[at + 2 : at + 4])
        if marker in (0xC0, 0xC1, 0xC2):  # Huffman-coded: sequential, extended or progressive
            height, width = struct.unpack_from(">HH", data, at + 5)
            if found is not None or data[at + 4] != 8 or not (width and height) or length != 8 + 3 * data[at + 9]:
                return None
            found = Header("JPEG", width, height)
        elif marker not in _SEGMENTS or length < 2:
            return None
        at += 2 + length
    raise _bad(name, f"a JPEG of more than {_MOST_SEGMENTS:,} segments before its pixels, which none has.")


def _open(data: bytes, name: str) -> Image:
    """As `PIL.Image.open`, with our kinds and our bound only; its own bound is the whole process's."""
    for accept, open_ in _openers():
        if accept(data[:16]):
            try:
                image: Image = open_(io.BytesIO(data), "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:  # as Pillow does
                reason = str(error) or type(error).__name__
                raise _bad(
                    name, f"the header is damaged or cut ({reason}). Is the file complete ({len(data)} bytes)?"
                ) from error
            _check_pixels(image.size, name)
            return image
    raise _bad(name, f"{_kind(data)}; expected a picture: JPEG, PNG, WebP, GIF, BMP or TIFF.")


@functools.cache
def _openers() -> tuple[tuple[Callable[[bytes], Any], Callable[..., Any]], ...]:
    """Pillow's decoders for :data:`FORMATS`, each with its test of a file's first 16 bytes."""
    from PIL import (
        BmpImagePlugin,  # noqa: F401 (each registers itself)
        GifImagePlugin,  # noqa: F401
        Image,
        JpegImagePlugin,  # noqa: F401
        PngImagePlugin,  # noqa: F401
        TiffImagePlugin,  # noqa: F401
        WebPImagePlugin,  # noqa: F401
    )

    openers = []
    for kind in FORMATS:
        open_, accept = Image.OPEN.get(kind, (None, None))  # an MPO is opened as a JPEG
        if open_ is not None and accept is not None:
            # A text from `accept` says that this Pillow was built without the decoder.
            openers.append((functools.partial(_accepted, accept), open_))
    return tuple(openers)


def _accepted(accept: Callable[[bytes], Any], prefix: bytes) -> bool:
    return accept(prefix) is True


def _check_pixels(size: tuple[int, int], name: str) -> None:
    pixels = size[0] * size[1]
    if pixels > PICTURE_PIXELS.value:
        raise _bad(name, f"{size[0]} × {size[1]} pixels are too many: {PICTURE_PIXELS.exceeded(pixels)}")


def _check_chunks(data: bytes, name: str) -> None:
    """Raise BadImage unless a PNG goes on to its last chunk, those that hold the picture with their checksums."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        if at + 12 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        # A small first letter marks what decoders may do without.
        if kind[:1].isupper() and zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise _bad(name, f"the PNG is damaged: its {kind!r} at byte {at:,} has a wrong checksum.")
        if kind == b"IEND":
            return
        at = end + 4
    raise _bad(name, f"truncated: {len(data):,} bytes of PNG without its last chunk. Fetch the file again.")


def _decode(data: bytes, name: str) -> None:
    """Decode the picture, whatever the program has told Pillow about truncated files."""
    from PIL import ImageFile

    with _strictly:
        _told.append(ImageFile.LOAD_TRUNCATED_IMAGES)
        try:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            with opened(data, name) as image:
                image.load()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = _told.pop()


def _bad(name: str, what: str) -> BadImage:
    return BadImage(f"{name}: {what}" if name else what)


def _kind(data: bytes) -> str:
    """What `data` is, which is no picture."""
    if not data:
        return "the file is empty"
    what = begins_as(data[:64]) or ("JSON" if data[:64].lstrip().startswith(b"{") else "")
    known = f", {what}" if what else ""
    if not data[:64].strip(b"\0"):
        known = ", which begins with zeros"
    return f"no image, but {len(data)} bytes that start with {data[:16]!r}{known}"
