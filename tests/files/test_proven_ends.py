"""Files whose end is missing, that hold something else than their name says, or more than their size says."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hunting import hunt
from hypothesis import given
from hypothesis import strategies as st
from published_rows import LLAVA, stream, turns

from llava_zh import load_dataset
from llava_zh.errors import BadFile, BadRow, LlavaZhError
from llava_zh.files import readers
from llava_zh.files.data_files import local_files
from llava_zh.files.shards import Reading
from llava_zh.rows.records import Expect


def line(number: int, **more: Any) -> bytes:
    return json.dumps({"id": str(number), "image": "a.jpg", "conversations": turns("q"), **more}).encode()


LINES = b"".join(line(i) + b"\n" for i in range(40))


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def read(folder: Path, name: str, data: bytes) -> tuple[list[str], list[LlavaZhError]]:
    """The ids of all good rows, and all errors."""
    (folder / name).write_bytes(data)
    found: list[LlavaZhError] = []
    note: Any = found.append
    reading = Reading(Expect("many"), note, lambda names: None, on_damage=note)
    shards = readers.plan(local_files(str(folder), [name]), chunk_size=1 << 20, num_shards=None)
    return [r["id"] for s in shards for t in readers.tables(s, reading) for r in t.to_pylist()], found


ALL = [str(i) for i in range(40)]


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd)])
def test_a_stream_cut_anywhere_near_its_end_gives_its_rows_and_the_error(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    assert read(tmp_path, name, pack(LINES)) == (ALL, [])
    assert read(tmp_path, name, pack(LINES[:1000]) + pack(LINES[1000:])) == (ALL, [])
    for cut in range(1, 9):
        rows, errors = read(tmp_path, name, pack(LINES)[:-cut])
        assert rows == ALL[: len(rows)]
        assert name.endswith(".zst") or len(rows) == 40  # gzip ends with 8 bytes that only prove it
        assert [type(error) for error in errors] == [BadFile]


def test_zeros_after_a_gzip_stream_are_padding_and_anything_else_is_told_of(tmp_path: Path) -> None:
    packed = gzip.compress(LINES)
    assert read(tmp_path, "a.jsonl.gz", packed + bytes(1000)) == (ALL, [])
    for tail in (b"x", bytes(10) + b"x", b"\x1f\x8b"):
        rows, errors = read(tmp_path, "a.jsonl.gz", packed + tail)
        assert rows == ALL
        assert [type(error) for error in errors] == [BadFile]


def test_a_wrong_checksum_loses_no_row_and_is_told_of(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(LINES))
    packed[-8] ^= 1
    rows, [error] = read(tmp_path, "a.jsonl.gz", bytes(packed))
    assert rows == ALL
    assert "incorrect data check" in str(error)


def test_an_array_with_a_bad_element_gives_all_others(tmp_path: Path) -> None:
    elements = [line(0), b"{'id': 1}", line(2, score=float("nan")), b"3", line(4, x='a "] , [ {')]
    rows, errors = read(tmp_path, "a.json", b"\xef\xbb\xbf [" + b", ".join(elements) + b"]\n")
    assert rows == ["0", "2", "4"]
    assert [error.row for error in errors if isinstance(error, BadRow)] == [1, 3]


@pytest.mark.parametrize("end", [b"", b",", b",]", b"] x", b', {"id": 3'])
def test_an_array_without_its_end_gives_what_is_there_and_the_error(tmp_path: Path, end: bytes) -> None:
    rows, errors = read(tmp_path, "a.json", b"[" + line(0) + b"," + line(1) + end)
    assert rows[:1] == ["0"]
    assert [type(error) for error in errors] == [BadFile]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (line(1, t="?").replace(b"?", "描述这张图".encode("gbk")), "iconv -f GB18030 -t UTF-8"),
        (line(1).decode().encode("utf-16"), "UTF-16"),
        (line(1).decode().encode("utf-16-le"), "UTF-16LE"),
        (line(1).decode().encode("utf-32"), "UTF-32"),
        (gzip.compress(line(1), mtime=0), "gzip data"),
        (zstd(line(1)), "zstd data"),
        (b"BZh91AY&SY", "bunzip2"),
        (b"\xfd7zXZ\0\0\0", "unxz"),
        (b"PK\x03\x04zip", "zip archive"),
        (b"PAR1....PAR1", "Parquet file"),
        (b"<!DOCTYPE html><html>403</html>\n", "web page"),
        (line(1) + b",\n", "JSON array"),
        (b'{\n  "id": 1\n}\n', "several lines"),
        (b"{'id': 1}", "single quotes"),
    ],
)
@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_what_a_file_really_is_is_said_by_the_error(tmp_path: Path, data: bytes, cause: str, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((BadRow, BadFile), match=cause):
        list(stream(tmp_path, "default", LLAVA))


def test_a_file_in_gbk_raises_also_where_bad_rows_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(line(1, t="?").replace(b"?", "描述这张图".encode("gbk")) * 3)
    with pytest.raises(BadRow, match="GBK"):
        load_dataset(LLAVA, split="train", streaming=True, data_dir=tmp_path, on_bad_row="skip")


def test_empty_first_parts_are_read_over_in_every_format(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([json.loads(line(i)) for i in range(3)])
    for kind, parts in {"parquet": [table.slice(0, 0), table], "bare": [pa.table({}), table]}.items():
        (tmp_path / kind).mkdir()
        for i, part in enumerate(parts):
            pq.write_table(part, tmp_path / kind / f"{i}.parquet")
        assert len(list(stream(tmp_path / kind, "default", LLAVA))) == 3
    for name, parts in {"jsonl": [b"", b"\n", LINES], "jsonl.gz": [gzip.compress(b""), gzip.compress(LINES)]}.items():
        (tmp_path / name).mkdir()
        for i, part in enumerate(parts):
            (tmp_path / name / f"{i}.{name}").write_bytes(part)
        assert len(list(stream(tmp_path / name, "default", LLAVA))) == 40


@pytest.mark.slow
def test_a_dictionary_that_stands_for_gigabytes_is_spelled_out_in_bounded_tables(tmp_path: Path) -> None:
    long = "x" * 300_000
    kind = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    texts = [
        [{"from": "human", "value": "q"}, {"from": "gpt", "value": long if i >= 1000 else "a"}] for i in range(4000)
    ]
    table = pa.table({"image": ["a.jpg"] * len(texts), "conversations": pa.array(texts, kind)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    reading = Reading(Expect(), pytest.fail, lambda names: None)
    [shard] = readers.plan(local_files(str(tmp_path), None), chunk_size=1 << 20, num_shards=None)
    count = 0
    for found in readers.tables(shard, reading):
        assert found.nbytes < 24 << 20
        count += len(found)
    assert count == 4000


def test_parquet_in_which_each_text_repeats_the_one_before_is_read_too(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([json.loads(line(i)) for i in range(200)])
    encodings = {"id": "DELTA_BYTE_ARRAY", "image": "DELTA_BYTE_ARRAY"}
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, column_encoding=encodings)
    assert read(tmp_path, "a.parquet", (tmp_path / "a.parquet").read_bytes()) == ([str(i) for i in range(200)], [])


_FUZZED = """
import resource, sys
from pathlib import Path
from llava_zh.files import readers
from llava_zh.errors import LlavaZhError
from llava_zh.files.data_files import local_files
from llava_zh.files.shards import Reading
from llava_zh.rows.records import Expect
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for name in sorted(p.name for p in Path(sys.argv[1]).iterdir()):
    Path(sys.argv[2]).write_text(name)
    reading = Reading(Expect("many"), lambda e: None, lambda n: None)
    try:
        file = local_files(sys.argv[1], [name])[0]
        readers.sample(file)
        for shard in readers.plan([file], chunk_size=1 << 20, num_shards=None):
            for table in readers.tables(shard, reading):
                table.validate()
    except LlavaZhError:
        pass
