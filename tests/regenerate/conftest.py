"""Images and rows that the tests of regeneration share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer
from PIL import Image


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of forty small JPEGs, each of another colour."""
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for number in range(40):
        path = folder / f"sa_{number}.jpg"
        Image.new("RGB", (64, 48), (number * 6, 255 - number * 6, 128)).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture
def make_rows(images: list[str]) -> Callable[[int], list[dict[str, Any]]]:
    """So many rows in published form, over the forty images."""

    def make(count: int) -> list[dict[str, Any]]:
        return [
            {
                "id": number,
                "image": images[number % len(images)],
                "width": 64,
                "height": 48,
                "conversations": [
                    {"from": "human", "value": "<image>\n请描述这张图片。"},
                    {"from": "gpt", "value": f"旧的描述{number}。"},
                ],
            }
            for number in range(count)
        ]

    return make


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def output_of(folder: Path) -> list[dict[str, Any]]:
    """Every row of a run's output, file by file."""
    return [row for path in sorted((folder / "data").glob("*.jsonl")) for row in lines_of(path)]


def positions_of(folder: Path) -> list[int]:
    return [row["regenerated"]["position"] for row in output_of(folder)]
