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
from llava_zh.regenerate.tally import EXACT, Facts, Lengths, Line, Tally, Turn, figures

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
    assert report.lengths_after == {
        "rows": 20,
        **dict.fromkeys(["mean", "min", "p5", "p50", "p95", "max"], len(CAPTION)),
    }
    assert report.lengths_before == {"rows": 20, "mean": 6.5, "min": 6, "p5": 6, "p50": 6, "p95": 7, "max": 7}


def test_a_run_of_the_version_before_goes_on_and_says_which_lengths_are_not_exact(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    given: dict[str, Any] = {
        "output_dir": tmp_path, "base_url": server.url, "model": "tiny-vlm", "progress": False, "unit_rows": 10
    }  # fmt: skip
    regenerate(make_rows(20), "test_zh", limit=10, **given)
    commit = tmp_path / "journal" / "000000.r0.done"
    done = json.loads(commit.read_bytes())
    for name in ("before", "after"):  # as that version counted them, ten by ten
        counts = done["tally"].pop(name)["counts"]
        done["tally"][f"lengths_{name}"] = {int(length) // 10 * 10: count for length, count in counts.items()}
    commit.write_text(json.dumps(done))
    report = regenerate(make_rows(20), "test_zh", **given)
    assert report.lengths_before == {
        "rows": 20, "mean": 6.0, "min": 0, "p5": 0, "p50": 0, "p95": 7, "max": 7, "to_within_ten": 10
    }  # fmt: skip
    (tmp_path / "report.json").unlink()
    assert regenerate(make_rows(20), "test_zh", **given).lengths_before == report.lengths_before


def test_the_summary_says_why_rows_failed_the_commonest_reason_first_and_where_and_what_to_do(
    server: ModelServer, tmp_path: Path, make_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_zh.regenerate.report.SHOWN", 3)
    server.script = ["400", "422", "403", "422", "413", "404", "422"]
    report = regenerate(
        make_rows(20), "test_zh", output_dir=tmp_path, base_url=server.url, model="tiny-vlm", progress=False
    )
    assert next(iter(report.failed.items())) == ("HTTP 422", 3)
    lines = report.summary().splitlines()
    [reasons] = [line for line in lines if line.startswith("failed: ")]
    assert reasons.startswith("failed: HTTP 422 3, HTTP 4") and reasons.endswith(", 2 other reasons 2")
    assert lines[lines.index(reasons) + 1] == (
        f"each of them, with what was wrong, is in {tmp_path / 'failed.jsonl'}; "
        "retry_failed=True (--retry-failed) asks for them again"
    )
    assert len(report.failed_file.read_bytes().splitlines()) == sum(report.failed.values()) == 7


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
    assert (both.after.characters, both.after.counts) == (110, {15: 1, 95: 1})
    both.merge(tally(95), -1)
    assert figures(both.after, {}) == {"rows": 1, **dict.fromkeys(["mean", "min", "p5", "p50", "p95", "max"], 15)}
    both.merge(tally(15), -1)
    assert figures(both.after, {}) is None


def test_lengths_are_exact_and_their_counts_few_however_long_answers_are() -> None:
    lengths = Lengths()
    for length in range(EXACT, 40 * EXACT, 7):
        lengths.add(length)
    assert len(lengths.counts) < 2_000
    found = figures(lengths, {})
    assert found is not None
    assert found["mean"] == round(sum(range(EXACT, 40 * EXACT, 7)) / found["rows"], 2)
    assert found["min"] == EXACT
    assert found["max"] == pytest.approx(40 * EXACT, rel=0.01)
