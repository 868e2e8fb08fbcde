"""``examples/images_from_archives.py``, run as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "images_from_archives.py"


@pytest.fixture
def run(tmp_path: Path) -> str:
    """What it prints on a miniature of its own."""
    environment = {**os.environ, "LLAVA_ZH_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
def test_the_example_opens_checks_and_loads_images_out_of_gzip_archives(run: str, tmp_path: Path) -> None:
    assert run.startswith("sa_000000: gzip, 68 members, ids (1, 11186)\n")
    assert re.search(r"^sa_000000/sa_1\.jpg: JPEG \(\d+, \d+\), Located\(.*kind='gzip'", run, re.M)
    assert "100 images are good, 0 are bad" in run
    assert len(re.findall(r"^\(\d+, \d+\) .*[一-鿿]", run, re.M)) == 3
    assert (tmp_path / "sa1b-verify" / "report.json").exists()
