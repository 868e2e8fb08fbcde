"""Exports: the same rows and images in every form that a tool or a trainer reads, with a card beside them."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from exported_rows import INTERNVL, LLAVA, _text_lines, ids, lines, published
from filelock import FileLock
from huggingface_hub import DatasetCard
from PIL import Image

from llava_zh import export, load_dataset
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument
from llava_zh.exporters import targets
from llava_zh.rows.records import MARK

# -- Parquet and JSON Lines --------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["parquet", "jsonl"])
@pytest.mark.parametrize(("config", "row_format"), [("single_zh", None), ("multi_en", None), ("multi_zh", "parts")])
def test_datasets_alone_reads_typed_rows_and_opens_the_images(
    demo: DemoPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, config: str, row_format: str | None
) -> None:
    summary = export(
        INTERNVL,
        config,
        to=to,
        output_dir=tmp_path / "out",
        data_dir=demo.internvl,
        row_format=row_format,
        num_shards=3,
    )
    arguments = {"row_format": row_format or "llava"}
    expected = published(demo, config, **arguments)
    assert summary.rows == len(expected) and len(summary.files) == 3
    monkeypatch.setenv("SA1B_ROOT", str(demo.sa1b))
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert (
        rows.features
        == load_dataset(
            INTERNVL, config, split="train", streaming=True, data_dir=demo.internvl, image_root=demo.sa1b, **arguments
        ).features
    )
    column = "images" if row_format else "image"
    undecoded = rows.cast(datasets.Features({**rows.features, column: _undecoded(rows.features[column])}))
    assert undecoded.to_list() == expected
    first = rows[0][column]
    first = first[0] if isinstance(first, list) else first
    assert isinstance(first, Image.Image) and first.size[0] > 100
    streamed = next(iter(datasets.load_dataset(str(tmp_path / "out"), split="train", streaming=True)))
    assert streamed["id"] == rows[0]["id"]


def _undecoded(feature: Any) -> Any:
    image = datasets.Image(decode=False)
    return image if isinstance(feature, datasets.Image) else [image]


def test_parquet_carries_its_features_and_no_place_of_the_images(demo: DemoPaths, tmp_path: Path) -> None:
    export(INTERNVL, "single_zh", to="parquet", output_dir=tmp_path, data_dir=demo.internvl, image_root=demo.sa1b)
    (path,) = (tmp_path / "data").iterdir()
    schema = pq.read_schema(path)
    assert datasets.Features.from_arrow_schema(schema)["image"] == datasets.Image()
    images = pq.read_table(path)["image"].to_pylist()
    assert all(re.fullmatch(r"sa1b://sa_00000\d/sa_\d+\.jpg", image["path"]) for image in images)
    assert str(demo.sa1b) not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("to", ["parquet", "jsonl"])
def test_an_export_loads_again_as_the_dataset_it_came_from(demo: DemoPaths, tmp_path: Path, to: str) -> None:
    export(INTERNVL, "multi_zh", to=to, output_dir=tmp_path, data_dir=demo.internvl)
    stream = load_dataset(INTERNVL, "multi_zh", split="train", streaming=True, data_dir=tmp_path)
    assert list(stream.decode(False)) == published(demo, "multi_zh")


def test_embedded_images_need_no_root_and_are_the_files_byte_for_byte(
    demo: DemoPaths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        export(
            INTERNVL,
            "single_zh",
            to="parquet",
            images="embed",
            output_dir=tmp_path,
            data_dir=demo.internvl,
            image_root=demo.sa1b,
        )
    assert "SA-1B research licence" in caplog.text
    rows = datasets.load_dataset(str(tmp_path), split="train")
    raw = rows.cast_column("image", datasets.Image(decode=False))
    filesystem = _filesystem(demo)
    for row, image in zip(rows.select(range(5)), raw["image"], strict=False):
        assert row["image"].size == (row["width"], row["height"])
        assert image["bytes"] == filesystem.cat_file(image["path"])
    card = DatasetCard.load(str(tmp_path / "README.md"))
    assert card.data.license == "other" and card.data.license_name == "sa-1b-research"
    assert "do not pass this folder on" in card.text


def _filesystem(demo: DemoPaths) -> Any:
    import fsspec

    return fsspec.filesystem("sa1b", fo=str(demo.sa1b))


def test_images_are_shrunk_and_their_sizes_in_the_rows_with_them(demo: DemoPaths, tmp_path: Path) -> None:
    export(
        INTERNVL,
        "multi_en",
        to="parquet",
        images="embed",
        max_side=200,
        output_dir=tmp_path,
        data_dir=demo.internvl,
        image_root=demo.sa1b,
    )
    rows = datasets.load_dataset(str(tmp_path), split="train")
    for row in rows:
        assert [image.size for image in row["image"]] == list(zip(row["width"], row["height"], strict=True))
        assert all(max(image.size) == 200 for image in row["image"])


def test_an_image_that_fits_already_is_not_encoded_again(demo: DemoPaths, tmp_path: Path) -> None:
    arguments = {"data_dir": demo.internvl, "image_root": demo.sa1b, "limit": 5, "to": "llama-factory"}
    export(INTERNVL, "single_zh", max_side=10_000, output_dir=tmp_path / "out", **arguments)
    filesystem = _filesystem(demo)
    for row in lines(tmp_path / "out"):
        (name,) = row["images"]
        assert (tmp_path / "out" / name).read_bytes() == filesystem.cat_file(name.removeprefix("images/"))


# -- WebDataset --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["single_zh", "multi_zh"])
def test_a_tar_holds_each_row_with_its_pictures(demo: DemoPaths, tmp_path: Path, config: str) -> None:
    export(
        INTERNVL,
        config,
        to="webdataset",
        output_dir=tmp_path,
        num_shards=2,
        data_dir=demo.internvl,
        image_root=demo.sa1b,
    )
    expected, found = published(demo, config), []
    for path in sorted((tmp_path / "data").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        keys = dict.fromkeys(name.partition(".")[0] for name in members)
        for key in keys:
            row = json.loads(members[f"{key}.json"])
            names = sorted(name for name in members if name.startswith(f"{key}.") and not name.endswith(".json"))
            assert names == ([f"{key}.jpg"] if config == "single_zh" else [f"{key}.{i}.jpg" for i in range(len(names))])
            paths = row["image"] if isinstance(row["image"], list) else [row["image"]]
            filesystem = _filesystem(demo)
            assert [members[name] for name in names] == [filesystem.cat_file(path) for path in paths]
            found.append(row)
    assert [row["conversations"] for row in found] == [row["conversations"] for row in expected]


def test_datasets_reads_the_tars_as_a_webdataset(demo: DemoPaths, tmp_path: Path) -> None:
    export(LLAVA, to="webdataset", output_dir=tmp_path, data_dir=demo.llava)
    files = sorted(map(str, (tmp_path / "data").glob("*.tar")))
    rows = datasets.load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)
    found = list(rows)
    assert [row["json"]["id"] for row in found] == [row["id"] for row in published(demo, "default")]
    assert all(isinstance(row["jpg"], Image.Image) for row in found)
    assert "`datasets.load_dataset` of this folder" in (tmp_path / "README.md").read_text()


def test_a_card_says_truly_whether_datasets_and_ray_read_the_tars(demo: DemoPaths, tmp_path: Path) -> None:
    where = {"data_dir": demo.internvl, "image_root": demo.sa1b, "limit": 6}
    export(INTERNVL, "multi_zh", to="webdataset", output_dir=tmp_path, **where)
    # Ray, `_group_by_keys` and `_default_decoder` in webdataset_datasource.py (2.60.0): a member that a sample lacks is
    # NaN in a column of arrays, which `_cast_ndarray_columns_to_tensor_extension` refuses.
    with tarfile.open(next((tmp_path / "data").iterdir())) as tar:
        kinds = {name.partition(".")[0]: [] for name in tar.getnames()}
        for name in tar.getnames():
            kinds[name.partition(".")[0]].append(name.partition(".")[2])
    assert len({tuple(kind) for kind in kinds.values()}) > 1
    with pytest.raises(ValueError, match="don't share the same prefix or the same types"):
        datasets.load_dataset(str(tmp_path), split="train", streaming=True)
    card = (tmp_path / "README.md").read_text()
    assert "fails on this folder" in card and "decoder=None" in card
    assert [row["id"] for row in load_dataset(INTERNVL, "multi_zh", split="train", data_dir=tmp_path)] == [
        row["id"] for row in published(demo, "multi_zh")[:6]
    ]


# -- trainers: their own rules -----------------------------------------------------------------------------


def _llama_factory(folder: Path) -> list[tuple[list[dict[str, str]], list[Image.Image]]]:
    """As LLaMA-Factory 0.9.5 reads it (data/parser.py, loader.py, converter.py, mm_plugin.py)."""
    (info,) = json.loads((folder / "dataset_info.json").read_text()).values()
    tags, columns = info["tags"], info["columns"]
    assert info["formatting"] == "sharegpt" and (folder / info["file_name"]).is_dir()
    assert {path.suffix for path in (folder / info["file_name"]).iterdir()} == {".jsonl"}  # one type for all files
    found = []
    for row in lines(folder):
        messages = row[columns["messages"]]
        if messages[0][tags["role_tag"]] == tags["system_tag"]:
            messages = messages[1:]
        roles = [message[tags["role_tag"]] for message in messages]
        assert roles == [tags["user_tag"], tags["assistant_tag"]] * (len(roles) // 2) and roles
        images = [Image.open(folder / path) for path in row[columns["images"]]]  # media_dir is dataset_dir
        assert sum(message[tags["content_tag"]].count("<image>") for message in messages) == len(images)
        found.append((row["conversations"], images))
    return found


def _ms_swift(folder: Path) -> list[tuple[list[dict[str, str]], list[Image.Image]]]:
    """As ms-swift 4.6 reads it (dataset/register.py; messages with <image> as often as images)."""
    found = []
    for info in json.loads((folder / "custom_dataset_info.json").read_text()):
        for line in (folder / info["dataset_path"]).open():
            row = json.loads(line)
            images = [Image.open(path) for path in row["images"]]  # from the working directory, so absolute
            assert sum(message["content"].count("<image>") for message in row["messages"]) == len(images)
            assert {message["role"] for message in row["messages"]} <= {"system", "user", "assistant"}
            back = {"user": "human", "assistant": "gpt", "system": "system"}
            found.append(([{"from": back[m["role"]], "value": m["content"]} for m in row["messages"]], images))
    return found


def _internvl(folder: Path) -> list[tuple[list[dict[str, str]], list[Image.Image]]]:
    """As internvl_chat_finetune.py reads it: one entry a file, `image` a string or a list."""
    found = []
    for meta in json.loads((folder / "meta.json").read_text()).values():
        assert meta["data_augment"] is False and meta["repeat_time"] == 1
        rows = [json.loads(line) for line in _text_lines(meta["annotation"])]
        assert len(rows) == meta["length"]
        for row in rows:
            paths = row["image"] if isinstance(row["image"], list) else [row["image"]]
            assert isinstance(row["image"], str) == (len(paths) == 1)
            images = [Image.open(os.path.join(meta["root"], path)) for path in paths]  # noqa: PTH118 (as it does)
            width, height = (row.get(f"{n}_list") or ([row[n]] if n in row else None) for n in ("width", "height"))
            assert width is None or [image.size for image in images] == list(zip(width, height, strict=True))
            found.append((row["conversations"], images))
    return found


def _qwen_vl(folder: Path) -> list[tuple[list[dict[str, str]], list[Image.Image]]]:
    """As qwen-vl-finetune's data_processor.py reads it: marks consume images one by one, and none may be left."""
    data_dict: dict[str, Any] = {}
    exec((folder / "qwen_vl_data.py").read_text(), {"data_dict": data_dict})
    found = []
    for entry in data_dict.values():
        assert entry["annotation_path"].endswith(".jsonl")
        for line in _text_lines(entry["annotation_path"]):
            row = json.loads(line)
            pool = [row["image"]] if isinstance(row["image"], str) else list(row["image"])
            images = []
            for turn in row["conversations"]:
                assert turn["from"] in ("human", "gpt")
                if turn["from"] == "human":
                    marks = range(turn["value"].count("<image>"))
                    images += [Image.open(Path(entry["data_path"], pool.pop(0)).resolve()) for _ in marks]
            assert not pool
            found.append((row["conversations"], images))
    return found


