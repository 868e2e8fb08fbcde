"""Images are whole when they are sent, and go by the names that published files give them."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from llava_zh import decode_image
from llava_zh.errors import BadImage
from llava_zh.gates import pictures
from llava_zh.images.names import image_identity, image_label, image_name
from llava_zh.regenerate.images import Picture, load_picture


def encoded(kind: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_whole_images_of_every_kind_pass_with_their_size(kind: str) -> None:
    found = pictures.whole(encoded(kind), "it")
    assert (found.mime, found.width, found.height) == (f"image/{kind.lower()}", 64, 48)


WHOLE = {"JPEG": encoded("JPEG"), "progressive": encoded("JPEG", progressive=True), "PNG": encoded("PNG")}


@given(kind=st.sampled_from(sorted(WHOLE)), share=st.floats(0, 0.999))
def test_a_cut_anywhere_is_noticed(kind: str, share: float) -> None:
    whole = WHOLE[kind]
    cut = min(int(len(whole) * share), len(whole) - (2 if kind != "PNG" else 8))
    with pytest.raises(BadImage):
        pictures.whole(whole[:cut], "it")


def test_a_thumbnail_within_does_not_hide_a_cut() -> None:
    thumbnail = encoded("JPEG", (16, 12))
    whole = WHOLE["JPEG"]
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = whole[:2] + segment + whole[2:]
    assert pictures.whole(with_thumbnail, "it").size == (64, 48)
    with pytest.raises(BadImage, match="truncated"):
        pictures.whole(with_thumbnail[:-20], "it")


def test_bytes_after_the_end_are_no_cut() -> None:
    assert pictures.whole(WHOLE["JPEG"] + b"\0" * 100, "it").size == (64, 48)


@pytest.mark.parametrize(
    ("image", "base", "name"),
    [
        ("sa1b://sa_000000/sa_1.jpg", "", "sa_000000/sa_1.jpg"),
        ("sa1b://sa_000000/sa_1.jpg::/data/sa1b", "", "sa_000000/sa_1.jpg"),
        ({"path": "sa1b://sa_000000/sa_1.jpg::s3://bucket", "bytes": None}, "", "sa_000000/sa_1.jpg"),
        ("/data/images/1.jpg", "/data/", "images/1.jpg"),
        ("https://host/1.jpg", "", "https://host/1.jpg"),
        (b"\xff\xd8", "", None),
        ({"path": None, "bytes": b"\xff\xd8"}, "", None),
        ({"path": "0.jpg", "bytes": b"\xff\xd8"}, "", None),
    ],
)
def test_an_image_goes_by_its_published_name(image: Any, base: str, name: str | None) -> None:
    assert image_name(image, base) == name


def test_images_without_a_name_are_told_apart_by_their_bytes() -> None:
    assert image_identity(b"one") == image_identity({"path": None, "bytes": b"one"}) != image_identity(b"two")
    same_name = [{"path": "0.jpg", "bytes": data} for data in (b"one", b"two")]
    assert image_identity(same_name[0]) == image_identity(b"one") != image_identity(same_name[1])
    assert image_label(same_name[0]) == "0.jpg"


def test_a_picture_is_a_data_url_of_the_original_bytes() -> None:
    picture = load_picture(WHOLE["PNG"])
    assert picture.prefix == b"data:image/png;base64,"
    assert base64.b64decode(picture.data) == WHOLE["PNG"]


def decoded(picture: Picture) -> Image.Image:
    assert picture.prefix.startswith(b"data:image/")
    return Image.open(io.BytesIO(base64.b64decode(picture.data)))


def test_fewer_pixels_come_by_the_same_way_as_everywhere() -> None:
    """Upright, of eight bits, on white: the pictures are those of `decode_image`, but for what JPEG does to them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = Image.new("RGB", (64, 32), "red")
    sideways.paste((0, 0, 255), (0, 0, 32, 32))
    ramp = Image.fromarray(np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16))
    ink = Image.new("RGBA", (64, 32), (0, 0, 0, 0))
    ImageDraw.Draw(ink).rectangle((8, 8, 40, 20), fill=(0, 0, 0, 255))
    for image, kind, options in (
        (sideways, "JPEG", {"exif": exif}),
        (ramp, "PNG", {}),
        (ink, "PNG", {}),
        (ink.convert("LA"), "PNG", {}),
        (ink.quantize(4), "PNG", {}),
        (sideways.convert("CMYK"), "JPEG", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        for source in (buffer.getvalue(), Image.open(buffer)):
            picture = load_picture(source, max_pixels=1000)
            expected = np.asarray(decode_image(buffer.getvalue(), max_pixels=1000)).astype(int)
            assert decoded(picture).mode in ("RGB", "L") and decoded(picture).getexif().get(0x0112, 1) == 1
            assert np.abs(np.asarray(decoded(picture).convert("RGB")) - expected).mean() < 8
    for transparent in (ink, ink.convert("LA"), ink.quantize(4)):  # pixels that were given come on white, too
        assert decoded(load_picture(transparent)).convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_a_path_beside_bytes_is_never_sent(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(WHOLE["JPEG"])
    sent = load_picture({"bytes": WHOLE["PNG"], "path": str(secret)}, as_path=True)
    assert base64.b64decode(sent.data) == WHOLE["PNG"] and sent.prefix == b"data:image/png;base64,"
    for source in (str(secret), f"file://{secret}", {"bytes": None, "path": str(secret)}):
        assert load_picture(source, as_path=True).data == secret.as_uri().encode()
    small = load_picture(str(secret), as_path=True, max_pixels=100)  # what is sent is in no file
    assert decoded(small).size == (11, 8)
    (tmp_path / "passwd").write_text("root:x:0:0:")
    for source in (str(tmp_path / "passwd"), {"bytes": b"root:x:0:0:", "path": "a.jpg"}):
        with pytest.raises(BadImage, match="no image"):
            load_picture(source, as_path=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_named_pipe_is_no_image_and_nothing_waits_for_it(tmp_path: Path, scheme: str) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    with pytest.raises(BadImage, match="no file"):
        load_picture(f"{scheme}{pipe}")
