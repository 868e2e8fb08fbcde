"""What a row of a run was before, and how it was regenerated: columns for whoever asks, and nothing for others."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hunting import hunt
from hypothesis import example, given
from hypothesis import strategies as st

from llava_zh import load_dataset
from llava_zh.errors import BadArgument
from llava_zh.files import jsonl
from llava_zh.rows import json_columns, record_columns
from llava_zh.rows.formats import ROW_FORMATS, RowOptions
from llava_zh.rows.records import FACTS, Expect, Place, from_rows

NAME = "internvl_sa1b_caption_1m_single_image_zh.jsonl"
NOW = [{"from": "human", "value": "<image>\n看"}, {"from": "gpt", "value": "新"}]
BEFORE = [{"from": "human", "value": "<image>\n看"}, {"from": "gpt", "value": "旧"}]
DONE = {
    "position": 3, "key": "k", "model": "m", "prompt": "caption_zh", "finish_reason": "stop",
    "prompt_tokens": 5, "completion_tokens": 7, "asked": 1, "previous": BEFORE,
}  # fmt: skip


def row(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "image": "sa_000000/sa_1.jpg", "width": 4, "height": 3, "conversations": NOW, **changes}


# As a run writes it, and as nobody does.
_TURNS = st.lists(
    st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": st.text("旧<", max_size=3)})
)
_ODD = st.sampled_from([None, 7, 2**63, 2.5, True, "x", [], {}, [1], [{"from": "robot", "value": "x"}], ["y"]])
_REGENERATED = st.one_of(
    st.fixed_dictionaries(
        {"model": st.sampled_from(["m", None]), "previous": st.none() | _TURNS}, optional={"asked": st.integers(1, 3)}
    ),
    st.just(DONE),
    _ODD,
    st.dictionaries(st.sampled_from([*FACTS, "previous", "other"]), _ODD | _TURNS, max_size=4),
)  # fmt: skip
_ROWS = st.lists(
    st.fixed_dictionaries({}, optional={"regenerated": _REGENERATED, "previous": st.none() | _TURNS | _ODD}),
    min_size=1, max_size=4,
)  # fmt: skip


@hunt(60)
@given(_ROWS)
@example([{"regenerated": DONE}, {"regenerated": {**DONE, "previous": None}}, {}])
@example([{"regenerated": {"model": "m"}, "previous": BEFORE}])
@example([{"previous": BEFORE}])
def test_whole_columns_and_single_rows_say_the_same_of_a_run_and_no_row_is_bad_for_it(
    rows: list[dict[str, Any]],
) -> None:
    expect, published = Expect(facts=True), [row(**{"regenerated": None, "previous": None, **more}) for more in rows]
    one_by_one = from_rows([(Place("f", row=at), each) for at, each in enumerate(published)], expect, pytest.fail)
    block = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in published).encode()
    assert jsonl.parse("f", 0, block, expect, pytest.fail).equals(one_by_one)
    assert jsonl.parse("f", 0, block, Expect(), pytest.fail).equals(one_by_one.select(range(7)))
    try:
        table = pa.Table.from_pylist(published)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return  # of no one type
    by_columns = record_columns.from_arrow(table, expect)
    assert by_columns is None or by_columns.equals(one_by_one)


def test_lines_of_a_run_are_read_by_whole_columns() -> None:
    lines = [row(regenerated=DONE), row(), row(regenerated={**DONE, "previous": None})]
    table = json_columns.read("".join(json.dumps(line) + "\n" for line in lines).encode())
    assert table is not None
    found = record_columns.from_arrow(table, Expect(facts=True))
    assert found is not None
    assert found["previous"].to_pylist() == [BEFORE, None, None]
    assert found["regenerated"].to_pylist() == [{n: DONE[n] for n in FACTS}, None, {n: DONE[n] for n in FACTS}]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with rows of a run, with one that is of none, and with one that knows little."""
    rows = [row(regenerated=DONE), row(), row(regenerated={"model": "other"}), row(regenerated="?")]
    (tmp_path / "data").mkdir()
    text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)
    (tmp_path / "data" / "000000.jsonl").write_text(text, "utf-8")
    return tmp_path


def load(run: Path, **arguments: Any) -> Any:
    given = {"data_dir": run, "split": "train", "cache_dir": run / "cache", **arguments}
    return load_dataset("internvl-sa-1b-caption", "single_zh", **given)


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_every_format_has_what_was_said_before_in_the_form_of_what_is_said_now(run: Path, row_format: str) -> None:
    options = {"regenerated": True, "system": "你好"}
    prepared = load(run, row_format=row_format, options=options)
    streamed = list(load(run, row_format=row_format, options=options, streaming=True))
    assert list(prepared) == streamed
    first, plain, little, odd = streamed
    turns = "conversations" if row_format in ("llava", "sharegpt") else "messages"
    assert list(first)[-2:] == ["previous", "regenerated"]
    assert json.loads(json.dumps(first["previous"]).replace(r"\u65e7", r"\u65b0")) == first[turns]
    assert "旧" in str(first["previous"])
    assert first["regenerated"] == {name: DONE[name] for name in FACTS}
    assert plain["previous"] is plain["regenerated"] is odd["previous"] is odd["regenerated"] is None
    assert little["previous"] is None
    assert little["regenerated"] == dict.fromkeys(FACTS) | {"model": "other"}
    pq.write_table(prepared.data.table, run / "again.parquet")
    assert (
        pq.read_table(run / "again.parquet")["previous"].type == prepared.features.arrow_schema.field("previous").type
    )
    again = load(run, row_format=row_format, options=options, streaming=True, data_files=str(run / "again.parquet"))
    assert list(again) == streamed  # and from files of others that have both columns beside each other


def test_the_files_of_a_run_hold_no_key_that_is_told_of_as_not_loaded(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        rows = list(load(run, streaming=True))
        assert "regenerated" not in rows[0] and not caplog.records
        pq.write_table(load(run, options={"regenerated": True}).data.table, run / "again.parquet")
        assert len(load(run, data_files=str(run / "again.parquet"))) == 4
    assert not [record for record in caplog.records if "not loaded" in record.getMessage()]


def test_an_option_that_is_not_set_changes_no_cache() -> None:
    assert RowOptions(regenerated=False).identity == RowOptions().identity == ""
    assert RowOptions(system="S").identity == "RowOptions(system='S', image_place=None, sizes=None)"
    assert RowOptions(regenerated=True).identity.endswith("regenerated=True)")
    with pytest.raises(BadArgument, match=r"regenerated: expected True, False or None, found 'yes'"):
        RowOptions.of({"regenerated": "yes"})
