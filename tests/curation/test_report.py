"""What a curation reports: on a page that shows hostile rows as text, and in a dry run that writes nothing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llava_zh.cli import main
from llava_zh.curation import curate
from llava_zh.curation.report import rows_to_cut
from llava_zh.errors import BadArgument, RunConflict
from llava_zh.gates.safe_text import keep_secret

from .test_curate import CAT, DOG, SIGN, row

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)> 'one' \"two\" &amp; \u202eon\x1b[31m一只猫"


def sample() -> list[dict[str, Any]]:
    rows = [row(n, f"{CAT}{'字' * n}", language="zh", task="detail") for n in range(40)]
    rows += [
        row(40, SIGN),
        row(41, SIGN),
        row(42, SIGN.replace("narrow", "wide")),
        row(43, "抱歉，我无法提供帮助。"),
        row(44, HOSTILE, id="</h3><b onclick=x>", image="</style><svg/onload=alert(1)>"),
        row(45, "猫"),
        row(46, DOG, task="<i>"),
    ]
    return rows


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_page_shows_rows_as_text_and_loads_and_runs_nothing(tmp_path: Path) -> None:
    keep_secret("hunter2-hunter2-hunter2")
    rows = [*sample()[40:], row(47, "my key is hunter2-hunter2-hunter2 根据你的描述")]
    report = curate(rows, output_dir=tmp_path, near_duplicates=0.6)
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(written)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "link", "object", "form", "b", "i", "base"}
    assert all(value.startswith("#") for _, given in page.tags if (value := given.get("href")))
    assert not [name for _, given in page.tags for name in given if name.startswith("on") or name in ("src", "style")]
    [policy] = [given["content"] for tag, given in page.tags if given.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert "prefers-color-scheme: dark" in written and "http://" not in written and "https://" not in written
    assert "alert(1)" in page.said and "\u202e" not in written and "\x1b" not in written and "hunter2" not in written
    # Both sides of the pairs, marked where they differ, each text in its language.
    pairs = [(pair["reason"], pair["dropped"]["row"], pair["kept"]["row"]) for pair in report.pairs]
    assert pairs == [("duplicate", 1, 0), ("near_duplicate", 2, 0)]
    assert "<mark>wide</mark>" in written and "<mark>narrow</mark>" in written
    assert re.search(r"<p lang='en'[^>]*>A stone bridge", written) and re.search(
        r"<p lang='zh-Hans'[^>]*>抱歉", written
    )
    for reason, entry in report.reasons.items():
        assert (f"id='{reason}'" in written) == bool(entry["count"])


def test_the_histogram_counts_every_row_of_its_group_and_where_the_limits_cut(tmp_path: Path) -> None:
    report = curate(sample(), output_dir=tmp_path, length={"zh": (10, 60)}, near_duplicates=None)
    figures = report.lengths["zh detail"]
    counted = figures["histogram"]
    assert sum(counted["all"]) == 40 and sum(counted["kept"]) == sum(len(CAT) + n <= 60 for n in range(40))
    assert figures["bounds"][1] == 60 and len(counted["all"]) <= 60
    assert ">60</text>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_pairs_are_few_however_many_duplicates_there_are(tmp_path: Path) -> None:
    report = curate([row(n, CAT) for n in range(300)], output_dir=tmp_path)
    assert [pair["dropped"]["row"] for pair in report.pairs] == [1, 34, 67, 100, 133, 166, 199, 232, 265, 299]
    assert {pair["kept"]["row"] for pair in report.pairs} == {0} and report.reasons["duplicate"]["count"] == 299


def test_groups_too_small_for_the_quantiles_are_told_of_with_what_to_do(tmp_path: Path) -> None:
    rows = [row(n, f"{n}{'字' * (20 + n % 9)}", language="zh") for n in range(600)] + [row(600, "猫", language="zh")]
    alone: dict[str, Any] = {"dry_run": True, "near_duplicates": None, "max_repetition": None}
    report = curate(rows, **alone)
    assert report.kept == 601
    [advice] = report.advice
    assert "fewer than 1,001 rows, as in zh (601 rows). The texts have 1 to " in advice
    assert "--length zh=MIN:MAX" in advice and advice in str(report)
    bounded = curate(rows, length={"zh": (2, None)}, **alone)
    assert (bounded.dropped, bounded.advice) == (1, [])
    assert curate(rows, length_quantiles=None, **alone).advice == []
    assert curate(rows, length_quantiles=(0.01, 0.99), **alone).reasons["length"]["count"] > 0
    assert [rows_to_cut(shares) for shares in ((0.001, 0.999), (0.01, 1), (0, 1))] == [1001, 101, 0]


def test_a_dry_run_gives_the_figures_of_the_run_and_writes_no_rows(tmp_path: Path) -> None:
    def figures(report: Any) -> dict[str, Any]:
        told: dict[str, Any] = report.to_dict()
        return {name: value for name, value in told.items() if name not in ("seconds", "dry_run", "parameters")}

    out = tmp_path / "out"
    dry = curate(iter(sample()), dry_run=True)
    assert list(tmp_path.iterdir()) == [] and "a dry run, so no rows were written" in str(dry)
    kept = curate(sample(), dry_run=True, output_dir=out)
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {"report.json", "report.html"} and "A dry run" in (out / "report.html").read_text()
    done = curate(sample(), output_dir=out)  # a dry run's reports make way
    assert figures(dry) == figures(kept) == figures(done)
    assert json.loads((out / "report.json").read_text())["dry_run"] is False
    with pytest.raises(RunConflict, match="Choose a new or empty"):
        curate(sample(), output_dir=out, dry_run=True, overwrite=True)
    with pytest.raises(BadArgument, match="dry_run"):
        curate(sample())


def test_show_prints_why_each_row_was_dropped_and_what_it_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    hostile = row(2, HOSTILE)
    curate([row(0, CAT), row(1, CAT), hostile], output_dir=tmp_path)
    assert main(["show", str(tmp_path / "dropped.jsonl")]) == 0
    shown, told = capsys.readouterr()
    assert "row 1 · id 1" in shown and "dropped  duplicate: of row 0" in shown
    assert f"repeats  row 0 · id 0 · sa_000000/sa_0.jpg\n         {CAT}" in shown
    assert "dropped  control_characters: U+202E U+001B" in shown and "\x1b" not in shown
    assert "not registered" not in told and "not loaded" not in told
    assert main(["show", str(tmp_path / "dropped.jsonl"), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert first["reasons"] == ["duplicate: of row 0"] and first["repeats"]["text"] == CAT
