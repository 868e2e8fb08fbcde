"""The file of the rows that are kept: JSON Lines as published, or Parquet where pictures are embedded in the rows."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from llava_zh.curation.spool import Pictures, Spool, Spooled
from llava_zh.files import jsonl
from llava_zh.rows import records
from llava_zh.rows.columns import no_image
from llava_zh.rows.formats import STORED_IMAGE
from llava_zh.rows.records import Place
from llava_zh.storage.atomic import atomic
from llava_zh.storage.durable import explained
from llava_zh.storage.lines import write_lines

Rows = Callable[[], Iterator[Spooled]]

LINES, PARQUET = "000000.jsonl", "000000.parquet"
# A row group is closed at so many rows or bytes of pictures.
_ROWS, _BYTES = 1000, 64 << 20


def write_kept(folder: Path, rows: Rows, spool: Spool) -> None:
    """Write `rows` to `folder`; called anew, `rows` gives them again. An earlier file of the other kind goes away."""
    if any(row.pictures is not None for row in rows()) if spool.pictures else False:
        with spool.reading() as pictures:
            _write_parquet(folder / PARQUET, rows, pictures)
        other = LINES
    else:
        write_lines(folder / LINES, (row.line for row in rows()))
        other = PARQUET
    with explained(folder / other):
        (folder / other).unlink(missing_ok=True)


def _write_parquet(path: Path, rows: Rows, pictures: Pictures) -> None:
    columns = _Columns(map(_fields, rows()))
    with (
        explained(path),
        atomic(path) as file,
        pq.ParquetWriter(file, columns.schema, compression="zstd") as writer,
    ):
        for batch in _batches(rows()):
            writer.write_table(columns.table(map(_fields, batch), [_images(row, pictures) for row in batch]))


def _batches(rows: Iterable[Spooled]) -> Iterator[list[Spooled]]:
    batch: list[Spooled] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(span[1] for span in row.pictures or () if span is not None)
        if len(batch) == _ROWS or size >= _BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _fields(row: Spooled) -> dict[str, Any]:
    """The row with its images under ``image``, as names."""
    fields = jsonl.decode_line(Place("row", row=row.position), row.line)
    assert isinstance(fields, Mapping)  # this library wrote it
    key = next((alias for alias in records.ALIASES["image"] if alias in fields), "image")
    return {("image" if field == key else field): value for field, value in fields.items()}


def _images(row: Spooled, pictures: Pictures) -> list[dict[str, Any]]:
    names = _fields(row).get("image")
    if no_image(names) and row.pictures is None:
        return []
    listed = names if isinstance(names, list) else [names]
    spans = row.pictures or [None] * len(listed)
    return [{"bytes": pictures.read(span), "path": name} for span, name in zip(spans, listed, strict=True)]


class _Columns:
    """The columns that rows of JSON make. A column whose values have no one type holds them as text."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._kinds: dict[str, pa.DataType | None] = {}
        self._several = False
        chunk: list[dict[str, Any]] = []
        for row in rows:
            self._several |= isinstance(row.get("image"), list)
            chunk.append(row)
            if len(chunk) == _ROWS:
                self._look_at(chunk)
                chunk = []
        self._look_at(chunk)
        image = pa.list_(STORED_IMAGE) if self._several else STORED_IMAGE
        self.schema = pa.schema(
            [(name, kind or pa.string()) for name, kind in self._kinds.items()] + [("image", image)]
        )

    def _look_at(self, rows: list[dict[str, Any]]) -> None:
        for name in dict.fromkeys(name for row in rows for name in row if name != "image"):
            if self._kinds.get(name, pa.null()) is None:
                continue
            try:
                kind = pa.array([row.get(name) for row in rows]).type
                parts = [pa.schema([(name, part)]) for part in (self._kinds.get(name, kind), kind)]
                self._kinds[name] = pa.unify_schemas(parts, promote_options="permissive").field(name).type
                pq.write_table(pa.schema([(name, self._kinds[name])]).empty_table(), io.BytesIO())
            except (pa.ArrowException, OverflowError):
                self._kinds[name] = None

    def table(self, rows: Iterable[dict[str, Any]], images: list[list[dict[str, Any]]]) -> pa.Table:
        rows = list(rows)
        arrays = [
            pa.array([_as_text(row.get(name)) if kind is None else row.get(name) for row in rows], kind or pa.string())
            for name, kind in self._kinds.items()
        ]
        values = images if self._several else [image[0] if image else None for image in images]
        return pa.Table.from_arrays([*arrays, pa.array(values, self.schema.field("image").type)], schema=self.schema)


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
