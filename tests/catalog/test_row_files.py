"""The layouts that llava-instruct-zh-600k may be published in, found out from files and columns."""

from __future__ import annotations

import gzip
import io
import json
import logging
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published_rows
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from llava_zh.builders.llava_instruct_zh_600k import LlavaInstructZh600k
from PIL import Image
from published_rows import stream

from llava_zh import load_dataset, load_dataset_builder
from llava_zh.catalog import row_files
from llava_zh.catalog.tasks import TASKS
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument, BadFile, DataFileNotFound, ImageNotFound, UnknownLayout
from llava_zh.files.data_files import local_files

NAME = "llava-instruct-zh-600k"


@pytest.fixture
def source(demo: DemoPaths) -> list[dict[str, Any]]:
    """The demo's rows as published, each with the bytes of its picture under `data`."""
    rows = pq.read_table(next(demo.llava.glob("*.parquet"))).to_pylist()
    return [{**row, "data": (demo.llava / row["image"]).read_bytes()} for row in rows]


def load(folder: Path, name: str = "default", **arguments: Any) -> list[dict[str, Any]]:
    return list(load_dataset(NAME, name, data_dir=folder, streaming=True, split="train", **arguments))


def found(folder: Path) -> str:
    return load_dataset_builder(NAME, data_dir=folder).config.found


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names}


def write_images(folder: Path, source: list[dict[str, Any]]) -> None:
    for row in source:
        path = folder / row["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["data"])


def as_tar(folder: Path, members: list[tuple[str, bytes]], name: str = "images.tar", mode: str = "w") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload]
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


# -- one writer a layout -----------------------------------------------------------------------------------


def parquet_and_files(folder: Path, source: list[dict[str, Any]]) -> None:
    write_images(folder, source)
    write_parquet(folder / "data" / "train.parquet", [without(row, "data") for row in source])


def parquet_and_files_beside_it(folder: Path, source: list[dict[str, Any]]) -> None:
    write_images(folder / "data", source)
    write_parquet(folder / "data" / "train.parquet", [without(row, "data") for row in source])


def parquet_and_bare_names(folder: Path, source: list[dict[str, Any]]) -> None:
    write_images(folder, source)
    write_parquet(folder / "train.parquet", [without({**r, "image": Path(r["image"]).name}, "data") for r in source])


def parquet_and_tars(folder: Path, source: list[dict[str, Any]]) -> None:
    half = len(source) // 2
    for number, rows in enumerate((source[:half], source[half:])):
        as_tar(folder, [(row["image"], row["data"]) for row in rows], f"images_{number}.tar", "w:gz" if number else "w")
    write_parquet(folder / "train.parquet", [without(row, "data") for row in source])


