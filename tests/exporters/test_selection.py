"""Which rows an export takes: a sample drawn without bias, the first ones, and those that fit what was asked."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from exported_rows import INTERNVL, LLAVA, ids, lines, published, tree
from picture_files import picture

from llava_zh import export
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument, NothingLeft, UnknownName


def test_a_sample_is_the_same_for_any_number_of_processes_and_files_and_another_for_another_seed(
    demo: DemoPaths, tmp_path: Path
) -> None:
    arguments = {"to": "jsonl", "data_dir": demo.internvl, "sample": 20}
    for name, more in (
        ("a", {"num_proc": 1}),
        ("b", {"num_proc": 2}),
        ("other seed", {"seed": 1}),
        ("all", {"sample": 10_000}),
    ):
        summary = export(INTERNVL, "single_zh", output_dir=tmp_path / name, **(arguments | more))
        assert summary.fitting == 80
    assert tree(tmp_path / "a") | {"README.md": b""} == tree(tmp_path / "b") | {"README.md": b""}
    assert len(set(ids(tmp_path / "a"))) == 20
    assert ids(tmp_path / "a") != ids(tmp_path / "other seed")
    assert len(ids(tmp_path / "all")) == 80


def test_every_row_is_as_likely_as_any_other_to_be_drawn(demo: DemoPaths, tmp_path: Path) -> None:
    """Over many seeds each row is drawn about equally often, by the pass and thresholds that an export uses."""
    from llava_zh.exporters.selection import Draw, Selection, Taken, count
    from llava_zh.rows.records import ANNOTATIONS

    def table(rows: range) -> pa.Table:
        record = {"images": ["a"], "bytes": [None], "conversations": [{"from": "gpt", "value": "x"}]}
        return pa.Table.from_pylist([{**record, "id": str(i)} for i in rows], schema=ANNOTATIONS)

    # Pieces of very different sizes, one of them in two tables.
    pieces = {
        "0-0": [table(range(3))],
        "0-1": [table(range(3, 20)), table(range(20, 48))],
        "0-2": [table(range(48, 60))],
    }
    drawn: Counter[str] = Counter()
    pairs = 0
    seeds = 600
    for seed in range(seeds):
        selection = Selection(sample=15, seed=seed)
        draws = {name: Draw(seed, 0, number) for number, name in enumerate(pieces)}
        taken = Taken.decide(
            selection, ((name, count(tables, selection, draws[name])) for name, tables in pieces.items())
        )
        draws = {name: Draw(seed, 0, number) for number, name in enumerate(pieces)}
        rows = [
            row
            for name, tables in pieces.items()
            for found in taken.rows(tables, name, selection, draws[name])
            for row in found["id"].to_pylist()
        ]
        assert len(rows) == 15 and taken.fitting == 60
        drawn.update(rows)
        pairs += {"0", "1"} <= set(rows)
    expected = seeds * 15 / 60
    chi_square = sum((drawn[str(i)] - expected) ** 2 for i in range(60)) / (expected * (1 - 15 / 60))
    assert chi_square < 110  # 59 degrees of freedom: beyond this once in 20,000 times; the seeds are fixed
    # Two rows come together as often as without replacement: 15·14/(60·59) of the time.
    assert abs(pairs - seeds * 15 * 14 / (60 * 59)) < 4 * (seeds * 0.06) ** 0.5


def test_limit_takes_the_first_rows_that_fit(demo: DemoPaths, tmp_path: Path) -> None:
    arguments = {"to": "jsonl", "data_dir": demo.internvl}
    export(INTERNVL, "single_zh", output_dir=tmp_path / "first", limit=11, num_shards=4, **arguments)
    assert ids(tmp_path / "first") == [row["id"] for row in published(demo, "single_zh")][:11]
    export(INTERNVL, "single_zh", output_dir=tmp_path / "none", limit=0, **arguments)
    assert ids(tmp_path / "none") == []


def test_rows_are_selected_by_length_task_language_and_archive(demo: DemoPaths, tmp_path: Path) -> None:
    def selected(name: str, dataset: str, config: str | None, **arguments: Any) -> list[dict[str, Any]]:
        data_dir = demo.internvl if dataset == INTERNVL else demo.llava
        export(dataset, config, to="jsonl", output_dir=tmp_path / name, data_dir=data_dir, **arguments)
        return lines(tmp_path / name)

    def length(row: dict[str, Any]) -> int:
        return sum(len(turn["value"]) for turn in row["conversations"] if turn["from"] == "gpt")

    turns = [{"from": "human", "value": "<image>\n颜色?"}, {"from": "gpt", "value": "红"}]
    (tmp_path / "own.jsonl").write_text(json.dumps({"image": "1.jpg", "conversations": turns}))
    (tmp_path / "1.jpg").write_bytes(picture("red", "JPEG"))
    rows = published(demo, "default")
    lengths = sorted(map(length, rows))
    low, high = lengths[len(lengths) // 4], lengths[-len(lengths) // 4]
    between = selected("length", LLAVA, None, min_length=low, max_length=high)
    assert [row["id"] for row in between] == [row["id"] for row in rows if low <= length(row) <= high] != []
    with pytest.raises(NothingLeft, match="more than 0 characters"):
        selected("none", LLAVA, None, max_length=0)
    details = selected("task", LLAVA, None, task="detail")
    assert [row["id"] for row in details] == [row["id"] for row in published(demo, "detail")] != []
    english = selected("language", INTERNVL, None, language="en", row_format="sharegpt")
    assert Counter(row["config"] for row in english) == {"single_en": 80, "multi_en": 20}
    whole = selected("all tasks", LLAVA, None, language="zh")
    assert [row["id"] for row in whole] == [row["id"] for row in rows]  # its tasks are parts of its default
    for own in ("llava", "sa1b-captions"):  # whose default is of no language
        (row,) = selected(own, own, None, language="zh", data_files=tmp_path / "own.jsonl")
        assert (row["config"], row["language"]) == ("zh", "zh")
    archived = selected("archives", INTERNVL, "single_en", archives=[1])
    assert {row["image"].split("/")[2] for row in archived} == {"sa_000001"}


def test_a_selection_that_cannot_be_is_refused(demo: DemoPaths, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"output_dir": tmp_path / "no", "data_dir": demo.internvl}
    for error, message, more in (
        (UnknownName, "Unknown target 'parket'. Did you mean 'parquet'", {"to": "parket"}),
        (UnknownName, "Unknown images 'bytes'", {"to": "parquet", "images": "bytes"}),
        (BadArgument, "takes 'files' or 'url'", {"to": "internvl", "images": "embed"}),
        (BadArgument, "give one of them", {"to": "jsonl", "sample": 1, "limit": 1}),
        (BadArgument, "sample=-1", {"to": "jsonl", "sample": -1}),
        (BadArgument, "language='en': single_zh is in 'zh'", {"to": "jsonl", "language": "en"}),
        (BadArgument, "needs the pictures: pass image_root=", {"to": "webdataset"}),
        (BadArgument, "images='url' writes none", {"to": "jsonl", "max_side": 5}),
        (BadArgument, "'sharegpt' rows", {"to": "internvl", "row_format": "parts"}),
        (BadArgument, "num_shards=0", {"to": "jsonl", "num_shards": 0}),
    ):
        with pytest.raises(error, match=re.escape(message)):
            export(INTERNVL, "single_zh", **(arguments | more))
        assert not (tmp_path / "no").exists() or error is BadArgument
    with pytest.raises(UnknownName, match="Unknown task 'details'. Did you mean 'detail'"):
        export(LLAVA, to="jsonl", task="details", output_dir=tmp_path / "no", data_dir=demo.llava)
    with pytest.raises(BadArgument, match="have different columns in row_format='llava'"):
        export(INTERNVL, to="jsonl", language="zh", **arguments)
