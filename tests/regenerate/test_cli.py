"""``llava-zh regenerate`` does what :func:`regenerate` does, with data on stdout and the rest on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from model_server import ModelServer

from llava_zh.cli import main
from llava_zh.demo import DemoPaths, write_demo

from .conftest import output_of


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPaths:
    return write_demo(tmp_path_factory.mktemp("demo"), rows=200)


@pytest.fixture
def command(demo: DemoPaths, server: ModelServer, tmp_path: Path) -> list[str]:
    return [
        *("regenerate", "internvl-sa-1b-caption", "single_zh", "--data-dir", str(demo.internvl)),
        *("--image-root", str(demo.sa1b), "--output-dir", str(tmp_path / "out"), "--base-url", server.url),
        *("--model", "tiny-vlm", "--concurrency", "4"),
    ]


def test_a_dataset_comes_out_again_and_the_report_is_on_stdout(
    command: list[str], server: ModelServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--limit", "15"]) == 0
    assert capsys.readouterr().out.startswith("finished: 15 rows in ")
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = output_of(tmp_path / "out")
    assert len(rows) == report["rows"] == server.calls > 15
    assert rows[0]["image"].startswith("sa_00000")


def test_multi_image_rows_repeat_their_own_questions(demo: DemoPaths, server: ModelServer, tmp_path: Path) -> None:
    server.keep_requests = True
    command = ["regenerate", "internvl-sa-1b-caption", "multi_zh", "--data-dir", str(demo.internvl), "--limit", "3"]
    command += ["--image-root", str(demo.sa1b), "--output-dir", str(tmp_path), "--base-url", server.url]
    assert main([*command, "--model", "tiny-vlm"]) == 0
    row = output_of(tmp_path)[0]
    assert row["conversations"][0] == row["regenerated"]["previous"][0]
    sent = [part["type"] for part in server.requests[0]["messages"][0]["content"]]
    assert sent.count("image_url") == len(row["image"]) == len(row["width_list"])


def test_rows_given_up_give_status_3_and_an_error_1(
    command: list[str], server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script = ["422"]
    assert main([*command, "--limit", "5"]) == 3
    said = capsys.readouterr().out
    assert "failed: HTTP 422 1" in said
    assert "failed.jsonl; --retry-failed asks for them again" in said
    assert main([*command, "--limit", "5", "--parameters", '{"temperature": 1}']) == 1
    assert "parameters.temperature: not set in the run, 1 now" in capsys.readouterr().err


def test_a_row_format_is_no_option(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--row-format", "nonsense"])
    assert caught.value.code == 2
    assert "--row-format" in capsys.readouterr().err


def test_parameters_must_be_a_json_object(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--parameters", "temperature=1"])
    assert caught.value.code == 2
    assert "expected a JSON object, found 'temperature=1'" in capsys.readouterr().err


def test_a_batch_is_written_and_read(
    command: list[str], server: ModelServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from .test_batch import answered

    assert main([*command, "--limit", "5", "--write-batch"]) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in files] == ["000000.jsonl"]
    results = answered(files, server, tmp_path / "results.jsonl")
    assert main([*command, "--limit", "5", "--read-batch", str(results)]) == 0
    assert capsys.readouterr().out.startswith("finished: 5 rows in ")
