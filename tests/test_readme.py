"""Every code block of the README runs, in order, and prints what the block after it says; the Chinese one has the same.

Python blocks share one process and one namespace, as a reader would paste them. A ``text`` block is the exact output of
the block before it, with ``…`` for what differs from run to run. Lines with ``$`` in a ``console`` block are commands;
the lines after each are its output. The hub that the blocks ask is a loopback one that holds the miniature.
``bash`` blocks install things: those are the first two, which .ci/run and the test of the wheel run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hub_server import HubServer
from model_server import ModelServer

from llava_zh.demo import write_demo

ROOT = Path(__file__).parent.parent
README, README_ZH = "README.md", "README_zh.md"
MODEL_URL = "http://127.0.0.1:23333/v1"  # what the READMEs call a model server; lmdeploy's default
MODEL = "OpenGVLab/InternVL2-Llama3-76B"


class Block(NamedTuple):
    line: int
    language: str
    needs: str | None
    text: str


def blocks(readme: str) -> list[Block]:
    text = (ROOT / readme).read_text(encoding="utf-8")
    found = re.finditer(r"(?:<!-- needs (\S+) -->\n)?^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(text.count("\n", 0, m.start(2)) + 1, m[2], m[1], m[3]) for m in found]


def matches(expected: str, found: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in re.split("…", expected.strip()))
    return re.fullmatch(pattern, found.strip(), re.DOTALL) is not None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with the miniature in it, and the environment of a reader whose hub is a loopback one."""
    folder = tmp_path_factory.mktemp("readme")
    demo = write_demo(folder / "llava-zh-demo")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "SA1B", "LLAVA_ZH", "MODELSCOPE"))}
    env = {**kept, "HF_HOME": str(folder / "hf"), "LLAVA_ZH_CACHE": str(folder / "cache"), "COLUMNS": "100"}
    env |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    repos = {"OpenGVLab/InternVL-SA-1B-Caption": demo.internvl, "opencsg/llava-instruct-zh-600k": demo.llava}
    with HubServer(repos) as hub, ModelServer(model=MODEL) as server:
        yield folder, {**env, **hub.env, "LLAVA_ZH_TEST_MODEL_URL": server.url}


def test_the_python_blocks_run_in_order_and_print_what_is_said(
    place: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, env = place
    python = [b for b in blocks(README) if b.language == "python" and (b.needs is None or find_spec(b.needs))]
    assert python
    parts = []
    for block in python:
        source = block.text.replace(MODEL_URL, env["LLAVA_ZH_TEST_MODEL_URL"])
        parts.append("\n" * (block.line - 1) + source)
    script = tmp_path / "blocks.py"
    # A file of its own, with the usual guard: workers of a DataLoader or a pool may import it again.
    script.write_text(
        "import json, sys\n"
        "parts = json.load(open(sys.argv[1]))\n"
        "space = {'__name__': '__main__'}\n"
        "for i, part in enumerate(parts):\n"
        f"    exec(compile(part, {README!r}, 'exec'), space)\n"
        "    print(f'\\n%% end {i}', flush=True)\n"
    )
    (tmp_path / "parts.json").write_text(json.dumps(parts))
    done = subprocess.run(
        [sys.executable, script, tmp_path / "parts.json"], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    outputs = re.split(r"^%% end \d+$", done.stdout, flags=re.MULTILINE)
    following = {a.line: b for a, b in pairwise(blocks(README))}
    for block, output in zip(python, outputs, strict=False):
        after = following.get(block.line)
        if after is not None and after.language == "text":
            assert matches(after.text, output), f"{README}:{after.line} says\n{after.text}\nbut it printed\n{output}"


def test_the_commands_run_and_print_what_is_said(place: tuple[Path, dict[str, str]]) -> None:
    folder, env = place
    console = [b for b in blocks(README) if b.language == "console"]
    assert console
    for block in console:
        for entry in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, expected = entry.partition("\n")
            while command.endswith("\\"):
                more, _, expected = expected.partition("\n")
                command = command[:-1] + more
            command = command.replace(MODEL_URL, env["LLAVA_ZH_TEST_MODEL_URL"])
            done = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True)
            assert done.returncode == 0, f"{README}:{block.line}: {command}\n{done.stderr}"
            if expected.strip():
                assert matches(expected, done.stdout), f"{README}:{block.line}: {command}\nprinted\n{done.stdout}"


def test_both_readmes_have_the_same_blocks() -> None:
    """The words differ; code, commands and their order do not."""
    first, second = ([(b.language, b.needs, b.text) for b in blocks(readme)] for readme in (README, README_ZH))
    assert first == second


def test_no_block_is_left_that_nothing_runs() -> None:
    for readme in (README, README_ZH):
        assert {b.language for b in blocks(readme)} <= {"bash", "python", "text", "console"}
        installs = [b.text.strip() for b in blocks(readme) if b.language == "bash"]
        assert installs == [
            "pip install . && llava-zh demo",
            'pip install -e ".[test]" && python -m pytest -n auto -m "not slow"',
        ]
