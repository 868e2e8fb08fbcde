"""Images are whole when they are sent, and go by the names that published files give them."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llava_zh.errors import BadImage
from llava_zh.regenerate.images import check_image, image_identity, image_name, load_picture


def encoded(kind: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_whole_images_of_every_kind_pass_with_their_size(kind: str) -> None:
    found = check_image(encoded(kind), "it")
    assert (found.mime, found.width, found.height) == (f"image/{kind.lower()}", 64, 48)


WHOLE = {"JPEG": encoded("JPEG"), "progressive": encoded("JPEG", progressive=True), "PNG": encoded("PNG")}


@given(kind=st.sampled_from(sorted(WHOLE)), share=st.floats(0, 0.999))
def test_a_cut_anywhere_is_noticed(kind: str, share: float) -> None:
    whole = WHOLE[kind]
    cut = min(int(len(whole) * share), len(whole) - (2 if kind != "PNG" else 8))
    with pytest.raises(BadImage):
        check_image(whole[:cut], "it")


def test_a_thumbnail_within_does_not_hide_a_cut() -> None:
    thumbnail = encoded("JPEG", (16, 12))
    whole = WHOLE["JPEG"]
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = whole[:2] + segment + whole[2:]
    assert check_image(with_thumbnail, "it").size == (64, 48)
    with pytest.raises(BadImage, match="truncated"):
        check_image(with_thumbnail[:-20], "it")


def test_bytes_after_the_end_are_no_cut() -> None:
    assert check_image(WHOLE["JPEG"] + b"\0" * 100, "it").size == (64, 48)


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
    ],
)
def test_an_image_goes_by_its_published_name(image: Any, base: str, name: str | None) -> None:
    assert image_name(image, base) == name


def test_images_without_a_name_are_told_apart_by_their_bytes() -> None:
    assert image_identity(b"one") == image_identity({"path": None, "bytes": b"one"}) != image_identity(b"two")


def test_a_picture_is_a_data_url_of_the_original_bytes() -> None:
    picture = load_picture(WHOLE["PNG"])
    assert picture.prefix == b"data:image/png;base64,"
    assert base64.b64decode(picture.data) == WHOLE["PNG"]
