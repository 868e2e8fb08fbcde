"""Pictures no larger than a model wants them, decoded at about that size instead of decoded whole and shrunk.

A JPEG is stored as blocks of 8 × 8 frequencies, and libjpeg can leave out the high ones: the picture then comes out of
the decoder at a half, a quarter or an eighth of its size, without making the pixels that shrinking would throw away.
The decoder gives the smallest such size that is not below the wanted one; an ordinary bicubic resize does the rest.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from .errors import BadArgument, BadImage, ImageNotFound

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Array = np.ndarray[Any, np.dtype[np.uint8]]

Source = bytes | str | os.PathLike[str] | Mapping[str, Any]

MODES = ("RGB", "L", "RGBA")


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
        mode: ``"RGB"``, ``"L"`` (a JPEG's brightness alone is decoded) or ``"RGBA"``. An alpha channel is dropped by
            the other two.
        as_array: A numpy array of uint8, height × width × channels (height × width for ``"L"``), not a Pillow image.

    Raises:
        BadArgument: A size below 1, an unknown mode, or a source of another kind.
        ImageNotFound: There is no such file.
        BadImage: It cannot be decoded: not an image, or damaged, or cut short.
    """
    check_size(max_side, max_pixels, mode)
    data, name = _read(source)
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
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        size = fitting(image.size, max_side, max_pixels)
        # Decodes a JPEG at the smallest of 1, 1/2, 1/4, 1/8 of its size that is not below `size`; no effect on others.
        drafted = image.draft("L" if mode == "L" else None, size)
        image.load()
        image = _plain(image)
        # The decoder rounds its size up; `box` is the part that the picture covers, without which it would shift.
        box = drafted[1] if drafted else (0, 0, *image.size)
        if image.size != size or box[2:] != size:
            image = image.resize(size, Image.Resampling.BICUBIC, box=box)
        if image.getexif().get(0x0112, 1) != 1:
            image = ImageOps.exif_transpose(image)
        image = image if image.mode == mode else image.convert(mode)
    except UnidentifiedImageError:
        raise BadImage(f"{name}: {_kind(data)}; expected an image such as a JPEG or PNG.") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise BadImage(f"{name}: cannot be decoded ({error}). Is the file complete ({len(data)} bytes)?") from error
    return np.array(image, dtype=np.uint8) if as_array else image


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


def _plain(image: Image) -> Image:
    """`image` in a mode that can be resized smoothly and has eight bits a channel."""
    if image.mode.startswith("I;16"):
        import numpy as np
        from PIL import Image as pil

        return pil.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("1", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    return image


def _read(source: Source) -> tuple[bytes, str]:
    """The bytes of the file, and what messages call it."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), f"image of {len(source)} bytes"
    if isinstance(source, Mapping):
        path, data = source.get("path"), source.get("bytes")
        if data is not None:
            return data, path or f"image of {len(data)} bytes"
        source = path if path is not None else source
    if not isinstance(source, str | os.PathLike):
        raise BadArgument(
            f"Expected an image's bytes, path, URL or {{'bytes', 'path'}}, found {type(source).__name__}. "
            "Rows of a dataset hold decoded pictures; llava_zh.decode_images(dataset, …) has them decoded smaller."
        )
    name = os.fspath(source)
    return read_bytes(name), name


def read_bytes(name: str) -> bytes:
    """The bytes of the image at a path or URL."""
    import fsspec

    try:
        if "://" not in name:
            with open(name, "rb") as handle:
                return handle.read()
        if name.startswith("sa1b://"):
            fs, path = fsspec.core.url_to_fs(name)
            return bytes(fs.cat_file(path))
        with fsspec.open(name, "rb") as handle:
            return bytes(handle.read())
    except ImageNotFound:
        raise
    except FileNotFoundError as error:
        raise ImageNotFound(f"No image {name}.") from error


def _kind(data: bytes) -> str:
    if not data:
        return "the file is empty"
    return f"no image, but {len(data)} bytes that start with {data[:16]!r}"
