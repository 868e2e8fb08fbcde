"""The folders that a run, a curation, an export or a comparison of ours wrote, known by what they say of themselves.

Nothing in them is opened or run for it but one small JSON file. Where such a folder lies in a folder of rows, its rows
were made from those around it and are no part of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..gates import json_values
from ..storage.durable import open_regular

_MOST = 16 << 20  # bytes of what a folder says of itself, as a run's manifest has at most
_COMPARED = {"run", "without_previous", "samples", "parameters"}  # of what a comparison reports


@dataclass(frozen=True)
class Ours:
    """What wrote a folder: ``"run"``, ``"export"``, ``"curation"`` or ``"comparison"``; and what it says there."""

    kind: str
    said: Mapping[str, Any]


def ours(folder: str | os.PathLike[str]) -> Ours | None:
    """What `folder` says of itself where one of ours wrote it, else None."""
    top = Path(folder)
    if isinstance((run := _said_by(top / "manifest.json")).get("input"), Mapping):
        return Ours("run", run)
    if isinstance(configs := (export := _said_by(top / ".export" / "request.json")).get("configs"), list) and configs:
        return Ours("export", export)
    report = _said_by(top / "report.json")
    if isinstance(report.get("parameters"), Mapping) and "kept" in report:
        return Ours("curation", report)
    if report.keys() >= _COMPARED:
        return Ours("comparison", report)
    return None


def _said_by(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file, empty where there is none."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            text = file.read(_MOST + 1)
        said = json_values.decode(text) if len(text) <= _MOST else None
    except (OSError, json_values.NotJson):
        return {}
    return said if isinstance(said, Mapping) else {}
