"""The rules of InternVL's and Qwen-VL's own loaders, stated one by one, on exports of the miniature.

Neither is a package that can be installed. The rules are those of InternVL's
``internvl/train/internvl_chat_finetune.py`` and ``dataset.py`` (at 2410d1d) and of Qwen-VL's
``qwen-vl-finetune/qwenvl/data/data_processor.py`` and ``__init__.py`` (at 9658872).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_zh import load_dataset
from llava_zh.demo import DemoPaths
from llava_zh.exporters import export

CONFIGS = ["single_en", "single_zh", "multi_en", "multi_zh", "default"]


@pytest.fixture(params=CONFIGS)
def published(request: pytest.FixtureRequest, demo: DemoPaths) -> tuple[str, str, dict[str, Any]]:
    if request.param == "default":
        return "llava-instruct-zh-600k", "default", {"data_dir": demo.llava}
    return "internvl-sa-1b-caption", request.param, {"data_dir": demo.internvl, "image_root": demo.sa1b}


def published_turns(published: tuple[str, str, dict[str, Any]]) -> list[tuple[str, ...]]:
    dataset, config, where = published
    rows = load_dataset(dataset, config, split="train", streaming=True, row_format="sharegpt", **where)
    return [turns(row) for row in rows.remove_columns("images")]


def turns(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(text for turn in record["conversations"] for text in (turn["from"], turn["value"]))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text("utf-8").splitlines():
        record = json.loads(line)
        assert isinstance(record, dict)
        yield record


def test_an_export_for_internvl_keeps_internvls_rules(
    published: tuple[str, str, dict[str, Any]], tmp_path: Path
) -> None:
    dataset, config, where = published
    export(dataset, config, to="internvl", output_dir=tmp_path, **where)
    meta = json.loads((tmp_path / "meta.json").read_text("utf-8"))
    found = []
    for entry in meta.values():
        # `build_datasets` reads these keys without a default; `LazySupervisedDataset` asserts the ending.
        assert {"root", "annotation", "data_augment", "repeat_time", "length"} <= set(entry)
        assert entry["annotation"].endswith("jsonl")
        # More than one repetition has to be a whole number, less than one takes the first part of the file.
        assert entry["repeat_time"] == 1
        records = list(lines(Path(entry["annotation"])))
        assert entry["length"] == len(records)
        for record in records:
            internvl_record(record, entry["root"])
        found += [turns(record) for record in records]
    assert sorted(found) == sorted(published_turns(published))


def internvl_record(record: dict[str, Any], root: str) -> None:
    # `image` is a path or a list of them, joined to the root; the error message adds root and path as text.
    images = record["image"] if isinstance(record["image"], list) else [record["image"]]
    assert images and root.endswith("/")
    for path in images:
        with Image.open(root + path) as image:
            image.convert("RGB")
    # A record of one image without a mark would get one at the front of its first turn, whoever that is of.
    if not isinstance(record["image"], list):
        assert "<image>" in record["conversations"][0]["value"]
    # `preprocess_internvl2_5`: a system turn first or not at all, then human and gpt in turn; marks in human turns
    # only, as many as images (more would stay text, fewer fail an assertion).
    spoken = [turn for turn in record["conversations"] if turn["from"] != "system"]
    assert spoken == record["conversations"][-len(spoken) :] and len(record["conversations"]) - len(spoken) <= 1
    assert [turn["from"] for turn in spoken] == ["human", "gpt"] * (len(spoken) // 2)
    assert sum(turn["value"].count("<image>") for turn in spoken if turn["from"] == "human") == len(images)
    assert not any("<image>" in turn["value"] for turn in spoken if turn["from"] == "gpt")
    # Turns of text only: `value`, never null.
    assert all(isinstance(turn["value"], str) and turn["value"] for turn in spoken)


def test_an_export_for_qwen_vl_keeps_qwen_vls_rules(published: tuple[str, str, dict[str, Any]], tmp_path: Path) -> None:
    dataset, config, where = published
    export(dataset, config, to="qwen-vl", output_dir=tmp_path, **where)
    # The snippet is appended to qwenvl/data/__init__.py, where `data_dict` is.
    snippet = (tmp_path / "qwen_vl_data.py").read_text("utf-8")
    data_dict: dict[str, Any] = {}
    exec(snippet, {"data_dict": data_dict})
    (names,) = re.findall(r"--dataset_use (\S+)", snippet)
    found = []
    for name in names.split(","):
        # `data_list` takes a trailing %number for a sampling rate and the rest for a key of `data_dict`.
        assert re.search(r"%\d+$", name) is None
        entry = data_dict[name]
        assert set(entry) == {"annotation_path", "data_path"}
        # `.jsonl` is read line by line; anything else as one JSON document.
        assert entry["annotation_path"].endswith(".jsonl")
        for record in lines(Path(entry["annotation_path"])):
            qwen_record(record, Path(entry["data_path"]))
            found.append(turns(record))
    assert sorted(found) == sorted(published_turns(published))


def qwen_record(record: dict[str, Any], base: Path) -> None:
    # `_build_messages`: image paths below data_path, taken one by one for the marks of human turns; too many and too
    # few raise. Every other speaker is the assistant, so a system turn would be learned as an answer.
    images = record["image"] if isinstance(record["image"], list) else [record["image"]]
    assert {turn["from"] for turn in record["conversations"]} == {"human", "gpt"}
    marks = sum(turn["value"].count("<image>") for turn in record["conversations"] if turn["from"] == "human")
    assert marks == len(images)
    # <video> would be taken for a mark, too, and a key `data_path` be overwritten.
    assert not any("<video>" in turn["value"] for turn in record["conversations"])
    assert "data_path" not in record and "video" not in record
    for path in images:
        with Image.open((base / path).resolve()) as image:
            image.load()
