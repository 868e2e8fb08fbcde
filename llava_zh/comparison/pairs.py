"""Old and new texts of the same picture, as pairs: out of a run, whose rows hold both, or out of two sets of rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from llava_zh.catalog import image_places
from llava_zh.catalog.request import Request
from llava_zh.comparison.matched import Left, matched
from llava_zh.curation.expected import Expected, expected_of
from llava_zh.curation.source import Row, open_rows
from llava_zh.errors import BadArgument, BadRow, DataFileNotFound
from llava_zh.files import jsonl
from llava_zh.gates.counts import counted
from llava_zh.images.names import image_label
from llava_zh.regenerate.finished import FinishedRun, open_finished
from llava_zh.rows import records
from llava_zh.rows.given import given_images
from llava_zh.rows.records import Place
from llava_zh.rows.said import said
from llava_zh.streams.left_out import Tally

#: The (role, text) turns of a conversation.
Turns = list[tuple[str, str]]
Given = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


class Text(NamedTuple):
    """One side of a pair: its turns, and the fields of its row by which it is judged (config, language, prompt)."""

    turns: Turns
    fields: Mapping[str, Any]

    @property
    def said(self) -> str:
        """What the model says: its turns, joined by line breaks."""
        return said(self.turns)


class Pair(NamedTuple):
    """Two texts of the same images; `key` tells it from the other pairs."""

    key: str
    id: Any
    images: list[str]
    old: Text
    new: Text


class Compared(NamedTuple):
    """What is compared: as it was given, what it is called, and the run that it is, if it is one."""

    given: Given
    name: str
    run: FinishedRun | None

    @property
    def folder(self) -> Path | None:
        """The folder that it is, if it is one."""
        return Path(self.name) if isinstance(self.given, str) and Path(self.name).is_dir() else None


def compared(given: Given) -> Compared:
    """A folder, a file or rows, with ``~`` put in full.

    Raises:
        BadFile: The manifest of a run cannot be read.
    """
    if not isinstance(given, str | os.PathLike):
        return Compared(given, "rows", None)
    path = os.path.expanduser(given)  # noqa: PTH111 (Path would take the "./" of a name away)
    return Compared(path, path, open_finished(path))


class Opened:
    """Pairs to read once, and what was left out on the way.

    Attributes:
        name: What was given, for the reader.
        run: The run, where it is one.
        known, known_of_old: What is expected of the new and of the old texts.
        without_previous: Rows that hold no older text, so far.
        left: Rows of either side that the other has no match for, so far.
    """

    def __init__(self, run: Compared, other: Compared | None, on_bad_row: str, progress: bool) -> None:
        self.name, self.run = run.name, run.run
        self.other = None if other is None else other.name
        self.without_previous = 0
        self.left = Left()
        self._on_bad_row, self._progress = on_bad_row, progress
        self._rows, self.known = _rows(run, on_bad_row)
        self._others: Iterator[Row] | None = None
        self.known_of_old = self.known
        if other is not None:
            self._others, self.known_of_old = _rows(other, on_bad_row)

    def __iter__(self) -> Iterator[Pair]:
        if self._others is not None:
            yield from self._matched()
            return
        tally = Tally(self.name, self._on_bad_row)
        for position, row in enumerate(self._rows):
            try:
                previous = _previous(row, Place(self.name, row=position))
            except BadRow as error:
                tally.bad_row(error)
                continue
            if previous is None:
                self.without_previous += 1
                continue
            images = _images(row)
            shown = {name: row.fields[name] for name in ("config", "language", "task") if row.fields.get(name)}
            made = row.fields["regenerated"]
            yield _pair(made.get("key"), row, images, Text(previous, shown), Text(row.turns, row.fields))
        tally.report()

    def _matched(self) -> Iterator[Pair]:
        assert self._others is not None
        sides = map(_slim, self._others), map(_slim, self._rows)
        for old, new in matched(*sides, self.left, progress=self._progress):
            yield _pair(None, new, _images(new), Text(old.turns, old.fields), Text(new.turns, new.fields))

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the compared rows from others, wherever a run's folder was moved to."""
        if self.run is None:
            return {"compared": _place(self.name), "with": self.other and _place(self.other)}
        run = {name: self.run.manifest.get(name) for name in ("input", "model", "created")}
        return {"compared": run, "with": self.other and _place(self.other)}

    def nothing(self) -> DataFileNotFound:
        """The error for no pair at all."""
        if self._others is not None:
            return DataFileNotFound(
                f"{self.name} and {self.other} have no image in common: {counted(self.left.new, 'rows')} of the first "
                f"and {self.left.old:,} of the second are of other images. Give two sets of rows that name the same "
                "images by the same paths."
            )
        if self.without_previous:
            return DataFileNotFound(
                f"{self.name}: none of its {counted(self.without_previous, 'rows')} holds the text that it replaced "
                "(regenerated.previous), as rows of a run do whose input had texts. Name the older rows with other=."
            )
        return DataFileNotFound(
            f"{self.name} has no finished row yet. Let the run go on, by the command that began it, and compare then."
        )


