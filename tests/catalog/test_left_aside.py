"""Files in a folder of rows that are not read with the others, each told of: text beside pictures, splits, runs."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_server import ModelServer
from picture_files import picture
from published_rows import turns

from llava_zh import curate, export, load_dataset
from llava_zh.catalog import paths
from llava_zh.errors import BadArgument, DataFileNotFound
from llava_zh.files.our_folders import ours
from llava_zh.regenerate import regenerate, write_batch

SAID = [{"from": "human", "value": "写一首诗。"}, {"from": "gpt", "value": "好。"}]


def write(file: Path, *rows: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def text(name: str) -> dict[str, Any]:
    return {"id": name, "conversations": SAID}


def pictured(name: str) -> dict[str, Any]:
    return {"id": name, "image": "1.jpg", "conversations": turns()}


def ids(path: Any, **options: Any) -> list[str]:
    return [row["id"] for row in load_dataset(path, split="train", streaming=True, **options)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder of rows, ``m``, and their picture."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "m" / "r.jsonl", pictured("a"), pictured("b"))
    (tmp_path / "m" / "1.jpg").write_bytes(picture("red", "JPEG"))
    return tmp_path


def test_rows_of_text_beside_files_of_another_kind_are_told_of(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = [{**pictured("p"), "image": {"bytes": picture("red", "JPEG"), "path": "z.jpg"}}]
    write(here / "embedded" / "text.jsonl", text("t"))
    pq.write_table(pa.Table.from_pylist(one), here / "embedded" / "p.parquet")
    pq.write_table(pa.Table.from_pylist([text("t")]), here / "m" / "text.parquet")
    write(here / "tars" / "text.jsonl", text("t"))
    with tarfile.open(here / "tars" / "p.tar", "w") as tar:
        for name, data in (("p.jpg", picture("red", "JPEG")), ("p.json", json.dumps({"conversations": turns()}))):
            member = tarfile.TarInfo(name)
            content = data if isinstance(data, bytes) else data.encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for folder, left in (("embedded", "text.jsonl"), ("m", "text.parquet"), ("tars", "text.jsonl")):
        caplog.clear()
        assert "t" not in ids(folder)
        assert [f"are left aside: {left}. " in record.message for record in caplog.records] == [True], folder


def test_what_was_made_of_rows_lies_in_their_folder_and_is_no_part_of_them(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # the second goes on, or finds all done
        write_batch("m", output_dir="m/new", model="m", prompt="caption_zh")
        assert export("m", to="jsonl", output_dir="m/in/out").rows == 2
    curate("llava", data_dir="m", output_dir="m/cur", exact_duplicates=False, near_duplicates=None)
    assert [found and found.kind for found in map(ours, ("m", "m/new", "m/in/out", "m/cur"))] == [
        None, "run", "export", "curation",
    ]  # fmt: skip
    for options in ({"path": "m"}, {"path": "llava", "data_dir": "m"}, {"path": "llava", "data_files": "m/**"}):
        assert ids(**options) == ["a", "b"]
    told = [record.message for record in caplog.records if "left out of the rows around it" in record.message]
    assert len(told) == 3 and "/m/new holds a run" in told[0]
    root = str(here / "m")
    for options in ({"path": "m/cur"}, {"path": "m/in/out"}, {"path": "llava", "data_files": "m/in/*/data/*.jsonl"}):
        assert ids(**options, image_root=root) == ["a", "b"]


def test_rows_to_test_by_are_no_rows_to_train_on(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "test", "my-val-2", "dev/a", "latest", "extra"):
        write(here / "s" / f"{name}.jsonl", text(name))
    write(here / "t" / "test.jsonl", text("test"))
    assert ids("s") == ["extra", "latest", "train"]
    assert [record.message for record in caplog.records] == [
        f"{here}/s: rows are read to train on, and files that are called as other splits are left aside: dev/a.jsonl, "
        "my-val-2.jsonl, test.jsonl. To read them, name them with data_files=."
    ]
    assert ids("t") == ids("llava", data_files="s/test.jsonl") == ["test"]


def test_two_stars_find_files_at_once_and_below_and_a_name_may_hold_a_tilde(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(here / "u" / "k" / "~x.jsonl", text("k"))
    write(here / "u" / "r.jsonl", text("r"))
    assert ids("llava", data_files="u/**") == ids("llava", data_dir="u", data_files="**") == ["k", "r"]
    assert ids("u/k/~x.jsonl") == ["k"]
    assert not caplog.records
    assert ids("llava", data_files=["u/r.jsonl", "u/r.jsonl"]) == ["r"]
    assert "u/r.jsonl is named more than once and is read once" in caplog.text
    with pytest.raises(DataFileNotFound, match="~nouser/x"):
        ids("llava", data_files="~nouser/x.jsonl")


def test_what_was_made_of_a_path_finds_its_pictures_where_they_lie(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (here / "m" / "in").mkdir()
    (here / "m" / "1.jpg").rename(here / "m" / "images.jpg")
    write(here / "m" / "r.jsonl", {**pictured("a"), "image": "in/1.jpg"}, {**pictured("b"), "image": "in/1.jpg"})
    (here / "m" / "images.jpg").rename(here / "m" / "in" / "1.jpg")
    with ModelServer() as server:
        how = {"model": "tiny-vlm", "base_url": server.url, "prompt": "caption_zh", "progress": False}
        regenerate("m", output_dir="run1", **how)
        regenerate("run1", output_dir="run2", **how)
    curate("run2", output_dir="cur", near_duplicates=None, exact_duplicates=False)
    curate("llava", data_dir="m", output_dir="named", near_duplicates=None, exact_duplicates=False)
    (here / "cur").rename(here / "moved")
    for path in ("run1", "run1/data", "run2", "moved", "named"):
        rows = load_dataset(path, split="train", streaming=True)
        assert [row["image"].size for row in rows] == [(8, 8)] * 2, path
    assert export("moved", to="jsonl", output_dir="out", images="files").images
    assert not caplog.records
    # A folder that came from elsewhere does not know the rows here, and so does not choose what is opened.
    with (here / "m" / "r.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert next(iter(load_dataset("run1", split="train", streaming=True)))["image"]["bytes"] is None
    assert f"made from rows in {here}/m" in caplog.text


def test_a_later_image_of_a_place_that_is_not_known_is_told_of(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    sam = [{**pictured(str(n)), "image": f"sa_000000/sa_{n + 1}.jpg"} for n in range(paths.LOOKED_AT)]
    for rows in ([*sam, pictured("own"), pictured("own2")], [*sam[1:], pictured("own"), pictured("own2")]):
        write(here / "late" / "r.jsonl", *rows)
        caplog.clear()
        assert load_dataset("late", split="train")[-1]["image"]["bytes"] is None
        first, last = [record.message for record in caplog.records]
        assert "it is not known where the image 1.jpg is" in first and "2 images given undecoded" in last


@pytest.mark.parametrize(
    "split", ["all[:2]", "train[:0]", "train[", "train[3]", "train[:1.5%]", "train[:]x", ["train[3]"]]
)
def test_a_slice_that_is_none_is_refused_before_anything_is_read(split: Any) -> None:
    with pytest.raises(BadArgument, match="^split: '"):
        load_dataset("no-such", split=split)


def test_slices_and_numbers_that_can_be_had(here: Path) -> None:
    for split, rows in ((" train", 2), ("train[:1] + train[-1:]", 2)):
        assert load_dataset("m", split=split).num_rows == rows
    with pytest.raises(BadArgument, match="slice without a row of the 2 rows there"):
        load_dataset("m", split="train[5:7]")
    with pytest.raises(BadArgument, match="num_proc: expected a number of processes, found str '2'"):
        load_dataset("m", num_proc="2")  # type: ignore[call-overload]
    for nothing in ("", " "):
        with pytest.raises(BadArgument, match="the current folder write '.'"):
            load_dataset(nothing)
    with pytest.raises(DataFileNotFound, match="/no/z.zip"):
        load_dataset("llava", data_files="zip://r.jsonl::/no/z.zip")
