"""A run over a model server that fails in every way a server fails."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_server import CAPTION, ModelServer
from PIL import Image

from llava_zh.errors import BadArgument, OutputError, RootNotFound, RunConflict, ServerError, UnknownName
from llava_zh.regenerate import PROMPTS, regenerate

from .conftest import lines_of, output_of, positions_of

Rows = Callable[[int], list[dict[str, Any]]]


def run(rows: Any, out: Path, server: ModelServer, **changes: Any) -> Any:
    given = {"output_dir": out, "base_url": server.url, "model": "tiny-vlm", "concurrency": 8, "progress": False}
    return regenerate(rows, "test_zh", **{**given, **changes})


# -- what comes out ----------------------------------------------------------------------------------------


def test_every_row_comes_out_in_order_in_published_form_with_its_old_caption(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    rows = make_rows(50)
    report = run(rows, tmp_path, server, unit_rows=20)
    assert [path.name for path in sorted((tmp_path / "data").iterdir())] == [
        "000000.jsonl",
        "000001.jsonl",
        "000002.jsonl",
    ]
    written = output_of(tmp_path)
    assert [row["id"] for row in written] == list(range(50))
    last = written[-1]
    assert (last["image"], last["width"], last["height"]) == (rows[-1]["image"], 64, 48)
    assert last["conversations"] == [
        {"from": "human", "value": "<image>\n" + PROMPTS["caption_zh"].text},
        {"from": "gpt", "value": CAPTION},
    ]
    facts = last["regenerated"]
    assert facts["previous"] == rows[-1]["conversations"]
    assert (facts["model"], facts["prompt"], facts["finish_reason"]) == ("tiny-vlm", "caption_zh", "stop")
    assert (facts["prompt_tokens"], facts["completion_tokens"], facts["asked"]) == (1024, len(CAPTION), 1)
    assert (report.status, report.rows, report.failed) == ("finished", 50, {})


def test_the_original_bytes_and_the_prompt_are_what_the_server_gets(
    server: ModelServer, tmp_path: Path, make_rows: Rows, images: list[str]
) -> None:
    import base64

    server.keep_requests = True
    run(make_rows(1), tmp_path, server, parameters={"temperature": 0.7, "max_tokens": 99})
    request = server.requests[0]
    image, text = request["messages"][0]["content"]
    assert (
        image["image_url"]["url"] == "data:image/jpeg;base64," + base64.b64encode(Path(images[0]).read_bytes()).decode()
    )
    assert text == {"type": "text", "text": PROMPTS["caption_zh"].text}
    assert set(request) == {"model", "messages", "temperature", "max_tokens"}
    assert (request["temperature"], request["max_tokens"]) == (0.7, 99)


def test_max_pixels_downscales_what_is_larger_and_nothing_else(server: ModelServer, tmp_path: Path) -> None:
    import base64

    server.keep_requests = True
    for name, size in (("large.png", (400, 200)), ("small.png", (40, 20))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    run(
        [str(tmp_path / "large.png"), str(tmp_path / "small.png")],
        tmp_path / "out",
        server,
        max_pixels=5000,
        concurrency=1,
    )
    urls = [request["messages"][0]["content"][0]["image_url"]["url"] for request in server.requests]
    sent = [Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) for url in urls]
    assert [(image.format, image.size) for image in sent] == [("JPEG", (100, 50)), ("PNG", (40, 20))]


def test_paths_are_sent_to_a_server_that_shares_the_disk(
    server: ModelServer, tmp_path: Path, make_rows: Rows, images: list[str]
) -> None:
    server.keep_requests = True
    run(make_rows(1), tmp_path, server, send_paths=True)
    assert server.requests[0]["messages"][0]["content"][0]["image_url"]["url"] == Path(images[0]).as_uri()


def test_images_without_a_name_are_kept_beside_the_rows(server: ModelServer, tmp_path: Path, images: list[str]) -> None:
    data = Path(images[3]).read_bytes()
    run([{"image": {"bytes": data, "path": None}}, data], tmp_path, server)
    names = {row["image"] for row in output_of(tmp_path)}
    assert len(names) == 1
    assert (tmp_path / names.pop()).read_bytes() == data


def test_original_asks_each_human_turn_again_after_the_new_answers(
    server: ModelServer, tmp_path: Path, images: list[str]
) -> None:
    server.keep_requests = True
    row = {
        "image": images[:2],
        "conversations": [
            {"from": "human", "value": "Image-1: <image>\nImage-2: <image>\n比较两张图。"},
            {"from": "gpt", "text": "旧的。"},
            {"from": "human", "value": "哪张更亮？"},
            {"from": "gpt", "value": "旧的。"},
        ],
    }
    run([row], tmp_path, server, prompt="original")
    kinds = [part["type"] for part in server.requests[0]["messages"][0]["content"]]
    assert kinds == ["text", "image_url", "text", "image_url", "text"]
    assert [message["role"] for message in server.requests[1]["messages"]] == ["user", "assistant", "user"]
    written = output_of(tmp_path)[0]
    assert [turn["value"] for turn in written["conversations"]] == [
        row["conversations"][0]["value"], CAPTION, "哪张更亮？", CAPTION,
    ]  # fmt: skip
    assert written["image"] == images[:2]


def test_llava_tasks_are_kept_from_the_row_or_drawn_the_same_way_every_time(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    kept = [{**row, "task": "complex_reasoning"} for row in make_rows(3)]
    run(kept, tmp_path / "kept", server, prompt="llava")
    assert [len(row["conversations"]) for row in output_of(tmp_path / "kept")] == [2, 2, 2]
    assert {row["task"] for row in output_of(tmp_path / "kept")} == {"complex_reasoning"}
    for out in ("once", "again"):
        run(make_rows(40), tmp_path / out, server, prompt="llava")
    tasks = [[row["task"] for row in output_of(tmp_path / out)] for out in ("once", "again")]
    assert tasks[0] == tasks[1]
    assert set(tasks[0]) == {"conversation", "complex_reasoning", "detail"}


# -- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", ["408", "429", "500", "502", "503", "disconnect", "truncate", "html", "utf8", "error200"]
)
def test_a_passing_fault_is_retried_until_the_row_is_done(
    fault: str, server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    server.script = ["ok", fault, "ok", fault]
    report = run(make_rows(12), tmp_path, server)
    assert report.rows == 12
    assert sum(report.session["retries"].values()) == 2
    assert positions_of(tmp_path) == list(range(12))


@pytest.mark.parametrize("fault", ["length", "filtered", "empty", "null", "huge"])
def test_an_answer_that_is_none_is_asked_again_with_another_seed(
    fault: str, server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    server.keep_requests = True
    server.script = [fault]
    report = run(make_rows(1), tmp_path, server, seed=5)
    assert [request.get("seed") for request in server.requests] == [None, 6]
    assert report.rows == 1
    assert output_of(tmp_path)[0]["regenerated"]["asked"] == 2


def test_an_answer_that_never_parses_fails_with_the_raw_answer(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    server.faults = {"unparsable": 1.0}
    report = run(make_rows(2), tmp_path, server, prompt="conversation", answer_attempts=3)
    assert server.calls == 6
    assert report.failed == {"answer does not parse": 2}
    failed = lines_of(tmp_path / "failed.jsonl")
    assert {row["answer"] for row in failed} == {"第一段没有格式。\n\n第二段也没有。"}
    assert {row["asked"] for row in failed} == {3}
    assert output_of(tmp_path) == []


@pytest.mark.parametrize("status", ["400", "403", "404", "413", "422"])
def test_a_refused_row_fails_at_once_and_the_others_go_on(
    status: str, server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    server.script = [status]
    report = run(make_rows(10), tmp_path, server, concurrency=1)
    assert server.calls == 10
    assert report.failed == {f"HTTP {status}": 1}
    assert positions_of(tmp_path) == list(range(1, 10))


def test_broken_missing_and_foreign_images_fail_without_a_request(
    server: ModelServer, tmp_path: Path, images: list[str]
) -> None:
    whole = Path(images[0]).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-40])
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.jpg").touch()
    names = ["cut.jpg", "text.jpg", "empty.jpg", "missing.jpg"]
    report = run([str(tmp_path / name) for name in names] + images[:3], tmp_path / "out", server)
    assert server.calls == 3
    assert report.failed == {"BadImage": 3, "ImageNotFound": 1}
    messages = {Path(row["image"][0]).name: row["message"] for row in lines_of(tmp_path / "out" / "failed.jsonl")}
    assert "truncated" in messages["cut.jpg"]
    assert "no image" in messages["text.jpg"]


def test_a_row_given_up_is_not_asked_again_unless_told_to(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    server.script = ["400", "422"]
    run(make_rows(30), tmp_path, server, unit_rows=10)
    calls = server.calls
    assert run(make_rows(30), tmp_path, server, unit_rows=10).failed == {"HTTP 400": 1, "HTTP 422": 1}
    assert server.calls == calls
    report = run(make_rows(30), tmp_path, server, unit_rows=10, retry_failed=True)
    assert (report.rows, report.failed) == (30, {})
    assert server.calls == calls + 2
    assert positions_of(tmp_path) == list(range(30))


def test_retries_wait_while_fresh_rows_go_on(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    server.retry_after = "1"
    server.script = ["503"]
    server.keep_requests = True
    report = run(make_rows(30), tmp_path, server, concurrency=1)
    first = server.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    asked = [request["messages"][0]["content"][0]["image_url"]["url"] for request in server.requests]
    assert len(asked) == 31
    assert asked[-1] == first
    assert report.session["seconds"] >= 1.0


def test_when_every_row_fails_the_run_stops_instead_of_burning_the_input(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    server.faults = {"422": 1.0}
    with pytest.raises(ServerError, match=r"100 rows failed one after the other.*422"):
        run(make_rows(1000), tmp_path, server)
    assert server.calls < 130


def test_a_hung_request_is_sent_again_while_the_others_go_on(
    server: ModelServer, tmp_path: Path, make_rows: Rows, capfd: pytest.CaptureFixture[str]
) -> None:
    server.script = ["ok", "ok", "hang"]
    report = run(make_rows(20), tmp_path, server, stall_after=0.5, progress=True)
    assert report.rows == 20
    assert report.session["resent"] == 1
    assert report.session["retries"] == {"timeout": 1}
    assert "sent again" in capfd.readouterr().err


# -- servers -----------------------------------------------------------------------------------------------


def test_the_least_loaded_server_is_asked_and_a_dead_one_left_alone(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    with ModelServer(latency=0.1) as slow:
        server.latency = 0.005
        run(make_rows(200), tmp_path / "both", server, base_url=[server.url, slow.url])
        assert server.calls > 1.5 * slow.calls > 0
        slow.sick = "disconnect"
        with pytest.raises(ServerError, match="Nothing usable answers"):
            run(make_rows(5), tmp_path / "refused", server, base_url=[server.url, slow.url])
        slow.sick = None
        slow.faults = {"disconnect": 1.0}
        report = run(make_rows(200), tmp_path / "one", server, base_url=[server.url, slow.url])
        assert report.rows == 200


def test_a_sick_server_is_rested_and_used_again_when_it_answers(
    server: ModelServer, tmp_path: Path, make_rows: Rows, capfd: pytest.CaptureFixture[str]
) -> None:
    server.script = ["disconnect"] * 6
    report = run(make_rows(40), tmp_path, server, progress=True, max_retries=3)
    assert (report.rows, report.failed) == (40, {})
    said = capfd.readouterr().err
    assert "is rested after 3 faults" in said
    assert "answers again" in said


def test_a_key_that_is_revoked_stops_the_run_and_is_never_shown(
    tmp_path: Path, make_rows: Rows, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "sk-very-secret-key"
    with ModelServer(api_key=secret) as server:
        assert run(make_rows(5), tmp_path / "ok", server, api_key=secret).rows == 5
        for key in (None, "sk-a-wrong-key"):
            with pytest.raises(ServerError, match="401") as caught:
                run(make_rows(5), tmp_path / "wrong", server, api_key=key)
            assert "sk-" not in str(caught.value)
        server.latency = 0.01
        rows = make_rows(500)

        class Revoking:
            def __iter__(self) -> Any:
                for row in rows:
                    if row["id"] == 200:
                        server.api_key = "sk-another"
                    yield row

        with pytest.raises(ServerError, match="401"):
            run(Revoking(), tmp_path / "revoked", server, api_key=secret)
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-" not in everything
    captured = capfd.readouterr()
    assert "sk-" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:9/v1", "Nothing usable answers at http://127.0.0.1:9/v1/models"),
        ("{root}/nowhere", "not an OpenAI-compatible API: expected a JSON list of models, found 404 text/html"),
        ("ftp://host", "must be an http"),
        ("localhost:8000", "must be an http"),
    ],
)
def test_a_wrong_base_url_says_what_is_there(
    url: str, expected: str, server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    with pytest.raises((ServerError, BadArgument), match=expected):
        run(make_rows(1), tmp_path, server, base_url=url.format(root=server.url.removesuffix("/v1")))


def test_a_base_url_without_a_path_or_with_the_whole_path_works(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    root = server.url.removesuffix("/v1")
    for number, url in enumerate((root, root + "/", server.url + "/chat/completions")):
        assert run(make_rows(2), tmp_path / str(number), server, base_url=url).rows == 2


def test_a_wrong_model_is_refused_with_the_models_there_are(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    with pytest.raises(ServerError, match="does not serve the model 'huge-vlm'; it serves 'tiny-vlm'"):
        run(make_rows(1), tmp_path, server, model="huge-vlm")


# -- the folder --------------------------------------------------------------------------------------------


def test_a_changed_model_prompt_or_parameter_is_refused_with_the_difference(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    run(make_rows(5), tmp_path, server, parameters={"temperature": 0})
    server.model = "other-vlm"
    with pytest.raises(RunConflict, match='model: "tiny-vlm" in the run, "other-vlm" now'):
        run(make_rows(5), tmp_path, server, model="other-vlm", parameters={"temperature": 0})
    with pytest.raises(RunConflict, match=r"parameters.temperature: 0 in the run, 0.5 now"):
        run(make_rows(5), tmp_path, server, parameters={"temperature": 0.5})
    with pytest.raises(RunConflict, match=r"prompts.caption_en"):
        run(make_rows(5), tmp_path, server, parameters={"temperature": 0}, prompt="caption_en")


def test_an_edited_prompt_file_is_refused_with_the_changed_line(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(
        "请描述图片。\n请用一段话，写出所有清晰可见的内容，并避免任何推测，不要写任何看不到的东西，也不要写任何不确定的东西，字数不限。\n"
    )
    run(make_rows(3), tmp_path / "out", server, prompt=str(prompt))
    prompt.write_text(prompt.read_text().replace("一段话", "两段话"))
    with pytest.raises(RunConflict, match=r"(?s)\n    -请用一段话.*\n    \+请用两段话"):
        run(make_rows(3), tmp_path / "out", server, prompt=str(prompt))


def test_a_changed_input_is_refused(server: ModelServer, tmp_path: Path, make_rows: Rows, images: list[str]) -> None:
    run(make_rows(30), tmp_path, server, limit=25, unit_rows=10)
    changed = make_rows(30)
    changed[10]["image"] = images[39]
    with pytest.raises(RunConflict, match="row 10 of it is not the row"):
        run(changed, tmp_path, server, unit_rows=10)


def test_a_higher_limit_goes_on_in_the_last_unit(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    for limit in (15, 17, 5, None):
        run(make_rows(33), tmp_path, server, limit=limit, unit_rows=10)
    assert server.calls == 33
    assert positions_of(tmp_path) == list(range(33))


def test_a_foreign_folder_is_refused_and_left_as_it_is(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunConflict, match=r"not empty and holds no manifest.json: found thesis.tex"):
        run(make_rows(1), tmp_path, server)


def test_a_finished_file_that_is_gone_is_noticed(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    run(make_rows(30), tmp_path, server, unit_rows=10)
    (tmp_path / "data" / "000001.jsonl").unlink()
    with pytest.raises(OutputError, match=r"000001.jsonl was finished with .* bytes and now has 0"):
        run(make_rows(30), tmp_path, server, unit_rows=10)


@pytest.mark.slow
def test_a_folder_in_use_by_a_living_run_is_refused(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    server.latency = 0.3
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(make_rows(500)))
    code = (
        "import json, sys; from llava_zh.regenerate import regenerate;"
        "regenerate(json.load(open(sys.argv[1])), 'test_zh',"
        "output_dir=sys.argv[2], base_url=sys.argv[3], model='tiny-vlm', concurrency=4, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(rows), str(tmp_path / "out"), server.url])
    try:
        while server.calls < 5:
            time.sleep(0.02)
        with pytest.raises(RunConflict, match=rf'in use by a living run .*"pid": {process.pid}'):
            run(make_rows(500), tmp_path / "out", server)
    finally:
        process.kill()
        process.wait()


# -- arguments ---------------------------------------------------------------------------------------------


def test_arguments_that_cannot_work_say_what_would(server: ModelServer, tmp_path: Path, make_rows: Rows) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'caption_zh'"):
        run(make_rows(1), tmp_path, server, prompt="caption_zn")
    with pytest.raises(BadArgument, match="prompt is needed"):
        regenerate(make_rows(1), output_dir=tmp_path, base_url=server.url, model="tiny-vlm")
    with pytest.raises(BadArgument, match="either base_url"):
        run(make_rows(1), tmp_path, server, base_url=None)
    with pytest.raises(BadArgument, match="concurrency must be at least 1"):
        run(make_rows(1), tmp_path, server, concurrency=0)
    with pytest.raises(BadArgument, match="image_root: only for a dataset given by name"):
        run(make_rows(1), tmp_path, server, image_root="/nowhere")


def test_rows_without_images_configured_stop_the_run(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SA1B_ROOT", raising=False)
    with pytest.raises(RootNotFound):
        run([{"image": {"path": "sa1b://sa_000000/sa_1.jpg", "bytes": None}}], tmp_path, server)


def test_images_in_memory_stay_below_the_limit(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_zh.regenerate import run as engine

    monkeypatch.setattr(engine, "BYTES_IN_FLIGHT", 8 * 2**20)
    large = tmp_path / "large.png"
    Image.effect_noise((1024, 1024), 100).save(large, compress_level=0)  # 1 MB
    tracemalloc.start()
    try:
        run([str(large)] * 100, tmp_path / "out", server, concurrency=8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * 2**20
