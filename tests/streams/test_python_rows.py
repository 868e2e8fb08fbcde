"""Python rows made some at a time: what `to_pylist` makes of the whole table; none shares a dict or a list."""

from __future__ import annotations

import copy
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from llava_zh.streams.python_rows import ROWS_AT_ONCE, python_rows

PART = pa.struct([("type", pa.string()), ("text", pa.string())])
TURN = pa.struct([("role", pa.string()), ("content", pa.list_(PART))])
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("images", pa.list_(IMAGE)),
        ("width", pa.list_(pa.int64())),
        ("messages", pa.list_(TURN)),
        ("task", pa.string()),
        ("config", pa.string()),
    ]
)
# Few values each, so that they are often the same in all rows, in some places, or nowhere.
TEXT = st.sampled_from([None, "", "a", "图", "ab"])
IMAGES = st.none() | st.lists(st.none() | st.fixed_dictionaries({"bytes": st.just(None), "path": TEXT}), max_size=2)
PARTS = st.lists(st.fixed_dictionaries({"type": TEXT, "text": TEXT}), max_size=2)
TURNS = st.lists(st.fixed_dictionaries({"role": TEXT, "content": PARTS}), max_size=3)
ROW = st.fixed_dictionaries(
    {
        "id": TEXT,
        "images": IMAGES,
        "width": st.none() | st.lists(st.integers(0, 2), max_size=2),
        "messages": TURNS,
        "task": TEXT,
        "config": TEXT,
    }
)


def row(i: int, *, config: str = "single_en", turns: int = 2, text: str | None = None) -> dict[str, Any]:
    """A usual row: pictures and text in the first turn, text in the others."""
    picture = [{"type": "image", "text": ""}]
    words = [{"type": "text", "text": f"word {i}" if text is None else text}]
    roles = ["user", "assistant"] * turns
    return {
        "id": str(i),
        "images": [{"bytes": None, "path": f"sa1b://sa_{i}.jpg"}],
        "width": [i],
        "messages": [
            {"role": roles[turn], "content": [*picture, *words] if turn == 0 else [*words]} for turn in range(turns)
        ],
        "task": None,
        "config": config,
    }


def assert_same(rows: list[dict[str, Any]], chunks: int = 1) -> None:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    table = pa.concat_tables([table] * chunks)
    assert list(python_rows(table)) == table.to_pylist()
    sliced = table.slice(3, len(table) - 5)
    assert list(python_rows(sliced)) == sliced.to_pylist()


def test_rows_of_one_shape() -> None:
    assert_same([row(i) for i in range(3 * ROWS_AT_ONCE + 7)], chunks=2)


def test_one_row_of_another_shape_among_many() -> None:
    rows = [row(i) for i in range(2 * ROWS_AT_ONCE)]
    for odd in (row(1, turns=3), row(1, turns=0), row(1, config="multi_en"), {**row(1), "images": None}):
        for at in (0, 1, len(rows) - 1):
            assert_same([*rows[:at], odd, *rows[at:]])


def test_a_text_of_another_length_or_with_the_same_letters_elsewhere_is_no_constant() -> None:
    rows = [row(i, config="ab", text="same") for i in range(2 * ROWS_AT_ONCE)]
    for config in ("ba", "a", "abc", ""):
        assert_same([*rows, row(1, config=config, text="same")])
    # The same bytes one after another, cut at other places.
    assert_same([row(i, config="ab" if i % 2 else "abab") for i in range(2 * ROWS_AT_ONCE)])


def test_no_rows() -> None:
    assert list(python_rows(SCHEMA.empty_table())) == []


def test_rows_share_nothing_that_can_change() -> None:
    table = pa.Table.from_pylist([row(i, text="same") for i in range(2 * ROWS_AT_ONCE)], schema=SCHEMA)
    expected = copy.deepcopy(table.to_pylist())
    for made, wanted in zip(python_rows(table), expected, strict=True):
        assert made == wanted
        made["messages"][0]["content"][0]["text"] = "changed"
        made["messages"].append("more")
        made["images"][0]["path"] = "changed"
        made["width"].clear()


@given(st.lists(ROW, min_size=1, max_size=3), st.integers(ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3), st.integers(0, 4))
def test_any_rows_again_and_again(rows: list[dict[str, Any]], times: int, start: int) -> None:
    table = pa.Table.from_pylist(rows * times, schema=SCHEMA).slice(start)
    assert list(python_rows(table)) == table.to_pylist()
