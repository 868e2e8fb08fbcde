"""A run to compare, and judges that prefer by a rule."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer
from PIL import Image

from llava_zh.regenerate import regenerate

#: What the captioning model says, in turns.
NEW = "图中是一片开阔的草地，远处有几棵树。"
SAME = "图中是一条蓝色的河流。"


def texts_of(body: bytes) -> list[str]:
    """The two texts that a judge is shown, first A."""
    question = json.loads(body)["messages"][0]["content"][-1]["text"]
    return re.findall(r"<<<\n(.*?)\n>>>", question, re.DOTALL)


class JudgeServer(ModelServer):
    """A judge that prefers by a rule; of texts that hold `refuses` it says nothing that can be read."""

    def __init__(self, prefers: Callable[[str, str], str], refuses: str | None = None, **more: Any) -> None:
        super().__init__(model="judge", **more)
        self.prefers, self.refuses = prefers, refuses

    def text(self, body: bytes) -> str:
        a, b = texts_of(body)
        if self.refuses is not None and self.refuses in a + b:
            return "两段都很好。"
        said = {"better": self.prefers(a, b), "A_not_there": "树" in a, "B_not_there": "树" in b, "reason": "看图"}
        return f"我看了图。\n```json\n{json.dumps(said, ensure_ascii=False)}\n```"


def longer(a: str, b: str) -> str:
    return "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B"


def always_the_first(a: str, b: str) -> str:
    return "A"


class Captions(ModelServer):
    """Says one of two captions, in turns."""

    said = 0

    def text(self, body: bytes) -> str:
        self.said += 1
        return NEW if self.said % 2 else SAME


def rows_in(folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows in published form over small pictures in `folder`; the older texts are of several lengths."""
    rows = []
    for number in range(count):
        path = folder / f"picture_{number}.jpg"
        Image.new("RGB", (40 + number, 30), (number * 9 % 256, 90, 128)).save(path)
        old = SAME if number % 4 == 1 else f"图中是第{number}条蓝色的河流" + "，很长" * (number % 5) + "。"
        turns = [{"from": "human", "value": "<image>\n请描述这张图片。"}, {"from": "gpt", "value": old}]
        rows.append({"id": number, "image": str(path), "conversations": turns})
    return rows


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="session")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of twelve rows; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with Captions() as server:
        regenerate(
            rows_in(pictures, 12), "test_zh", output_dir=folder, base_url=server.url, model="tiny-vlm",
            prompt="caption_zh", concurrency=1, progress=False,
        )  # fmt: skip
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The same run in a folder of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def pairs_of(folder: Path) -> list[tuple[str, str]]:
    """The old and the new caption of every row of a run, read plainly."""
    lines = [json.loads(line) for path in sorted((folder / "data").glob("*.jsonl")) for line in path.open("rb")]
    return [(row["regenerated"]["previous"][1]["value"], row["conversations"][1]["value"]) for row in lines]
