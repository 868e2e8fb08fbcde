"""A server of the run's own: started, restarted when it dies or hangs, and gone at the end.

The quick tests let the loopback server stand for an engine; the slow ones start a real ``transformers serve`` with a
tiny random model. They use the interpreter in ``LLAVA_ZH_SERVING_PYTHON``, by default this one, which needs
``pip install torch==2.13.0 "transformers[serving]==5.23.0" pillow`` (CPU torch, no torchvision).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_zh.errors import MissingExtra, ServerError, UnknownName
from llava_zh.regenerate import regenerate, serve
from llava_zh.regenerate.report import Session

from .conftest import positions_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")

Rows = Callable[[int], list[dict[str, Any]]]
SERVER = str(Path(__file__).parent.parent / "model_server.py")


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> str:
    """The loopback server as the engine ``loopback``, 20 ms an answer, looked at often."""
    command = ["{python}", SERVER, "--forever", "--port", "{port}", "--model", "{model}", "--latency", "0.02"]
    monkeypatch.setitem(serve.ENGINES, "loopback", command)
    monkeypatch.setattr(serve, "LOOK_EVERY", 0.3)
    monkeypatch.setattr(serve, "LOOK_TIMEOUT", 0.5)
    return "loopback"


def processes_with(word: str) -> dict[int, str]:
    """Processes that have `word` in their command line, and these."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    found = (line.split(maxsplit=1) for line in listed.splitlines() if word in line)
    return {int(pid): command for pid, command in found}


def serving(model: str) -> list[int]:
    """The server processes of `model`, without their keepers and whoever started those."""
    return [
        pid for pid, command in processes_with(model).items() if "keeper.py" not in command and " -c " not in command
    ]


class Striking:
    """Rows that, once, send a signal to the server in the middle of the run."""

    def __init__(self, rows: list[dict[str, Any]], at: int, model: str, number: int) -> None:
        self.rows, self.at, self.model, self.number = rows, at, model, number

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for position, row in enumerate(self.rows):
            if position == self.at:
                for pid in serving(self.model):
                    os.kill(pid, self.number)
            yield row


@pytest.mark.parametrize(
    ("number", "why"), [(signal.SIGKILL, "it ended by itself"), (signal.SIGSTOP, "it does not answer")]
)
def test_a_server_that_dies_or_hangs_is_restarted_and_no_row_is_lost(
    number: int, why: str, loopback: str, tmp_path: Path, make_rows: Rows, capfd: pytest.CaptureFixture[str]
) -> None:
    model = f"vlm-{os.getpid()}-{number}"
    report = regenerate(
        Striking(make_rows(300), 200, model, number), "test_zh",
        output_dir=tmp_path, serve=loopback, model=model, concurrency=8, timeout=2,
    )  # fmt: skip
    assert (report.rows, report.failed) == (300, {})
    assert positions_of(tmp_path) == list(range(300))
    assert report.session["server_restarts"] == 1
    assert why in capfd.readouterr().err
    assert processes_with(model) == {}


