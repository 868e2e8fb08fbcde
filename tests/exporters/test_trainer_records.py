"""The rules of InternVL's, Qwen-VL's, LLaVA's and verl's own loaders, stated one by one, on exports of the miniature.

None is a package that can be installed. The rules are those of InternVL's
``internvl/train/internvl_chat_finetune.py`` and ``dataset.py`` (at 2410d1d), of Qwen-VL's
``qwen-vl-finetune/qwenvl/data/data_processor.py`` and ``__init__.py`` (at 9658872), and of ``llava/train/train.py`` of
haotian-liu/LLaVA (at c121f04) and of LLaVA-VL/LLaVA-NeXT (at df17966); verl's are those of
``verl/utils/dataset/rl_dataset.py`` and ``multiturn_sft_dataset.py`` (at b178a3c).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import yaml
from PIL import Image

from llava_zh import load_dataset
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument
from llava_zh.exporters import export

CONFIGS = ["single_en", "single_zh", "multi_en", "multi_zh", "default"]
TURNS = [{"from": "human", "value": "<image>\n颜色?"}, {"from": "gpt", "value": "红"}]


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
    prompt = internvl_prompt(record)
    assert prompt.count("<img>") == len(images) and "<image>" not in prompt
    # `preprocess_internvl2_5`: a system turn first or not at all, then human and gpt in turn; marks in human turns
    # only, as many as images (more would stay text, fewer fail an assertion).
    spoken = [turn for turn in record["conversations"] if turn["from"] != "system"]
    assert spoken == record["conversations"][-len(spoken) :] and len(record["conversations"]) - len(spoken) <= 1
    assert [turn["from"] for turn in spoken] == ["human", "gpt"] * (len(spoken) // 2)
    assert sum(turn["value"].count("<image>") for turn in spoken if turn["from"] == "human") == len(images)
    assert not any("<image>" in turn["value"] for turn in spoken if turn["from"] == "gpt")
    # Turns of text only: `value`, never null.
    assert all(isinstance(turn["value"], str) and turn["value"] for turn in spoken)


def internvl_prompt(record: dict[str, Any], *, style: str = "internvl2_5") -> str:
    """What InternVL makes of a record's turns, with ``<img>`` for the tokens of an image."""
    turns, count = [dict(turn) for turn in record["conversations"]], 1
    if isinstance(record["image"], list):  # `multi_modal_multi_image_get_item`
        count = len(record["image"])
    elif "<image>" not in turns[0]["value"]:  # `multi_modal_get_item`
        turns[0]["value"] = "<image>\n" + turns[0]["value"]
    if style != "internvl2_5":  # `preprocess`, `preprocess_mpt`, `preprocess_phi3`, `preprocess_internlm`
        roles = {"human": 0, "gpt": 1}
        turns = turns[roles[turns[0]["from"]] :]  # the first one is skipped if it is not from human
        assert [roles[turn["from"]] for turn in turns] == [i % 2 for i in range(len(turns))]
        return "".join(turn["value"] for turn in turns).replace("<image>", "<img>", count)
    done = 0  # `preprocess_internvl2_5`
    for turn in turns[1:] if turns[0]["from"] == "system" else turns:
        assert turn["from"] in ("human", "gpt")
        for _ in range(turn["value"].count("<image>") if turn["from"] == "human" else 0):
            if done < count:
                turn["value"] = turn["value"].replace("<image>", "<img>", 1)
                done += 1
    assert done == count
    return "".join(turn["value"] for turn in turns)