def parquet_and_zip(folder: Path, source: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for row in source:
            archive.writestr(f"crawl/{row['image']}", row["data"])
    write_parquet(folder / "train.parquet", [without(row, "data") for row in source])


def embedded(folder: Path, source: list[dict[str, Any]]) -> None:
    rows = [without({**r, "image": {"bytes": r["data"], "path": r["image"]}}, "data") for r in source]
    write_parquet(folder / "train.parquet", rows)


def embedded_bare_bytes(folder: Path, source: list[dict[str, Any]]) -> None:
    write_parquet(folder / "train.parquet", [without({**r, "image": r["data"]}, "data") for r in source])


def json_array(folder: Path, source: list[dict[str, Any]]) -> None:
    write_images(folder, source)
    rows = [{"id": f"zh-{i}", **without(row, "data")} for i, row in enumerate(source)]
    (folder / "llava_instruct_zh.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def json_lines_by_aliases(folder: Path, source: list[dict[str, Any]]) -> None:
    write_images(folder, source)
    rows = [
        {"task_type": r["type"], "image_path": r["image"], "conversation": json.dumps(r["conversations"])}
        for r in source
    ]
    write_json_lines(folder / "train.jsonl", rows)


def messages(folder: Path, source: list[dict[str, Any]]) -> None:
    write_images(folder, source)
    roles = {"human": "user", "gpt": "assistant"}
    rows = [
        {
            "messages": [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]],
            "images": [row["image"]],
            "type": row["type"],
        }
        for row in source
    ]
    write_json_lines(folder / "train.jsonl", rows)


def messages_embedded(folder: Path, source: list[dict[str, Any]]) -> None:
    rows = [
        {
            "messages": [{"role": turn["from"], "content": turn["value"]} for turn in row["conversations"]],
            "images": [{"bytes": row["data"], "path": None}],
            "type": row["type"],
        }
        for row in source
    ]
    write_parquet(folder / "data" / "train-00000.parquet", rows)


def struct_of_lists(folder: Path, source: list[dict[str, Any]]) -> None:
    write_images(folder, source)
    rows = []
    for row in source:
        turns = {key: [turn[key] for turn in row["conversations"]] for key in ("from", "value")}
        rows.append({**without(row, "data"), "conversations": turns})
    write_parquet(folder / "train.parquet", rows)


def webdataset(folder: Path, source: list[dict[str, Any]], mode: str = "w") -> None:
    for number in range(2):
        members = []
        for i, row in enumerate(source):
            if i % 2 == number:
                members.append((f"{i:06}.jpg", row["data"]))
                members.append((f"{i:06}.json", json.dumps(without(row, "data")).encode()))
        as_tar(folder, members, f"train-{number:05}.tar" + ".gz" * (mode == "w:gz"), mode)


def webdataset_gzip(folder: Path, source: list[dict[str, Any]]) -> None:
    webdataset(folder, source, "w:gz")


LAYOUTS: dict[Callable[[Path, list[dict[str, Any]]], None], str] = {
    parquet_and_files: "1 parquet file with columns type, image, conversations; images as files below",
    parquet_and_files_beside_it: "images as files below",
    parquet_and_bare_names: "images as files below",
    parquet_and_tars: "images in 2 archives in",
    parquet_and_zip: "images in 1 archive in",
    embedded: "images embedded in the rows",
    embedded_bare_bytes: "images embedded in the rows",
    json_array: "1 json file with columns id, type, image, conversations; images as files below",
    json_lines_by_aliases: "1 jsonl file with columns task_type, image_path, conversation; images as files below",
    messages: "1 jsonl file with columns messages, images, type; images as files below",
    messages_embedded: "images embedded in the rows",
    struct_of_lists: "images as files below",
    webdataset: "2 tar files with columns image, type, conversations; images embedded in the rows",
    webdataset_gzip: "2 tar files",
}


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
def test_every_layout_gives_the_same_rows_and_pictures(
    tmp_path: Path, source: list[dict[str, Any]], write: Callable[[Path, list[dict[str, Any]]], None]
) -> None:
    write(tmp_path / "published", source)
    rows = load(tmp_path / "published")
    by_text = {str(row["conversations"]): row for row in source}
    assert len(rows) == len(source) == len(by_text)
    assert LAYOUTS[write] in found(tmp_path / "published")
    for row in rows:
        published = by_text[str(row["conversations"])]
        assert row["task"] == LlavaInstructZh600k.FACTS.task_of(published["type"])
        with Image.open(io.BytesIO(published["data"])) as picture:
            assert row["image"].size == picture.size
            assert row["image"].tobytes() == picture.tobytes()


def test_image_root_is_where_paths_start_when_it_is_given(tmp_path: Path, source: list[dict[str, Any]]) -> None:
    write_images(tmp_path / "elsewhere", source)
    write_parquet(tmp_path / "rows" / "train.parquet", [without(row, "data") for row in source])
    assert load(tmp_path / "rows")[0]["image"] == {"bytes": None, "path": source[0]["image"]}
    assert load(tmp_path / "rows", image_root=tmp_path / "elsewhere")[0]["image"].size


def test_images_are_found_though_that_of_the_first_row_is_missing(tmp_path: Path, source: list[dict[str, Any]]) -> None:
    parquet_and_files(tmp_path, source)
    (tmp_path / source[0]["image"]).unlink()
    rows = load(tmp_path, on_missing_image="skip")
    assert len(rows) == len(source) - 1
    assert rows[0]["image"].size
    nulls = load(tmp_path, on_missing_image="null")
    assert [row["image"] is None for row in nulls] == [True] + [False] * (len(source) - 1)


def test_an_image_that_no_archive_holds_is_named_when_it_is_opened(
    tmp_path: Path, source: list[dict[str, Any]]
) -> None:
    parquet_and_tars(tmp_path, source[:-1])
    write_parquet(tmp_path / "train.parquet", [without(row, "data") for row in source])
    name = Path(source[-1]["image"]).name
    with pytest.raises(ImageNotFound, match=name):
        load(tmp_path)
    assert len(load(tmp_path, on_missing_image="skip")) == len(source) - 1


def test_data_files_find_the_archives_beside_them(tmp_path: Path, source: list[dict[str, Any]]) -> None:
    parquet_and_tars(tmp_path, source)
    stream = load_dataset(NAME, data_files=str(tmp_path / "train.parquet"), streaming=True, split="train")
    assert next(iter(stream))["image"].size


def test_leaving_out_missing_images_needs_a_place_where_they_could_be(
    tmp_path: Path, source: list[dict[str, Any]]
) -> None:
    write_parquet(tmp_path / "train.parquet", [without(row, "data") for row in source])
    with pytest.raises(BadArgument, match="no image could be found at all.*Pass image_root="):
        load(tmp_path, on_missing_image="skip")


def test_notes_beside_the_data_are_not_taken_for_it(tmp_path: Path, source: list[dict[str, Any]]) -> None:
    webdataset(tmp_path, source)
    (tmp_path / "statistics.json").write_text('{"rows": 40}')
    write_json_lines(tmp_path / "log.jsonl", [{"step": 1}])
    assert len(load(tmp_path)) == len(source)


# -- tasks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_every_name_of_a_task_is_that_task(tmp_path: Path, source: list[dict[str, Any]], task: str) -> None:
    names = [variant for name in TASKS[task] for variant in (name, f" {name.upper()} ", name.replace(" ", "_"))]
    names += [name.replace(" ", "-") for name in TASKS[task]]
    write_parquet(tmp_path / "t.parquet", [{**without(source[0], "data"), "type": name} for name in [*names, "别的"]])
    assert [row["task"] for row in load(tmp_path)] == [task] * len(names) + ["别的"]
    assert len(load(tmp_path, task)) == len(names)


def test_the_configs_of_tasks_add_up_to_the_default_one(demo: DemoPaths) -> None:
    default = load(demo.llava)
    by_task = {task: load(demo.llava, task) for task in TASKS}
    assert sum(map(len, by_task.values())) == len(default)
    for task, rows in by_task.items():
        assert {row["task"] for row in rows} == {task}
        assert {row["config"] for row in rows} == {task}
        assert [row["conversations"] for row in rows] == [r["conversations"] for r in default if r["task"] == task]


# -- what fits no layout -----------------------------------------------------------------------------------


def test_columns_that_fit_no_layout_are_listed_with_what_was_looked_for(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"picture": "x.jpg", "dialog": 3}])
    (tmp_path / "1.jpg").write_bytes(b"")
    with pytest.raises(UnknownLayout) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "a.parquet has no column for image and conversations" in message
    assert "Files seen (images aside): a.parquet. " in message
    assert "Columns seen: picture (str), dialog (int)" in message
    assert "image under image, image_path, images, img" in message
    assert "conversations under conversations, conversation, messages" in message
    assert "Name the files with data_files=" in message


