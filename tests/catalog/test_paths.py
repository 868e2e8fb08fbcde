"""Paths in place of names: files and folders of rows, and the folders of runs, curations and exports."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from picture_files import picture
from published_rows import turns

from llava_zh import curate, export, get_dataset_config_names, load_dataset, load_dataset_builder, register
from llava_zh.catalog import paths
from llava_zh.cli import main
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument, DataFileNotFound, LlavaZhError, UnknownLayout, UnknownName
from llava_zh.regenerate import write_batch

CAPTIONS = "internvl-sa-1b-caption"


def write_rows(file: Path, *images: Any) -> Path:
    """A file with one row for each of `images`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"image": image, "conversations": turns()} for image in images]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with rows and a picture beside them; the current folder is above it."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "mine" / "my.jsonl", "1.jpg", "1.jpg")
    (tmp_path / "mine" / "1.jpg").write_bytes(picture("red", "JPEG"))
    return tmp_path / "mine"


def test_a_file_and_a_folder_are_datasets_in_every_call(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("mine/my.jsonl", "mine", "./mine", "mine/", mine, Path("mine"), str(mine / "my.jsonl")):
        builder = load_dataset_builder(path)
        assert builder.FACTS.name == ("my" if "my.jsonl" in str(path) else "mine"), path
        row = next(iter(builder.as_streaming_dataset(split="train")))
        assert row["image"].size == (8, 8) and row["config"] == "default"
    assert load_dataset("mine", split="train").num_rows == 2
    assert get_dataset_config_names("mine/my.jsonl") == ["default", "en", "zh", "multi"]
    assert main(["show", "mine/my.jsonl", "--jsonl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    for _ in range(2):  # the second goes on, or finds all done
        assert export("mine/my.jsonl", to="jsonl", output_dir="out").rows == 2
        assert write_batch("mine/my.jsonl", output_dir="run", model="m", prompt="caption_zh")
    assert json.loads((mine.parent / "out" / ".export" / "request.json").read_text())["dataset"] == "my"
    manifest = json.loads((mine.parent / "run" / "manifest.json").read_text())
    assert manifest["input"]["dataset"] == "my" and manifest["asked"]["path"] == "mine/my.jsonl"


def test_image_paths_of_the_first_rows_say_whose_images_they_are(mine: Path) -> None:
    sam = write_rows(mine / "sam.jsonl", "sa_000000/sa_1.jpg", "sa_000000/images/sa_2.jpg", "sa_3.jpg")
    builder = load_dataset_builder(str(sam), archives=[0])
    assert builder.FACTS.in_sa1b and builder.shape.pixels and builder.FACTS.name == "sam"
    several = write_rows(mine / "两张图.jsonl", ["1.jpg"], ["1.jpg", "1.jpg"])
    builder = load_dataset_builder(several)
    assert builder.config.name == "multi" and builder.FACTS.title == "两张图.jsonl"
    assert builder.FACTS.name.startswith("rows-")
    (mine / "captions.jsonl").write_text('{"url": "http://x/sa_1.jpg", "global_caption": "红。"}\n', encoding="utf-8")
    assert load_dataset_builder(mine / "captions.jsonl").FACTS.in_sa1b
    mixed = write_rows(mine / "mixed.jsonl", "sam/images/sa_1.jpg", "coco/1.jpg", "vg/2.jpg")
    assert paths.find(mixed).facts.images == {"sam/": "sa1b", "coco/": "own", "vg/": "own", "": "own"}
    (mine / "coco").mkdir()
    shutil.copy(mine / "1.jpg", mine / "coco" / "1.jpg")
    for root in (None, {"sam/": "/sa1b", "ocr/": "/ocr"}, {"coco/": str(mine / "coco")}):
        rows = load_dataset(mixed, split="train", streaming=True, image_root=root).decode(False)
        urls = [row["image"]["path"] for row in rows]
        assert urls[0] == "sa1b://sam/images/sa_1.jpg" + ("::/sa1b" if root and "sam/" in root else "")
        assert urls[1].endswith("/coco/1.jpg")
    said = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    with sam.open("a", encoding="utf-8") as file:
        file.write(json.dumps(said) + "\n")
    builder = load_dataset_builder(sam)
    assert builder.FACTS.in_sa1b
    assert [row["image"] is None for row in builder.as_streaming_dataset(split="train").decode(False)][2:] == [
        False,
        True,
    ]
    both = write_rows(mine / "both.jsonl", "images/sa_1.jpg", "images/1.jpg")
    assert paths.find(both).facts.images == "own", "beginnings that tell nothing apart"


def test_published_files_and_folders_of_ours_are_the_dataset_that_they_are_of(
    demo: DemoPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    published = next(Path(demo.internvl).glob("*_1m_single_image_zh.jsonl"))
    given: dict[str, Any] = {"data_dir": demo.internvl}
    write_batch(CAPTIONS, "single_zh", output_dir="run", model="m", limit=3, image_root=demo.sa1b, **given)
    curate(CAPTIONS, "single_zh", output_dir="curated", **given)
    export(CAPTIONS, "single_zh", to="parquet", output_dir="out", **given)
    shutil.move("out", "moved")
    for path in (published, demo.internvl, "curated", "moved", "moved/data", "curated/dropped.jsonl"):
        found = paths.find(path)
        assert found.facts.name == CAPTIONS, path
        assert found.config == (None if path == demo.internvl else "single_zh")
    rows = load_dataset("moved", split="train", streaming=True, image_root=demo.sa1b)
    assert next(iter(rows))["image"].size
    assert load_dataset("curated", split="train").num_rows == 80
    assert load_dataset(demo.internvl, "multi_zh", split="train", streaming=True)
    with pytest.raises(BadArgument, match="'moved' has the rows of internvl-sa-1b-caption single_zh and none of multi"):
        load_dataset("moved", "multi_zh")
    with pytest.raises(DataFileNotFound, match="has finished no rows yet"):
        load_dataset("run")


def test_a_run_of_a_dataset_that_is_not_known_here_is_read_as_rows_and_no_python_is_run(
    mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (mine / "evil.py").write_text("raise SystemExit('was run')", encoding="utf-8")
    manifest = {"format": 2, "input": {"dataset": "lost", "config": "zh"}, "asked": {"path": str(mine / "evil.py")}}
    (mine / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        found = paths.find(mine)
    assert (found.facts.name, found.config) == ("mine", "zh")
    assert "made from the dataset lost" in caplog.text and "Register it" in caplog.text
    register({"name": "lost", "configs": [{"name": "zh"}]})
    assert paths.find(mine).facts.name == "lost"


def test_a_name_wins_over_a_path_of_the_same_name(mine: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.move("mine", "llava")
    with caplog.at_level(logging.WARNING), pytest.raises(BadArgument, match="llava is on no hub"):
        load_dataset_builder("llava")
    assert "for what lies here under it write './llava'" in caplog.text
    for path in ("./llava", "llava/", Path("llava")):
        assert load_dataset_builder(path).FACTS.name == "llava-rows"
    assert load_dataset_builder("llava", data_dir="llava").FACTS.name == "llava"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"path": "mine/mi.jsonl"}, DataFileNotFound, r"no file 'mine/mi\.jsonl'.* Did you mean 'mine/my\.jsonl'"),
        ({"path": "mine/other.parquet"}, DataFileNotFound, r"'mine' has 1\.jpg, empty, my\.jsonl, notes\.csv, sa1b"),
        ({"path": "none/other.parquet"}, DataFileNotFound, "There is no folder 'none' either"),
        ({"path": "a/trian.json"}, DataFileNotFound, r"no file 'a/trian\.json'"),
        ({"path": "mien"}, UnknownName, "Unknown dataset 'mien'. There is a path 'mine'"),
        ({"path": "llava-instruct-zh-600"}, UnknownName, "Did you mean 'llava-instruct-zh-600k'"),
        ({"path": "mine/empty"}, DataFileNotFound, "a folder without a file of rows.*found nothing at all"),
        ({"path": "mine/sa1b"}, DataFileNotFound, "holds images of SA-1B and no rows. It is an image_root="),
        ({"path": "mine/notes.csv"}, UnknownLayout, r"of no kind|no file of a kind .*ends in \.jsonl.*found \.csv"),
        ({"path": "mine", "data_dir": "x"}, BadArgument, "'mine' is a place on this machine.*data_dir beside it"),
        ({"path": "mine", "data_files": "x", "revision": "y"}, BadArgument, "data_files and revision beside it"),
        ({"path": "mine", "name": "dafault"}, UnknownName, "Did you mean 'default'"),
        ({"path": "mine\0"}, UnknownName, "Unknown dataset"),
    ],
)
def test_a_path_that_cannot_be_loaded_says_why(
    mine: Path, given: dict[str, Any], error: type[LlavaZhError], message: str
) -> None:
    (mine / "empty").mkdir()
    (mine / "sa1b" / "sa_000000").mkdir(parents=True)
    (mine / "notes.csv").write_text("a,b")
    with pytest.raises(error, match=message):
        load_dataset_builder(**given)