def test_internvl_trains_no_row_on_the_text_of_a_mark(
    demo: DemoPaths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = ({"from": "human", "value": text} for text in ("你好", "<image>\n颜色?"))
    answer = {"from": "gpt", "value": "红"}
    own = [
        {"id": "later", "image": "a.png", "conversations": [first, answer, second, answer]},
        {"id": "two", "image": ["a.png", "a.png"], "conversations": [second, answer, second, answer]},
        {"id": "system", "image": "a.png", "conversations": [{"from": "system", "value": "S"}, second, answer]},
        {"id": "first", "image": "a.png", "conversations": [second, answer]},
    ]
    (tmp_path / "own.json").write_text(json.dumps(own))
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    where = {"data_files": str(tmp_path / "own.json"), "image_root": tmp_path}
    export("llava", "multi", to="internvl", output_dir=tmp_path / "own", **where)
    system = {"options": {"system": "请描述图片。"}, "data_dir": demo.internvl, "image_root": demo.sa1b, "limit": 9}
    export("internvl-sa-1b-caption", "single_zh", to="internvl", output_dir=tmp_path / "system", **system)
    assert "--conv_style internvl2_5" in caplog.text
    found = {}
    for name in ("own", "system"):
        for path in (tmp_path / name / "data").iterdir():
            for record in lines(path):
                internvl_record(record, f"{tmp_path / name}/")
                found[record["id"]] = record["image"]
                if record["conversations"][0]["from"] != "system":  # only one template knows such a turn
                    assert "<image>" not in internvl_prompt(record, style="Hermes-2")
    assert len(found) == 4 + 9 and found["first"] == "images/a.png" and found["later"] == ["images/a.png"]
    assert "--conv_style internvl2_5" in (tmp_path / "own" / "README.md").read_text("utf-8")


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


@pytest.mark.parametrize("published", ["multi_zh", "default"], indirect=True)
def test_an_export_for_llava_keeps_the_rules_of_llava_and_of_llava_next(
    published: tuple[str, str, dict[str, Any]], tmp_path: Path
) -> None:
    dataset, config, where = published
    summary = export(dataset, config, to="llava", output_dir=tmp_path, num_shards=None, **where)
    # `LazySupervisedDataset` of LLaVA: one --data_path, a JSON document; a record's `image` below --image_folder.
    (path,) = (tmp_path / "data").iterdir()
    assert f"--data_path {path} --image_folder {tmp_path}" in summary.usage
    records = json.loads(path.read_text("utf-8"))
    for record in records:
        llava_record(record, tmp_path, several=config.startswith("multi"))
    assert [turns(record) for record in records] == published_turns(published)
    shape = "multi" if config.startswith("multi") else "default"
    again = load_dataset("llava", shape, split="train", data_files=str(path), row_format="sharegpt")
    assert again["conversations"] == [record["conversations"] for record in records]
    assert again[0]["images"][0].size == Image.open(tmp_path / paths_of(records[0])[0]).size


def test_llava_next_reads_all_files_of_an_export_by_its_yaml(demo: DemoPaths, tmp_path: Path) -> None:
    out = tmp_path / "数据: 'a' \"b\""
    where = {"data_dir": demo.internvl, "image_root": demo.sa1b}
    export("internvl-sa-1b-caption", "single_zh", to="llava", output_dir=out, num_shards=3, limit=9, **where)
    data_path = out / "llava_next.yaml"
    # `LazySupervisedDataset` of LLaVA-NeXT: `datasets` with `json_path` and `sampling_strategy`, "all" being no limit.
    records = []
    for dataset in yaml.safe_load(data_path.open(encoding="utf-8"))["datasets"]:
        assert dataset["json_path"].endswith(".json") and dataset["sampling_strategy"] == "all"
        records += json.loads(Path(dataset["json_path"]).read_text("utf-8"))
    assert len(records) == 9 and len(list((out / "data").iterdir())) == 3


def paths_of(record: dict[str, Any]) -> list[str]:
    image = record.get("image", [])
    return image if isinstance(image, list) else [image]


def llava_record(record: dict[str, Any], folder: Path, several: bool) -> None:
    # LLaVA joins `image` to --image_folder, so that it is a text; LLaVA-NeXT takes a list, too. Without the key a row
    # is text only; null would be joined.
    assert isinstance(record["image"], list if several else str)
    for path in paths_of(record):
        with Image.open(folder / path) as image:
            image.convert("RGB")
    # `preprocess_v1`, `preprocess_qwen` and the others look each speaker up in these two, human first.
    roles = {"human": 0, "gpt": 1}
    assert [roles[turn["from"]] for turn in record["conversations"]] == [i % 2 for i in range(len(turns(record)) // 2)]
    # `preprocess_multimodal`: LLaVA makes one mark, in front, of all those of a turn, LLaVA-NeXT only where there is
    # one. Each mark that is left is an image.
    marks = [turn["value"].count("<image>") for turn in record["conversations"]]
    assert sum(marks) == len(paths_of(record)) and (several or max(marks) == 1)
    # LLaVA-NeXT's `modality_lengths` asserts that there are words.
    assert sum(len(turn["value"].split()) for turn in record["conversations"]) > 0


@pytest.mark.parametrize("published", ["multi_zh"], indirect=True)
def test_an_export_for_verl_keeps_the_rules_of_its_two_datasets(
    published: tuple[str, str, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, config, where = published
    summary = export(dataset, config, to="verl", output_dir=tmp_path, limit=5, options={"system": "S"}, **where)
    (path,) = (tmp_path / "data").iterdir()
    assert f"data.train_files=[{path}]" in summary.usage
    # `RLHFDataset` reads by `datasets` and expects pictures or their bytes; `_build_messages` puts them for the marks
    # of the prompt, one by one, and asserts that none is left. `NaiveRewardManager` wants source and ground truth.
    rows = datasets.load_dataset("parquet", data_files=str(path))["train"]
    for row in rows:
        assert all(isinstance(image, Image.Image) for image in row["images"])
        assert sum(turn["content"].count("<image>") for turn in row["prompt"]) == len(row["images"]) > 0
        assert [turn["role"] for turn in row["prompt"]][:2] == ["system", "user"]
        assert (
            row["prompt"] + [{"role": "assistant", "content": row["reward_model"]["ground_truth"]}] == row["messages"]
        )
        assert row["data_source"] == "llava_zh/multi_zh" and row["extra_info"]["index"] == row["id"]
    # `MultiTurnSFTDataset` reads by pandas: `process_image` opens the `bytes` of each image's dictionary, for the marks
    # of `messages` alike.
    for row in pd.read_parquet(path).to_dict("records"):
        for image in row["images"]:
            Image.open(io.BytesIO(image["bytes"])).load()
        assert sum(turn["content"].count("<image>") for turn in row["messages"]) == len(row["images"])
    again = load_dataset(dataset, config, split="train", data_dir=tmp_path, row_format="messages")
    assert again["messages"] == rows["messages"] and again[0]["images"][0].size == rows[0]["images"][0].size
    assert "not loaded" not in caplog.text


def test_rows_that_llavas_code_cannot_read_are_refused(tmp_path: Path) -> None:
    own = [{"id": "s", "image": "a.png", "conversations": [{"from": "system", "value": "S"}, *TURNS]}]
    (tmp_path / "own.json").write_text(json.dumps(own))
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    where = {"data_files": str(tmp_path / "own.json"), "image_root": tmp_path}
    with pytest.raises(BadArgument, match="'s' has a system turn"):
        export("llava", to="llava", output_dir=tmp_path / "out", **where)
    with pytest.raises(BadArgument, match="knows no system turn"):
        export("llava", to="llava", output_dir=tmp_path / "out", options={"system": "S"}, **where)
