"""The command ``llava-zh curate`` does what ``llava_zh.curate`` does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from llava_zh.cli.curate import add_parser
from llava_zh.errors import DataFileNotFound

TEXTS = (
    "一只黑猫坐在红色沙发上，旁边有一本打开的书。",
    "一只黑猫坐在红色沙发上，旁边有一本打开的书。",
    "两只小狗在草地上追球。",
    "猫",
)


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="llava-zh")
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["curate", *arguments])
    return int(args.run(args))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(TEXTS):
            turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": text}]
            file.write(json.dumps({"id": number, "image": f"{number}.jpg", "conversations": turns}) + "\n")
    return path


def test_the_summary_goes_to_stdout_and_the_rows_to_the_folder(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(str(rows), "--output-dir", str(tmp_path / "out"), "--length", "zh=5:900", "en=:10") == 0
    assert capsys.readouterr().out.startswith("4 rows: 2 kept, 2 dropped (50.0%)")
    dropped = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["row"], row["reasons"]) for row in dropped] == [
        (1, ["duplicate: of row 0"]),
        (3, ["length: 1 characters; 5 to 22 are kept (zh)"]),
    ]


def test_every_search_can_be_turned_off_and_the_report_printed_as_json(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    off = ["--near-duplicates", "none", "--no-exact-duplicates", "--no-length-quantiles", "--max-repetition", "none"]
    assert command(str(rows), "--output-dir", str(tmp_path / "out"), "--json", *off) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kept"] == 4
    assert report == json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))


def test_one_length_for_all_languages_further_leaks_and_a_limit(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--length", "2:", "--leaks", "追球", "红色沙发", "--limit", "3", "--no-single-paragraph", "--json"]
    assert command(str(rows), "--output-dir", str(tmp_path / "out"), *arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["reasons"]["leak"]["count"]) == (3, 3)
    assert report["parameters"]["length"] == [2, None]


def test_a_failure_is_an_error_that_the_command_line_explains(tmp_path: Path) -> None:
    with pytest.raises(DataFileNotFound, match="folder without a file of rows"):
        command(str(tmp_path), "--output-dir", str(tmp_path / "out"))


@pytest.mark.parametrize("length", ["fr=1:2", "30", "zh=a:b", "zh="])
def test_a_length_in_another_form_is_wrong_usage(
    length: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command("x", "--output-dir", str(tmp_path), "--length", length)
    assert caught.value.code == 2
    assert "--length" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("--help")
    assert "llava-zh curate internvl-sa-1b-caption single_zh --output-dir curated" in capsys.readouterr().out
