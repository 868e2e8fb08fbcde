"""The built wheel, in an empty environment outside the checkout, with nothing but what it depends on."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy of what git tracks: building leaves its own folders behind.
    source = folder / "source"
    run("git", "clone", "-q", "--depth", "1", f"file://{ROOT}", source, cwd=folder)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source, cwd=folder)
    return next(folder.glob("llava_zh-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_no_other_top_level_name(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert all(top == "llava_zh" or top.endswith(".dist-info") for top in tops)
    tracked = run("git", "ls-files", "llava_zh", "builders", cwd=ROOT).split()
    expected = {
        name.replace("builders/", "llava_zh/builders/", 1) if name.startswith("builders") else name for name in tracked
    }
    assert expected - names == set()
    assert "llava_zh/py.typed" in names


@pytest.mark.slow
def test_the_wheel_runs_the_demo_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(scripts / "pip", "install", "-q", wheel, cwd=tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {"PATH": str(scripts), "HOME": str(tmp_path / "home"), "LANG": "C.UTF-8"}
    out = run(scripts / "llava-zh", "demo", cwd=empty, env=env)
    for config in (
        "single_en",
        "single_zh",
        "multi_en",
        "multi_zh",
        "default",
        "conversation",
        "complex_reasoning",
        "detail",
    ):
        assert config in out
    assert "straight out of their gzip archives" in out
    assert [entry.name for entry in empty.iterdir()] == ["llava-zh-demo"]
    code = "import llava_zh.builders.internvl_sa1b_caption, importlib.util as u; assert not u.find_spec('builders')"
    run(scripts / "python", "-c", code, cwd=empty, env=env)
