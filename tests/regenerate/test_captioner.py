"""One image at a time, from wherever it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from model_server import CAPTION, ModelServer
from PIL import Image

from llava_zh.demo import write_demo
from llava_zh.errors import BadAnswer, BadArgument, BadImage, ImageNotFound, ServerError
from llava_zh.regenerate import Captioner


def test_an_image_may_be_a_path_url_bytes_picture_or_undecoded(server: ModelServer, images: list[str]) -> None:
    captioner = Captioner(server.url, "tiny-vlm")
    path = Path(images[0])
    data = path.read_bytes()
    forms: list[Any] = [str(path), path, path.as_uri(), data, Image.open(path), {"path": str(path), "bytes": None}]
    assert [captioner.caption(form) for form in forms] == [CAPTION] * 6
    assert captioner.caption({"path": None, "bytes": data}) == CAPTION


def test_an_image_inside_an_sa1b_archive_is_captioned(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "cache"))
    demo = write_demo(tmp_path / "demo", rows=200)
    from llava_zh import load_dataset

    rows = load_dataset(
        "internvl-sa-1b-caption", "single_zh", split="train", streaming=True, data_dir=str(demo.internvl)
    )
    url = f"{next(iter(rows))['image']['path']}::{demo.sa1b}"
    assert url.startswith("sa1b://")
    assert Captioner(server.url, "tiny-vlm").caption(url) == CAPTION


def test_many_are_asked_at_once_inside_async_with(server: ModelServer, images: list[str]) -> None:
    server.latency = 0.1

    async def many() -> list[str]:
        async with Captioner(server.url, "tiny-vlm") as captioner:
            return await asyncio.gather(*map(captioner.acaption, images[:20]))

    assert asyncio.run(many()) == [CAPTION] * 20
    assert server.peak_in_flight > 10


def test_the_blocking_form_works_in_a_notebook_where_a_loop_runs(server: ModelServer, images: list[str]) -> None:
    async def cell() -> str:
        return Captioner(server.url, "tiny-vlm").caption(images[0])

    assert asyncio.run(cell()) == CAPTION


def test_a_conversation_comes_back_as_turns(server: ModelServer, images: list[str]) -> None:
    turns = Captioner(server.url, "tiny-vlm").ask(images[0], prompt="conversation")
    assert [turn["from"] for turn in turns] == ["human", "gpt", "human", "gpt"]
    assert turns[0]["value"] == "<image>\n图里有什么？"
    two = Captioner(server.url, "tiny-vlm").ask([images[0], images[1]], prompt="detail")
    assert two[0]["value"].startswith("Image-1: <image>\nImage-2: <image>\n")


def test_faults_are_retried_and_then_raised(server: ModelServer, images: list[str]) -> None:
    captioner = Captioner(server.url, "tiny-vlm", max_retries=1, answer_attempts=2)
    server.script = ["503"]
    assert captioner.caption(images[0]) == CAPTION
    server.script = ["500", "500"]
    with pytest.raises(ServerError, match="answered 500"):
        captioner.caption(images[0])
    server.script = ["length", "length"]
    with pytest.raises(BadAnswer, match=r"finish_reason 'length'.*Raise max_tokens"):
        captioner.caption(images[0])
    server.script = ["422"]
    with pytest.raises(ServerError, match="answered 422"):
        captioner.caption(images[0])


def test_what_cannot_be_captioned_says_why(server: ModelServer, tmp_path: Path, images: list[str]) -> None:
    captioner = Captioner(server.url, "tiny-vlm")
    with pytest.raises(ImageNotFound, match=r"No image .*missing\.jpg"):
        captioner.caption(tmp_path / "missing.jpg")
    with pytest.raises(BadImage, match="the file is empty"):
        captioner.caption(b"")
    with pytest.raises(BadArgument, match=r"use ask\(image, prompt\)"):
        captioner.caption(images[0], prompt="conversation")
    with pytest.raises(BadArgument, match="an image alone has none"):
        captioner.ask(images[0], prompt="original")
    assert server.calls == 0
