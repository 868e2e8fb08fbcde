"""The code blocks of a document: found, run as a reader would, and held against what the document says they print.

Python blocks of a document share one process and one namespace. A ``text`` block is the exact output of the block
before it, with ``…`` for what differs from run to run. Lines with ``$`` in a ``console`` block are commands; the lines
after each are its output. A comment ``<!-- needs torch -->`` before a block names a module without which it is left
out.
The hub and the model server that blocks ask are loopback ones; the hub holds the miniature.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from hub_server import HubServer
from model_server import ModelServer

from llava_zh.demo import write_demo

ROOT = Path(__file__).parent.parent
TRAINED = "Qwen/Qwen2.5-VL-3B-Instruct"  # the model that they train; here a tiny one in a folder
MODEL_URL = "http://127.0.0.1:23333/v1"  # what documents call a model server; lmdeploy's default
MODEL = "OpenGVLab/InternVL2-Llama3-76B"


class Block(NamedTuple):
    """One fenced block: the line it starts at, its language, the module it needs, and what is in it."""

    line: int
    language: str
    needs: str | None
    text: str


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a Markdown file, in order."""
    text = document.read_text(encoding="utf-8")
    found = re.finditer(r"(?:<!-- needs (\S+) -->\n)?^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(text.count("\n", 0, m.start(2)) + 1, m[2], m[1], m[3]) for m in found]


def without_comments(block: Block) -> str:
    """The code of a block as it runs, for documents in two languages whose comments differ."""
    if block.language != "python":
        return block.text
    lines = block.text.splitlines()
    for token in tokenize.generate_tokens(StringIO(block.text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def matches(expected: str, found: str) -> bool:
    """Whether `found` is what `expected` says, which has ``…`` where anything may stand."""
    pattern = ".*".join(re.escape(part) for part in re.split("…", expected.strip()))
    return re.fullmatch(pattern, found.strip(), re.DOTALL) is not None


@contextlib.contextmanager
def reader(folder: Path) -> Iterator[dict[str, str]]:
    """The miniature in `folder`, and the environment of a reader whose hub and model server are loopback ones."""
    demo = write_demo(folder / "llava-zh-demo")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "SA1B", "LLAVA_ZH", "MODELSCOPE"))}
    env = {**kept, "HF_HOME": str(folder / "hf"), "LLAVA_ZH_CACHE": str(folder / "cache"), "COLUMNS": "100"}
    env |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    repos = {"OpenGVLab/InternVL-SA-1B-Caption": demo.internvl, "opencsg/llava-instruct-zh-600k": demo.llava}
    with HubServer(repos) as hub, ModelServer(model=MODEL) as server:
        yield {**env, **hub.env, "LLAVA_ZH_TEST_MODEL_URL": server.url}


def run_python(document: Path, folder: Path, env: dict[str, str], scratch: Path) -> int:
    """Run the Python blocks of a document in one process and hold each to the text after it; how many ran.

    Raises: AssertionError, with the line of the document and what was printed.
    """
    every = blocks(document)
    python = [b for b in every if b.language == "python" and (b.needs is None or find_spec(b.needs))]
    if not python:
        return 0
    parts = ["\n" * (b.line - 1) + _here(b.text, folder, env) for b in python]
    script = scratch / "blocks.py"
    # A file of its own, with the usual guard: workers of a DataLoader or a pool may import it again.
    script.write_text(
        "import json, sys\n"
        "parts = json.load(open(sys.argv[1]))\n"
        "space = {'__name__': '__main__'}\n"
        "for i, part in enumerate(parts):\n"
        f"    exec(compile(part, {document.name!r}, 'exec'), space)\n"
        "    print(f'\\n%% end {i}', flush=True)\n"
    )
    (scratch / "parts.json").write_text(json.dumps(parts))
    done = subprocess.run(
        [sys.executable, script, scratch / "parts.json"], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    outputs = re.split(r"^%% end \d+$", done.stdout, flags=re.MULTILINE)
    following = {a.line: b for a, b in pairwise(every)}
    for block, output in zip(python, outputs, strict=False):
        after = following.get(block.line)
        if after is not None and after.language == "text":
            assert matches(after.text, output), f"{document.name}:{after.line} says\n{after.text}\nit printed\n{output}"
    return len(python)


def run_console(document: Path, folder: Path, env: dict[str, str]) -> int:
    """Run the commands of a document's console blocks and hold each to the lines after it; how many ran."""
    commands = [(b, *entry) for b in blocks(document) if b.language == "console" for entry in _entries(b.text)]
    for block, command, expected in commands:
        if block.needs is not None and find_spec(block.needs) is None:
            continue
        command = command.replace(MODEL_URL, env["LLAVA_ZH_TEST_MODEL_URL"])
        done = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True)
        where = f"{document.name}:{block.line}: {command}"
        assert done.returncode == 0, f"{where}\n{done.stderr}"
        if expected.strip():
            assert matches(expected, done.stdout), f"{where}\nprinted\n{done.stdout}"
    return len(commands)


def _entries(text: str) -> Sequence[tuple[str, str]]:
    """The commands of a console block, each with the output after it."""
    entries = []
    for entry in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = entry.partition("\n")
        while command.endswith("\\"):
            more, _, expected = expected.partition("\n")
            command = command[:-1] + more
        entries.append((command, expected))
    return entries


def _here(text: str, folder: Path, env: dict[str, str]) -> str:
    """A block with what stands for a model server and a model here."""
    if TRAINED in text and not (folder / "model").exists():
        _write_model(folder / "model")
    return text.replace(MODEL_URL, env["LLAVA_ZH_TEST_MODEL_URL"]).replace(TRAINED, str(folder / "model"))


def _write_model(folder: Path) -> None:
    """The examples' tiny model and its processor, as `from_pretrained` reads them."""
    sys.path.insert(0, str(ROOT / "examples"))
    from tiny_vlm import tiny_model, tiny_processor

    processor = tiny_processor(["图中是什么？", "What is in the picture?"])
    processor.save_pretrained(folder)
    tiny_model(processor).save_pretrained(folder)