def test_a_folder_without_data_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# nothing")
    told = "no Parquet, JSON, JSON Lines or tar file. Files seen \\(images aside\\): README.md"
    with pytest.raises(UnknownLayout, match=told):
        load(tmp_path)


@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl", "train.json", "train.tar"])
def test_an_lfs_pointer_or_an_empty_file_in_place_of_the_data_is_told_of(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BadFile, match=f"{name}: this is a Git LFS pointer of 63 bytes.*git lfs pull"):
        load(tmp_path)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadFile, match=rf"{name}: the file is empty"):
        load(tmp_path)


def test_folders_of_images_beside_the_data_are_not_looked_through(demo: DemoPaths, tmp_path: Path) -> None:
    shutil.copytree(demo.internvl, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "sa1b" / "sa_000000"
    folder.mkdir(parents=True)
    (folder / "sa_1.json").write_text("{}")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.JPG").write_bytes(b"")
    seen = {file.name for file in local_files(str(tmp_path), None)}
    assert seen == {path.name for path in demo.internvl.iterdir()}


# -- the captions' files by name ---------------------------------------------------------------------------


def captions(folder: Path, name: str = "single_en") -> list[dict[str, Any]]:
    return list(load_dataset("internvl-sa-1b-caption", name, data_dir=folder, streaming=True, split="train"))


def test_published_files_are_found_in_subfolders_too(tmp_path: Path, demo: DemoPaths) -> None:
    shutil.copytree(demo.internvl, tmp_path / "clone" / "data")
    assert captions(tmp_path / "clone") == captions(demo.internvl)


def test_a_regeneration_or_an_export_stands_in_for_the_published_file(tmp_path: Path, demo: DemoPaths) -> None:
    published = next(demo.internvl.glob("*single_image_en.jsonl")).read_bytes().splitlines(keepends=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "00000.jsonl").write_bytes(b"".join(published[:50]))
    (tmp_path / "data" / "00001.jsonl").write_bytes(b"".join(published[50:]))
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "failed.jsonl").write_text("{}\n")
    assert captions(tmp_path) == captions(demo.internvl)


