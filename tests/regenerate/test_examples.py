"""The examples of regeneration run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from model_server import CAPTION, ModelServer

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "shown"),
    [
        (
            "regenerate_captions.py",
            ["finished: 20 rows", "20 rows, the first image is (", "old: 图", f"new: {CAPTION}"],
        ),
        (
            "chinese_instructions.py",
            ["finished: 20 rows", "'conversation': ", "'complex_reasoning': ", "human: <image>"],
        ),
    ],
)
def test_an_example_runs_and_shows_what_it_says(
    example: str, shown: list[str], server: ModelServer, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / example), "--base-url", server.url, "--model", "tiny-vlm"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "LLAVA_ZH_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    for words in shown:
        assert words in done.stdout
