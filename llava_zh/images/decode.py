"""Pictures no larger than a model wants them, decoded at about that size instead of decoded whole and shrunk.

A JPEG is stored as blocks of 8 × 8 frequencies, and libjpeg can leave out the high ones: the picture then comes out of
the decoder at a half, a quarter or an eighth of its size, without making the pixels that shrinking would throw away.
The decoder gives the smallest such size that is not below the wanted one; an ordinary bicubic resize does the rest.

This is the library's one way from a picture's bytes to fewer pixels: `decode_images`, exports, regeneration and
thumbnails all take it.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from ..errors import BadArgument
from ..gates import pictures
from .reading import image_bytes

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image, Transpose

    Array = np.ndarray[Any, np.dtype[np.uint8]]

Source = bytes | str | os.PathLike[str] | Mapping[str, Any]

MODES = ("RGB", "L", "RGBA")

#: Quality of the JPEGs that are made here. What is sent to a model is forgotten afterwards, and small print should be
#: read in it: next to nothing is lost, and colours are not halved. What an export keeps costs disk as long as it is
#: kept, so it is written with the usual loss.
QUALITY_SENT, QUALITY_KEPT = 95, 90


@overload
def decode_image(
    source: Source,
    *,
    max_side: int | None = ...,
    max_pixels: int | None = ...,
    mode: str = ...,
    as_array: Literal[False] = ...,
) -> Image: ...
@overload
def decode_image(
    source: Source,
    *,
    max_side: int | None = ...,
    max_pixels: int | None = ...,
    mode: str = ...,
    as_array: Literal[True],
) -> Array: ...
@overload
def decode_image(
    source: Source, *, max_side: int | None = ..., max_pixels: int | None = ..., mode: str = ..., as_array: bool
) -> Image | Array: ...


def decode_image(
    source: Source,
    *,
    max_side: int | None = None,
    max_pixels: int | None = None,
    mode: str = "RGB",
    as_array: bool = False,
) -> Image | Array:
    """The picture in `source`, upright, with at most the given size; its aspect ratio stays and it is never enlarged.

    Args:
        source: The bytes of an image file; a path; a URL that fsspec opens (``sa1b://sa_000000/sa_1.jpg``); or an
            undecoded image of a row, ``{"bytes": …, "path": …}``.
        max_side: Pixels of the longer side at most.
        max_pixels: Pixels (width × height) at most.
        mode: ``"RGB"``, ``"L"`` (a JPEG's brightness alone is decoded) or ``"RGBA"``. For the first two a transparent
            picture is laid on white.
        as_array: A numpy array of uint8, height × width × channels (height × width for ``"L"``), not a Pillow image.

    Raises:
        BadArgument: A size below 1, an unknown mode, or a source of another kind.
        ImageNotFound: There is no such file.
        BadImage: It cannot be decoded: not an image, or of a kind that caption sets do not have, or too large, or
            damaged, or cut short.
    """
    check_size(max_side, max_pixels, mode)
    data, name = image_bytes(source)
    return decode_bytes(data, name, max_side, max_pixels, mode, as_array)


def check_size(max_side: int | None, max_pixels: int | None, mode: str) -> None:
    """Raise BadArgument for what :func:`decode_image` cannot take."""
    for argument, value in (("max_side", max_side), ("max_pixels", max_pixels)):
        if value is not None and value < 1:
            raise BadArgument(f"{argument}={value}: expected at least 1 pixel, or None for no limit.")
    if mode not in MODES:
        raise BadArgument(f"mode={mode!r}: expected one of {', '.join(MODES)}.")


def decode_bytes(
    data: bytes, name: str, max_side: int | None, max_pixels: int | None, mode: str, as_array: bool = False
) -> Image | Array:
    """As :func:`decode_image`, of the bytes of the file that messages call `name`."""
    with pictures.opened(data, name) as image:
        small = _decoded(image, max_side, max_pixels, mode)
    if as_array:
        import numpy as np

        return np.array(small, dtype=np.uint8)
    return small


def _decoded(image: Image, max_side: int | None, max_pixels: int | None, mode: str) -> Image:
    """The one way from an opened picture to the pixels that are wanted of it."""
    from PIL import Image as pil

    size = fitting(image.size, max_side, max_pixels)
    # Decodes a JPEG at the smallest of 1, 1/2, 1/4, 1/8 of its size that is not below `size`; no effect on others.
    drafted = image.draft("L" if mode == "L" else None, size)
    image.load()
    turn = _turn(image)
    image = _plain(image)
    # The decoder rounds its size up; `box` is the part that the picture covers, without which it would shift.
    box = drafted[1] if drafted else (0, 0, *image.size)
    if image.size != size or box[2:] != size:
        image = image.resize(size, pil.Resampling.BICUBIC, box=box)
    if turn is not None:
        image = image.transpose(turn)
        for stored in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
            image.info.pop(stored, None)  # they tell to turn it again
    if image.mode in ("RGBA", "LA") and mode != "RGBA":
        image = _on_white(image)
    return image if image.mode == mode else image.convert(mode)


@dataclass(frozen=True)
class Encoded:
    """The bytes of a picture's file, and its width and height in pixels as it is looked at."""

    data: bytes
    size: tuple[int, int]


def smaller(
    data: bytes,
    name: str,
    *,
    max_side: int | None = None,
    max_pixels: int | None = None,
    quality: int,
    subsampling: int = -1,
    keep_alpha: bool,
) -> Encoded:
    """The picture as a file of at most the given size: the same bytes if it fits and lies upright, else a new file.

    A new file is a JPEG, or with `keep_alpha` and a transparent picture a PNG; without, the picture is laid on white.

    Args:
        quality, subsampling: Of the JPEG, as Pillow takes them.

    Raises:
        BadImage: It is no picture, too large, or cannot be decoded.
    """
    with pictures.opened(data, name) as image:
        if fitting(image.size, max_side, max_pixels) == image.size and _turn(image) is None:
            return Encoded(data, image.size)
        profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "L") else None
        keep_alpha = keep_alpha and _transparent(image)
        grey = image.mode in ("L", "1") or image.mode.startswith("I")
        small = _decoded(image, max_side, max_pixels, "RGBA" if keep_alpha else "L" if grey else "RGB")
    if keep_alpha:
        buffer = io.BytesIO()
        small.save(buffer, "PNG", icc_profile=profile)
        return Encoded(buffer.getvalue(), small.size)
    return Encoded(_jpeg(small, quality, subsampling, profile), small.size)


def as_jpeg(image: Image, *, quality: int, subsampling: int = -1) -> bytes:
    """A JPEG of a Pillow image: upright, of eight bits, on white where it is transparent."""
    return _jpeg(_decoded(image, None, None, "RGB"), quality, subsampling, None)


def in_rgb(image: Image) -> Image:
    """A Pillow image as models take it: upright, in RGB of eight bits, on white where it is transparent."""
    return image if image.mode == "RGB" and _turn(image) is None else _decoded(image, None, None, "RGB")


def _jpeg(image: Image, quality: int, subsampling: int, profile: bytes | None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling, icc_profile=profile)
    return buffer.getvalue()


def fitting(size: tuple[int, int], max_side: int | None = None, max_pixels: int | None = None) -> tuple[int, int]:
    """The largest width and height of the same shape within the limits; at least 1 each."""
    width, height = size
    scale = 1.0
    if max_side is not None:
        scale = min(scale, max_side / max(size))
    if max_pixels is not None:
        scale = min(scale, math.sqrt(max_pixels / (width * height)))
    if scale == 1.0:
        return size
    # Rounding up could exceed a number of pixels; a longest side is met exactly.
    exact = (width * scale, height * scale)
    rounded = [max(round(side), 1) for side in exact]
    if max_pixels is not None and rounded[0] * rounded[1] > max_pixels:
        rounded = [max(math.floor(side), 1) for side in exact]
    return rounded[0], rounded[1]


def _turn(image: Image) -> Transpose | None:
    """What brings the picture upright, from its EXIF or XMP data."""
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged notes about a picture do not make it a bad one
        return None
    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)