def test_the_server_ends_with_a_run_that_is_killed(loopback: str, tmp_path: Path, make_rows: Rows) -> None:
    model, rows = f"vlm-{os.getpid()}-orphan", tmp_path / "rows.json"
    rows.write_text(json.dumps(make_rows(5000)))
    code = (
        "import json, sys; from llava_zh.regenerate import regenerate, serve\n"
        f"serve.ENGINES['loopback'] = {serve.ENGINES['loopback']!r}\n"
        "regenerate(json.load(open(sys.argv[1])), 'test_zh', output_dir=sys.argv[2], serve='loopback',"
        "           model=sys.argv[3], concurrency=4, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(rows), str(tmp_path / "out"), model])
    deadline = time.monotonic() + 30
    while not serving(model) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert serving(model)
    process.kill()
    process.wait()
    while processes_with(model) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with(model) == {}


def test_a_server_that_never_comes_up_is_given_up_with_the_end_of_its_log(
    tmp_path: Path, make_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; sys.exit('CUDA out of memory on ' + sys.argv[1])"
    monkeypatch.setitem(serve.ENGINES, "broken", ["{python}", "-c", code, "{model}"])
    with pytest.raises(ServerError, match=r"(?s)not become ready in 3 starts.*CUDA out of memory on tiny-vlm"):
        regenerate(make_rows(1), "test_zh", output_dir=tmp_path, serve="broken", model="tiny-vlm", progress=False)


SECRET = "sk-Wz5rTg8Yh2Uj4Ik6Ol9Pm"


def test_a_key_among_the_arguments_is_in_no_process_list_and_in_no_error(
    tmp_path: Path, make_rows: Rows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = "print('\\x1b[31m', os.environ.get('VLLM_API_KEY'), sys.argv)"
    command = ["{python}", "-c", f"import os, sys; {said}; sys.exit('x' * 60000 + sys.argv[-1])"]
    monkeypatch.setitem(serve.ENGINES, "vllm", command)
    given: dict[str, Any] = {"serve": "vllm", "model": "tiny-vlm", "progress": False}
    for number, arguments in enumerate((["--api-key", SECRET], [f"--api-key={SECRET}"], ["--hf-token", SECRET])):
        served = serve.Served("vllm", "m", arguments, tmp_path / "log", Session(), print)
        assert (SECRET in " ".join(served._command)) == (arguments[0] == "--hf-token")
        with pytest.raises(ServerError, match="not become ready") as caught:
            regenerate(make_rows(1), "test_zh", output_dir=tmp_path / str(number), serve_args=arguments, **given)
        assert SECRET[:8] not in str(caught.value)
        assert SECRET[-8:] not in str(caught.value)
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 6000
        log = tmp_path / str(number) / "journal" / "server.log"
        assert SECRET in log.read_text()
        assert log.stat().st_mode & 0o077 == 0
    assert "--hf-token is on vllm's command line" in caplog.text
    assert SECRET[:8] not in caplog.text


def test_an_unknown_or_missing_engine_says_what_to_do(
    tmp_path: Path, make_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'vllm'"):
        regenerate(make_rows(1), "test_zh", output_dir=tmp_path / "a", serve="vlm", model="m", progress=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match=r'pip install "llava-zh\[lmdeploy\]"'):
        regenerate(make_rows(1), "test_zh", output_dir=tmp_path / "b", serve="lmdeploy", model="m", progress=False)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder with a tiny random LLaVA; ``transformers`` is on PATH meanwhile."""
    named = os.environ.get("LLAVA_ZH_SERVING_PYTHON")
    python = named or sys.executable
    folder = str(tmp_path_factory.mktemp("tiny-llava"))
    script = Path(__file__).with_name("tiny_vlm.py")
    made = subprocess.run([python, str(script), folder], capture_output=True, text=True)
    # An interpreter that was named for this has to work; only one that happens not to have the extra is passed over.
    assert not (named and made.returncode), made.stderr
    if made.returncode:
        pytest.skip(f"{python} cannot make the model: {made.stderr.strip().splitlines()[-1]}")
    with pytest.MonkeyPatch.context() as patch:
        # This interpreter's own transformers, which the extra for training brings, may lack what serving needs.
        command = Path(python).with_name("transformers")
        patch.setitem(serve.ENGINES, "transformers", [str(command), *serve.ENGINES["transformers"][1:]])
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture
def short_prompt(tmp_path: Path) -> str:
    """A prompt of few tokens; the tiny model's tokens are bytes."""
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Say it.")
    return str(prompt)


@pytest.mark.slow
def test_a_real_transformers_server_answers_every_row(
    tiny_model: str, short_prompt: str, tmp_path: Path, make_rows: Rows
) -> None:
    report = regenerate(
        make_rows(24), "test_zh", output_dir=tmp_path / "out", serve="transformers", model=tiny_model, concurrency=4,
        prompt=short_prompt, parameters={"max_tokens": 16}, progress=False,
    )  # fmt: skip
    assert report.status == "finished"
    assert report.rows + sum(report.failed.values()) == 24
    assert report.rows > 0
    assert processes_with(tiny_model) == {}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_real_transformers_server_is_restarted_after_a_kill_and_a_hang(
    number: int, tiny_model: str, short_prompt: str, tmp_path: Path, make_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "LOOK_EVERY", 0.5)
    monkeypatch.setattr(serve, "LOOK_TIMEOUT", 3.0)
    report = regenerate(
        Striking(make_rows(80), 50, tiny_model, number), "test_zh",
        output_dir=tmp_path / "out", serve="transformers", model=tiny_model, concurrency=2, timeout=20,
        prompt=short_prompt, parameters={"max_tokens": 16}, progress=False,
    )  # fmt: skip
    assert report.session["server_restarts"] == 1
    assert report.rows + sum(report.failed.values()) == 80
    assert report.rows > 0
    assert processes_with(tiny_model) == {}
