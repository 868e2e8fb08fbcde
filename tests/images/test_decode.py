"""Decoding at the wanted size: right size, mode and orientation, as good as decoding whole and shrinking."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import llava_zh
from llava_zh import decode_image, decode_images, load_dataset
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument, BadImage, ImageNotFound
from llava_zh.images.decode import fitting, smaller
from llava_zh.regenerate.images import fetch_image
from llava_zh.streams.scaled import ScaledImage

INTERNVL = "internvl-sa-1b-caption"


def picture(width: int = 640, height: int = 480, seed: int = 0) -> Image.Image:
    """Smooth shapes with edges and some grain, as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    image[height // 3 : height // 2, width // 4 : width // 2] = (200, 40, 40)
    return Image.fromarray(np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}), **options)
    return buffer.getvalue()


def psnr(left: Any, right: Any) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = float(np.mean((np.asarray(left).astype(float) - np.asarray(right).astype(float)) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("max_side", [400, 320, 240, 161, 160, 100, 80, 50])
def test_a_small_decode_is_as_good_as_decoding_whole_and_shrinking(max_side: int) -> None:
    data = encoded(picture())
    small = decode_image(data, max_side=max_side)
    whole = Image.open(io.BytesIO(data))
    assert small.size == (max_side, round(480 * max_side / 640))
    best = whole.resize(small.size, Image.Resampling.LANCZOS)
    assert psnr(small, best) > 40


@pytest.mark.parametrize("size", [(641, 479), (645, 483), (639, 481)])
@pytest.mark.parametrize("max_side", [321, 161, 150, 81, 60])
def test_a_size_that_eighths_do_not_divide_shifts_nothing(size: tuple[int, int], max_side: int) -> None:
    data = encoded(picture(*size))
    small = decode_image(data, max_side=max_side)
    assert psnr(small, Image.open(io.BytesIO(data)).resize(small.size, Image.Resampling.LANCZOS)) > 40


def test_without_a_limit_the_picture_is_what_pillow_decodes() -> None:
    data = encoded(picture())
    assert np.array_equal(decode_image(data, as_array=True), np.asarray(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode_image(data, max_side=5000, as_array=True), np.asarray(Image.open(io.BytesIO(data))))


def test_only_the_pixels_that_are_needed_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture())
    sizes = []
    load = Image.Image.resize

    def resize(self: Image.Image, *args: Any, **kwargs: Any) -> Image.Image:
        sizes.append(self.size)
        return load(self, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", resize)
    decode_image(data, max_side=150)
    assert sizes == [(160, 120)]  # what came out of the decoder is a quarter, not 640 × 480


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_comes_out_upright_whatever_its_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(640, 360), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    small = decode_image(data, max_side=160)
    assert small.size == ((160, 90) if orientation < 5 else (90, 160))
    assert psnr(small, expected.resize(small.size, Image.Resampling.LANCZOS)) > 34
    assert small.getexif().get(0x0112, 1) == 1


def sources() -> dict[str, tuple[bytes, Callable[[Any], bool]]]:
    plain = picture(64, 48)
    deep = Image.fromarray((np.asarray(plain.convert("L")).astype(np.uint16) << 8) + 17)
    transparent = plain.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((64, 48)))
    white = Image.new("RGB", plain.size, "white")
    close = {
        "RGB": plain,
        "L": plain.convert("L").convert("RGB"),
        "on white": Image.composite(plain, white, transparent.getchannel("A")),
    }

    def like(name: str, least: float = 30) -> Callable[[Any], bool]:
        return lambda image: psnr(image, close[name]) > least

    return {
        "jpeg": (encoded(plain), like("RGB")),
        "grey jpeg": (encoded(plain.convert("L")), like("L")),
        "cmyk jpeg": (encoded(plain.convert("CMYK")), like("RGB", 25)),
        "progressive jpeg": (encoded(plain, progressive=True), like("RGB")),
        "png": (encoded(plain, "PNG"), like("RGB", 90)),
        "palette png": (encoded(plain.quantize(256), "PNG"), like("RGB", 25)),
        "16 bit png": (encoded(deep, "PNG"), like("L", 90)),
        "transparent png": (encoded(transparent, "PNG"), like("on white", 60)),
        "one bit png": (encoded(plain.convert("1", dither=Image.Dither.NONE), "PNG"), lambda image: True),
        "webp": (encoded(plain, "WEBP", lossless=True), like("RGB", 90)),
    }


@pytest.mark.parametrize("kind", list(sources()))
def test_every_kind_of_file_comes_out_in_the_mode_asked_for(kind: str) -> None:
    data, like = sources()[kind]
    assert like(decode_image(data))
    for mode, shape in (("RGB", (24, 32, 3)), ("L", (24, 32)), ("RGBA", (24, 32, 4))):
        assert decode_image(data, max_side=32, mode=mode).mode == mode
        array = decode_image(data, max_side=32, mode=mode, as_array=True)
        assert array.shape == shape and array.dtype == np.uint8 and array.flags.c_contiguous and array.flags.writeable


def stored(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(left: Any, right: Any, mode: str) -> Image.Image:
    image = Image.new(mode, (64, 32), left)
    image.paste(right, (32, 0, 64, 32))
    return image


def sideways(kind: str, **options: Any) -> bytes:
    """Red above blue, once it is turned as its EXIF data say."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return stored(halves("red", "blue", "RGB"), kind, exif=exif, **options)


def deep(values: tuple[int, int], kind: str = "PNG", dtype: Any = np.uint16) -> bytes:
    return stored(Image.fromarray(np.repeat(np.array([values], dtype), 32, axis=1).repeat(32, axis=0)), kind)


def frames() -> bytes:
    return stored(Image.new("P", (64, 32), 0), "GIF", save_all=True, append_images=[Image.new("L", (64, 32), 255)])


WHITE, BLACK = (255, 255, 255), (0, 0, 0)
RED, BLUE = (255, 0, 0), (0, 0, 255)
CLEAR = (0, 0, 0, 0)
# What is stored, the size upright, and the colours of the first and the last pixel as they are to be seen.
GOLDEN: dict[str, tuple[bytes, tuple[int, int], Any, Any]] = {
    "a JPEG on its side": (sideways("JPEG", quality=100, subsampling=0), (32, 64), (254, 0, 0), (0, 0, 254)),
    "a PNG on its side": (sideways("PNG"), (32, 64), RED, BLUE),
    "a WebP on its side": (sideways("WEBP", lossless=True), (32, 64), RED, BLUE),
    "a TIFF on its side": (sideways("TIFF"), (32, 64), RED, BLUE),
    "16 bits": (deep((0x4000, 0xFFFF)), (64, 32), (64, 64, 64), WHITE),
    "16 bits, TIFF": (deep((0x4000, 0xFFFF), "TIFF"), (64, 32), (64, 64, 64), WHITE),
    "32 bits, TIFF": (deep((0x40000000, 0x7FFFFFFF), "TIFF", np.int32), (64, 32), (64, 64, 64), (127, 127, 127)),
    "floating point, TIFF": (deep((0, 1), "TIFF", np.float32), (64, 32), BLACK, WHITE),
    "black on nothing": (stored(halves(BLACK + (255,), CLEAR, "RGBA"), "PNG"), (64, 32), BLACK, WHITE),
    "half transparent": (stored(halves(RED + (255,), BLACK + (128,), "RGBA"), "PNG"), (64, 32), RED, (127, 127, 127)),
    "grey on nothing": (stored(halves((9, 255), (0, 0), "LA"), "PNG"), (64, 32), (9, 9, 9), WHITE),
    "transparent WebP": (stored(halves(RED + (255,), CLEAR, "RGBA"), "WEBP", lossless=True), (64, 32), RED, WHITE),
    "a palette with a hole": (stored(halves(1, 0, "P"), "PNG", transparency=0), (64, 32), (1, 1, 1), WHITE),
    "a colour for transparency": (stored(halves(RED, BLUE, "RGB"), "PNG", transparency=BLUE), (64, 32), RED, WHITE),
    "a grey for transparency": (stored(halves(9, 0, "L"), "PNG", transparency=0), (64, 32), (9, 9, 9), WHITE),
    "one bit": (stored(halves(1, 0, "1"), "PNG"), (64, 32), WHITE, BLACK),
    "inverted CMYK": (
        stored(halves((0, 255, 255, 0), (0, 0, 0, 255), "CMYK"), "JPEG", quality=100), (64, 32), (254, 0, 0), BLACK,
    ),
    "the first picture of a GIF": (frames(), (64, 32), BLACK, BLACK),
    "the first picture of an MPO": (
        stored(Image.new("RGB", (64, 32)), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 32), "white")]),
        (64, 32), BLACK, BLACK,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(GOLDEN))
def test_every_way_to_fewer_pixels_gives_the_picture_as_it_is_to_be_seen(kind: str) -> None:
    data, size, first, last = GOLDEN[kind]
    wanted = fitting(size, 16)
    exported = smaller(data, kind, max_side=16, quality=95, keep_alpha=True)
    sent = Image.open(io.BytesIO(fetch_image(data, 16 * 8)))
    feature = ScaledImage(max_side=16)
    ways = {
        "decoded whole": (decode_image(data), size),
        "decoded small": (decode_image(data, max_side=16), wanted),
        "decoded in a dataset": (feature.decode_example({"bytes": data, "path": None}), wanted),
        "exported": (decode_image(exported.data), wanted),
        "sent": (sent.convert("RGB"), wanted),
    }
    for way, (image, expected) in ways.items():
        assert image.size == expected, way
        for place, colour in ((0, 0), first), ((image.width - 1, image.height - 1), last):
            assert np.abs(np.subtract(image.getpixel(place), colour)).max() <= 8, (way, place, image.getpixel(place))
    assert exported.size == wanted and sent.getexif().get(0x0112, 1) == 1


@settings(max_examples=200)
@given(st.integers(1, 5000), st.integers(1, 5000), st.none() | st.integers(1, 3000), st.none() | st.integers(1, 10**6))
def test_the_size_is_within_both_limits_and_as_large_as_they_allow(
    width: int, height: int, max_side: int | None, max_pixels: int | None
) -> None:
    new_width, new_height = fitting((width, height), max_side, max_pixels)
    assert 1 <= new_width <= width and 1 <= new_height <= height
    assert max_side is None or max(new_width, new_height) <= max_side
    # A side of one pixel cannot shrink further, so a very long picture may keep more pixels than asked for.
    assert max_pixels is None or new_width * new_height <= max(max_pixels, new_width, new_height)
    limits = [1.0]
    limits += [max_side / max(width, height)] if max_side is not None else []
    limits += [(max_pixels / (width * height)) ** 0.5] if max_pixels is not None else []
    assert new_width >= int(width * min(limits)) and new_height >= int(height * min(limits))


def test_a_source_is_bytes_a_path_a_url_or_an_undecoded_image(tmp_path: Path, demo: DemoPaths) -> None:
    data = encoded(picture(64, 48))
    path = tmp_path / "图片.jpg"
    path.write_bytes(data)
    expected = decode_image(data, as_array=True)
    for source in (
        path,
        str(path),
        f"file://{path}",
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
    ):
        assert np.array_equal(decode_image(source, as_array=True), expected)
    row = next(iter(load_dataset(INTERNVL, "single_zh", split="train", streaming=True, data_dir=demo.internvl)))
    assert row["image"]["bytes"] is None  # no root was given, so it is the URL alone
    whole = decode_image(f"{row['image']['path']}::{demo.sa1b}")
    assert whole.size == (row["width"], row["height"])


def test_what_is_wrong_with_an_image_is_said_with_its_name(tmp_path: Path) -> None:
    data = encoded(picture(64, 48))
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "page.jpg").write_bytes(b"<html>403</html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(BadImage, match=r"cut\.jpg: cannot be decoded .*truncated.* Is the file complete \(\d+ bytes\)"):
        decode_image(tmp_path / "cut.jpg")
    with pytest.raises(BadImage, match=r"page\.jpg: no image, but 16 bytes that start with b'<html>"):
        decode_image(tmp_path / "page.jpg")
    with pytest.raises(BadImage, match=r"empty\.jpg: the file is empty"):
        decode_image(tmp_path / "empty.jpg", max_side=10)
    with pytest.raises(ImageNotFound, match=r"No image .*none\.jpg"):
        decode_image(tmp_path / "none.jpg")


def test_arguments_that_cannot_work_are_refused() -> None:
    data = encoded(picture(64, 48))
    with pytest.raises(BadArgument, match="max_side=0"):
        decode_image(data, max_side=0)
    with pytest.raises(BadArgument, match="expected one of RGB, L, RGBA"):
        decode_image(data, mode="BGR")
    with pytest.raises(BadArgument, match=r"found JpegImageFile.*decode_images"):
        decode_image(Image.open(io.BytesIO(data)))  # type: ignore[call-overload]


# -- whole datasets ----------------------------------------------------------------------------------------


def pictures(row: dict[str, Any]) -> list[Image.Image]:
    images = row["images"] if "images" in row else row["image"]
    return images if isinstance(images, list) else [images]


@pytest.mark.parametrize(
    ("config", "row_format"), [("single_zh", "llava"), ("multi_zh", "llava"), ("multi_en", "parts")]
)
def test_a_dataset_gives_small_pictures_streamed_and_prepared(
    demo: DemoPaths, config: str, row_format: str, tmp_path: Path
) -> None:
    arguments = {"data_dir": demo.internvl, "image_root": demo.sa1b, "row_format": row_format}
    prepared = decode_images(load_dataset(INTERNVL, config, cache_dir=tmp_path, **arguments), max_side=96)
    streamed = decode_images(load_dataset(INTERNVL, config, streaming=True, **arguments), max_side=96)
    whole = load_dataset(INTERNVL, config, split="train", cache_dir=tmp_path, **arguments)
    assert isinstance(prepared, datasets.DatasetDict) and isinstance(streamed, datasets.IterableDatasetDict)
    rows = list(zip(prepared["train"].select(range(6)), streamed["train"].take(6), whole.select(range(6)), strict=True))
    for left, right, full in rows:
        assert [image.size for image in pictures(left)] == [fitting(image.size, 96) for image in pictures(full)]
        assert [np.asarray(image).tolist() for image in pictures(left)] == [
            np.asarray(image).tolist() for image in pictures(right)
        ]
        assert left["id"] == right["id"] == full["id"]


def test_shuffling_selecting_and_formats_go_on_working(demo: DemoPaths, tmp_path: Path) -> None:
    whole = load_dataset(
        INTERNVL, "single_zh", split="train", cache_dir=tmp_path, data_dir=demo.internvl, image_root=demo.sa1b
    )
    chosen = whole.shuffle(seed=1).select(range(10)).with_format("numpy", columns=["image", "id"])
    small = decode_images(chosen, max_pixels=5000)
    assert list(small["id"]) == list(chosen["id"])
    assert small.format["type"] == "numpy" and set(small[0]) == {"image", "id"}
    assert all(row["image"].shape[0] * row["image"].shape[1] <= 5000 for row in small)
    assert whole[0]["image"].size[0] > 96  # the dataset that was given is as before
    mapped = decode_images(whole, max_side=64).map(lambda row: {"wide": row["image"].size[0]}, remove_columns=["image"])
    assert set(mapped["wide"]) <= set(range(65))


def test_an_image_in_a_list_is_decoded_once(demo: DemoPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = decode_images(
        load_dataset(INTERNVL, "multi_zh", split="train", streaming=True, data_dir=demo.internvl, image_root=demo.sa1b),
        max_side=64,
    )
    import llava_zh.streams.scaled

    calls = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return decode_image(*args, **kwargs)

    monkeypatch.setattr(llava_zh.streams.scaled, "decode_image", counting)
    row = next(iter(stream))
    assert len(calls) == len(row["image"]) > 1


def test_a_dataset_saved_and_loaded_again_has_its_pictures_whole(demo: DemoPaths, tmp_path: Path) -> None:
    rows = load_dataset(
        INTERNVL, "single_zh", split="train", cache_dir=tmp_path, data_dir=demo.internvl, image_root=demo.sa1b
    ).select(range(2))
    decode_images(rows, max_side=64).save_to_disk(tmp_path / "saved")
    again = datasets.load_from_disk(tmp_path / "saved")
    assert again[0]["image"].size == rows[0]["image"].size
    assert type(again.features["image"]) is datasets.Image


def test_a_stream_resumes_with_small_pictures(demo: DemoPaths) -> None:
    def stream() -> Any:
        rows = load_dataset(
            INTERNVL, "single_zh", split="train", streaming=True, data_dir=demo.internvl, image_root=demo.sa1b
        )
        return decode_images(rows, max_side=64)

    first = stream()
    rows = iter(first)
    for _ in range(3):
        next(rows)
    state = first.state_dict()
    expected = next(rows)
    second = stream()
    second.load_state_dict(state)
    found = next(iter(second))
    assert found["id"] == expected["id"] and np.array_equal(found["image"], expected["image"])


def test_a_dataset_without_images_is_refused() -> None:
    rows = datasets.Dataset.from_dict({"text": ["a"]})
    with pytest.raises(BadArgument, match="no image column; its columns are text"):
        decode_images(rows, max_side=10)
    with pytest.raises(BadArgument, match="features of the dataset are not known"):
        decode_images(rows.to_iterable_dataset().map(lambda row: row), max_side=10)
    with pytest.raises(BadArgument, match="found list"):
        llava_zh.decode_images([1], max_side=10)
