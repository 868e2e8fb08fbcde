"""Byte ranges of JSON Lines files: every line once, in order, wherever the cuts fall."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llava_zh.errors import BadArgument, BadRow
from llava_zh.files import jsonl
from llava_zh.files.jsonl import Range
from llava_zh.gates.json_values import BOM
from llava_zh.rows import record_columns, records
from llava_zh.rows.columns import USUAL
from llava_zh.rows.formats import STORED_IMAGE
from llava_zh.rows.records import Expect, Place

LINES = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12).map(str.encode),
        st.sampled_from([b"", b" ", b"\r", b"\xe5\x9b\xbe" * 7, b"x" * 300]),
    ),
    max_size=12,
)
ENDS = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A text file of lines of any length, with or without a byte-order mark and a final newline."""
    end = draw(ENDS)
    data = end.join(draw(LINES)) + draw(st.sampled_from([b"", end]))
    return draw(st.sampled_from([b"", BOM])) + data


def lines_of(data: bytes) -> list[tuple[int, bytes]]:
    """The lines by the plainest means: split, and drop blank ones."""
    found, offset = [], 0
    for line in data.split(b"\n"):
        start = len(BOM) if offset == 0 and line.startswith(BOM) else 0
        if line[start:].strip():
            found.append((offset + start, line[start:].rstrip(b"\r")))
        offset += len(line) + 1
    return found


class Source:
    """A file that is read in pieces of at most `step` bytes, and counts them."""

    def __init__(self, data: bytes, step: int = 1 << 20) -> None:
        self.data, self.step, self.bytes_read = data, step, 0

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        assert length > 0
        assert offset + length <= len(self.data)
        for at in range(offset, offset + length, self.step):
            piece = self.data[at : min(at + self.step, offset + length)]
            self.bytes_read += len(piece)
            yield piece

    def lines(self, whole: Range) -> list[tuple[int, bytes]]:
        stream = jsonl.pieces(self.read, whole, len(self.data))
        return [line for block in jsonl.blocks(stream, whole) for line in jsonl.lines(*block)]


def small_buffers(first: int = 8, block: int = 32, slack: int = 5) -> Any:
    return mock.patch.multiple(jsonl, FIRST_BLOCK=first, BLOCK=block, SLACK=slack)


@given(
    data=files(),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    step=st.integers(1, 50),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 80), st.integers(1, 20)),
)
@example(data=BOM + b"a\nb", cuts=[1, 2, 3, 4], step=1, sizes=(1, 1, 1))
@example(data="图\r\n图".encode(), cuts=[1, 2, 3, 4, 5, 6, 7], step=2, sizes=(1, 1, 1))
@example(data=b"x" * 300 + b"\ny\n", cuts=[100, 200, 300, 301, 302], step=7, sizes=(8, 16, 3))
def test_any_cut_of_any_file_gives_every_line_once_in_order(
    data: bytes, cuts: list[int], step: int, sizes: tuple[int, int, int]
) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    source = Source(data, step)
    with small_buffers(*sizes):
        found = [line for a, b in pairwise(edges) for line in source.lines(Range(a, b))]
    assert found == lines_of(data)


@given(data=files(), count=st.integers(1, 9))
def test_every_block_but_the_last_of_a_file_ends_with_a_newline(data: bytes, count: int) -> None:
    with small_buffers():
        for whole in jsonl.split(Range(0, len(data)), count):
            stream = jsonl.pieces(Source(data).read, whole, len(data))
            for offset, block in jsonl.blocks(stream, whole):
                assert bytes(block).endswith(b"\n") or offset + len(block) == len(data)


def test_a_range_inside_one_line_reads_no_further_than_its_own_end() -> None:
    source = Source(b"x" * 10_000_000 + b"\nend\n", step=1000)
    assert source.lines(Range(1000, 2000)) == []
    assert source.bytes_read <= 1000 + jsonl.SLACK + 1000


def test_a_range_reads_little_more_than_its_own_bytes() -> None:
    source = Source(b"".join(b"%08d\n" % i for i in range(100_000)), step=1000)
    lines = source.lines(Range(300_000, 600_000))
    assert len(lines) == 300_000 // 9
    assert source.bytes_read <= 300_000 + jsonl.SLACK + 1


