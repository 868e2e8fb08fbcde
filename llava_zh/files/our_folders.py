"""The folders that a run, a curation, an export or a comparison of ours wrote, known by what they say of themselves.

Nothing in them is opened or run for it but one small JSON file. Where such a folder lies in a folder of rows, its rows
were made from those around it and are no part of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..storage.durable import open_regular
from .kinds import ENDINGS

_MOST = 16 << 20  # bytes of what a folder says of itself, as a run's manifest has at most
_COMPARED = {"run", "without_previous", "samples", "parameters"}  # of what a comparison reports
_NOTED = 8  # files with rows that a folder names as those that it was made from
_FOLLOWED = 8  # of what was made of what was made …


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


# -- where the rows lay that a folder was made from ------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """From which rows on this machine a folder of ours was made.

    Attributes:
        folder: The folder that was named then, or that of the rows where files were named.
        files: The first files with rows.
        believed: These files are still there as they were. A folder may be anyone's, and it must not choose where
            pictures are read; what knows the rows so well was made from them here.
        by_path: The rows were asked for by their path, not by the name of a dataset.
        image_root: Where the pictures were said to be.
    """

    folder: str
    files: tuple[str, ...]
    believed: bool
    by_path: bool
    image_root: str | None


def place(data_dir: str | None, files: Iterable[tuple[str | None, int]], image_root: Any, by_path: bool) -> Any:
    """What a folder says for :func:`made_from` of the rows that it is made from; None where they are not here.

    Args:
        files: The path and size of each file with rows.
    """
    here = [{"path": path, "size": size} for path, size in files if path is not None and Path(path).is_absolute()]
    if not here:
        return None
    root = _whole(image_root) if isinstance(image_root, str) and "://" not in image_root else None
    folder = str(Path(str(here[0]["path"])).parent) if data_dir is None else _whole(data_dir)
    return {"folder": folder, "files": here[:_NOTED], "by_path": by_path, "image_root": root}


def _whole(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 (links are not followed)


def made_from(folder: str | os.PathLike[str]) -> Made | None:
    """From which rows a run or curation was made that `folder` belongs to; None for other folders, or not known."""
    top = Path(folder)
    for one in (top, top.parent) if top.name == "data" else (top,):
        found = ours(one)
        if found is not None:
            said = found.said if found.kind == "run" else found.said.get("parameters", {})
            return _made(said.get("place"))
    return None


def origins(folder: str | os.PathLike[str]) -> Iterator[Made]:
    """From which rows `folder` was made, and from which those were, and so on; the last may be not believed."""
    for _ in range(_FOLLOWED):
        made = made_from(folder)
        if made is None:
            return
        yield made
        if not made.believed:
            return
        folder = made.folder


def _made(said: Any) -> Made | None:
    match said:
        case {"folder": str(folder), "files": [*files]} if Path(folder).is_absolute() and files:
            known = [(file.get("path"), file.get("size")) for file in files[:_NOTED] if isinstance(file, Mapping)]
            root = said.get("image_root")
            return Made(
                folder=folder,
                files=tuple(path for path, _ in known if isinstance(path, str)),
                believed=not _holds_homes(folder) and all(_is_as_it_was(folder, *file) for file in known),
                by_path=said.get("by_path") is True,
                image_root=root if isinstance(root, str) else None,
            )
    return None


def _holds_homes(folder: str) -> bool:
    """Whether a folder holds more than a dataset: that of the user, or one above it."""
    return f"{os.path.realpath(Path.home())}/".startswith(f"{os.path.realpath(folder).rstrip('/')}/")


def _is_as_it_was(folder: str, path: Any, size: Any) -> bool:
    if not isinstance(path, str) or "\0" in path + folder or os.path.normpath(path) != path:
        return False
    inside = path.startswith(f"{folder.rstrip('/')}/") and path.lower().endswith(tuple(ENDINGS))
    return inside and Path(path).is_file() and os.stat(path).st_size == size


# -- reading ---------------------------------------------------------------------------------------------------


def _said_by(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file, empty where there is none."""
    from ..gates import json_values  # brings numpy, which the command line does without

    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            text = file.read(_MOST + 1)
        said = json_values.decode(text) if len(text) <= _MOST else None
    except (OSError, json_values.NotJson):
        return {}
    return said if isinstance(said, Mapping) else {}
