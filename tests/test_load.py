"""`load_dataset`: names, sources, rows, bad rows, and what `datasets.load_dataset` users expect of it."""

from __future__ import annotations

import gzip
import json
import logging
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from PIL import Image
from published_rows import CAPTIONS, CONFIGS, COUNTS, FILES, LLAVA, folder_of, prepare, row, stream, turns, write

import llava_zh
from llava_zh import get_dataset_config_names, list_datasets, load_dataset, load_dataset_builder
from llava_zh.demo import DemoPaths
from llava_zh.errors import (
    BadArgument,
    BadFile,
    BadRow,
    DataFileNotFound,
    ImageNotFound,
    LlavaZhError,
    RootNotFound,
    UnknownName,
)

# -- rows --------------------------------------------------------------------------------------------------


def test_golden_rows_of_a_single_image_config(tmp_path: Path) -> None:
    write(tmp_path, [row(7, width=2250, height=1500), row(8, id="b", image=["sa_000001/sa_8.jpg"])])
    assert list(stream(tmp_path)) == [
        {
            "id": "7",
            "image": {"bytes": None, "path": "sa1b://sa_000000/sa_7.jpg"},
            "width": 2250,
            "height": 1500,
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "一棵树。"}],
            "config": "single_en",
            "language": "en",
        },
        {
            "id": "b",
            "image": {"bytes": None, "path": "sa1b://sa_000001/sa_8.jpg"},
            "width": None,
            "height": None,
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "一棵树。"}],
            "config": "single_en",
            "language": "en",
        },
    ]


def test_golden_rows_of_a_multi_image_config(tmp_path: Path) -> None:
    two = ["sa_000001/sa_1.jpg", "sa_000007/sa_2.jpg"]
    text = "Image-1: <image>\nImage-2: <image>\n比较。"
    sizes = {"width_list": [3, 4], "height_list": [5, 6]}
    write(tmp_path, [row(0, image=two, conversations=turns(text), **sizes), row(1)], FILES["multi_zh"])
    first, second = stream(tmp_path, "multi_zh")
    assert first == {
        "id": "0",
        "image": [{"bytes": None, "path": f"sa1b://{path}"} for path in two],
        "width": [3, 4],
        "height": [5, 6],
        "conversations": turns(text),
        "config": "multi_zh",
        "language": "zh",
    }
    assert second["image"] == [{"bytes": None, "path": "sa1b://sa_000000/sa_1.jpg"}]
    assert second["width"] is None


def test_golden_rows_as_messages(tmp_path: Path) -> None:
    write(tmp_path, [row(7), row(8, conversations=turns("What?"))])
    first, second = stream(tmp_path, row_format="messages")
    assert first == {
        "id": "7",
        "images": [{"bytes": None, "path": "sa1b://sa_000000/sa_7.jpg"}],
        "messages": [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "一棵树。"}],
        "task": None,
        "config": "single_en",
        "language": "en",
    }
    assert second["messages"] == first["messages"], "a row without a mark gets one for its image"


@pytest.mark.parametrize("name", FILES)
def test_the_demos_captions_come_through_as_published(demo: DemoPaths, name: str) -> None:
    published = [json.loads(line) for line in (demo.internvl / FILES[name]).read_text(encoding="utf-8").splitlines()]
    rows = list(stream(demo.internvl, name, num_shards=3))
    assert len(rows) == COUNTS[name]
    for index in (0, 1, 13, -1):
        want, got = published[index], rows[index]
        paths = [image["path"] for image in ([got["image"]] if isinstance(got["image"], dict) else got["image"])]
        images = want["image"] if isinstance(want["image"], list) else [want["image"]]
        assert paths == [f"sa1b://{path}" for path in images]
        assert got["id"] == str(want["id"])
        assert got["conversations"] == want["conversations"]
        assert got["width"] == want.get("width", want.get("width_list"))
        assert got["height"] == want.get("height", want.get("height_list"))


@pytest.mark.parametrize(("path", "name"), CONFIGS)
def test_a_prepared_dataset_has_the_rows_of_the_stream(demo: DemoPaths, path: str, name: str) -> None:
    folder = folder_of(demo, path)
    prepared = prepare(folder, name, path)
    streamed = list(stream(folder, name, path))
    assert len(prepared) == len(streamed) > 0
    assert prepared.features == stream(folder, name, path).features
    columns = [column for column in prepared.column_names if column != "image"]
    assert prepared.select_columns(columns).to_list() == [{c: r[c] for c in columns} for r in streamed]


