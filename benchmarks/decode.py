"""Pictures wanted at a half of their size or less: `llava_zh.decode_image` against Pillow decoding whole and shrinking.

    python benchmarks/decode.py                 # 24 pictures of 2250 x 1500, 3 rounds
    pip install simplejpeg                      # adds a third column; torchvision's decoder a fourth

Each figure is the median of the rounds, in milliseconds of processor time a picture (which other work on the machine
hardly changes), from the bytes of a JPEG to a numpy array; within a round all sides take turns on the same pictures.
The first sides both resize with Pillow's bicubic filter. The last columns say how close our picture is to one decoded
whole and shrunk with the Lanczos filter, in dB of PSNR, and how close Pillow's own bicubic is.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from images import picture
from PIL import Image

from llava_zh import decode_image
from llava_zh.images.decode import fitting

Array = np.ndarray[Any, np.dtype[np.uint8]]
AIM = 1.8


def whole(data: bytes, max_side: int) -> Array:
    """Pillow, as a trainer's image processor does it: all pixels, then a resize."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.array(image.resize(fitting(image.size, max_side), Image.Resampling.BICUBIC))


def ours(data: bytes, max_side: int) -> Array:
    """`llava_zh.decode_image`."""
    return decode_image(data, max_side=max_side, as_array=True)


def simplejpeg_scaled(data: bytes, max_side: int) -> Array:
    """libjpeg-turbo's scaling through simplejpeg (which has more of its factors), then the same resize."""
    import simplejpeg

    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    width, height = fitting((width, height), max_side)
    pixels = simplejpeg.decode_jpeg(data, min_width=width, min_height=height, min_factor=1)
    if pixels.shape[:2] == (height, width):
        return np.asarray(pixels)
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def torchvision_whole(data: bytes, max_side: int) -> Array:
    """torchvision's decoder, then its own resize."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2.functional import resize

    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    width, height = fitting((pixels.shape[2], pixels.shape[1]), max_side)
    return np.asarray(resize(pixels, [height, width], antialias=True).permute(1, 2, 0).contiguous().numpy())


def psnr(left: Array, right: Array) -> float:
    return float(10 * np.log10(255**2 / np.mean((left.astype(float) - right.astype(float)) ** 2)))


def usable(side: Callable[[bytes, int], Array], data: bytes) -> bool:
    try:
        side(data, 64)
    except ImportError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    data = [picture(seed)[0] for seed in range(args.pictures)]
    every: list[Callable[[bytes, int], Array]] = [whole, ours, simplejpeg_scaled, torchvision_whole]
    sides = [side for side in every if usable(side, data[0])]
    size = Image.open(io.BytesIO(data[0])).size
    mean = sum(map(len, data)) / len(data) / 1e3
    print(f"{len(data)} JPEGs of {size[0]} x {size[1]}, {mean:.0f} kB; processor time in ms a picture")
    print(
        f"{'max_side':>8}" + "".join(f"{side.__name__:>19}" for side in sides) + "    ours/whole   PSNR ours, bicubic"
    )
    for max_side in (1125, 1024, 896, 672, 448, 336, 224):
        seconds: dict[str, list[float]] = {side.__name__: [] for side in sides}
        for _ in range(args.rounds):
            for side in sides:
                start = time.process_time()
                for one in data:
                    side(one, max_side)
                seconds[side.__name__].append(time.process_time() - start)
        median = {name: statistics.median(times) / len(data) * 1e3 for name, times in seconds.items()}
        image = Image.open(io.BytesIO(data[0]))
        best = np.asarray(image.resize(fitting(size, max_side), Image.Resampling.LANCZOS))
        quality = f"{psnr(ours(data[0], max_side), best):8.1f}, {psnr(whole(data[0], max_side), best):.1f}"
        ratio = median["whole"] / median["ours"]
        print(
            f"{max_side:>8}"
            + "".join(f"{median[side.__name__]:>19.1f}" for side in sides)
            + f"{ratio:>12.2f}x {quality}"
        )
    print(f"aim: at least {AIM}x at a half (1125) and less")


if __name__ == "__main__":
    main()