def _place(name: str) -> str:
    return str(Path(name).absolute())


def _rows(side: Compared, on_bad_row: str) -> tuple[Iterator[Row], Expected]:
    """The rows of a run as far as it has come, of a folder or file of rows, or rows given as such."""
    if side.run is not None:
        return _rows_of_run(side.run, on_bad_row), expected_of(side.run.dataset, side.run.config)
    if not isinstance(side.given, str):
        opened = open_rows(side.given, Request.of("rows", None, {}, "compare"))
        return opened.rows, opened.known
    path = Path(side.given)
    if not path.exists():
        raise DataFileNotFound(
            f"{side.name}: no such folder or file. Give the output folder of llava-zh regenerate, or a file of rows."
        )
    with image_places.untold():  # the texts alone are read
        opened = open_rows(path, Request.of(path, None, {"on_bad_row": on_bad_row}, "compare"))
    return opened.rows, opened.known


def _rows_of_run(run: FinishedRun, on_bad_row: str) -> Iterator[Row]:
    tally = Tally(str(run.folder), on_bad_row)
    for place, line in run.lines():
        try:
            record = jsonl.decode_line(place, line)
            if isinstance(record, BadRow):
                raise record
            turns = [(turn["from"], turn["value"]) for turn in records.turns_of(place, record)]
        except BadRow as error:
            tally.bad_row(error)
            continue
        yield Row({"config": run.config, **record}, turns, line)
    tally.report()


def _previous(row: Row, place: Place) -> Turns | None:
    """The turns that those of a row replaced.

    Raises:
        BadRow: Something else is in their place.
    """
    made = row.fields.get("regenerated")
    before = made.get("previous") if isinstance(made, Mapping) else None
    if not before:
        return None
    found = records.turns_of(place, {"conversations": before})
    return [(turn["from"], turn["value"]) for turn in found]


def _images(row: Row) -> list[str]:
    """What the images of a row are called, as far as they are called anything."""
    return [image_label(image) or "" for image in given_images(row.fields).images if image is not None]


#: Fields of a row that are needed once its turns are known; a row may hold pictures besides.
_KEPT = ("id", "config", "language", "task", "regenerated")


def _slim(row: Row) -> Row:
    """A row with no more than a comparison needs, for the disk."""
    fields = {name: row.fields[name] for name in _KEPT if row.fields.get(name) is not None}
    if isinstance(made := fields.get("regenerated"), Mapping):
        fields["regenerated"] = {"prompt": made.get("prompt")}
    return Row({**fields, "image": _images(row)}, row.turns, b"")


def _pair(key: Any, row: Row, images: list[str], old: Text, new: Text) -> Pair:
    if not isinstance(key, str) or not key:
        said = msgspec.json.encode([images, old.turns, new.turns])
        key = hashlib.blake2b(said, digest_size=12).hexdigest()
    return Pair(key, row.fields.get("id"), images, old, new)


def check_given(run: Given, other: Given | None) -> None:
    """Refuse what cannot be compared before anything is read.

    Raises:
        BadArgument: A mapping, or the same place twice.
    """
    for given in (run, other):
        if isinstance(given, Mapping | bytes) or (given is not None and not isinstance(given, Iterable | os.PathLike)):
            raise BadArgument(f"Expected a folder, a file or rows to compare; found {type(given).__name__}.")
    if isinstance(run, str | os.PathLike) and isinstance(other, str | os.PathLike):
        first, second = (Path(given).expanduser().resolve() for given in (run, other))
        if first == second:
            raise BadArgument(f"other={os.fspath(other)!r} is the run itself. Give the older rows, or leave it out.")
