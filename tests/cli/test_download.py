"""`llava-zh download` against both loopback hubs, by the real clients: whole, continued, checked."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, VirtualFile

import llava_zh
from llava_zh.cli import main
from llava_zh.demo import DemoPaths

INTERNVL, LLAVA = "internvl-sa-1b-caption", "llava-instruct-zh-600k"
REPOS = {"huggingface": "OpenGVLab/InternVL-SA-1B-Caption", "modelscope": "thomas/InternVL-SA-1B-Caption"}
SINGLE_ZH = "internvl_sa1b_caption_1m_single_image_zh.jsonl"
BIG = bytes(range(256)) * 12_000  # 3 MB: several pieces of a transfer
SECRET = "hf_SecretThatMustNotShow"
both_hubs = pytest.mark.parametrize("kind", ["huggingface", pytest.param("modelscope", marks=pytest.mark.slow)])


@pytest.fixture
def caches(tmp_path: Path) -> dict[str, str]:
    return {name: str(tmp_path / name.lower()) for name in ("HF_HOME", "MODELSCOPE_CACHE", "MODELSCOPE_HOME")}


class Download:
    """Runs the command as a user does, against one hub."""

    def __init__(self, hub: HubServer, caches: dict[str, str], **env: str) -> None:
        self.hub, self.env = hub, os.environ | caches | hub.env | env

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "llava_zh", "download", INTERNVL, *args, "--source", self.hub.kind]

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*args), capture_output=True, text=True, timeout=120, env=self.env)

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(*args), stdout=-1, stderr=-1, text=True, env=self.env)


def serve(kind: str, files: object, **options: object) -> HubServer:
    return HubServer({REPOS[kind]: files}, kind, **options)  # type: ignore[dict-item,arg-type]


def starts(hub: HubServer) -> list[int]:
    """The byte at which each request for the big file's content started."""
    ranges = [request.range or "bytes=0-" for request in hub.requests if request.file and request.status < 300]
    return [int(asked.removeprefix("bytes=").split("-")[0]) for asked in ranges]


@pytest.mark.slow
@both_hubs
def test_a_cut_connection_is_continued_at_the_byte_reached(kind: str, tmp_path: Path, caches: dict[str, str]) -> None:
    with serve(kind, {SINGLE_ZH: BIG}) as hub:
        fault = hub.add_fault(r"GET cdn|FilePath", cut_after=1_000_000, times=2)
        done = Download(hub, caches)("single_zh", "--dest", str(tmp_path / "out"))
        assert (done.returncode, fault.used) == (0, 2), done.stderr
        assert starts(hub)[0] == 0
        assert min(starts(hub)[1:]) > 500_000
        assert hub.bytes_sent < 1.4 * len(BIG)
    assert (tmp_path / "out" / SINGLE_ZH).read_bytes() == BIG
    assert [path.name for path in (tmp_path / "out").iterdir()] == [SINGLE_ZH]


@pytest.mark.slow
@both_hubs
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_download_is_continued_by_the_next(
    kind: str, end: signal.Signals, tmp_path: Path, caches: dict[str, str]
) -> None:
    go_on = threading.Event()

    def read(offset: int, length: int) -> bytes:
        if offset >= 2_000_000:
            go_on.wait(60)
        return BIG[offset : offset + length]

    slow = VirtualFile(len(BIG), read, hashlib.sha256(BIG).hexdigest())
    out = tmp_path / "out"
    with serve(kind, {SINGLE_ZH: slow}) as hub:
        download = Download(hub, caches)
        with download.start("single_zh", "--dest", str(out)) as process:
            deadline = time.monotonic() + 60
            while sum(path.stat().st_size for path in out.glob(".*.part")) < 1_000_000:
                assert time.monotonic() < deadline, "nothing arrived"
                time.sleep(0.02)
            process.send_signal(end)
            said = process.communicate(timeout=60)
        assert process.returncode == (130 if end is signal.SIGINT else -signal.SIGKILL)
        assert "Traceback" not in said[1]
        assert not (out / SINGLE_ZH).exists()
        go_on.set()
        hub.reset()
        done = download("single_zh", "--dest", str(out))
        assert done.returncode == 0, done.stderr
        assert min(starts(hub)) >= 1_000_000
    assert (out / SINGLE_ZH).read_bytes() == BIG
    assert [path.name for path in out.iterdir()] == [SINGLE_ZH]


