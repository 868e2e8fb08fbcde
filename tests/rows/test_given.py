"""Rows given by somebody's own code are read by one law, and what is made of them stays as it was, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava_zh.curation import curate
from llava_zh.demo.write import write_demo
from llava_zh.errors import BadRow
from llava_zh.regenerate.dialogue import PromptChoice
from llava_zh.regenerate.jobs import make_job, passed_key
from llava_zh.regenerate.plan import Plan, Selection, Start
from llava_zh.regenerate.source import Passed, Row, open_source
from llava_zh.rows.given import as_loaded
from llava_zh.rows.records import Place

ALL: dict[str, Any] = {"length_quantiles": None, "near_duplicates": None, "max_repetition": None}
KEYS = """
771a384454494d1538197997
a486ed28b605e90fac661617
21b2db27f4d58421ff75ebd2
0a009c7c2cb489ccd37e4c75
8ba0773cdcd89b9b05b48f37
2a73b92b9610fefbe3b1e846
2cb7abd02f02d4946e66ad40
df9ca1fe097fe04fb0b5af0b
""".split()


def said(text: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": text}]


def keys(rows: list[Any], folder: Path) -> list[str]:
    """What identifies each row of a run that asks the rows' own questions."""
    source, choice = open_source(rows, "x", {}), PromptChoice("original", "x", 0)
    plan = Plan(folder)
    plan.add(Selection(0))
    found = list(source.cursor(Start(), plan, 0, ()))
    plan.close()
    jobs = [make_job(source, choice, Row(0, *item)).place.key for item in found]
    assert [passed_key(source, choice, Passed(*item)) for item in found] == jobs
    return jobs


def test_curation_keeps_the_lines_of_given_rows_as_it_always_did(tmp_path: Path) -> None:
    two = [{"role": "user", "content": "<image><image>?"}, {"role": "assistant", "content": "二"}]
    lists = {"from": ["human", "gpt"], "value": ["?", "五"]}
    undecoded = {"path": "sa1b://sa_000000/sa_4.jpg", "bytes": None}
    rows: list[dict[str, Any]] = [
        {"id": 1, "images": ["sa_000000/sa_1.jpg", "b/sa_2.jpg"], "width_list": [1, 2], "messages": two},
        {"image_path": "sa1b://sa_000000/sa_3.jpg::/data/x", "conversation": said("三"), "extra": {"a": 1}, "no": None},
        {"id": "3", "img": undecoded, "conversations": json.dumps(said("四"))},
        {"id": "4", "image": ("a.jpg",), "conversations": lists, "task": "detail"},
        {"id": "5", "image": "/data/x/sa_5.jpg", "conversations": said("六"), "language": "zh"},
    ]
    curate(rows, output_dir=tmp_path / "out", **ALL)
    assert [json.loads(line) for line in (tmp_path / "out/data/000000.jsonl").read_bytes().splitlines()] == [
        rows[0],
        {"image_path": "sa_000000/sa_3.jpg", "conversation": said("三"), "extra": {"a": 1}},
        {**rows[2], "img": "sa_000000/sa_4.jpg"},
        {**rows[3], "image": ["a.jpg"]},
        rows[4],
    ]


def test_curation_keeps_a_datasets_rows_as_they_are_published(tmp_path: Path) -> None:
    demo = write_demo(tmp_path / "demo")
    curate("internvl-sa-1b-caption", "multi_en", data_dir=demo.internvl, output_dir=tmp_path / "out", **ALL)
    (published,) = demo.internvl.glob("*multi_image_en.jsonl")
    assert (tmp_path / "out/data/000000.jsonl").read_bytes() == published.read_bytes()


def test_what_identifies_a_given_row_of_a_run_is_what_it_always_was(tmp_path: Path) -> None:
    images = [
        "a.jpg",
        ["a.jpg", "sa1b://sa_000000/sa_1.jpg::/data"],
        b"abc",
        {"path": "b.jpg", "bytes": b"x"},
        ("c.jpg",),
    ]
    rows: list[Any] = [
        {"id": str(n), "image": image, "conversations": said(str(n)), "task": "detail"}
        for n, image in enumerate(images)
    ]
    texts = [{"from": "human", "value": "<image>"}, {"from": "gpt", "text": "t"}]
    rows += [{"images": ["q.jpg"], "id": None}, "w.jpg", {"image": "z.jpg", "conversations": texts}]
    assert keys(rows, tmp_path) == KEYS


def test_the_turns_of_a_given_row_are_read_as_those_of_files() -> None:
    place = Place("rows", row=7)
    loaded = as_loaded(place, {"images": ("a.jpg",), "messages": [{"role": "user", "content": "?"}], "id": 1})
    assert loaded == {"image": ["a.jpg"], "conversations": [{"from": "human", "value": "?"}], "id": 1}
    assert as_loaded(place, {"image": "a.jpg", "conversations": []}) == {"image": "a.jpg", "conversations": []}
    with pytest.raises(BadRow, match=r"rows, row 7: conversations\[0\]\.from: expected one of human"):
        as_loaded(place, {"image": "a.jpg", "conversations": [{"from": "robot", "value": "?"}]})
