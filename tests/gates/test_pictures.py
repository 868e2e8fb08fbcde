"""Only pictures pass the gate for pictures, and only those that are whole and of a bounded size."""

from __future__ import annotations

import contextlib
import io
import threading
from pathlib import Path

import pytest
from hunting import hunt
from hypothesis import given
from hypothesis import strategies as st
from picture_files import noise, png_of
from PIL import Image, ImageFile, PngImagePlugin

from llava_zh.errors import BadImage
from llava_zh.gates import pictures

WHOLE = {
    "JPEG": noise("JPEG"),
    "progressive": noise("JPEG", progressive=True),
    "CMYK": noise("JPEG", mode="CMYK"),
    "MPO": noise("MPO"),
    "PNG": noise("PNG"),
    "WEBP": noise("WEBP"),
    "GIF": noise("GIF", mode="P"),
    "BMP": noise("BMP"),
    "TIFF": noise("TIFF"),
    "TIFF, compressed": noise("TIFF", compression="tiff_deflate"),
}


@pytest.mark.parametrize("kind", list(WHOLE))
def test_every_kind_of_picture_passes_with_its_size(kind: str) -> None:
    for check in (pictures.header, pictures.whole, pictures.decodes):
        found = check(WHOLE[kind], "it")
        assert found.size == (64, 48)
        assert found.suffix in (".jpg", ".png", ".webp", ".gif", ".bmp", ".tif")
        assert found.mime in {f"image/{name}" for name in ("jpeg", "png", "webp", "gif", "bmp", "tiff")}
    with pictures.opened(WHOLE[kind], "it") as image:
        assert image.convert("RGB").size == (64, 48)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n10 10 scale\nshowpage\n"

OTHERS = {
    "an HTML page": b"\n<!DOCTYPE html><html><title>404</title></html>",
    "an EPS or PostScript file": EPS,
    "an EPS file": b"\xc5\xd0\xd3\xc6" + bytes(28) + EPS,
    "JSON": b'{"error": "no such image"}',
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
    "begins with zeros": bytes(100),
    "the file is empty": b"",
    "no image, but 4 bytes": "图片".encode()[:4],
}


@pytest.mark.parametrize("what", list(OTHERS))
def test_what_is_no_picture_is_refused_and_called_what_it_is(what: str) -> None:
    for check in (pictures.header, pictures.whole, pictures.decodes):
        with pytest.raises(BadImage, match=rf"^a\.jpg: .*{what}"):
            check(OTHERS[what], "a.jpg")
    with pytest.raises(BadImage, match=what), pictures.opened(OTHERS[what], "a.jpg"):
        pass


def test_kinds_that_caption_sets_do_not_have_start_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    for kind, suffix in (("PPM", ".ppm"), ("ICO", ".ico"), ("TGA", ".tga"), ("PCX", ".pcx"), ("EPS", ".eps")):
        data = noise(kind)
        assert Image.open(io.BytesIO(data)).format == kind  # Pillow alone would take it
        with pytest.raises(BadImage, match="no image"):
            pictures.header(data, f"it{suffix}")


@given(kind=st.sampled_from(["JPEG", "progressive", "CMYK", "PNG", "WEBP", "GIF", "BMP"]), share=st.floats(0, 0.99))
def test_a_cut_anywhere_is_noticed(kind: str, share: float) -> None:
    whole = WHOLE[kind]
    cut = min(int(len(whole) * share), len(whole) - 12)
    with pytest.raises(BadImage):
        pictures.whole(whole[:cut], "it")


def test_a_thumbnail_within_does_not_hide_a_cut() -> None:
    thumbnail, whole = noise("JPEG", (16, 12)), WHOLE["JPEG"]
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = whole[:2] + segment + whole[2:]
    assert pictures.whole(with_thumbnail, "it").size == (64, 48)
    with pytest.raises(BadImage, match="truncated"):
        pictures.whole(with_thumbnail[:-20], "it")
    filled = whole[:2] + b"\xff" + segment + whole[2:]  # fill bytes before a marker are allowed; Pillow judges these
    assert pictures.whole(filled, "it").size == (64, 48)
    with pytest.raises(BadImage):
        pictures.whole(filled[:-200], "it")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_cut_is_noticed_in_a_program_that_told_pillow_to_take_cut_files(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadImage):
        pictures.whole(WHOLE[kind][: len(WHOLE[kind]) * 2 // 3], "it")
    assert ImageFile.LOAD_TRUNCATED_IMAGES  # the program's choice stands


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    for data in (png_of(20_000, 10_000), png_of(2**31 - 1, 2**31 - 1)):
        with pytest.raises(BadImage, match=r"c\.png: .* pixels are too many.*LLAVA_ZH_MAX_PICTURE_PIXELS"):
            pictures.header(data, "c.png")
        with pytest.raises(BadImage, match="too many"), pictures.opened(data, "c.png"):
            pass
    assert pictures.header(png_of(13_000, 13_000), "c.png").size == (13_000, 13_000)
    monkeypatch.setenv("LLAVA_ZH_MAX_PICTURE_PIXELS", "300000000")
    assert pictures.header(png_of(20_000, 10_000), "c.png").size == (20_000, 10_000)
    monkeypatch.setenv("LLAVA_ZH_MAX_PICTURE_PIXELS", "3000")
    with pytest.raises(BadImage, match="64 × 48 pixels are too many"):
        pictures.header(WHOLE["JPEG"], "c.png")
    assert not recwarn.list


def test_what_pillow_itself_calls_a_bomb_is_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BadImage), pictures.opened(WHOLE["JPEG"], "it") as image:
        image.crop((0, 0, 60, 40))


def test_a_jpeg_of_nothing_but_segments_ends() -> None:
    with pytest.raises(BadImage, match="segments"):
        pictures.header(b"\xff\xd8" + b"\xff\xfe\x00\x02" * 1_000_000, "it")


def test_a_png_whose_text_inflates_without_end_is_a_bad_image() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("key", "x" * (2 << 20), zip=True)
    with pytest.raises(BadImage):
        pictures.whole(noise("PNG", pnginfo=info), "it")


def test_threads_that_check_do_not_disturb_one_another() -> None:
    failed = []

    def check(number: int) -> None:
        for kind in ("PNG", "GIF", "WEBP") * 5:
            with contextlib.suppress(BadImage):
                pictures.whole(WHOLE[kind][:-40], "it")
                failed.append(kind)

    threads = [threading.Thread(target=check, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and not ImageFile.LOAD_TRUNCATED_IMAGES


@hunt(100)
@given(kind=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_damage_makes_a_bad_image_or_none_but_no_other_error(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, min(len(damaged) - 1, 700)) | st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadImage):
        found = pictures.header(bytes(damaged), "it")
        if found.width * found.height < 1 << 20:
            pictures.decodes(bytes(damaged), "it")


def test_no_other_module_opens_pictures_by_itself() -> None:
    package = Path(pictures.__file__).parent
    opening = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "Image.open(" in path.read_text() and path.parts[-2] != "demo"
    }
    assert not opening