def test_a_line_longer_than_its_range_is_read_to_its_end_by_the_range_it_starts_in() -> None:
    huge = b'{"value": "' + "图".encode() * 1_000_000 + b'"}'
    source = Source(b"a\n" + huge + b"\nb\n", step=1 << 16)
    per_range = [source.lines(whole) for whole in jsonl.split(Range(0, len(source.data)), 8)]
    assert [len(lines) for lines in per_range] == [2, 0, 0, 0, 0, 0, 0, 1]
    assert per_range[0][1] == (2, huge)


# -- plan --------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(0, 10**12), min_size=1, max_size=20), chunk=st.integers(10**6, 10**9))
def test_ranges_cover_each_file_without_gaps_and_their_number_is_a_power_of_two(sizes: list[int], chunk: int) -> None:
    total = sum(sizes)
    if total / chunk > 10_000:
        chunk = total // 10_000 + 1
    planned = jsonl.plan(sizes, chunk_size=chunk)
    count = sum(map(len, planned))
    assert count & (count - 1) == 0
    assert count >= total / chunk
    assert count < 2 * max(total / chunk, len(sizes))
    for size, ranges in zip(sizes, planned, strict=True):
        assert ranges[0].start == 0
        assert ranges[-1].end == size
        assert all(a.end == b.start for a, b in pairwise(ranges))


@given(sizes=st.lists(st.integers(0, 10**9), min_size=1, max_size=20), more=st.integers(0, 50))
@example(sizes=[0, 0], more=3)
def test_num_shards_is_exactly_what_was_asked_for(sizes: list[int], more: int) -> None:
    planned = jsonl.plan(sizes, chunk_size=1, num_shards=len(sizes) + more)
    assert sum(map(len, planned)) == len(sizes) + more
    assert all(ranges for ranges in planned)


def test_an_11_gb_file_is_512_shards_whatever_the_machine() -> None:
    assert len(jsonl.plan([11_400_000_000], chunk_size=32_000_000)[0]) == 512


def test_bytes_are_shared_out_by_size() -> None:
    counts = [len(ranges) for ranges in jsonl.plan([7_000, 1_000], chunk_size=100)]
    assert sum(counts) == 128
    assert abs(counts[0] - 112) <= 1


@pytest.mark.parametrize("arguments", [{"chunk_size": 0}, {"chunk_size": -1}, {"chunk_size": 9, "num_shards": 1}])
def test_a_plan_that_cannot_be_made_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(BadArgument, match="chunk_size must be|less than the number of files"):
        jsonl.plan([10, 10], **arguments)


# -- parse -------------------------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "图"}]
    return {"id": 1, "image": "sa_000000/sa_1.jpg", "conversations": turns, **changes}


def block_of(*rows: Any) -> bytes:
    return b"".join(r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in rows)


def parsed(block: bytes, expect: Expect | None = None, offset: int = 0) -> tuple[list[dict[str, Any]], list[BadRow]]:
    bad: list[BadRow] = []
    return jsonl.parse("f.jsonl", offset, block, expect or Expect(), bad.append).to_pylist(), bad


def row_by_row(block: bytes, expect: Expect) -> tuple[list[dict[str, Any]], list[BadRow]]:
    """What `parse` has to give, by the careful way alone."""
    bad: list[BadRow] = []
    rows = []
    for offset, line in jsonl.lines(0, block):
        place = Place("f.jsonl", byte=offset)
        rows.append((place, jsonl.decode_line(place, line)))
    return records.from_rows(rows, expect, bad.append).to_pylist(), bad


