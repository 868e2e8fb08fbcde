"""What the tests of exports compare: rows as loaded, and lines and ids as exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llava_zh import load_dataset
from llava_zh.demo import DemoPaths

INTERNVL, LLAVA = "internvl-sa-1b-caption", "llava-instruct-zh-600k"


def published(demo: DemoPaths, config: str, **arguments: Any) -> list[dict[str, Any]]:
    """The rows as :func:`load_dataset` gives them, images undecoded."""
    data_dir = demo.internvl if config.startswith(("single", "multi")) else demo.llava
    dataset = INTERNVL if data_dir == demo.internvl else LLAVA
    stream = load_dataset(dataset, config, split="train", streaming=True, data_dir=data_dir, **arguments)
    return list(stream.decode(False))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted((folder / "data").glob("*.jsonl")) for line in path.open()]


def _text_lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def tree(folder: Path) -> dict[str, bytes]:
    """All files of an export but its bookkeeping."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".export" not in path.parts
    }


def ids(folder: Path) -> list[str]:
    return [row["id"] for row in lines(folder)]
