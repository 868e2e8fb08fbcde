"""Published files for the tests of loading, written row by row, and the two ways to load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets

from llava_zh import get_dataset_config_names, load_dataset
from llava_zh.demo import DemoPaths

CAPTIONS = "internvl-sa-1b-caption"
LLAVA = "llava-instruct-zh-600k"
FILES = {
    "single_en": "internvl_sa1b_caption_11m_single_image_en.jsonl",
    "single_zh": "internvl_sa1b_caption_1m_single_image_zh.jsonl",
    "multi_en": "internvl_sa1b_caption_77k_multi_image_en.jsonl",
    "multi_zh": "internvl_sa1b_caption_77k_multi_image_zh.jsonl",
}
CONFIGS = [*((CAPTIONS, name) for name in FILES), *((LLAVA, name) for name in get_dataset_config_names(LLAVA))]
COUNTS = {"single_en": 80, "single_zh": 80, "multi_en": 20, "multi_zh": 20, "default": 40}


def turns(text: str = "<image>\nWhat?") -> list[dict[str, str]]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": "一棵树。"}]


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image": f"sa_000000/sa_{number}.jpg", "conversations": turns(), **changes}


def write(folder: Path, rows: list[Any], name: str = FILES["single_en"]) -> Path:
    """`rows` as a published file: records, or lines as they are."""
    lines = [r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in rows]
    (folder / name).write_bytes(b"".join(line + b"\n" for line in lines))
    return folder / name


def stream(folder: Path, name: str = "single_en", path: str = CAPTIONS, **arguments: Any) -> datasets.IterableDataset:
    return load_dataset(path, name, data_dir=folder, streaming=True, split="train", **arguments)


def prepare(folder: Path, name: str = "single_en", path: str = CAPTIONS, **arguments: Any) -> datasets.Dataset:
    return load_dataset(path, name, data_dir=folder, split="train", **arguments)


def folder_of(demo: DemoPaths, path: str) -> Path:
    return demo.internvl if path == CAPTIONS else demo.llava
