"""Importing the package is light: no heavy module, no network, nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Every module that a plain import must not bring: each takes longer than all of ours together.
HEAVY = {"torch", "modelscope", "modelscope_hub", "aiohttp", "rapidgzip", "openai", "transformers", "datasketch", "ray"}

SCRIPT = """
import os, sys
events = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        events.append(event)
    elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        events.append(f"wrote {args[0]}")
    elif event in ("os.mkdir", "os.rename", "os.remove", "subprocess.Popen"):
        events.append(f"{event} {args[0]}")
sys.addaudithook(watch)
sys.dont_write_bytecode = True
before = set(sys.modules)
IMPORT
print("MODULES", *sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
print("EVENTS", *events)
"""


def imported(statement: str, home: Path) -> tuple[set[str], list[str]]:
    """The top-level modules that `statement` brings, and what it did to the disk and the network."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("IMPORT", statement)],
        env={**os.environ, "HOME": str(home), "HF_HOME": str(home / "hf"), "LLAVA_ZH_CACHE": str(home / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    return set(lines["MODULES"].split()), lines["EVENTS"].split()


def test_importing_llava_zh_brings_nothing_heavy_and_leaves_no_trace(tmp_path: Path) -> None:
    modules, events = imported("import llava_zh", tmp_path)
    assert events == []
    assert modules & HEAVY == set()
    assert "datasets" not in modules, "it is imported where it is used, so that the command line starts quickly"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module", ["llava_zh.load", "llava_zh.files.hub", "llava_zh.sa1b", "llava_zh.cli", "llava_zh.demo"]
)
def test_no_module_is_heavy_to_import(tmp_path: Path, module: str) -> None:
    modules, events = imported(f"import {module}", tmp_path)
    assert [event for event in events if "socket" in event] == []
    assert modules & HEAVY == set()


def test_beyond_datasets_and_arrow_importing_a_builder_brings_little(tmp_path: Path) -> None:
    """`datasets` brings torch where it is installed; what we add to it must be small."""
    alone, _ = imported("import datasets, pyarrow.json, pyarrow.parquet", tmp_path)
    ours, _ = imported("import llava_zh.builders.internvl_sa1b_caption", tmp_path)
    extra = {name for name in ours - alone - set(sys.stdlib_module_names) if not name.startswith("_")}
    requests = {"requests", "urllib3", "certifi", "charset_normalizer", "chardet", "idna"}
    assert extra <= {"llava_zh", "msgspec", *requests}