def _transparent(image: Image) -> bool:
    if image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA":
        return True
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _plain(image: Image) -> Image:
    """`image` in a mode that can be resized smoothly and has eight bits a channel."""
    if image.mode[:1] in ("I", "F"):
        return _eight_bits(image)
    if _transparent(image):  # a colour that stands for transparency is lost once the picture is resized
        return image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _eight_bits(image: Image) -> Image:
    """A grey picture of 16 bits, or of 32 or floating point numbers, which Pillow would clip at 255."""
    import numpy as np
    from PIL import Image as pil

    values = np.asarray(image)
    if image.mode == "F":
        grey = np.nan_to_num(values) * (255 if np.nanmax(values, initial=0) <= 1 else 1)
        return pil.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    # Before Pillow 11 a PNG of 16 bits has the mode of one of 32.
    deep = image.mode == "I" and bool(np.any((values < 0) | (values > 0xFFFF)))
    grey = pil.fromarray(((values.astype(np.uint32) >> 24) if deep else (values >> 8)).astype(np.uint8))
    if not isinstance(hidden := image.info.get("transparency"), int):
        return grey
    grey = grey.convert("LA")
    grey.putalpha(pil.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def _on_white(image: Image) -> Image:
    """A picture with an alpha channel, laid on white."""
    from PIL import Image as pil

    white = pil.new("RGB" if image.mode == "RGBA" else "L", image.size, "white")
    white.paste(image.convert(white.mode), mask=image.getchannel("A"))
    white.info = image.info
    return white
