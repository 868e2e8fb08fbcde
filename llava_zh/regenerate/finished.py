"""What a run has finished so far, read by somebody else than the run: nothing in its folder is changed or held."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from llava_zh.regenerate.folder import Owner, holder_of
from llava_zh.regenerate.manifest import read_manifest
from llava_zh.regenerate.units import FAULTS, is_failure, unfinished_units
from llava_zh.rows.records import Place
from llava_zh.storage.lines import is_whole, read_lines


class _Facts(msgspec.Struct):
    position: int


class _Row(msgspec.Struct):
    regenerated: _Facts


_decode = msgspec.json.Decoder(_Row).decode


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a run.

    Attributes:
        manifest: What the run is.
        owner: Who works in it by its own record: a process that lives, or one that was killed. None for nobody.
        unfinished: Whether rows are on their way to a file of ``data``.
    """

    folder: Path
    manifest: dict[str, Any]
    owner: Owner | None
    unfinished: bool

    @property
    def dataset(self) -> str | None:
        """The dataset that the rows are of, ``"rows"`` where they were given as such."""
        return self._input("dataset")

    @property
    def config(self) -> str | None:
        return self._input("config")

    def _input(self, field: str) -> str | None:
        said = self.manifest.get("input")
        found = said.get(field) if isinstance(said, dict) else None
        return found if isinstance(found, str) else None

    def lines(self) -> Iterator[tuple[Place, bytes]]:
        """Every finished row as published, once: those in ``data``, and those that are on their way there."""
        # The journals are listed first: what is put into `data` meanwhile is found in both, and counted once.
        attempts = unfinished_units(self.folder / "journal")
        files = sorted((self.folder / "data").glob("*.jsonl")) if (self.folder / "data").is_dir() else []
        for path in files:
            if path.stem not in attempts:
                yield from _lines_of(path)
        for unit, journals in attempts.items():
            yield from self._lines_of_unit(unit, journals)

    def _lines_of_unit(self, unit: str, journals: list[Path]) -> Iterator[tuple[Place, bytes]]:
        seen: set[int] = set()
        finished = self.folder / "data" / f"{unit}.jsonl"
        for path in (finished, *journals, finished):  # at last once more: the run may have put all of it there
            for place, line in _lines_of(path):
                if is_failure(line) or not is_whole(line):
                    continue
                with contextlib.suppress(*FAULTS):
                    position = _decode(line).regenerated.position
                    if position not in seen:
                        seen.add(position)
                        yield place, line


def _lines_of(path: Path) -> Iterator[tuple[Place, bytes]]:
    at = 0
    for line in read_lines(path):
        yield Place(str(path), byte=at), line
        at += len(line)


def open_finished(folder: str | os.PathLike[str]) -> FinishedRun | None:
    """The run in `folder`; None where that is no folder of one.

    Raises:
        BadFile: Its manifest cannot be read.
    """
    path = Path(folder)
    if not (path / "manifest.json").is_file() or not (path / "journal").is_dir():
        return None
    manifest = read_manifest(path / "manifest.json")
    return FinishedRun(path, manifest, holder_of(path / "journal"), bool(unfinished_units(path / "journal")))
