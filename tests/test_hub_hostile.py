"""A hub that is out to do harm: what it lists and answers chooses no place on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_files import RepoFile
from hub_server import HubServer
from test_hub import LLAVA, Client

ROW = {
    "id": 1,
    "image": "1.jpg",
    "conversations": [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}],
}
LINES = (json.dumps(ROW) + "\n").encode() * 3
EVIL = ("{home}/.bashrc", "../../../../.bashrc", "a/../../../../.bashrc", "data\\..\\x.jsonl", "C:x.jsonl", "a\n.jsonl")


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
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