def test_two_processes_prepare_the_same_rows_as_one(demo: DemoPaths, tmp_path: Path) -> None:
    one = prepare(demo.internvl, cache_dir=tmp_path / "one", num_shards=8)
    two = prepare(demo.internvl, cache_dir=tmp_path / "two", num_shards=8, num_proc=2)
    assert two.to_list() == one.to_list()


def test_features_are_the_same_whatever_the_first_lines_look_like(tmp_path: Path) -> None:
    for number, rows in enumerate(([row(1)], [row(1, width=3)], [{**row(1, id="x"), "image": ["a.jpg"]}])):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number), rows)
        assert stream(tmp_path / str(number)).features == datasets.Features(
            {
                "id": datasets.Value("string"),
                "image": datasets.Image(decode=False),
                "width": datasets.Value("int64"),
                "height": datasets.Value("int64"),
                "conversations": [{"from": datasets.Value("string"), "value": datasets.Value("string")}],
                "config": datasets.Value("string"),
                "language": datasets.Value("string"),
            }
        )


def test_a_type_that_changes_after_ten_megabytes_is_never_turned_into_text(tmp_path: Path) -> None:
    """Stock JSON loading gives a list that comes late as the text '["a.jpg"]'."""
    pad = "字" * 1000
    rows = [row(i, conversations=turns(pad)) for i in range(4000)]
    rows += [row(4000, image=["late/4000.jpg"]), row(4001, id="text"), row(4002, width=[3])]
    assert write(tmp_path, rows).stat().st_size > 12_000_000
    for found in (list(stream(tmp_path))[-3:], list(prepare(tmp_path))[-3:]):
        assert [r["image"]["path"] for r in found] == [
            "sa1b://late/4000.jpg",
            "sa1b://sa_000000/sa_4001.jpg",
            "sa1b://sa_000000/sa_4002.jpg",
        ]
        assert [r["id"] for r in found] == ["4000", "text", "4002"]
        assert [r["width"] for r in found] == [None, None, 3]


def test_a_late_second_image_in_a_single_image_config_is_refused_by_line(tmp_path: Path) -> None:
    pad = "字" * 1000
    rows = [row(i, conversations=turns(pad)) for i in range(4000)] + [row(4000, image=["a.jpg", "b.jpg"])]
    write(tmp_path, rows)
    with pytest.raises(BadRow, match=r'line 4001 \(byte \d+\): image: expected one image, found 2 images: \["a.jpg"'):
        list(stream(tmp_path))


def test_unknown_keys_are_listed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, [row(i, score=1, **({"note": "x"} if i > 50 else {})) for i in range(100)])
    list(stream(tmp_path, num_shards=4))
    logged = [record.getMessage() for record in caplog.records if "keys that are not loaded" in record.getMessage()]
    assert len(logged) == 2
    assert sorted(message.split(": ")[-1] for message in logged) == ["note", "score"]


# -- names and arguments -----------------------------------------------------------------------------------