TRAINERS = {"llama-factory": _llama_factory, "ms-swift": _ms_swift, "internvl": _internvl, "qwen-vl": _qwen_vl}


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("config", ["single_en", "multi_zh", "default"])
def test_a_trainer_finds_the_turns_and_the_pictures(
    demo: DemoPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: str, config: str
) -> None:
    out = tmp_path / "out"
    dataset, data_dir = (LLAVA, demo.llava) if config == "default" else (INTERNVL, demo.internvl)
    root = {} if config == "default" else {"image_root": demo.sa1b}
    export(dataset, config, to=trainer, output_dir=out, data_dir=data_dir, num_shards=None if not root else 2, **root)
    monkeypatch.chdir(tmp_path)
    found = TRAINERS[trainer](out)
    expected = published(demo, config, row_format="sharegpt")
    assert [turns for turns, _ in found] == [row["conversations"] for row in expected]
    assert [len(images) for _, images in found] == [len(row["images"]) for row in expected]
    filesystem = _filesystem(demo)
    for (_, images), row in zip(found[:5], expected, strict=False):
        for image, source in zip(images, row["images"] if root else [], strict=False):
            original = Image.open(io.BytesIO(filesystem.cat_file(source["path"])))
            assert np.array_equal(np.asarray(image), np.asarray(original))


