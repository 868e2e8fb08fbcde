"""A run that is killed at any moment goes on where it was: every row once, hardly a request repeated."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import control

from .conftest import lines_of, positions_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")

HERE = Path(__file__).parent
CONCURRENCY = 16
RUN = """
import json, sys
from llava_zh.regenerate import regenerate
rows, out, url, concurrency = sys.argv[1:]
print("ready", flush=True)
regenerate(json.load(open(rows)), "test_zh", output_dir=out, base_url=url, model="tiny-vlm",
           concurrency=int(concurrency), unit_rows=250, progress=False, timeout=10)
"""
FAULTS = {"503": 0.01, "disconnect": 0.005, "429": 0.005, "empty": 0.004, "truncate": 0.003, "length": 0.003}


@pytest.fixture
def slow_server() -> Iterator[str]:
    """A model server in a process of its own, 20 ms an answer, 3 % faults; its URL."""
    process = subprocess.Popen(
        [sys.executable, str(HERE.parent / "model_server.py"), "--latency", "0.02", "--faults", json.dumps(FAULTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate("")


def check_valid(out: Path) -> None:
    """What is there is whole: data files and manifest entirely, journals and the plan but for a last line."""
    positions = positions_of(out)
    assert len(positions) == len(set(positions))
    if (out / "manifest.json").exists():
        json.loads((out / "manifest.json").read_bytes())
    for journal in (out / "journal").glob("*.log"):
        lines = journal.read_bytes().split(b"\n")
        for line in lines[:-1]:
            json.loads(line)


def run_with_kills(count: int, kills: int, url: str, tmp_path: Path, make_rows: Callable[[int], Any]) -> None:
    rows, out = tmp_path / "rows.json", tmp_path / "out"
    rows.write_text(json.dumps(make_rows(count)))
    command = [sys.executable, "-c", RUN, str(rows), str(out), url, str(CONCURRENCY)]
    generator = random.Random(count)
    at = sorted(generator.sample(range(1, count), kills))
    for answered in at:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        while control(url)["outcomes"].get("ok", 0) < answered and process.poll() is None:
            time.sleep(0.003)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        check_valid(out)
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    check_valid(out)
    failed = [row["position"] for row in lines_of(out / "failed.jsonl")]
    assert sorted(positions_of(out) + failed) == list(range(count))
    assert len(failed) <= count // 100
    assert [path.suffix for path in (out / "journal").glob("0*.log")] == []
    answers = control(url)["outcomes"]["ok"]
    assert answers - count <= 1.5 * CONCURRENCY * kills
    report = json.loads((out / "report.json").read_bytes())
    assert report["rows"] + sum(report["failed"].values()) == count


@pytest.mark.slow
def test_three_kills_lose_and_repeat_nothing_that_was_finished(
    slow_server: str, tmp_path: Path, make_rows: Callable[[int], Any]
) -> None:
    run_with_kills(600, 3, slow_server, tmp_path, make_rows)


@pytest.mark.slow
def test_twenty_kills_over_two_thousand_rows(slow_server: str, tmp_path: Path, make_rows: Callable[[int], Any]) -> None:
    run_with_kills(2000, 20, slow_server, tmp_path, make_rows)


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_within_seconds_and_keeps_what_is_done(
    slow_server: str, tmp_path: Path, make_rows: Callable[[int], Any]
) -> None:
    rows, out = tmp_path / "rows.json", tmp_path / "out"
    rows.write_text(json.dumps(make_rows(2000)))
    process = subprocess.Popen([sys.executable, "-c", RUN, str(rows), str(out), slow_server, str(CONCURRENCY)])
    while control(slow_server)["outcomes"].get("ok", 0) < 200:
        time.sleep(0.01)
    control(slow_server, latency=60.0)  # what is in flight now would take a minute
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    process.wait(30)
    assert time.monotonic() - started < 5
    report = json.loads((out / "report.json").read_bytes())
    assert report["status"] == "interrupted"
    assert 200 <= report["rows"] <= 200 + 60
    check_valid(out)


@pytest.mark.parametrize("tail", [b'{"half": ', b"\x00" * 100, b'{"conversations": "\xff"}\n'])
def test_a_torn_journal_is_cut_and_its_row_asked_again(
    tail: bytes, slow_server: str, tmp_path: Path, make_rows: Callable[[int], Any]
) -> None:
    from llava_zh.regenerate import regenerate

    rows, out = make_rows(40), tmp_path / "out"
    given: dict[str, Any] = {"output_dir": out, "base_url": slow_server, "model": "tiny-vlm", "progress": False}
    regenerate(rows, "test_zh", limit=30, unit_rows=20, **given)
    # As a crash would have left it: the second unit not finished, its journal torn.
    (out / "data" / "000001.jsonl").rename(out / "journal" / "000001.r0.a0.log")
    (out / "journal" / "000001.r0.done").unlink()
    plan = out / "journal" / "plan-0000.log"
    plan.write_bytes(plan.read_bytes() + b'{"is":"clo')
    with (out / "journal" / "000001.r0.a0.log").open("r+b") as journal:
        whole = journal.read().splitlines(keepends=True)
        journal.seek(len(b"".join(whole[:7])))
        journal.truncate()
        journal.write(tail)
    before = control(slow_server)["outcomes"]["ok"]
    report = regenerate(rows, "test_zh", unit_rows=20, **given)
    assert positions_of(out) == list(range(40))
    assert report.rows == 40
    assert control(slow_server)["outcomes"]["ok"] - before == 13


@pytest.mark.slow
def test_a_full_disk_stops_the_run_with_a_reason_and_the_same_call_goes_on(
    slow_server: str, tmp_path: Path, make_rows: Callable[[int], Any]
) -> None:
    rows, out = tmp_path / "rows.json", tmp_path / "out"
    rows.write_text(json.dumps(make_rows(300)))
    # A limit on the size of a file stands in for a full disk: the write in which it is reached is cut short.
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))\n" + RUN
    arguments = [str(rows), str(out), slow_server, str(CONCURRENCY)]
    process = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True, timeout=60)
    assert process.returncode != 0
    assert "OutputError" in process.stderr
    assert "cannot be written" in process.stderr
    check_valid(out)
    subprocess.run([sys.executable, "-c", RUN, *arguments], check=True, timeout=60)
    failed = [row["position"] for row in lines_of(out / "failed.jsonl")]
    assert sorted(positions_of(out) + failed) == list(range(300))
