"""`load_dataset` on files with bad rows: told of by place and field, or left out, counted and logged."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from published_rows import CAPTIONS, FILES, prepare, row, stream, turns, write

from llava_zh import load_dataset
from llava_zh.errors import BadFile, BadRow, UnknownLayout

# -- bad rows ----------------------------------------------------------------------------------------------

BAD_LINES = [
    (b"not json", "line: expected one JSON object"),
    (b'{"id": 2, "image": "sa_000000/sa_2.jpg", "conv', "The line is cut short"),
    (
        json.dumps(row(1, image=5)).encode(),
        "image: expected the path of an image as text, or an image's bytes, found 5.",
    ),
    (
        json.dumps({"id": 1, "image": "a.jpg"}).encode(),
        "conversations: expected a list of at least one turn, found nothing",
    ),
    (json.dumps(row(1, conversations=turns("<image><image>"))).encode(), "expected 1 <image> mark"),
    (b'{"id": "\xff"}', "expected UTF-8 text, found byte 0xff"),
    (b"\0" * 100, "100 NUL bytes"),
    (json.dumps(row(1, image=["a.jpg", "b.jpg"])).encode(), "image: expected one image, found 2 images"),
    (json.dumps(row(1, image="../a.jpg")).encode(), "image: expected a path below the image root"),
    (json.dumps(row(1, conversations=[{"from": "gpt"}])).encode(), "conversations[0].value: expected text under"),
    (
        json.dumps(row(1, conversations=[{"from": "x", "value": "y"}])).encode(),
        "conversations[0].from: expected one of",
    ),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[message for _, message in BAD_LINES])
def test_a_bad_line_is_named_by_file_line_byte_and_field_and_can_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes, message: str
) -> None:
    file = write(tmp_path, [row(0), row(1), line, row(3), row(4)])
    byte = file.read_bytes().index(line)
    with pytest.raises(BadRow) as caught:
        list(stream(tmp_path))
    assert str(caught.value).startswith(f"{file}, line 3 (byte {byte}): ")
    assert message in str(caught.value)
    assert (caught.value.file, caught.value.line, caught.value.byte) == (str(file), 3, byte)
    assert [r["id"] for r in stream(tmp_path, on_bad_row="skip")] == ["0", "1", "3", "4"]
    assert "1 bad row left out" in caplog.text
    assert f"left out: {file}, byte {byte}: " in caplog.text


@pytest.mark.parametrize("num_proc", [None, 2])
def test_preparing_raises_the_bad_row_itself(tmp_path: Path, num_proc: int | None) -> None:
    file = write(tmp_path, [*(row(i) for i in range(60)), b"oops", *(row(i) for i in range(61, 100))])
    with pytest.raises(BadRow, match=r"line 61 \(byte \d+\): line: expected one JSON object") as caught:
        prepare(tmp_path, num_proc=num_proc, num_shards=4)
    assert caught.value.file == str(file)
    assert caught.value.line == 61


@pytest.mark.parametrize("num_proc", [None, 2])
def test_preparing_leaves_out_bad_rows_and_keeps_the_order_of_the_rest(tmp_path: Path, num_proc: int | None) -> None:
    write(tmp_path, [b"oops" if i % 7 == 0 else row(i) for i in range(100)])
    prepared = prepare(tmp_path, num_proc=num_proc, num_shards=4, on_bad_row="skip")
    assert prepared["id"][:] == [str(i) for i in range(100) if i % 7]


def test_all_bad_rows_are_counted_and_the_first_few_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, [b"oops" if i % 2 else row(i) for i in range(40)])
    assert len(list(stream(tmp_path, on_bad_row="skip", num_shards=4))) == 20
    assert "20 bad rows left out" in caplog.text
    assert caplog.text.count("left out: ") == 5


def test_a_bad_row_of_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row(0), row(1, image="/abs.jpg")])
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    files = {"data_dir": tmp_path, "data_files": "a.parquet"}
    with pytest.raises(BadRow, match=r"a.parquet, row 1: image: expected a path below the image root"):
        load_dataset(CAPTIONS, "single_en", split="train", **files)


def test_a_line_longer_than_its_shard_comes_through_whole(tmp_path: Path) -> None:
    long = "长" * 200_000
    write(tmp_path, [row(0), row(1, conversations=turns(long)), row(2)])
    rows = list(stream(tmp_path, chunk_size=10_000))
    assert [r["id"] for r in rows] == ["0", "1", "2"]
    assert rows[1]["conversations"][0]["value"] == long


def test_an_empty_file_and_an_lfs_pointer_are_told_of(tmp_path: Path) -> None:
    file = tmp_path / FILES["single_en"]
    file.write_bytes(b"")
    with pytest.raises(BadFile, match=r"the file is empty \(0 bytes\)"):
        list(stream(tmp_path))
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 11400000000\n")
    with pytest.raises(BadFile, match="Git LFS pointer"):
        prepare(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_told_of(tmp_path: Path) -> None:
    file = write(tmp_path, [row(i) for i in range(1000)])
    dataset = stream(tmp_path, num_shards=4)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(BadFile, match="ends at byte 5000"):
        list(dataset)


INSTRUCT = "llava-instruct-zh-600k"


def instruct(folder: Path, **arguments: object) -> list[str]:
    rows = load_dataset(INSTRUCT, split="train", streaming=True, data_dir=folder, **arguments)  # type: ignore[arg-type]
    return [r["id"] for r in rows.decode(False)]


@pytest.mark.slow
@pytest.mark.parametrize("line", [b"oops" * 30, b'{"note": "no row"}'])
@pytest.mark.parametrize("bad", [1, 100, 5000])
def test_a_file_that_starts_with_bad_rows_is_read_from_its_first_good_one(
    tmp_path: Path, bad: int, line: bytes
) -> None:
    good = [json.dumps(row(i)).encode() for i in range(3)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([line] * bad + good))
    assert instruct(tmp_path, on_bad_row="skip") == ["0", "1", "2"]
    with pytest.raises(BadRow if line.startswith(b"oops") else UnknownLayout):
        instruct(tmp_path)


def test_a_file_of_bad_rows_does_not_hide_the_good_ones_of_the_next(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"oops\n" * 200)
    with pytest.raises(BadRow, match="a.jsonl.*line: expected one JSON object"):
        instruct(tmp_path, on_bad_row="skip")
    (tmp_path / "b.jsonl").write_text(json.dumps(row(7)) + "\n")
    assert instruct(tmp_path, on_bad_row="skip") == ["7"]


@pytest.mark.parametrize("on_bad_row", ["raise", "skip"])
def test_lines_that_end_in_carriage_returns_alone_are_told_of(tmp_path: Path, on_bad_row: str) -> None:
    (tmp_path / "a.jsonl").write_text("\r".join(json.dumps(row(i)) for i in range(4)) + "\r", newline="")
    with pytest.raises(BadRow, match="The lines end in CR.*tr "):
        instruct(tmp_path, on_bad_row=on_bad_row)