@both_hubs
def test_everything_is_fetched_once_checked_and_loads_with_the_line_printed(
    kind: str, demo: DemoPaths, tmp_path: Path, caches: dict[str, str]
) -> None:
    files = {path.name: path for path in demo.internvl.iterdir()} | {"README.md": b"---\nlicense: mit\n---\n"}
    with serve(kind, files) as hub:
        download = Download(hub, caches)
        first, second = (download("--dest", str(tmp_path / "out")) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.count("  fetched  size, ") == second.stdout.count("  kept  size, ") == 5
    assert first.stdout.count("SHA-256") == (4 if kind == "huggingface" else 5)
    for name in files:
        assert f"\n{name} " in first.stdout
    scope: dict[str, object] = {}
    exec(first.stdout.splitlines()[-1].strip(), scope)
    assert len(scope["rows"]) == 80  # type: ignore[arg-type]


@pytest.mark.slow
@both_hubs
def test_without_dest_files_go_to_the_clients_cache_where_loading_finds_them(
    kind: str, demo: DemoPaths, tmp_path: Path, caches: dict[str, str]
) -> None:
    with serve(kind, demo.internvl) as hub:
        download = Download(hub, caches)
        first, second = download("multi_zh"), download("multi_zh")
        assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
        sent = hub.bytes_sent
        line = second.stdout.splitlines()[-1].strip()
        code = f"{line}\nprint(len(rows))"
        env = download.env | {"HF_DATASETS_CACHE": str(tmp_path / "prepared")}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
        assert done.stdout == "20\n", done.stderr
        assert (
            hub.bytes_sent == sent == (demo.internvl / "internvl_sa1b_caption_77k_multi_image_zh.jsonl").stat().st_size
        )
    assert "kept  size, SHA-256" in second.stdout


@pytest.mark.slow
@both_hubs
def test_bytes_damaged_on_the_way_are_refused_and_leave_nothing_behind(
    kind: str, tmp_path: Path, caches: dict[str, str]
) -> None:
    with serve(kind, {SINGLE_ZH: BIG}) as hub:
        hub.add_fault(r"GET cdn|FilePath", corrupt=True, times=1)
        download = Download(hub, caches)
        done = download("single_zh", "--dest", str(tmp_path / "out"))
        assert done.returncode == 1
        assert f"expected SHA-256 {hashlib.sha256(BIG).hexdigest()}, found " in done.stderr
        assert "run the command again" in done.stderr
        assert "NOT FETCHED" in done.stdout
        assert not [*(tmp_path / "out").glob("*.jsonl"), *(tmp_path / "out").glob(".*.part")]
        assert download("single_zh", "--dest", str(tmp_path / "out")).returncode == 0


@pytest.mark.slow
@both_hubs
def test_a_damaged_copy_in_the_cache_is_replaced(kind: str, tmp_path: Path, caches: dict[str, str]) -> None:
    with serve(kind, {SINGLE_ZH: BIG}) as hub:
        download = Download(hub, caches)
        assert download("single_zh").returncode == 0
        copy = next(path for path in tmp_path.rglob(SINGLE_ZH)).resolve()
        copy.chmod(0o644)
        copy.write_bytes(BIG[:-1] + b"?")
        done = download("single_zh")
        assert done.returncode == 0, done.stderr
        assert "fetched  size, SHA-256" in done.stdout
    assert copy.read_bytes() == BIG


@pytest.mark.slow
def test_what_a_client_lets_through_damaged_is_an_error(tmp_path: Path, caches: dict[str, str]) -> None:
    with serve("huggingface", {SINGLE_ZH: BIG}) as hub:
        hub.add_fault(r"GET cdn", corrupt=True, times=1)
        download = Download(hub, caches)
        done = download("single_zh")
        assert done.returncode == 1
        assert "expected SHA-256" in done.stderr
        assert download("single_zh").returncode == 0


# -- the rest needs no client that reads its settings at import: it runs here ------------------------------


@pytest.fixture
def modelscope(caches: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve("modelscope", {SINGLE_ZH: BIG}) as hub:
        for name, value in (caches | hub.env).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LLAVA_ZH_SOURCE", "modelscope")
        yield hub


def failure(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["download", *args]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("llava-zh: ")
    return said.err


def test_a_file_that_is_there_and_differs_is_not_touched(
    modelscope: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / SINGLE_ZH).write_bytes(b"mine\n")
    said = failure(capsys, INTERNVL, "single_zh", "--dest", str(tmp_path))
    assert f"expected {len(BIG):,} bytes, found 5. It was not touched. Move it away" in said
    assert (tmp_path / SINGLE_ZH).read_bytes() == b"mine\n"


def test_what_does_not_fit_the_disk_is_not_begun(
    modelscope: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modelscope.repos[REPOS["modelscope"]] = {SINGLE_ZH: VirtualFile(10**17, lambda offset, length: bytes(length))}
    for args in ([], ["--dest", str(tmp_path / "out")]):
        said = failure(capsys, INTERNVL, "single_zh", *args)
        assert "the download needs 100000 TB, and " in said
    assert modelscope.bytes_sent == 0
    assert not (tmp_path / "out").exists()


def test_a_server_that_ignores_range_sends_the_file_from_the_start(modelscope: HubServer, tmp_path: Path) -> None:
    big = BIG * 6  # more than what is read and dropped up to the byte wanted
    modelscope.repos[REPOS["modelscope"]] = {SINGLE_ZH: big}
    modelscope.add_fault("GET cdn", cut_after=1_000_000, times=1)
    modelscope.add_fault("GET cdn", ignore_range=True)
    assert main(["download", INTERNVL, "single_zh", "--dest", str(tmp_path)]) == 0
    assert (tmp_path / SINGLE_ZH).read_bytes() == big


def test_configurations_that_share_files_fetch_them_all(
    modelscope: HubServer, demo: DemoPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {path.relative_to(demo.llava).as_posix(): path for path in demo.llava.rglob("*.*")}
    modelscope.repos["opencsg/llava-instruct-zh-600k"] = files
    assert main(["download", LLAVA, "detail", "--dest", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "share their files: all are fetched" in said.err
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")} == set(files)
    rows = llava_zh.load_dataset(LLAVA, "detail", split="train", streaming=True, data_dir=tmp_path / "out")
    assert sum(1 for _ in rows) == 13


def test_a_hub_id_chooses_its_hub(
    modelscope: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LLAVA_ZH_SOURCE")
    assert main(["download", REPOS["modelscope"], "single_zh", "--dest", str(tmp_path)]) == 0
    assert (tmp_path / SINGLE_ZH).read_bytes() == BIG


def test_an_unknown_configuration_names_the_nearest(modelscope: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'single_zh'?" in failure(capsys, INTERNVL, "singl_zh")


def test_a_file_the_hub_lacks_is_named_beside_what_it_has(
    modelscope: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(capsys, INTERNVL, "multi_zh")
    assert "has no file internvl_sa1b_caption_77k_multi_image_zh.jsonl" in said
    assert SINGLE_ZH in said


def test_a_refusal_says_which_token_is_needed_and_never_which_was_sent(
    modelscope: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modelscope.require_token = "another"
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", SECRET)
    said = failure(capsys, INTERNVL, "single_zh")
    assert "MODELSCOPE_API_TOKEN" in said
    assert SECRET not in said


def test_a_private_dataset_is_fetched_with_the_clients_token_which_is_not_shown(
    modelscope: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modelscope.require_token = SECRET
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", SECRET)
    assert main(["download", INTERNVL, "single_zh", "--dest", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err


@pytest.mark.slow
def test_progress_bars_keep_to_stderr_and_to_the_switch(tmp_path: Path, caches: dict[str, str]) -> None:
    def read(offset: int, length: int) -> bytes:
        time.sleep(0.03)  # 46 pieces: longer than the second after which a bar appears
        return BIG[offset : offset + length]

    slow = VirtualFile(len(BIG), read, hashlib.sha256(BIG).hexdigest())
    with serve("huggingface", {SINGLE_ZH: slow}) as hub:
        seen = Download(hub, caches, HF_HUB_DISABLE_PROGRESS_BARS="0")("single_zh", "--dest", str(tmp_path / "a"))
        unseen = Download(hub, caches, HF_HUB_DISABLE_PROGRESS_BARS="1")("single_zh", "--dest", str(tmp_path / "b"))
    assert f"fetching {SINGLE_ZH}" in seen.stderr
    assert unseen.stderr == ""
    assert seen.stdout.replace("/a'", "/b'").replace("/a\n", "/b\n") == unseen.stdout
