"""A JSON array is read in blocks, whatever stands in its texts and wherever a block ends."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hunting import hunt
from hypothesis import example, given, settings
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


SIGNS = st.lists(
    st.sampled_from(['"', "\\", '\\"', "]", "[", "}", "{", ",", '"],[{\\', "},{", "\n", "\0", "\u4e2d", "\U0001f600"])
)
WORDS = SIGNS.map("".join) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | WORDS,
    lambda some: (
        st.lists(some, max_size=4) | st.dictionaries(WORDS, some, max_size=3) | st.fixed_dictionaries({"a": some})
    ),
    max_leaves=12,
)
SPACE = st.text(alphabet=" \t\r\n", max_size=40)


@hunt(40)
@given(
    values=st.lists(VALUES, max_size=8),
    form=st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"separators": (" ,\r\n", " : ")}]),
    ascii=st.booleans(),
    before=st.tuples(st.sampled_from(["", "\ufeff"]), SPACE).map("".join),
    after=SPACE,
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    block=st.integers(1, 200),
)
@example([{"a": "]}" + "\\" * 9}, {"a": 1}], {}, True, "", "", [1], 1)
@example([{"a": '"],[{\\' * 90}] * 3, {"indent": 1}, True, "\n" * 600, "", [1, 7], 5)
def test_an_array_in_any_form_and_any_pieces_has_the_values_that_json_reads(
    values: list[Any], form: Any, ascii: bool, before: str, after: str, sizes: list[int], block: int
) -> None:
    written = json.dumps(values, ensure_ascii=ascii, **form)
    if "indent" in form:
        written = written.replace("\n", "\r\n")
    text = (before + written + after).encode()
    ends = itertools.accumulate(itertools.cycle(sizes), initial=0)
    pieces = (
        text[begin:end] for begin, end in itertools.takewhile(lambda at: at[0] < len(text), itertools.pairwise(ends))
    )
    elements = [element for some in json_arrays.cut("a.json", pieces, block) for element in some]
    assert [json.loads(bytes(element or b"")) for element in elements] == values


@pytest.mark.parametrize("before", [b"\n" * 70_000, b"\xef\xbb\xbf" + b" " * 140_000])
def test_white_space_of_any_length_may_be_before_an_array_and_within(tmp_path: Path, before: bytes) -> None:
    file = data_file(tmp_path, before + b'[{"id": 1}' + before.strip(b"\xef\xbb\xbf") + b', {"id": 2}]')
    assert json_arrays.is_array(file, None)
    assert read(file) == [{"id": 1}, {"id": 2}]
    assert not json_arrays.is_array(data_file(tmp_path, before + b'{"id": 1}'), None)


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
        (b"[%b}" % good, "} where ] is due at byte 26"),
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