def test_a_folder_with_only_other_configs_lists_what_it_holds(tmp_path: Path, demo: DemoPaths) -> None:
    name = "internvl_sa1b_caption_1m_single_image_zh.jsonl"
    shutil.copy(demo.internvl / name, tmp_path)
    with pytest.raises(DataFileNotFound, match=rf"expected internvl_.*_en\.jsonl .*found {name}\. Fetch it with"):
        captions(tmp_path)


def test_what_was_found_is_logged(demo: DemoPaths, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llava_zh"):
        load(demo.llava)
    assert "found 1 parquet file with columns type, image, conversations" in caplog.text


# -- files of several kinds --------------------------------------------------------------------------------


def test_every_file_that_is_named_is_read_and_of_a_folder_one_kind_with_a_word_on_the_others(
    tmp_path: Path, source: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path, source)
    lines, rest = [without(row, "data") for row in source[:4]], [without(row, "data") for row in source[4:8]]
    write_json_lines(tmp_path / "part-1.jsonl", lines[2:])
    write_json_lines(tmp_path / "text", lines[:2])
    (tmp_path / "part-0.jsonl.gz").write_bytes(gzip.compress((tmp_path / "text").read_bytes()))
    (tmp_path / "part-1.jsonl.gz").write_bytes(gzip.compress((tmp_path / "part-1.jsonl").read_bytes()))  # gunzip -k
    (tmp_path / "notes.json").write_text('{"step": 1}')
    texts = [row["conversations"] for row in lines + rest]
    assert [row["conversations"] for row in load(tmp_path)] == texts[:4]
    assert "left aside" not in caplog.text
    (tmp_path / "about.json.gz").write_bytes(gzip.compress(b'{"version": 1}'))  # for which the kind is not looked into
    assert [row["conversations"] for row in load(tmp_path)] == texts[2:4]
    assert "left aside: part-0.jsonl.gz" in caplog.text
    (tmp_path / "about.json.gz").unlink()
    write_parquet(tmp_path / "more.parquet", [{**row, "image": {"bytes": None, "path": row["image"]}} for row in rest])
    assert [row["conversations"] for row in load(tmp_path)] == texts[4:]
    assert "left aside: part-1.jsonl, part-0.jsonl.gz, part-1.jsonl.gz" in caplog.text
    named = ["part-0.jsonl.gz", "part-1.jsonl", "more.parquet"]
    rows = load(tmp_path, data_files=named)
    assert [row["conversations"] for row in rows] == texts
    assert all(row["image"].size for row in rows)
    assert len(load(tmp_path, data_files="part-*")) == 4
    for other, why in (("notes.json", "notes.json has no column"), ("text", "text is no Parquet")):
        with pytest.raises(UnknownLayout, match=why):
            load(tmp_path, data_files=[*named, other])


def test_a_published_file_whose_name_looks_like_a_pattern_is_found_by_exactly_that_name(tmp_path: Path) -> None:
    for name in ("a1.json", "a[1].json", "b1.json"):
        (tmp_path / name).write_text("[]", encoding="utf-8")
    files = local_files(str(tmp_path), None)
    assert [file.name for file in row_files.named(files, "a[1].json")] == ["a[1].json"]
    assert row_files.is_named(row_files.named(files, "a[1].json")[0], "a[1].json")
    assert [file.name for file in row_files.named(files, "[ab]1.json")] == ["a1.json", "b1.json"]


def test_rows_taken_for_a_published_file_that_is_not_there_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine.jsonl").write_text(json.dumps(published_rows.row(1)) + "\n")
    assert len(list(stream(tmp_path, "single_zh").decode(False))) == 1
    assert "there is no internvl_sa1b_caption_1m_single_image_zh.jsonl; the rows of mine.jsonl are taken" in caplog.text
    caplog.clear()
    (tmp_path / "report.json").write_text("{}")
    assert len(list(stream(tmp_path, "single_zh").decode(False))) == 1
    assert "are taken" not in caplog.text
