"""A JSON array is read in blocks, whatever stands in its texts and wherever a block ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_zh.errors import BadFile, BadRow
from llava_zh.files import json_arrays
from llava_zh.files.data_files import DataFile
from llava_zh.rows.records import Expect

TEXTS = st.text(alphabet='ab"\\{}[], \n\u4e2d', max_size=12)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(0, 9)}, optional={"t": st.lists(st.fixed_dictionaries({"v": TEXTS}), max_size=3)}
    )
    | TEXTS
    | st.integers(),
    max_size=8,
)


def data_file(folder: Path, text: bytes) -> DataFile:
    path = folder / "a.json"
    path.write_bytes(text)
    return DataFile("a.json", len(text), "local", str(path))


def read(file: DataFile) -> list[Any]:
    """The elements that are objects, and where each of the others is none."""
    return [row.found if isinstance(row, BadRow) else row for row in json_arrays.rows(file, None)]


@settings(max_examples=40)
@given(rows=RECORDS, indent=st.sampled_from([None, 1]), ascii=st.booleans(), block=st.integers(1, 80))
def test_any_array_is_read_as_json_reads_it_in_blocks_of_any_size(
    rows: list[Any], indent: int | None, ascii: bool, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii).encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_arrays, "BLOCK", block)
        patched.setattr("llava_zh.files.hub.PIECE", 7)
        found = read(data_file(tmp_path_factory.getbasetemp(), b"\n" + text + b"\n"))
    assert len(found) == len(rows)
    assert [row for row in found if isinstance(row, dict)] == [row for row in rows if isinstance(row, dict)]


@pytest.mark.parametrize("block", [1, 30, 1 << 20])
def test_what_is_no_json_is_told_of_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(json_arrays, "BLOCK", block)
    monkeypatch.setattr("llava_zh.files.hub.PIECE", 5)
    good = b'{"id": 1, "t": "a\\"}, {"}'
    found = list(json_arrays.rows(data_file(tmp_path, b"[%b, {x: 1}, %b]" % (good, good)), None))
    assert [isinstance(row, BadRow) for row in found] == [False, True, False]
    broken = b'{"t": "a\nb"}'  # a text has no line break in it
    assert isinstance(next(json_arrays.rows(data_file(tmp_path, b"[%b, {x}]" % broken), None)), BadRow)
    for text, message in (
        (b"[%b, %b" % (good, good[:9]), "it ends within record 1. Is the file complete"),
        (b"[%b,]" % good, "a comma too many at byte 27"),
        (b"[%b] x" % good, "something follows its end at byte 27"),
    ):
        rows = json_arrays.rows(data_file(tmp_path, text), None)
        assert next(rows) == json.loads(good), "the records that are there are given first"
        with pytest.raises(BadFile, match=message):
            list(rows)


def test_a_line_break_within_a_text_is_no_json_by_columns_either(tmp_path: Path) -> None:
    row = b'{"image": "1.jpg", "conversations": [{"from": "human",\n"value": "?"}, {"from": "gpt", "value": "a%bb"}]}'
    bad: list[BadRow] = []
    for text, good in ((row % b"\\n", 1), (row % b"\n", 0)):
        [(first, elements)] = json_arrays.parts(data_file(tmp_path, b"[%b]" % text), None)
        table = json_arrays.parse("a.json", first, elements, Expect(), bad.append, lambda names: None)
        assert (len(table), len(bad)) == (good, 1 - good)


@pytest.mark.parametrize("block", [3, 64])
def test_an_element_longer_than_any_may_be_is_left_out_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(json_arrays, "BLOCK", block)
    monkeypatch.setattr("llava_zh.files.hub.PIECE", 50)
    monkeypatch.setenv("LLAVA_ZH_MAX_LINE_BYTES", "100")
    rows = [{"id": 1}, {"id": 2, "t": ['"}, {"\\' * 200]}, {"id": 3}]
    found = list(json_arrays.rows(data_file(tmp_path, json.dumps(rows).encode()), None))
    assert [row if isinstance(row, dict) else row.expected for row in found] == [
        {"id": 1},
        "at most 100 bytes",
        {"id": 3},
    ]