"""


@hunt(1)
@given(st.randoms(use_true_random=False))
def test_no_damage_to_a_file_of_any_format_ends_the_process_or_raises_anything_but_our_errors(
    tmp_path_factory: pytest.TempPathFactory, random: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    table = pa.Table.from_pylist([json.loads(line(i)) for i in range(40)])
    pq.write_table(table, folder / "whole.parquet", row_group_size=20)
    whole = {
        "parquet": (folder / "whole.parquet").read_bytes(),
        "jsonl": LINES,
        "json": b"[" + LINES.replace(b"\n", b",")[:-1] + b"]",
        "jsonl.gz": gzip.compress(LINES),
        "jsonl.zst": zstd(LINES),
    }
    (folder / "whole.parquet").unlink()
    files = folder / "files"
    files.mkdir()
    for number in range(60):
        kind = random.choice(list(whole))
        data = bytearray(whole[kind])
        for _ in range(random.randint(1, 4)):
            at = random.randrange(random.choice([0, len(data) - min(len(data), 300)]), len(data))
            piece = random.choice([b"\xff", b"\0" * 8, b"[" * 50, b'"', random.randbytes(4), b""])
            data[at : at + random.choice([0, 1, len(piece)])] = piece
        (files / f"{number}.{kind}").write_bytes(data)
    command = [sys.executable, "-c", _FUZZED, str(files), str(folder / "last")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, ((folder / "last").read_text(), done.returncode, done.stderr[-1500:])