def test_a_trainer_can_be_given_the_files_where_they_lie(demo: DemoPaths, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for path in sorted(demo.sa1b.glob("sa_*.tar")):
        shutil.unpack_archive(path, root / path.stem, "tar")
    arguments = {"to": "internvl", "images": "url", "data_dir": demo.internvl}
    export(INTERNVL, "single_zh", output_dir=tmp_path / "out", image_root=root, **arguments)
    assert _internvl(tmp_path / "out") and not (tmp_path / "out" / "images").exists()
    with pytest.raises(BadArgument, match=r"is in an archive, and this trainer opens files only\. Use images='files'"):
        export(INTERNVL, "single_zh", output_dir=tmp_path / "no", image_root=demo.sa1b, **arguments)


def test_a_system_prompt_is_exported_where_the_trainer_has_one(demo: DemoPaths, tmp_path: Path) -> None:
    arguments = {"output_dir": tmp_path, "data_dir": demo.llava, "options": {"system": "你好"}, "limit": 3}
    with pytest.raises(BadArgument, match="knows no system turn"):
        export(LLAVA, to="qwen-vl", **arguments)
    export(LLAVA, to="llama-factory", **arguments)
    assert [turns[0] for turns, _ in _llama_factory(tmp_path)] == [{"from": "system", "value": "你好"}] * 3


# -- card and command line ---------------------------------------------------------------------------------


def test_the_card_tells_the_licences_apart_and_says_how_it_was_made(demo: DemoPaths, tmp_path: Path) -> None:
    export(
        INTERNVL, to="parquet", row_format="parts", language="zh", sample=9, output_dir=tmp_path, data_dir=demo.internvl
    )
    card = DatasetCard.load(str(tmp_path / "README.md"))
    assert card.data.license == "mit" and card.data.language == ["zh"]
    assert [config["config_name"] for config in card.data.configs] == ["single_zh", "multi_zh"]
    assert "- Text: mit." in card.text and "SA-1B research licence" in card.text
    assert "row_format: parts" in card.text and '"sample": 9' in card.text and "@article{chen2024far" in card.text
    for config in ("single_zh", "multi_zh"):
        rows = datasets.load_dataset(str(tmp_path), config, split="train")
        assert set(rows["config"]) <= {config} and "messages" in rows.features


def test_registrations_list_every_shard_by_a_name_of_its_own(tmp_path: Path) -> None:
    files = [targets.DataFile(f"data/a-{i}.jsonl", "a", i) for i in range(3)]
    for name in ("internvl", "qwen-vl", "ms-swift"):
        ((_, text),) = targets.TARGETS[name].register("x", tmp_path, files).items()
        assert all(label in text for label in ("x_00000", "x_00001", "x_00002"))
        assert all(f"a-{i}.jsonl" in text for i in range(3))


@pytest.mark.slow
def test_the_command_takes_the_folder_before_or_after_the_options(demo: DemoPaths, tmp_path: Path) -> None:
    common = [sys.executable, "-m", "llava_zh", "export", INTERNVL, "single_zh"]
    where = ["--data-dir", str(demo.internvl), "--limit", "3"]
    for name, arguments in (
        ("a", ["--to", "jsonl", str(tmp_path / "a"), *where]),
        ("b", [str(tmp_path / "b"), "--to", "jsonl", *where]),
        ("c", [*where, "--to", "jsonl", "--system", "S", "--image-place", "end", str(tmp_path / "c")]),
    ):
        done = subprocess.run([*common, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("3 rows with 3 images in 1 file,") and str(tmp_path / name) in done.stdout
    assert ids(tmp_path / "a") == ids(tmp_path / "b") == ids(tmp_path / "c")
    turns = lines(tmp_path / "c")[0]["conversations"]
    assert turns[0] == {"from": "system", "value": "S"} and turns[1]["value"].endswith(MARK)
    refused = subprocess.run(
        [*common, "--to", "jsonl", str(tmp_path / "a"), "--limit", "4"], capture_output=True, text=True
    )
    assert refused.returncode == 1 and "Traceback" not in refused.stderr


def test_shards_that_hold_pictures_are_cut_smaller(tmp_path: Path) -> None:
    from llava_zh.exporters.selection import Selection
    from llava_zh.exporters.shards import Job, usual_number

    def number(to: str, images: str, rows: int, max_side: int | None = None) -> int:
        return usual_number(Job((), to, images, max_side, Selection(), None, tmp_path), rows)

    assert number("parquet", "url", 1_000) == 1
    assert number("parquet", "url", 11_000_000) == 41  # 11 GB of text, 256 MiB each
    assert number("webdataset", "embed", 11_000_000) == 10_255  # 11 TB, 1 GiB each
    assert number("webdataset", "embed", 11_000_000, max_side=450) < 500


def test_the_folder_is_free_again_when_the_export_ends(demo: DemoPaths, tmp_path: Path) -> None:
    export(INTERNVL, "single_zh", to="jsonl", output_dir=tmp_path, data_dir=demo.internvl)
    with FileLock(tmp_path / ".export" / "lock").acquire(timeout=0):
        pass
