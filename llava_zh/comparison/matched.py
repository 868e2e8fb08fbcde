"""Two sets of rows matched by their images, in memory that does not grow with them: both are sorted on the disk."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import msgspec

from llava_zh.curation.source import Row
from llava_zh.images.names import image_name
from llava_zh.rows.said import questions
from llava_zh.sa1b.urls import SA_NAME
from llava_zh.storage.durable import explained
from llava_zh.storage.progress import Progress

Side = Literal["old", "new"]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_BATCH = 1000


@dataclass
class Left:
    """How many rows of each side have no match."""

    old: int = 0
    new: int = 0


def matched(old: Iterable[Row], new: Iterable[Row], left: Left, *, progress: bool = True) -> Iterator[tuple[Row, Row]]:
    """Pairs of rows with the same images, those of one image matched by question, then by task, then in order.

    Rows of text alone are matched by their questions.

    Rows are matched once; those that are left over are counted in `left`. Meanwhile both sets, without pictures, lie in
    the folder for temporary files (``TMPDIR``).

    Args:
        old, new: Rows whose field ``image`` is the list of their images' names.
        progress: Whether to show a line of progress.
    """
    with tempfile.TemporaryDirectory(prefix="llava-zh-compare-") as folder, explained(Path(folder)):
        database = sqlite3.connect(f"{folder}/rows")
        try:
            # Nothing in it outlives this call.
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            sides: tuple[Side, Side] = ("old", "new")
            for side, rows in zip(sides, (old, new), strict=True):
                _fill(database, side, rows, progress)
            yield from _join(_groups(database, "old"), _groups(database, "new"), left)
        except sqlite3.Error as error:
            raise OSError(None, f"the folder for temporary files, {folder}: {error}") from error
        finally:
            database.close()


def _fill(database: sqlite3.Connection, side: Side, rows: Iterable[Row], show: bool) -> None:
    database.execute(f"CREATE TABLE {side} (images BLOB, position INTEGER, row BLOB)")
    batch: list[tuple[bytes, int, bytes]] = []
    with Progress(f"Reading the {side} rows", unit="rows", show=show) as progress:
        for position, row in enumerate(rows):
            batch.append((_key_of(row), position, _encode([row.fields, row.turns])))
            if len(batch) == _BATCH:
                database.executemany(f"INSERT INTO {side} VALUES (?, ?, ?)", batch)
                progress.add(len(batch))
                batch.clear()
        database.executemany(f"INSERT INTO {side} VALUES (?, ?, ?)", batch)
    database.commit()


def _key_of(row: Row) -> bytes:
    """What is the same for the same images: their names, of SA-1B their numbers, whatever folder these are in.

    Of a row of text alone it is the question: all such rows would else be of one image, and in memory at once.
    """
    names = [_usual(name) for name in row.fields["image"]]
    return hashlib.blake2b(_encode(names or {"asked": questions(row.turns)}), digest_size=16).digest()


def _usual(name: str) -> str:
    last = name.rpartition("/")[2]
    return last if SA_NAME.fullmatch(last) else (image_name(name) or name).removeprefix("./")


def _groups(database: sqlite3.Connection, side: Side) -> Iterator[tuple[bytes, list[Row]]]:
    """The rows of each image, by the images' keys, ascending."""
    found = database.execute(f"SELECT images, row FROM {side} ORDER BY images, position")
    for key, rows in groupby(found, key=lambda each: bytes(each[0])):
        yield key, [_row(row) for _, row in rows]


def _row(encoded: bytes) -> Row:
    fields, turns = _decode(encoded)
    return Row(fields, [(role, text) for role, text in turns], b"")


def _join(
    olds: Iterator[tuple[bytes, list[Row]]], news: Iterator[tuple[bytes, list[Row]]], left: Left
) -> Iterator[tuple[Row, Row]]:
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old[0] < new[0]):
            assert old is not None  # not both are None
            left.old += len(old[1])
            old = next(olds, None)
        elif old is None or new[0] < old[0]:
            left.new += len(new[1])
            new = next(news, None)
        else:
            pairs = _within(old[1], new[1])
            left.old += len(old[1]) - len(pairs)
            left.new += len(new[1]) - len(pairs)
            yield from pairs
            old, new = next(olds, None), next(news, None)


def _within(olds: list[Row], news: list[Row]) -> list[tuple[Row, Row]]:
    """The rows of one image matched: the most alike first."""
    pairs: list[tuple[Row, Row]] = []
    for alike in (_question, _task, lambda row: None):
        waiting: dict[Any, deque[int]] = {}
        for position, row in enumerate(olds):
            waiting.setdefault(alike(row), deque()).append(position)
        taken: set[int] = set()
        rest: list[Row] = []
        for row in news:
            same = waiting.get(alike(row))
            if same:
                taken.add(position := same.popleft())
                pairs.append((olds[position], row))
            else:
                rest.append(row)
        olds, news = [row for position, row in enumerate(olds) if position not in taken], rest
        if not olds or not news:
            break
    return pairs


def _question(row: Row) -> tuple[Any, ...]:
    return (_task(row), *questions(row.turns))


def _task(row: Row) -> Any:
    return row.fields.get("task")
