"""A hub that is out to do harm: what it lists and answers chooses no place on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_handlers
import pytest
from hub_files import RepoFile
from hub_server import HubServer

from llava_zh.errors import OutputError, UnsafeName
from llava_zh.files import fetch
from llava_zh.files.data_files import DataFile

from .test_hub import LLAVA, Client

ROW = {
    "id": 1,
    "image": "1.jpg",
    "conversations": [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}],
}
LINES = (json.dumps(ROW) + "\n").encode() * 3
EVIL = ("{home}/.bashrc", "../../../../.bashrc", "a/../../../../.bashrc", "data\\..\\x.jsonl", "C:x.jsonl", "a\n.jsonl")


@pytest.mark.parametrize("kind", [pytest.param("huggingface", marks=pytest.mark.slow), "modelscope"])
def test_a_listed_name_never_leads_out_of_the_cache(kind: str, tmp_path: Path) -> None:
    home = tmp_path / "victim"
    home.mkdir()
    (home / ".bashrc").write_text("mine\n")
    files = {"data/train.jsonl": LINES}
    with HubServer({LLAVA: files}, kind=kind) as hub:
        client = Client(hub, tmp_path / "home", USE_TORCH="0")
        try:
            for name in EVIL:
                evil = name.format(home=home)
                hub.repos[LLAVA] = files | {evil: LINES}
                for streaming in (True, False) if evil.startswith("/") else (True,):
                    arguments = f"'llava-instruct-zh-600k', source={kind!r}, split='train', streaming={streaming}"
                    error, text = client.error(f"result = len(list(load_dataset({arguments})))")
                    assert error == "UnsafeName", text
                    assert kind in text
        finally:
            client.close()
        hub.repos[LLAVA] = files | {str(home / ".bashrc"): LINES}
        env = os.environ | hub.env | {"HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_CACHE": str(tmp_path / "ms")}
        command = [sys.executable, "-m", "llava_zh", "download", "llava-instruct-zh-600k", "--source", kind]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 1
        assert "choose a place outside its folder" in done.stderr
    assert (home / ".bashrc").read_text() == "mine\n"
    assert not [path for path in tmp_path.rglob("*bashrc*") if path.parent != home]


def test_an_etag_or_a_commit_of_the_hub_never_leads_out_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer({LLAVA: {"data/train.jsonl": LINES}}, lfs_threshold=1) as hub:
        monkeypatch.setattr(RepoFile, "sha256", property(lambda file: f"../../../../../..{tmp_path}/planted"))
        client = Client(hub, tmp_path / "home", USE_TORCH="0")
        load = "load_dataset('llava-instruct-zh-600k', split='train')"
        try:
            assert client.result(f"result = len({load})") == 3
            hub.commit = "../../../../planted"
            error, text = client.error(f"result = len({load})")
        finally:
            client.close()
    assert (error, "no commit" in text) == ("HubError", True)
    assert not list(tmp_path.rglob("planted*"))


def test_a_listing_that_lies_loses_no_row_and_doubles_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_entry = hub_handlers._tree_entry

    def short(path: str, file: RepoFile | None) -> dict[str, Any]:
        entry = true_entry(path, file)
        return entry | {"size": len(LINES) // 3} if file else entry

    name, other = "data/train.jsonl", LINES.replace(b"q", b"p")
    rows = "len(list(load_dataset('llava-instruct-zh-600k', split='train', streaming=True)))"
    with HubServer({LLAVA: {name: LINES, f"./{name}": LINES}}) as hub:
        client = Client(hub, tmp_path / "home", USE_TORCH="0")
        try:
            assert client.result(f"result = {rows}") == 3
            hub.repos[LLAVA] = {name: LINES, f"./{name}": other}
            assert "lists it twice" in client.error(f"result = {rows}")[1]
            hub.repos[LLAVA] = {name: LINES}
            monkeypatch.setattr(hub_handlers, "_tree_entry", short)
            error, text = client.error(f"result = {rows}")
        finally:
            client.close()
    assert error == "HubError"
    assert f"the server has {len(LINES)} bytes of it, {len(LINES) // 3} were listed" in text


@pytest.mark.parametrize("planted", ["link", "hard link", "pipe"])
def test_what_stands_under_the_name_of_an_unfinished_file_is_not_written_through(tmp_path: Path, planted: str) -> None:
    victim, source, folder = tmp_path / "victim", tmp_path / "source", tmp_path / "out"
    victim.write_text("mine\n")
    source.write_bytes(LINES)
    file = DataFile("train.jsonl", len(LINES), "huggingface", str(source), "o/n", "0" * 40)
    folder.mkdir()
    part = fetch._part(file, folder / "train.jsonl")
    if planted == "link":
        part.symlink_to(victim)
    elif planted == "hard link":
        os.link(victim, part)
    else:
        os.mkfifo(part)
    if planted == "hard link":
        assert Path(str(fetch.into_folder(file, folder)[0].path)).read_bytes() == LINES
    else:
        with pytest.raises(OutputError, match="is expected"):
            fetch.into_folder(file, folder)
    assert victim.read_text() == "mine\n"


@pytest.mark.parametrize("name", ["x" * 256, "a/" * 2000 + "b.jsonl", "图" * 86 + ".jsonl"])
def test_a_name_longer_than_a_file_can_have_is_an_error_of_ours(tmp_path: Path, name: str) -> None:
    file = DataFile(name, 3, "huggingface", None, "o/n", "0" * 40)
    for ask in (fetch.into_folder, fetch.missing_bytes):
        with pytest.raises(UnsafeName, match="too long"):
            ask(file, tmp_path)
