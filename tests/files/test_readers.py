"""Shards of every kind of file, and files that are not what their names say."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_zh.errors import BadArgument, BadFile, BadRow, UnknownLayout
from llava_zh.files import jsonl, readers
from llava_zh.files.data_files import DataFile, local_files
from llava_zh.files.shards import TABLE_BYTES, Reading, Shard
from llava_zh.rows.records import Expect

TURNS = [{"from": "human", "value": "<image>\n看"}, {"from": "gpt", "value": "图" * 20}]


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": i, "image": f"sa_000000/sa_{i}.jpg", "conversations": TURNS} for i in range(count)]


def varied_rows(count: int) -> list[dict[str, Any]]:
    """Rows that do not compress to nothing."""
    return [{**row, "id": hashlib.sha1(b"%d" % i).hexdigest()} for i, row in enumerate(rows(count))]


def json_lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def data_file(folder: Path, name: str, data: bytes) -> DataFile:
    (folder / name).write_bytes(data)
    return local_files(str(folder), [name])[0]


def parquet(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def tar_of(members: list[tuple[str, bytes]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(
    *files: DataFile,
    on_bad: Callable[[BadRow], None] | None = None,
    chunk_size: int = 1 << 20,
    num_shards: int | None = None,
    images: str = "one",
) -> list[dict[str, Any]]:
    """All rows of `files`, shard after shard."""

    def fail(error: BadRow) -> None:
        raise error

    reading = Reading(Expect(images), on_bad or fail, lambda names: None)
    shards = readers.plan(files, chunk_size=chunk_size, num_shards=num_shards)
    return [row for shard in shards for table in readers.tables(shard, reading) for row in table.to_pylist()]


def ids(found: list[dict[str, Any]]) -> list[int]:
    return [int(row["id"]) for row in found]


# -- JSON Lines, plain and compressed ----------------------------------------------------------------------


def two_gzip_members(data: bytes) -> bytes:
    return gzip.compress(data[:500]) + gzip.compress(data[500:])


def two_zstd_frames(data: bytes) -> bytes:
    return zstd(data[:500]) + zstd(data[500:])


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", bytes),
        ("a.ndjson", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.gz", two_gzip_members),
        ("a.json.gz", gzip.compress),
        ("A.JSONL.GZ", gzip.compress),
        ("a.jsonl.zst", zstd),
        ("a.jsonl.zst", two_zstd_frames),
        ("a.json", bytes),
        ("b.json", lambda data: b"[" + data.strip().replace(b"\n", b",\n") + b"]"),
        ("c.json", lambda data: b"\xef\xbb\xbf [" + data.strip().replace(b"\n", b",") + b"]\n"),
    ],
)
def test_the_same_rows_come_out_of_every_container(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    raw = [
        record for _, record, _ in readers.raw_records(data_file(tmp_path, name, pack(json_lines(varied_rows(300)))))
    ]
    assert raw == varied_rows(300)
    file = data_file(tmp_path, name, pack(json_lines(rows(300))))
    assert ids(read(file)) == list(range(300))


def test_a_compressed_file_larger_than_every_buffer_comes_through_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "FIRST_BLOCK", 4 << 10)
    monkeypatch.setattr(jsonl, "BLOCK", 64 << 10)
    data = json_lines(rows(5000))
    assert len(data) > 8 * jsonl.BLOCK
    for name, pack in (("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd)):
        assert ids(read(data_file(tmp_path, name, pack(data)))) == list(range(5000))


@pytest.mark.parametrize("cut", [1, 8, 100, 5000])
@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd)])
def test_compressed_data_that_is_cut_short_is_told_of(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], cut: int
) -> None:
    file = data_file(tmp_path, name, pack(json_lines(varied_rows(2000)))[:-cut])
    with pytest.raises(
        BadFile, match=rf"{name}: (gzip|zstd) data is damaged or cut short after \d+ decompressed bytes"
    ):
        read(file)


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd)])
def test_damaged_compressed_data_is_told_of(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    data = bytearray(pack(json_lines(varied_rows(2000))))
    data[len(data) // 4 : -len(data) // 4] = b"\xff" * len(data[len(data) // 4 : -len(data) // 4])
    with pytest.raises((BadFile, BadRow), match="damaged|byte"):
        read(data_file(tmp_path, name, bytes(data)))


def test_text_under_a_gzip_name_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="gzip data is damaged"):
        read(data_file(tmp_path, "a.jsonl.gz", json_lines(rows(3))))


# -- JSON --------------------------------------------------------------------------------------------------


def test_a_json_array_that_is_cut_short_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"a.json: not a JSON array of records: .* Is the file complete\?"):
        read(data_file(tmp_path, "a.json", json.dumps(rows(9)).encode()[:-4]))


def test_a_bad_element_of_a_json_array_is_named_by_its_row(tmp_path: Path) -> None:
    data = b'[{"image": "a.jpg", "conversations": [{"from": "gpt", "value": "x"}]}, 3, {"image": "\xff"}]'
    bad: list[BadRow] = []
    assert len(read(data_file(tmp_path, "a.json", data), on_bad=bad.append)) == 1
    assert [error.row for error in bad] == [1, 2]
    assert "expected one JSON object, found int: 3" in str(bad[0])
    assert "expected UTF-8 text" in str(bad[1])


# -- Parquet -----------------------------------------------------------------------------------------------


def table(count: int) -> pa.Table:
    return pa.Table.from_pylist(rows(count))


@pytest.mark.parametrize(
    ("groups", "chunk_size", "shards"), [(1, 1, 1), (3, 1, 2), (8, 1, 8), (9, 1, 8), (8, 1 << 30, 1)]
)
def test_parquet_is_cut_between_row_groups_into_a_power_of_two(
    tmp_path: Path, groups: int, chunk_size: int, shards: int
) -> None:
    file = data_file(tmp_path, "a.parquet", parquet(table(groups * 10), row_group_size=10))
    assert len(readers.plan([file], chunk_size=chunk_size, num_shards=None)) == shards
    assert ids(read(file, chunk_size=chunk_size)) == list(range(groups * 10))


@pytest.mark.parametrize("num_shards", [2, 3, 7])
def test_parquet_gives_exactly_the_shards_asked_for(tmp_path: Path, num_shards: int) -> None:
    files = [data_file(tmp_path, f"{i}.parquet", parquet(table(40), row_group_size=10)) for i in range(2)]
    assert len(readers.plan(files, chunk_size=1 << 20, num_shards=num_shards)) == num_shards
    assert ids(read(*files, num_shards=num_shards)) == list(range(40)) * 2


def test_more_shards_than_row_groups_are_refused_with_what_can_be_had(tmp_path: Path) -> None:
    file = data_file(tmp_path, "a.parquet", parquet(table(40), row_group_size=10))
    with pytest.raises(BadArgument, match="num_shards=5 cannot be had.*1 to 4 shards.*between row groups"):
        read(file, num_shards=5)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a.jsonl.gz", "compressed"),
        ("a.jsonl.zst", "compressed"),
        ("a.json", "one JSON array"),
        ("a.tar", "WebDataset"),
    ],
)
def test_a_file_that_is_read_from_its_start_is_one_shard_and_the_error_says_why(
    tmp_path: Path, name: str, why: str
) -> None:
    files = [data_file(tmp_path, name, b"x"), data_file(tmp_path, f"b{name}", b"x")]
    with pytest.raises(BadArgument, match=rf"num_shards=4 cannot be had; .* 2 shards: .*{name} is .*{why}") as caught:
        readers.plan(files, chunk_size=1 << 20, num_shards=4)
    assert "row groups" not in str(caught.value)
    assert len(readers.plan(files, chunk_size=1 << 20, num_shards=2)) == 2


def test_a_mix_of_json_lines_and_parquet_still_makes_a_power_of_two(tmp_path: Path) -> None:
    files = [
        data_file(tmp_path, "a.parquet", parquet(table(30), row_group_size=10)),
        data_file(tmp_path, "b.jsonl", json_lines(rows(300))),
        data_file(tmp_path, "c.jsonl.gz", gzip.compress(json_lines(rows(30)))),
    ]
    assert len(readers.plan(files, chunk_size=8000, num_shards=None)) in (8, 16)
    with pytest.raises(BadArgument, match=r"num_shards=1 is less than the number of files, 2; ask for that many"):
        readers.plan(files[1:], chunk_size=8000, num_shards=1)
    assert len(readers.plan(files[1:], chunk_size=8000, num_shards=2)) == 2
    assert len(read(*files, chunk_size=8000)) == 360


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_parquet_that_is_cut_short_is_told_of(tmp_path: Path, keep: float) -> None:
    data = parquet(table(1000))
    with pytest.raises(BadFile, match="a.parquet: not a readable Parquet file"):
        read(data_file(tmp_path, "a.parquet", data[: int(len(data) * keep)]))


def test_parquet_whose_pages_are_damaged_is_told_of(tmp_path: Path) -> None:
    data = bytearray(parquet(table(5000), compression="snappy", use_dictionary=False))
    data[len(data) // 2 : -2000] = b"\xff" * (len(data) - 2000 - len(data) // 2)
    with pytest.raises(BadFile, match="a.parquet: not a readable Parquet file"):
        read(data_file(tmp_path, "a.parquet", bytes(data)))


@pytest.mark.parametrize("dropped", ["image", "conversations"])
def test_parquet_without_a_column_lists_those_it_has_and_those_looked_for(tmp_path: Path, dropped: str) -> None:
    file = data_file(tmp_path, "a.parquet", parquet(table(3).drop_columns([dropped])))
    with pytest.raises(UnknownLayout, match=rf"no column for {dropped}\. Columns seen: id, .*Looked for {dropped}, "):
        read(file, on_bad=lambda error: None)


def test_large_and_dictionary_types_are_read_as_plain_ones(tmp_path: Path) -> None:
    turn = pa.struct([("from", pa.large_string()), ("value", pa.large_string())])
    odd = pa.table(
        {
            "id": pa.array(["a", "b"], pa.large_string()),
            "image": pa.array(["1.jpg", "2.jpg"]).dictionary_encode(),
            "conversations": pa.array([TURNS, TURNS], pa.large_list(turn)),
        }
    )
    found = read(data_file(tmp_path, "a.parquet", parquet(odd)))
    assert [(row["id"], row["images"], row["conversations"]) for row in found] == [
        ("a", ["1.jpg"], TURNS),
        ("b", ["2.jpg"], TURNS),
    ]


def test_rows_with_large_embedded_images_come_in_tables_of_bounded_size(tmp_path: Path) -> None:
    records = [{"image": {"bytes": bytes(1 << 20), "path": None}, "conversations": TURNS} for _ in range(24)]
    file = data_file(
        tmp_path, "a.parquet", parquet(pa.Table.from_pylist(records), compression=None, use_dictionary=False)
    )
    reading = Reading(Expect(), pytest.fail, lambda names: None)
    (shard,) = readers.plan([file], chunk_size=1 << 30, num_shards=None)
    sizes = [found.nbytes for found in readers.tables(shard, reading)]
    assert len(sizes) >= 3
    assert max(sizes) <= TABLE_BYTES + (1 << 20)


# -- WebDataset tars ---------------------------------------------------------------------------------------


def samples(count: int) -> list[tuple[str, bytes]]:
    members = [
        ((f"d/{i:05}.jpg", b"JPEG%d" % i), (f"d/{i:05}.json", json.dumps({**row, "image": "gone.jpg"}).encode()))
        for i, row in enumerate(rows(count))
    ]
    return list(itertools.chain.from_iterable(members))


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("b.tar", "w:gz")])
def test_a_webdataset_tar_gives_its_pictures_and_records(tmp_path: Path, name: str, mode: str) -> None:
    found = read(data_file(tmp_path, name, tar_of(samples(600), mode)))
    assert ids(found) == list(range(600))
    assert found[5]["bytes"] == [b"JPEG5"]
    assert found[5]["images"] == ["d/00005.jpg"]


def test_several_pictures_of_a_sample_are_a_list_in_the_archives_order(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image><image>"}]
    members = [("1.a.jpg", b"A"), ("1.b.png", b"B"), ("1.json", json.dumps({"conversations": turns}).encode())]
    (row,) = read(data_file(tmp_path, "a.tar", tar_of(members)), images="many")
    assert row["bytes"] == [b"A", b"B"]


def test_a_damaged_record_in_a_tar_is_named_by_its_member(tmp_path: Path) -> None:
    members = samples(3)
    members[3] = (members[3][0], b'{"id": 1, ')
    bad: list[BadRow] = []
    assert ids(read(data_file(tmp_path, "a.tar", tar_of(members)), on_bad=bad.append)) == [0, 2]
    assert "a.tar, member d/00001.json" in str(bad[0])
    assert "expected one JSON object" in str(bad[0])


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_is_cut_short_is_told_of(tmp_path: Path, mode: str) -> None:
    data = tar_of(samples(300), mode)
    with pytest.raises(BadFile, match="the tar archive is damaged or cut short"):
        read(data_file(tmp_path, "a.tar", data[: len(data) * 2 // 3 + 100]))


def test_a_zip_among_the_data_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="a zip archive holds images here, not rows"):
        read(data_file(tmp_path, "a.zip", b"PK\3\4"))


# -- all kinds ---------------------------------------------------------------------------------------------


def test_a_shard_is_cut_further_into_pieces_with_the_same_rows(tmp_path: Path) -> None:
    reading = Reading(Expect(), pytest.fail, lambda names: None)
    for name, data in (("a.jsonl", json_lines(rows(50))), ("a.parquet", parquet(table(50), row_group_size=10))):
        (shard,) = readers.plan([data_file(tmp_path, name, data)], chunk_size=1 << 20, num_shards=None)
        pieces = [smaller for piece in readers.split(shard) for smaller in readers.split(piece)]
        assert len(pieces) == 4
        found = [row for piece in pieces for t in readers.tables(piece, reading) for row in t.to_pylist()]
        assert ids(found) == list(range(50))


def test_what_cannot_be_cut_stays_one_shard(tmp_path: Path) -> None:
    file = data_file(tmp_path, "a.jsonl.gz", gzip.compress(b"{}"))
    assert readers.split(Shard(file, 0, file.size)) == [Shard(file, 0, file.size)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b"\n\n" + json_lines(["no record", *rows(2)])),
        ("a.jsonl", b"\xef\xbb\xbf" + json_lines(rows(2))),
        ("a.jsonl.gz", gzip.compress(json_lines(rows(2)), mtime=0)),
        ("a.json", b"[3, " + json_lines(rows(1)) + b"]"),
        ("a.parquet", parquet(table(2))),
        ("a.tar", tar_of(samples(2))),
    ],
)
def test_the_sample_of_a_file_is_its_first_good_record(tmp_path: Path, name: str, data: bytes) -> None:
    first = readers.sample(data_file(tmp_path, name, data))
    assert first["id"] == 0
    assert first["conversations"] == TURNS


def test_the_sample_of_a_json_array_is_had_from_its_start(tmp_path: Path) -> None:
    data = json.dumps(rows(5000), ensure_ascii=False, indent=1).encode()
    assert len(data) > 2 * jsonl.FIRST_BLOCK
    file = data_file(tmp_path, "a.json", data[: jsonl.FIRST_BLOCK] + b"\0" * 1000)
    assert readers.sample(file)["id"] == 0


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.tar"])
def test_a_file_without_a_good_record_says_what_is_wrong_with_the_first_and_one_without_rows_has_no_sample(
    tmp_path: Path, name: str
) -> None:
    empty, bad = (
        {"a.jsonl": b"\n", "a.json": b"[]", "a.jsonl.gz": gzip.compress(b""), "a.tar": tar_of([])},
        {"a.jsonl": b"x\n", "a.json": b"[x]", "a.jsonl.gz": gzip.compress(b"x\n"), "a.tar": tar_of([("1.json", b"x")])},
    )
    assert readers.sample(data_file(tmp_path, name, empty[name])) == {}
    with pytest.raises(BadRow, match="expected one JSON object"):
        readers.sample(data_file(tmp_path, f"bad-{name}", bad[name]))


def test_parquet_of_text_in_another_encoding_is_told_of_as_such(tmp_path: Path) -> None:
    texts, starts = "中文".encode("gbk") * 3, b"".join(i.to_bytes(4, sys.byteorder) for i in (0, 4, 8, 12))
    captions = pa.StringArray.from_buffers(3, pa.py_buffer(starts), pa.py_buffer(texts))
    file = data_file(tmp_path, "a.parquet", parquet(pa.table({"image": ["1.jpg"] * 3, "caption": captions})))
    for patient in (False, True):
        with pytest.raises(BadRow, match=r"a\.parquet, row 0: row: expected text in UTF-8.*This looks like GB18030"):
            readers.sample(file, patient=patient)


def test_files_are_closed_when_reading_ends_early(tmp_path: Path) -> None:
    """A stream that is dropped half-way must not keep its file: on some systems it could not be removed."""
    file = data_file(tmp_path, "a.jsonl.gz", gzip.compress(json_lines(rows(40_000)), 1))
    code = f"""
import os, warnings
warnings.simplefilter("error")
from llava_zh.files import readers
from llava_zh.files.data_files import local_files
from llava_zh.rows.records import Expect
from llava_zh.files.shards import Reading
file = local_files({str(tmp_path)!r}, ["{file.name}"])[0]
reading = Reading(Expect(), print, lambda names: None)
(shard,) = readers.plan([file], chunk_size=1 << 20, num_shards=None)
tables = readers.tables(shard, reading)
next(tables)
tables.close()
print([name for fd in os.listdir("/proc/self/fd") if (name := os.path.realpath("/proc/self/fd/" + fd)).endswith(".gz")])
"""
    if not Path("/proc/self/fd").exists():
        pytest.skip("open files are looked up in /proc")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