TEXTS = st.sampled_from(
    ["", "a", "图", "2024-01-01", "2024-01-01 00:00:00", "<image>", "<img>", "x<image>y", "1 < 2", "\u0000"]
)
TURNS = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "from": st.sampled_from(["human", "gpt", "system", "user", "robot"]),
            "role": st.sampled_from(["user", "assistant"]),
            "value": TEXTS,
            "text": TEXTS,
            "content": st.one_of(TEXTS, st.just([{"type": "image"}, {"type": "text", "text": "t"}])),
        },
    ),
    st.builds(lambda f, v: {"from": f, "value": v}, st.sampled_from(["human", "gpt"]), TEXTS),
    st.none(),
)
CONVERSATIONS = st.one_of(
    st.lists(TURNS, max_size=3),
    st.just([{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]),
    st.just([{"from": "human", "value": "<image><image>"}]),
    st.just('[{"from": "human", "value": "as text"}]'),
    st.just({"from": ["human", "gpt"], "value": ["q", "a"]}),
    st.sampled_from([None, 3, "no JSON"]),
)
PATHS = st.sampled_from(
    ["a/1.jpg", "图.jpg", "2024-01-01", "", "/a.jpg", "../a.jpg", "a/../b.jpg", "http://a/b.jpg", "a::b"]
)
IMAGES = st.one_of(
    PATHS,
    st.lists(st.one_of(PATHS, st.none()), max_size=3),
    st.fixed_dictionaries({"path": PATHS}, optional={"bytes": st.sampled_from([None, "iVBO"])}),
    st.sampled_from([None, 1, True, "", [], {}, {"bytes": None, "path": None}, {"path": None}, {"path": ""}]),
)
SIZES = st.one_of(
    st.integers(-1, 3000),
    st.none(),
    st.lists(st.one_of(st.integers(0, 9), st.none()), max_size=3),
    st.just(2.0),
    st.just("9"),
)
IDS = st.one_of(st.integers(0, 2**70), st.text("0a-", max_size=3), st.sampled_from(["2024-01-01", None, True, 1.5]))
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "id": IDS,
        "image": IMAGES,
        "image_path": PATHS,
        "images": st.lists(PATHS, max_size=2),
        "width": SIZES,
        "height": SIZES,
        "width_list": SIZES,
        "height_list": SIZES,
        "conversations": CONVERSATIONS,
        "conversation": CONVERSATIONS,
        "messages": CONVERSATIONS,
        "type": st.one_of(TEXTS, st.integers(0, 1), st.none()),
        "task_type": TEXTS,
        "extra": st.one_of(st.integers(), st.text(max_size=2), st.lists(st.booleans(), max_size=2), st.none()),
    },
)
GOOD = st.fixed_dictionaries(
    {
        "image": st.sampled_from(["a/1.jpg", "2024-01-01"]),
        "conversations": st.just([{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]),
    },
    optional={"id": IDS, "width": SIZES, "type": TEXTS},
)
# Rows of text alone, as mixed sets have them.
TEXT_ONLY = st.fixed_dictionaries(
    {"conversations": st.just([{"from": "human", "value": "1 < 2?"}, {"from": "gpt", "value": "a"}])},
    optional={"image": st.sampled_from([None, [], ""]), "images": st.sampled_from([None, []]), "width": SIZES},
)


@given(
    rows=st.lists(st.one_of(GOOD, GOOD, TEXT_ONLY, RECORDS), max_size=6),
    junk=st.sampled_from([None, b"\n", b"not json\n", b"[1]\n", b'"\xff"\n', b"{}{}\n", b"\r\n"]),
    images=st.sampled_from(["one", "many"]),
    text_only=st.booleans(),
)
def test_whole_columns_and_one_row_after_another_give_the_same_rows_and_the_same_errors(
    rows: list[dict[str, Any]], junk: bytes | None, images: str, text_only: bool
) -> None:
    block = block_of(*rows, *([junk] if junk else []))
    expect = Expect(images, task_of=lambda name: {"a": "b"}.get(name, name), text_only=text_only)
    good, bad = parsed(block, expect)
    good_by_row, bad_by_row = row_by_row(block, expect)
    assert good == good_by_row
    assert [str(error) for error in bad] == [str(error) for error in bad_by_row]
    assert len(good) + len(bad) == len(list(jsonl.lines(0, block)))


COLUMNS_OF_IMAGES = st.one_of(
    st.lists(st.one_of(PATHS, st.none()), min_size=1, max_size=4).map(lambda v: pa.array(v, pa.string())),
    st.lists(st.one_of(st.binary(max_size=2), st.none()), min_size=1, max_size=4).map(
        lambda v: pa.array(v, pa.binary())
    ),
    st.lists(st.one_of(st.lists(st.one_of(PATHS, st.none()), max_size=2), st.none()), min_size=1, max_size=4).map(
        lambda v: pa.array(v, pa.list_(pa.string()))
    ),
    st.lists(
        st.one_of(
            st.fixed_dictionaries({"bytes": st.sampled_from([None, b"x"]), "path": st.one_of(PATHS, st.none())}),
            st.none(),
        ),
        min_size=1,
        max_size=4,
    ).map(lambda v: pa.array(v, STORED_IMAGE)),
    st.integers(1, 4).map(pa.nulls),
)


@settings(max_examples=50)
@given(
    images=COLUMNS_OF_IMAGES,
    named=st.sampled_from(["image", "images", "picture"]),
    mark=st.sampled_from(["", "<image>", "<img>"]),
    start=st.integers(0, 3),
    count=st.sampled_from(["one", "many"]),
    text_only=st.booleans(),
)
def test_typed_columns_with_and_without_images_give_what_their_rows_give(
    images: pa.Array, named: str, mark: str, start: int, count: str, text_only: bool
) -> None:
    turns = pa.array([[{"from": "human", "value": f"{mark}q"}, {"from": "gpt", "value": "a"}]] * len(images))
    table = pa.table({named: images, "conversations": turns}).slice(min(start, len(images) - 1))
    expect, bad = Expect(count, text_only=text_only), []
    rows = [(Place("f", row=i), row) for i, row in enumerate(table.to_pylist())]
    by_rows = records.from_rows(rows, expect, bad.append)
    by_columns = record_columns.from_arrow(table, expect)
    assert by_columns is None or (not bad and by_columns.to_pylist() == by_rows.to_pylist())
    # The usual types are read by columns, with rows of text alone among them.
    usual = pa.types.is_string(images.type) or pa.types.is_list(images.type)
    values = [v for one in table[named].to_pylist() for v in (one if isinstance(one, list) else [one])]
    if text_only and usual and not bad and mark != "<img>" and "" not in values and named != "picture":
        assert by_columns is not None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"not json\n", "line: expected one JSON object"),
        (b'{"id": 1, "image": "a.jp', "The line is cut short; is the file complete?"),
        (b"[1, 2]\n", "line: expected one JSON object, found list"),
        (b'"text"\n', "line: expected one JSON object, found str"),
        (b'{"image": "\xff.jpg"}\n', "expected UTF-8 text, found byte 0xff at 111"),
        (b"\0\0\0\0\n", "4 NUL bytes, the first at byte 100"),
        (b'{"a": "\\ud800"}\n', "line: expected one JSON object"),
        (b'{"a": ' + b"[" * 1500 + b"]" * 1500 + b"}\n", "line: expected one JSON object|image: expected the path"),
    ],
    ids=["text", "cut", "array", "string", "utf8", "nul", "surrogate", "deep"],
)
def test_a_line_that_is_no_record_is_told_of_by_byte(line: bytes, found: str) -> None:
    first = block_of(row())
    good, bad = parsed(first + line, offset=100 - len(first))
    assert len(good) == 1
    assert len(bad) == 1
    assert str(bad[0]).startswith("f.jsonl, byte 100: ")
    assert bad[0].byte == 100
    assert re.search(found, str(bad[0])), str(bad[0])


def test_a_record_broken_over_two_lines_is_two_bad_lines_and_no_row() -> None:
    whole = json.dumps(row())
    good, bad = parsed(f"{whole[:50]}\n{whole[50:]}\n".encode())
    assert good == []
    assert [error.byte for error in bad] == [0, 51]


def test_keys_that_are_not_loaded_are_reported_from_either_way_of_parsing() -> None:
    for odd in (row(extra=1), row(extra=1, image=["a.jpg"], id="x")):
        seen: set[str] = set()
        jsonl.parse("f", 0, block_of(row(), odd), Expect(), _never, seen.update)
        assert set(USUAL.unknown(seen)) == {"extra"}


def _never(error: BadRow) -> None:
    raise error
