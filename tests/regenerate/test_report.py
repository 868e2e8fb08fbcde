"""The figures of a run add up, over sessions too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_server import CAPTION, ModelServer

from llava_zh.regenerate import regenerate
from llava_zh.regenerate.tally import Facts, Line, Tally, Turn, quantiles

Rows = Callable[[int], list[dict[str, Any]]]


def test_the_report_counts_the_whole_run_and_this_session(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    given: dict[str, Any] = {"output_dir": tmp_path, "base_url": server.url, "model": "tiny-vlm", "progress": False}
    regenerate(make_rows(30), "test_zh", limit=12, unit_rows=10, **given)
    server.script = ["503", "422"]
    report = regenerate(make_rows(30), "test_zh", unit_rows=10, gpus=8, **given)
    assert (report.rows, report.failed) == (29, {"HTTP 422": 1})
    assert report.completion_tokens == 29 * len(CAPTION)
    session = report.session
    assert (session["done"], session["failed"], session["requests"]) == (17, 1, 19)
    assert session["retries"] == {"HTTP 503": 1}
    hours = 8 * 1e6 / session["rows_per_second"] / 3600
    assert session["gpu_hours_per_million_rows"] == pytest.approx(hours, rel=0.02, abs=0.1)
    assert json.loads((tmp_path / "report.json").read_bytes())["session"] == session
    summary = report.summary()
    for words in (
        "29 rows in",
        "1 failed",
        "GPU-hours a million rows (8 GPU)",
        "retried: HTTP 503 1",
        "characters before",
    ):
        assert words in summary


def test_lengths_before_and_after_are_those_of_the_answers(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    report = regenerate(
        make_rows(20), "test_zh", output_dir=tmp_path, base_url=server.url, model="tiny-vlm", progress=False
    )
    assert report.lengths_after is not None
    assert report.lengths_before is not None
    assert report.lengths_after["p50"] == len(CAPTION) // 10 * 10
    assert report.lengths_before["max"] == 0  # 旧的描述19。 has under ten characters
    assert report.lengths_before["rows"] == 20


def test_the_live_line_shows_rows_failures_and_tokens(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    server.latency = 0.1
    server.script = ["422"]
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(make_rows(40)))
    code = (
        "import json, sys; from llava_zh.regenerate import regenerate\n"
        "regenerate(json.load(open(sys.argv[1])), 'test_zh',"
        " output_dir=sys.argv[2], base_url=sys.argv[3], model='tiny-vlm', concurrency=2)"
    )
    # In a process of its own, since the tests' switch the bars off; and asked for, since this is no terminal.
    environment = {name: value for name, value in os.environ.items() if "PROGRESS_BARS" not in name}
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "0"
    words = [sys.executable, "-c", code, str(rows), str(tmp_path / "out"), server.url]
    shown = subprocess.run(words, check=True, stderr=subprocess.PIPE, text=True, env=environment).stderr
    assert "40/40" in shown
    assert "failed 1" in shown
    assert "tokens/s" in shown
    assert "in flight" in shown


def test_tallies_add_up_and_can_be_taken_away() -> None:
    def tally(length: int) -> Tally:
        turn = Turn(value="字" * length, speaker="gpt")
        facts = Facts(0, "k", "m", "p", "stop", 5, 7, 1, previous=[Turn(text="旧", speaker="gpt")])
        result = Tally()
        result.add(Line([turn], facts))
        return result

    both = tally(15)
    both.merge(tally(95))
    assert (both.rows, both.prompt_tokens, both.completion_tokens) == (2, 10, 14)
    assert both.lengths_after == {10: 1, 90: 1}
    both.merge(tally(95), -1)
    assert quantiles(both.lengths_after) == {
        "rows": 1,
        "mean": 15,
        "min": 10,
        "p5": 10,
        "p50": 10,
        "p95": 10,
        "max": 10,
    }
    both.merge(tally(15), -1)
    assert quantiles(both.lengths_after) is None
