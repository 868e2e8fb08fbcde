"""Pictures in a private repository are opened with the token that was given, which no row holds."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer
from PIL import Image

from llava_zh.load import dataset_facts

REPO = dataset_facts("llava-instruct-zh-600k").repos["huggingface"]
TOKEN = "hf_right_token_value"

SCRIPT = """
import sys, pickle
from llava_zh import load_dataset
for streaming in (True, False):
    rows = load_dataset("llava-instruct-zh-600k", split="train", streaming=streaming, token=sys.argv[1])
    print([row["image"].size for row in rows])
    for path in (row["image"]["path"] for row in (rows.decode(False) if streaming else rows.cast_column(
            "image", __import__("datasets").Image(decode=False)))):
        assert sys.argv[1] not in path, path
rows = load_dataset("llava-instruct-zh-600k", split="train", streaming=True, token=sys.argv[1], on_missing_image="skip")
print(len(list(rows)))
"""


@pytest.mark.slow
def test_a_token_given_to_load_dataset_opens_the_pictures_of_a_private_repository(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    (repo / "images").mkdir(parents=True)
    rows = []
    for n in range(1, 4):
        buffer = io.BytesIO()
        Image.new("RGB", (n, 2)).save(buffer, "JPEG")
        if n < 3:
            (repo / "images" / f"{n}.jpg").write_bytes(buffer.getvalue())
        turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
        rows.append({"id": str(n), "image": f"images/{n}.jpg", "conversations": turns})
    (repo / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    with HubServer({REPO: repo}, require_token=TOKEN) as hub:
        kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
        places = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "LLAVA_ZH_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, TOKEN],
            env={**kept, **places, **hub.env},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:3] == ["[(1, 2), (2, 2)]", "[(1, 2), (2, 2)]", "2"]
    cached = [path for path in (tmp_path / "hf").rglob("*") if path.is_file()]
    assert cached and not any(TOKEN.encode() in path.read_bytes() for path in cached)
