"""What the readers of every format share: the shard they read, how to read it, and rows gathered into tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from ..errors import BadFile, BadRow
from ..rows import records
from ..rows.columns import Columns
from ..rows.records import Expect, Place
from .data_files import DataFile

# Rows with embedded images can have megabytes each; this bounds a table whatever the rows.
TABLE_BYTES = 8 << 20
# Tables made ahead of the consumer. Two keep a consumer of Arrow tables waiting for the parser alone.
PARSE_AHEAD = 2
Work = Callable[[], pa.Table]
# Where a record is, the record or what is wrong with it, and its line without the line end where it has one.
Record = tuple[Place, Mapping[str, Any] | BadRow, bytes | None]


@dataclass(frozen=True)
class Shard:
    """A piece of a file: bytes `start` to `end`, or row groups for Parquet; the whole file where it cannot be cut."""

    file: DataFile
    start: int
    end: int


def _raised(error: BadFile) -> None:
    raise error


@dataclass(frozen=True)
class Reading:
    """How to read: what rows must be, whom to tell of bad ones and of the columns seen, and the hub's token.

    `then` makes of each table of annotations what comes out, on the thread that parsed it. `ahead` is the number of
    tables that are made ahead of the consumer, each on a thread. `on_damage` is told, when all rows that are there were
    given, of a file that is damaged, cut short or followed by what is none of it; it raises the error or takes note.
    """

    expect: Expect
    on_bad: Callable[[BadRow], None]
    on_columns: Callable[[Iterable[str]], None]
    token: Any = None
    then: Callable[[pa.Table], pa.Table] = lambda table: table
    ahead: int = PARSE_AHEAD
    on_damage: Callable[[BadFile], None] = _raised


def row_tables(rows: Iterable[tuple[Place, Any]], reading: Reading) -> Iterator[Work]:
    """Rows as tables of at most :data:`TABLE_BYTES` of images, or some hundreds of rows.

    Raises:
        BadFile: `rows` did, which is passed on when the rows before it were given.
    """
    batch: list[tuple[Place, Any]] = []
    size = 0
    damage = None
    rows = iter(rows)
    while True:
        try:
            place, row = next(rows)
        except StopIteration:
            break
        except BadFile as error:
            damage = error
            break
        if isinstance(row, Mapping):
            reading.on_columns(row)
        elif not isinstance(row, BadRow):
            row = records.bad_row(place, "row", "one JSON object", row)
        batch.append((place, row))
        size += _bytes_of_images(row, reading.expect.columns)
        if len(batch) >= 512 or size >= TABLE_BYTES:
            yield partial(records.from_rows, batch, reading.expect, reading.on_bad)
            batch, size = [], 0
    if batch:
        yield partial(records.from_rows, batch, reading.expect, reading.on_bad)
    if damage is not None:
        raise damage


def _bytes_of_images(row: Any, columns: Columns) -> int:
    image = columns.get(row, "image")[1] if isinstance(row, Mapping) else None
    images = image if isinstance(image, list) else [image]
    data = (one.get("bytes") if isinstance(one, Mapping) else one for one in images)
    return sum(len(one) for one in data if isinstance(one, bytes))