def test_the_names_are_listed() -> None:
    assert list_datasets() == [CAPTIONS, LLAVA, "llava-instruct-150k", "llava", "sa1b-captions"]
    assert get_dataset_config_names(CAPTIONS) == ["single_en", "single_zh", "multi_en", "multi_zh"]
    assert get_dataset_config_names(LLAVA) == ["default", "conversation", "complex_reasoning", "detail"]
    assert sorted(llava_zh.__all__) == sorted(set(llava_zh.__all__))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "internvl-sa1b-captions"}, "Unknown dataset 'internvl-sa1b-captions'. Did you mean 'internvl-sa-1b-"),
        ({"path": "OpenGVLab/InternVL-SA-1B"}, "Did you mean 'OpenGVLab/InternVL-SA-1B-Caption'?"),
        ({"path": "imagenet"}, "Known: internvl-sa-1b-caption, llava-instruct-zh-600k"),
        ({"name": "single-zh"}, "Did you mean 'single_zh'?"),
        ({"name": "zz"}, "Known: single_en, single_zh, multi_en, multi_zh."),
        ({"source": "model_scope"}, "Unknown source 'model_scope'. Did you mean 'modelscope'?"),
        ({"row_format": "message"}, "Unknown row format 'message'. Did you mean 'messages'?"),
        ({"on_bad_row": "skipp"}, "Did you mean 'skip'?"),
        ({"on_missing_image": "none"}, "Known: raise, skip, null."),
        ({"data_files": {"test": "a.jsonl"}}, "Unknown split 'test'"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_told_of_with_the_nearest_one(
    demo: DemoPaths, arguments: dict[str, Any], message: str
) -> None:
    given = {"path": CAPTIONS, "name": "single_en", "data_dir": demo.internvl, **arguments}
    with pytest.raises(UnknownName) as caught:
        load_dataset(given.pop("path"), given.pop("name"), streaming=True, **given)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("streaming", [True, False])
def test_an_unknown_split_is_told_of(demo: DemoPaths, streaming: bool) -> None:
    with pytest.raises(UnknownName, match=r"Unknown split 'test'.* Known: train\."):
        load_dataset(CAPTIONS, "single_en", data_dir=demo.internvl, split="test", streaming=streaming)


def test_a_slice_of_a_stream_is_refused_with_what_to_do(demo: DemoPaths) -> None:
    with pytest.raises(BadArgument, match=r"take\(n\)"):
        load_dataset(CAPTIONS, "single_en", data_dir=demo.internvl, split="train[:1%]", streaming=True)


def test_a_config_must_be_named_where_there_is_no_default(demo: DemoPaths) -> None:
    with pytest.raises(BadArgument, match="needs the name of a configuration, one of: single_en, single_zh"):
        load_dataset(CAPTIONS, data_dir=demo.internvl)
    assert load_dataset_builder(LLAVA, data_dir=demo.llava).config.name == "default"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chunk_size": "many"}, "chunk_size: 'many' is no number of bytes"),
        ({"chunk_size": 0}, "chunk_size: 0 is no number of bytes"),
        ({"chunk_size": -5}, "chunk_size: -5 is no number of bytes"),
        ({"num_shards": 0}, "num_shards=0 is less than the number of files"),
        ({"num_proc": 2}, "num_proc prepares a dataset; a stream is read in parallel by a DataLoader's num_workers"),
        ({"archives": ["sa_1"]}, "archives: 'sa_1' is no SA-1B archive"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(demo: DemoPaths, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        list(stream(demo.internvl, **arguments))
    assert message in str(caught.value)


def test_archives_are_refused_for_images_that_are_not_of_sa1b(demo: DemoPaths) -> None:
    with pytest.raises(BadArgument, match="the images of llava-instruct-zh-600k are not from SA-1B"):
        stream(demo.llava, "default", LLAVA, archives=[0])


@pytest.mark.parametrize("path", [CAPTIONS, "OpenGVLab/InternVL-SA-1B-Caption", "thomas/internvl-sa-1b-caption"])
def test_hub_ids_are_names_too(demo: DemoPaths, path: str) -> None:
    builder = load_dataset_builder(path, "single_en", data_dir=demo.internvl)
    assert type(builder).__name__ == "InternvlSa1bCaption"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_dir": "nowhere"}, "data_dir 'nowhere' is not a folder"),
        ({"data_files": "no.jsonl"}, "data_files: no file 'no.jsonl'"),
        ({"data_files": "nowhere/*.jsonl"}, "data_files: no file"),
    ],
)
def test_files_that_are_not_there_are_told_of(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataFileNotFound) as caught:
        load_dataset(CAPTIONS, "single_en", **arguments)
    assert message in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


# -- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["path", "list", "dict", "pattern", "overlapping"])
def test_data_files_take_what_datasets_takes(tmp_path: Path, form: str) -> None:
    write(tmp_path, [row(0)], "a.jsonl")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(row(1)).encode()))
    both: dict[str, Any] = {
        "path": tmp_path / "a.jsonl",
        "list": [str(tmp_path / "a.jsonl"), tmp_path / "b.jsonl.gz"],
        "dict": {"train": ["a.jsonl", "b.jsonl.gz"]},
        "pattern": "*.jsonl*",
        "overlapping": ["a.jsonl", "*.jsonl", "*.gz"],
    }
    folder = {} if form in ("path", "list") else {"data_dir": tmp_path}
    rows = load_dataset(CAPTIONS, "single_en", data_files=both[form], split="train", streaming=True, **folder)
    assert [r["id"] for r in rows] == (["0"] if form == "path" else ["0", "1"])


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_published_file_is_found_by_its_name(demo: DemoPaths, tmp_path: Path, suffix: str) -> None:
    data = (demo.internvl / FILES["multi_en"]).read_bytes()
    packed = gzip.compress(data) if suffix == ".gz" else pa.compress(data, codec="zstd", asbytes=True)
    (tmp_path / (FILES["multi_en"] + suffix)).write_bytes(packed)
    assert list(stream(tmp_path, "multi_en")) == list(stream(demo.internvl, "multi_en"))


