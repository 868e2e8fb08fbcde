"""Requests go out as OpenAI Batch files and their results come back into the run."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_server import CAPTION, ModelServer

from llava_zh.errors import BadArgument, BadFile, OutputError, RunConflict
from llava_zh.regenerate import batch, read_batch, regenerate, write_batch

from .conftest import lines_of, output_of, positions_of

Rows = Callable[[int], list[dict[str, Any]]]


def answered(files: list[Path], server: ModelServer, out: Path) -> Path:
    """What a batch service makes of request files: every body posted as it stands, the results out of order."""
    results = []
    for file in files:
        for request in lines_of(file):
            url = server.url.removesuffix("/v1") + request["url"]
            body = json.dumps(request["body"]).encode()
            posted = urllib.request.Request(url, data=body, method=request["method"])
            try:
                with urllib.request.urlopen(posted) as response:
                    got = {"status_code": response.status, "body": json.load(response)}
            except urllib.error.HTTPError as error:
                got = {"status_code": error.code, "body": json.load(error)}
            results.append({"id": "1", "custom_id": request["custom_id"], "response": got, "error": None})
    out.write_text("".join(json.dumps(result) + "\n" for result in reversed(results)))
    return out


def test_results_come_back_as_rows_in_order(
    server: ModelServer, tmp_path: Path, make_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "FILE_REQUESTS", 12)
    given: dict[str, Any] = {"output_dir": tmp_path / "out", "model": "tiny-vlm", "unit_rows": 10}
    files = write_batch(make_rows(30), "test_zh", **given)
    assert [len(lines_of(file)) for file in files] == [12, 12, 6]
    report = read_batch(make_rows(30), "test_zh", results=[answered(files, server, tmp_path / "r.jsonl")], **given)
    assert (report.status, report.rows, report.failed) == ("finished", 30, {})
    assert positions_of(tmp_path / "out") == list(range(30))
    assert output_of(tmp_path / "out")[7]["conversations"][-1]["value"] == CAPTION


def test_a_request_is_the_very_one_a_server_would_get(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    files = write_batch(
        make_rows(1), "test_zh", output_dir=tmp_path / "batch", model="tiny-vlm", parameters={"top_p": 0.5}
    )
    server.keep_requests = True
    regenerate(
        make_rows(1), "test_zh", output_dir=tmp_path / "run", model="tiny-vlm", parameters={"top_p": 0.5},
        base_url=server.url, progress=False,
    )  # fmt: skip
    assert lines_of(files[0])[0]["body"] == server.requests[0]


@pytest.mark.parametrize("name", ["unit_rows", "limit", "max_pixels"])
def test_a_count_of_nothing_is_refused_before_anything_is_written(tmp_path: Path, make_rows: Rows, name: str) -> None:
    given: dict[str, Any] = {"output_dir": tmp_path / "out", "model": "tiny-vlm", name: 0}
    with pytest.raises(BadArgument, match=f"{name} must be at least 1"):
        write_batch(make_rows(1), "test_zh", **given)
    with pytest.raises(BadArgument, match=f"{name} must be at least 1"):
        read_batch(make_rows(1), "test_zh", results=[], **given)
    assert not (tmp_path / "out").exists()


def test_faults_that_may_pass_and_missing_results_are_in_the_next_batch(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    given: dict[str, Any] = {"output_dir": tmp_path / "out", "model": "tiny-vlm", "unit_rows": 10}
    files = write_batch(make_rows(12), "test_zh", **given)
    server.script = ["503", "422", "empty"]
    results = answered(files, server, tmp_path / "r.jsonl")
    results.write_text("".join(results.read_text().splitlines(keepends=True)[1:]))  # row 11 is missing
    report = read_batch(make_rows(12), "test_zh", results=[results], **given)
    assert (report.status, report.rows) == ("interrupted", 8)
    assert report.failed == {"HTTP 422": 1, "empty answer": 1}
    files = write_batch(make_rows(12), "test_zh", **given)
    assert len(lines_of(files[0])) == 2
    report = read_batch(make_rows(12), "test_zh", results=[answered(files, server, tmp_path / "r2.jsonl")], **given)
    assert (report.status, report.rows) == ("finished", 10)
    assert sorted(positions_of(tmp_path / "out")) == [0, *range(3, 12)]


def test_a_batch_can_be_ended_by_a_server(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    given: dict[str, Any] = {"output_dir": tmp_path / "out", "model": "tiny-vlm"}
    files = write_batch(make_rows(10), "test_zh", **given)
    files[0].write_text("".join(files[0].read_text().splitlines(keepends=True)[:4]))
    read_batch(make_rows(10), "test_zh", results=[answered(files, server, tmp_path / "r.jsonl")], **given)
    report = regenerate(make_rows(10), "test_zh", base_url=server.url, progress=False, **given)
    assert (report.rows, server.calls) == (10, 10)


def test_rows_of_several_turns_and_broken_images_are_given_up(tmp_path: Path, images: list[str]) -> None:
    turns = [{"from": "human", "value": "<image>\n甲？"}, {"from": "gpt", "value": "乙。"}]
    (tmp_path / "cut.jpg").write_bytes(Path(images[0]).read_bytes()[:-40])
    rows = [
        {"image": images[0], "conversations": turns},
        {"image": images[1], "conversations": turns * 2},
        {"image": str(tmp_path / "cut.jpg"), "conversations": turns},
    ]
    files = write_batch(rows, output_dir=tmp_path / "out", model="m", prompt="original")
    assert len(lines_of(files[0])) == 1
    assert [row["reason"] for row in lines_of(tmp_path / "out" / "failed.jsonl")] == ["Refused", "BadImage"]


def test_what_is_no_result_is_refused(tmp_path: Path, make_rows: Rows) -> None:
    given: dict[str, Any] = {"output_dir": tmp_path / "out", "model": "tiny-vlm"}
    write_batch(make_rows(2), "test_zh", **given)
    (tmp_path / "r.jsonl").write_text("<html>expired</html>\n")
    with pytest.raises(BadFile, match=r"r.jsonl, byte 0: no result of a batch"):
        read_batch(make_rows(2), "test_zh", results=[tmp_path / "r.jsonl"], **given)
    with pytest.raises(BadFile, match="not there"):
        read_batch(make_rows(2), "test_zh", results=[tmp_path / "missing.jsonl"], **given)
    with pytest.raises(RunConflict, match="model"):
        write_batch(make_rows(2), "test_zh", output_dir=tmp_path / "out", model="other")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"custom_id": 5}', "byte 0: no result of a batch"),
        (b'{"custom_id": "\xff"}', "byte 0: no result of a batch"),
        (b'{"custom_id": "a", "x": ' + b"[" * 100_000, "byte 0: no result of a batch"),
        (b'{"custom_id": "' + b"a" * 5_000_000 + b'"}', "byte 0: a result is too long.*LLAVA_ZH_MAX_ANSWER_BYTES"),
        (b'\n \r\n{"custom_id": "a", "response": {"status_code": "x"}}', "byte 4: no result of a batch"),
    ],
)
def test_a_line_that_is_no_result_is_refused_with_its_place(
    line: bytes, says: str, tmp_path: Path, make_rows: Rows
) -> None:
    given: dict[str, Any] = {"output_dir": tmp_path / "out", "model": "tiny-vlm"}
    write_batch(make_rows(1), "test_zh", **given)
    (tmp_path / "r.jsonl").write_bytes(line + b"\n")
    with pytest.raises(BadFile, match=says) as caught:
        read_batch(make_rows(1), "test_zh", results=[tmp_path / "r.jsonl"], **given)
    assert len(str(caught.value)) < 1000
    with pytest.raises(BadFile, match="cannot be read"):
        read_batch(make_rows(1), "test_zh", results=[tmp_path], **given)


def test_what_a_batch_answers_is_bounded_redacted_and_checked_as_a_server_is(
    tmp_path: Path, make_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-Bt5Yh8Nj3Mk6Lo9Pq2Wr"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    given: dict[str, Any] = {"output_dir": tmp_path / "out", "model": "tiny-vlm"}
    requests = lines_of(write_batch(make_rows(4), "test_zh", **given)[0])

    def body(content: object) -> dict[str, Any]:
        return {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": {"prompt_tokens": -1}}

    responses: list[dict[str, Any]] = [
        {"status_code": 200, "body": body("<think>想</think>一只猫。")},
        {"status_code": 200, "body": body("一只猫。<|im_end|>")},
        {"status_code": 200, "body": body(f"一只猫。{key}")},
        {"status_code": 400, "body": {"error": {"message": f"{'x' * 290}{key}" * 1000}}},
    ]
    lines = [
        json.dumps({"custom_id": request["custom_id"], "response": response})
        for request, response in zip(requests, responses, strict=True)
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(lines) + "\n\n")
    report = read_batch(make_rows(4), "test_zh", results=[tmp_path / "r.jsonl"], **given)
    assert report.failed == {"special token": 1, "answer repeats a secret": 1, "HTTP 400": 1}
    assert [row["conversations"][1]["value"] for row in output_of(tmp_path / "out")] == ["一只猫。"]
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert not [key[at : at + 8] for at in range(len(key) - 7) if key[at : at + 8].encode() in written]
    assert max(len(row["message"]) for row in lines_of(tmp_path / "out" / "failed.jsonl")) < 500


def test_requests_are_not_written_through_a_planted_link(tmp_path: Path, make_rows: Rows) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.jsonl").write_text("mine")
    given: dict[str, Any] = {"output_dir": tmp_path / "out", "model": "tiny-vlm"}
    write_batch(make_rows(1), "test_zh", **given)[0].unlink()
    (tmp_path / "out" / "batch").rmdir()
    (tmp_path / "out" / "batch").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is a link"):
        write_batch(make_rows(1), "test_zh", **given)
    assert (tmp_path / "elsewhere" / "mine.jsonl").read_text() == "mine"
