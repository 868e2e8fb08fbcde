"""The examples of loading run as they stand, on the miniature they make themselves."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, folder: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *args], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_quickstart_shows_a_row_and_streams_the_same(tmp_path: Path) -> None:
    out = run("quickstart.py", tmp_path)
    assert "num_rows: 80" in out
    assert "生成基于给定图像的准确单段描述" in out
    assert "streamed the same row" in out


@pytest.mark.skipif(
    not find_spec("torchdata"), reason="StatefulDataLoader is torchdata's, which the torch extra brings"
)
def test_stream_dataloader_loses_and_repeats_nothing(tmp_path: Path) -> None:
    assert "80 rows with 2 workers; stopped after batch 3 and went on, none lost or repeated" in run(
        "stream_dataloader.py", tmp_path
    )


@pytest.mark.skipif(not find_spec("torch"), reason="DataLoader is torch's, which the torch extra brings")
def test_multi_node_reads_every_row_once(tmp_path: Path) -> None:
    assert "all nodes together: 80 rows, each once" in run("multi_node.py", tmp_path)