def test_chunk_size_and_num_shards_set_the_shards(tmp_path: Path) -> None:
    size = write(tmp_path, [row(i) for i in range(1000)]).stat().st_size
    whole = list(stream(tmp_path))
    assert stream(tmp_path).num_shards == 1
    for arguments, expected in (
        ({"chunk_size": size // 5}, 8),
        ({"chunk_size": f"{size / 10_000:.3f}kB"}, 16),
        ({"num_shards": 6}, 6),
    ):
        dataset = stream(tmp_path, **arguments)
        assert dataset.num_shards == expected
        assert list(dataset) == whole


# -- as `datasets.load_dataset` ----------------------------------------------------------------------------


def test_without_a_split_a_dict_of_splits_comes_back(demo: DemoPaths) -> None:
    prepared = load_dataset(CAPTIONS, "multi_zh", data_dir=demo.internvl)
    streamed = load_dataset(CAPTIONS, "multi_zh", data_dir=demo.internvl, streaming=True)
    assert isinstance(prepared, datasets.DatasetDict)
    assert isinstance(streamed, datasets.IterableDatasetDict)
    assert list(prepared) == list(streamed) == ["train"]


def test_slices_of_the_split_are_taken(demo: DemoPaths) -> None:
    assert len(load_dataset(CAPTIONS, "single_en", data_dir=demo.internvl, split="train[:5%]")) == 4
    assert load_dataset(CAPTIONS, "single_en", data_dir=demo.internvl, split="train[10:12]")["id"][:] == ["10", "11"]


def test_keep_in_memory_and_cache_dir_mean_what_they_mean_for_datasets(demo: DemoPaths, tmp_path: Path) -> None:
    on_disk = prepare(demo.internvl, cache_dir=tmp_path, keep_in_memory=False)
    assert [Path(file["filename"]).is_relative_to(tmp_path) for file in on_disk.cache_files] == [True]
    assert prepare(demo.internvl, cache_dir=tmp_path, keep_in_memory=True).cache_files == []


def test_a_prepared_dataset_is_used_again_and_prepared_anew_on_request(demo: DemoPaths, tmp_path: Path) -> None:
    def cached(**arguments: Any) -> tuple[str, int]:
        (file,) = prepare(demo.internvl, cache_dir=tmp_path, **arguments).cache_files
        return file["filename"], os.stat(file["filename"]).st_ino

    first = cached()
    assert cached() == first
    assert cached(num_shards=2) == first, "shards are how it is read, not what it is"
    again = cached(download_mode="force_redownload")
    assert again[0] == first[0]
    assert again[1] != first[1]


def test_a_changed_file_is_not_served_from_the_prepared_cache(tmp_path: Path) -> None:
    file = write(tmp_path, [row(0)])
    assert len(prepare(tmp_path)) == 1
    write(tmp_path, [row(0), row(1)])
    assert len(prepare(tmp_path)) == 2
    before = file.stat()
    write(tmp_path, [row(0), row(2)])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert prepare(tmp_path)["id"][:] == ["0", "2"]


@pytest.mark.parametrize("arguments", [{"row_format": "messages"}, {"archives": [0]}, {"on_bad_row": "skip"}])
def test_what_decides_the_rows_decides_the_cache(demo: DemoPaths, tmp_path: Path, arguments: dict[str, Any]) -> None:
    plain = prepare(demo.internvl, cache_dir=tmp_path)
    other = prepare(demo.internvl, cache_dir=tmp_path, **arguments)
    assert plain.cache_files != other.cache_files


def test_facts_are_beside_the_rows(demo: DemoPaths) -> None:
    info = stream(demo.internvl).info
    assert info.license.startswith("mit; images: SA-1B research licence")
    assert "chen2024far" in info.citation
    assert info.homepage == "https://huggingface.co/datasets/OpenGVLab/InternVL-SA-1B-Caption"


# -- images ------------------------------------------------------------------------------------------------


def test_pictures_open_where_a_root_is_given_or_set(demo: DemoPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    with_root = next(iter(stream(demo.internvl, image_root=demo.sa1b)))
    assert isinstance(with_root["image"], Image.Image)
    assert with_root["image"].size == (with_root["width"], with_root["height"])
    monkeypatch.setenv("SA1B_ROOT", str(demo.sa1b))
    assert next(iter(stream(demo.internvl)))["image"].size == with_root["image"].size
    several = next(iter(prepare(demo.internvl, "multi_en")))
    assert [picture.size for picture in several["image"]] == list(zip(several["width"], several["height"], strict=True))


def test_without_a_root_rows_name_their_images(demo: DemoPaths) -> None:
    assert next(iter(stream(demo.internvl)))["image"]["path"].startswith("sa1b://sa_00000")
    with pytest.raises(RootNotFound, match="SA1B_ROOT"):
        list(stream(demo.internvl, on_missing_image="skip"))


def test_an_extracted_root_is_one_too(demo: DemoPaths, tmp_path: Path) -> None:
    write(tmp_path, [row(1)])
    (tmp_path / "root" / "sa_000000").mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(tmp_path / "root" / "sa_000000" / "sa_1.jpg")
    (found,) = stream(tmp_path, image_root=tmp_path / "root")
    assert found["image"].size == (3, 2)


def test_rows_of_chosen_archives_are_kept(demo: DemoPaths) -> None:
    everything = [r["image"]["path"] for r in stream(demo.internvl)]
    some = [r["image"]["path"] for r in stream(demo.internvl, archives=[0, "sa_000002"])]
    assert some == [path for path in everything if "sa_000001" not in path]
    assert 0 < len(some) < len(everything)
    several = list(stream(demo.internvl, "multi_en", archives=range(2)))
    assert all("sa_000002" not in image["path"] for r in several for image in r["image"])


def test_missing_images_are_raised_left_out_or_null(demo: DemoPaths, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (demo.internvl / FILES["single_en"]).read_text().splitlines()[:3]]
    rows[1]["image"] = "sa_000001/sa_12345.jpg"
    write(tmp_path, rows)
    with pytest.raises(ImageNotFound, match="sa_12345"):
        list(stream(tmp_path, image_root=demo.sa1b))
    assert [r["id"] for r in stream(tmp_path, image_root=demo.sa1b, on_missing_image="skip")] == ["0", "2"]
    for dataset in (stream, prepare):
        nulls = list(dataset(tmp_path, image_root=demo.sa1b, on_missing_image="null"))
        assert [r["image"] is None for r in nulls] == [False, True, False]


@pytest.mark.parametrize("as_file", [True, False])
def test_rows_of_bad_images_are_left_out(demo: DemoPaths, tmp_path: Path, as_file: bool) -> None:
    paths = [r["image"]["path"].removeprefix("sa1b://") for r in stream(demo.internvl)]
    bad: Any = paths[3:5]
    if as_file:
        (tmp_path / "bad.txt").write_text("# checked\n" + "".join(f"{path}\ttruncated\n" for path in bad))
        bad = tmp_path / "bad.txt"
    kept = [r["image"]["path"] for r in stream(demo.internvl, bad_images=bad)]
    assert kept == [f"sa1b://{path}" for path in paths[:3] + paths[5:]]


def test_all_errors_are_of_one_tree(tmp_path: Path) -> None:
    for error in (BadRow, BadFile, UnknownName, BadArgument, DataFileNotFound):
        assert issubclass(error, LlavaZhError)


def test_logs_go_through_the_packages_logger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, [row(0), b"oops"])
    with caplog.at_level(logging.WARNING):
        list(stream(tmp_path, on_bad_row="skip"))
    assert {record.name.split(".")[0] for record in caplog.records} == {"llava_zh"}
