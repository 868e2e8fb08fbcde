"""The training examples: the one that mixes runs, and the commands and settings for real trainers fit the exports.

What needs a trainer installed (train_trl.py, train_pytorch.py, LLaMA-Factory's settings as it reads them) is in
tests/trainers.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llava_zh.cli import main
from llava_zh.demo import DemoPaths

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.mark.slow
def test_the_mixing_example_mixes_and_resumes(demo: DemoPaths, tmp_path: Path) -> None:
    where = ["--captions", demo.internvl, "--dialogues", demo.llava, "--image-root", demo.sa1b]
    done = subprocess.run(
        [sys.executable, EXAMPLES / "mix_datasets.py", *where],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, third = done.stdout.splitlines()
    counts = dict(re.findall(r"'(\w+)': (\d+)", first))
    assert sum(map(int, counts.values())) == 120 and set(counts) == {"default", "single_en", "single_zh"}
    assert second == "stopped after 50 rows and resumed: the same rows"
    shares = json.loads(third.removeprefix("rows of each node: "))
    # 80 + 80 captions, and 40 dialogues two and a half times.
    assert abs(sum(shares) - 260) <= 15 and max(shares) - min(shares) <= 4


@pytest.fixture(params=["llama_factory", "ms_swift", "internvl"])
def exported(request: pytest.FixtureRequest, demo: DemoPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an example's folder with the export that its README tells to make, of the miniature."""
    folder = tmp_path / request.param
    folder.mkdir()
    for file in (EXAMPLES / request.param).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(folder)
    command = next(
        line for line in Path("README.md").read_text("utf-8").splitlines() if line.startswith("llava-zh export")
    )
    monkeypatch.setenv("SA1B_ROOT", str(demo.sa1b))
    words = shlex.split(command.replace("$SA1B_ROOT", str(demo.sa1b)))
    assert main([*words[1:], "--data-dir", str(demo.internvl)]) == 0
    return folder


def test_the_commands_of_an_example_make_what_its_settings_name(exported: Path, tmp_path: Path) -> None:
    if exported.name == "llama_factory":
        settings = yaml.safe_load((exported / "qwen2_5vl_lora_sft.yaml").read_text("utf-8"))
        info = json.loads((exported / settings["dataset_dir"] / "dataset_info.json").read_text("utf-8"))
        assert list(info) == [settings["dataset"]]
        return
    # The trainer's command, replaced by one that tells what it was called with.
    trainer = tmp_path / "bin" / {"ms_swift": "swift", "internvl": "torchrun"}[exported.name]
    trainer.parent.mkdir()
    trainer.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    trainer.chmod(0o755)
    environment = {**os.environ, "PATH": f"{trainer.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    told = subprocess.run(
        ["bash", "train.sh", str(tmp_path)], cwd=exported, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    if exported.name == "ms_swift":
        info = json.loads(Path(told[told.index("--custom_dataset_info") + 1]).read_text("utf-8"))
        assert told[told.index("--dataset") + 1] == info[0]["dataset_name"]
    else:
        meta = json.loads(Path(told[told.index("--meta_path") + 1]).read_text("utf-8"))
        assert sum(entry["length"] for entry in meta.values()) == 80
