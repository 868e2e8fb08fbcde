"""`llava-zh doctor`: a checklist that never fails for what nobody asked about, and never shows a secret."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from hub_server import HubServer, VirtualFile

from llava_zh.cli import main
from llava_zh.demo import DemoPaths

SECRET = "hf_SecretThatMustNotShow"
CLOSED = "http://127.0.0.1:1"  # nothing listens on port 1


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both hubs' addresses lead nowhere unless a test says otherwise; huggingface_hub has read its own already."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", CLOSED)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", CLOSED)
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "cache"))


def doctor(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llava_zh", "doctor", *args]
    env = os.environ | {"HF_ENDPOINT": CLOSED, "MODELSCOPE_ENDPOINT": CLOSED} | env
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


def checked(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> str:
    assert main(["doctor", *args]) == status
    return capsys.readouterr().out


def test_with_nothing_reachable_it_says_what_to_do_and_succeeds() -> None:
    done = doctor()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(f"  failed   {CLOSED}: unreachable (ConnectionError)\n           → ") == 2
    assert "  missing  root: none given\n           → give --image-root, or set SA1B_ROOT" in done.stdout
    for section in ("Versions", "Extras", "Environment", "Hub huggingface", "Hub modelscope", "SA-1B images", "Caches"):
        assert f"{section}\n  " in done.stdout


def test_a_hub_asked_for_by_name_must_be_reachable(capsys: pytest.CaptureFixture[str]) -> None:
    out = checked(capsys, "--source", "modelscope", status=1)
    assert "Hub huggingface" not in out


def test_versions_are_those_installed(capsys: pytest.CaptureFixture[str]) -> None:
    import datasets

    assert f"  ok       datasets: {datasets.__version__}\n" in checked(capsys)


def test_tokens_are_told_of_and_never_shown(tmp_path: Path) -> None:
    files = {"internvl_sa1b_caption_1m_single_image_zh.jsonl": b"{}"}
    with HubServer({"OpenGVLab/InternVL-SA-1B-Caption": files}, require_token=SECRET) as hub:
        address = hub.url.replace("://", f"://user:{SECRET}@")
        done = doctor(
            HF_TOKEN=SECRET,
            MODELSCOPE_API_TOKEN=SECRET,
            HF_ENDPOINT=address,
            SA1B_ROOT=f"s3://k:{SECRET}@b/x,s3://k:4notherSecret@b/y",
        )
    assert "  ok       token for huggingface: present (not shown)\n" in done.stdout
    assert "  ok       token for modelscope: present (not shown)\n" in done.stdout
    assert f"HF_ENDPOINT: {hub.url}\n" in done.stdout
    assert "SA1B_ROOT: s3://b/x,s3://b/y\n" in done.stdout
    assert not [secret for secret in (SECRET, "4notherSecret") if secret in done.stdout + done.stderr]


def test_both_hubs_are_asked_for_files_and_for_a_byte_of_the_largest(demo: DemoPaths) -> None:
    internvl = {path.name: path for path in demo.internvl.iterdir()}
    llava = {path.relative_to(demo.llava).as_posix(): path for path in demo.llava.rglob("*.*")}
    with (
        HubServer({"OpenGVLab/InternVL-SA-1B-Caption": internvl, "opencsg/llava-instruct-zh-600k": llava}) as hf,
        HubServer({"thomas/InternVL-SA-1B-Caption": internvl}, "modelscope") as ms,
    ):
        done = doctor(**hf.env | ms.env)
        assert hf.bytes_sent == 2
    assert done.returncode == 0, done.stderr
    for repo in ("OpenGVLab/InternVL-SA-1B-Caption", "thomas/InternVL-SA-1B-Caption"):
        assert f"  ok       {repo}: 4 files, 139 kB, 0 of them in the cache; byte ranges can be read\n" in done.stdout
    assert f"  ok       opencsg/llava-instruct-zh-600k: {len(llava)} files, " in done.stdout
    assert (
        "  failed   opencsg/llava-instruct-zh-600k: modelscope:opencsg/llava-instruct-zh-600k@master: 404"
        in done.stdout
    )


def test_a_hub_that_ignores_ranges_or_lacks_a_file_is_told_of(
    demo: DemoPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {path.name: path for path in demo.internvl.iterdir()}
    with HubServer({"thomas/InternVL-SA-1B-Caption": files}, "modelscope") as hub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        hub.add_fault("GET cdn", ignore_range=True)
        out = checked(capsys, "--source", "modelscope", status=1)
        assert "; the server ignores byte ranges\n           → `llava-zh download` can still fetch it whole" in out
        del files["internvl_sa1b_caption_77k_multi_image_zh.jsonl"]
        hub.repos["thomas/InternVL-SA-1B-Caption"] = files
        out = checked(capsys, "--source", "modelscope", status=1)
        assert "has no internvl_sa1b_caption_77k_multi_image_zh.jsonl" in out


@pytest.mark.slow
def test_offline_no_hub_is_asked() -> None:
    with HubServer({}) as hub:
        done = doctor("--source", "huggingface", **hub.env, HF_HUB_OFFLINE="1")
        assert hub.requests == []
    assert "not asked, for HF_HUB_OFFLINE is set" in done.stdout


def test_files_on_disk_are_read_up_to_their_first_row(demo: DemoPaths, capsys: pytest.CaptureFixture[str]) -> None:
    out = checked(capsys, "--data-dir", str(demo.internvl))
    assert out.count("; the first row reads\n") == 4
    assert f"  ok       internvl-sa-1b-caption multi_zh: {demo.internvl}/" in out
    out = checked(capsys, "--data-dir", str(demo.llava))
    assert "  ok       rows: 1 parquet file with columns type, image, conversations; images as files below " in out
    assert "; the first row reads, its image too (" in out


def test_files_that_cannot_be_read_fail_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"  failed   folder: data_dir '{tmp_path}/none' is not a folder." in checked(
        capsys, "--data-dir", f"{tmp_path}/none", status=1
    )
    assert "  failed   rows: " in checked(capsys, "--data-dir", str(tmp_path), status=1)
    broken = tmp_path / "internvl_sa1b_caption_1m_single_image_zh.jsonl"
    broken.write_text(json.dumps({"id": 1, "image": "../x.jpg", "conversations": []}) + "\n")
    out = checked(capsys, "--data-dir", str(tmp_path), status=1)
    assert f"  failed   internvl-sa-1b-caption single_zh: {broken}" in out


def test_an_indexed_root_gives_an_image_and_an_unindexed_one_is_not_indexed(
    demo: DemoPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A root of its own: that of the other tests may have been opened, and so indexed, in this process already.
    archives = Path(shutil.copytree(demo.sa1b, tmp_path / "sa1b"))
    root = ["--image-root", str(archives)]
    out = checked(capsys, *root)
    assert f"  ok       {archives}: 3 gzip\n  –        index: 3 of 3 archives have none yet\n" in out
    assert not (tmp_path / "cache").exists()
    fsspec.filesystem("sa1b", fo=str(archives)).build_index()
    out = checked(capsys, *root)
    assert "  ok       sa1b://sa_000000/sa_" in out
    assert ", decodes\n" in out


def test_a_root_that_is_not_there_or_empty_or_damaged_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked(capsys, "--image-root", f"{tmp_path}/none", status=1)
    (tmp_path / "root").mkdir()
    assert "no archive, no folder of images" in checked(capsys, "--image-root", f"{tmp_path}/root", status=1)
    (tmp_path / "root/sa_000000.tar").write_bytes(b"<html>" * 1000)
    assert "  failed   sa_000000.tar: " in checked(capsys, "--image-root", f"{tmp_path}/root", status=1)


def test_a_cache_that_does_not_exist_yet_is_no_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = checked(capsys)
    assert f"  ok       indexes of archives: {tmp_path}/cache (" in out
    assert "will be made" in out


def test_an_extra_that_is_not_there_is_no_fault_and_those_for_developers_are_not_told_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sections = json.loads(checked(capsys, "--source", "modelscope", "--json", status=1))["sections"]
    told = {finding["what"]: finding["state"] for finding in sections["Extras"]}
    assert {"torch", "completion"} <= told.keys()
    assert not {"test", "lint", "docs"} & told.keys()
    assert set(told.values()) <= {"ok", ""}


def test_a_published_file_is_read_at_both_ends_and_held_against_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "树" * 220}]
    row = {"id": "%08d", "image": "sa_000000/sa_%08d.jpg", "width": 8, "height": 8, "conversations": turns}
    line = json.dumps(row, ensure_ascii=False)
    big = VirtualFile.lines(lambda number: (line % (number, number)).encode(), 1_000_000)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "ms-home"))
    name = "internvl_sa1b_caption_1m_single_image_zh.jsonl"
    with HubServer({"thomas/InternVL-SA-1B-Caption": {name: big}}, "modelscope") as hub:
        for variable, value in hub.env.items():
            monkeypatch.setenv(variable, value)
        out = checked(capsys, "internvl-sa-1b-caption", "single_zh", "--source", "modelscope")
        assert hub.bytes_sent < 8 << 20
    assert f"  ok       size: {big.size / 1e6:.0f} MB, the catalogue says 834 MB\n" in out
    assert " from the beginning, " in out
    for holds in (
        "number of rows: about ",
        "image paths: one a row, as sa1b://",
        "turns: human and gpt",
        "language: zh",
    ):
        assert f"  ok       {holds}" in out
    assert "differs" not in out and "failed" not in out


def test_what_differs_is_told_and_what_is_pasted_names_no_user(
    demo: DemoPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home" / "lihua"
    shutil.copytree(demo.internvl, home / "data")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "lihua")
    out = checked(capsys, "internvl-sa-1b-caption", "single_zh", "--data-dir", str(home / "data"))
    assert "  differs  number of rows: 80, the catalogue says 1,000,000\n" in out
    block = out.partition("```text\n")[2]
    assert "files: ~/data/internvl" in block and "datasets: " in block and block.endswith("```\n")
    assert "lihua" not in block
    (home / "data" / "internvl_sa1b_caption_1m_single_image_zh.jsonl").write_text('{"id": 1}\n')
    out = checked(capsys, "internvl-sa-1b-caption", "single_zh", "--data-dir", str(home / "data"), status=1)
    assert "  failed   rows: " in out


def test_an_option_that_would_not_be_heeded_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--archives", "0"])
    assert "NAME is missing: --archives" in capsys.readouterr().err
