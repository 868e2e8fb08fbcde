"""The rows between the two passes, on disk: their lines, what is wrong with each, and their embedded pictures."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from llava_zh.curation.source import Row

# Where the bytes of a picture are among all pictures: offset and length.
Span = tuple[int, int]
_Header = tuple[list[str], list[Span | None] | None]


class Spooled(NamedTuple):
    """A row as it comes back: its position, the defects that it has by itself, its pictures and its line."""

    position: int
    defects: list[str]
    pictures: list[Span | None] | None
    line: bytes


class Spool:
    """Rows in the order they came; `pictures` says whether any has embedded images.

    Args:
        folder: Where the files are.
        with_pictures: Whether to keep the bytes of pictures; whoever writes no rows does without.
    """

    def __init__(self, folder: Path, *, with_pictures: bool = True) -> None:
        self._with_pictures = with_pictures
        self._path, self._pictures_path = folder / "rows", folder / "pictures"
        self._starts_path = folder / "starts"
        self._rows, self._data = self._path.open("xb"), self._pictures_path.open("xb")
        self._starts = self._starts_path.open("xb")
        self._end = self._at = 0
        self._decode = msgspec.json.Decoder(_Header).decode

    @property
    def pictures(self) -> bool:
        return self._end > 0

    def add(self, rows: Iterable[Row], defects: Iterable[list[str]]) -> None:
        # Compact JSON has no bare tab, so the first one ends the header.
        records = [
            msgspec.json.encode((found, self._kept(row.pictures))) + b"\t" + row.line
            for row, found in zip(rows, defects, strict=True)
        ]
        self._rows.writelines(records)
        starts = list(itertools.accumulate(map(len, records), initial=self._at))
        self._at = starts.pop()
        self._starts.write(np.array(starts, np.uint64).tobytes())

    def _kept(self, pictures: list[bytes | None] | None) -> list[Span | None] | None:
        if pictures is None or not self._with_pictures:
            return None
        spans: list[Span | None] = []
        for data in pictures:
            spans.append(None if data is None else (self._end, len(data)))
            self._end += self._data.write(data or b"")
        return spans

    def flush(self) -> None:
        for file in (self._rows, self._data, self._starts):
            file.flush()

    def chosen(self, mask: npt.NDArray[np.bool_]) -> Iterator[Spooled]:
        """The rows for which `mask` is true, in order."""
        with self._path.open("rb") as rows:
            for position, record in itertools.compress(enumerate(rows), mask.tobytes()):
                header, _, line = record.partition(b"\t")
                defects, pictures = ([], None) if header == b"[[],null]" else self._decode(header)
                yield Spooled(position, defects, pictures, line)

    @contextlib.contextmanager
    def lines(self) -> Iterator[Callable[[int], bytes]]:
        """Access to single lines by the positions of their rows."""
        with self._path.open("rb") as rows, self._starts_path.open("rb") as starts:

            def line(position: int) -> bytes:
                starts.seek(8 * position)
                rows.seek(int.from_bytes(starts.read(8), sys.byteorder))
                return rows.readline().partition(b"\t")[2]

            yield line

    @contextlib.contextmanager
    def reading(self) -> Iterator[Pictures]:
        """Access to the bytes of the pictures."""
        with self._pictures_path.open("rb") as file:
            yield Pictures(file)

    def close(self) -> None:
        # What a full disk did not take stays in the buffers and would fail again; the files are temporary.
        for file in (self._rows, self._data, self._starts):
            with contextlib.suppress(OSError):
                file.close()


class Pictures:
    """The bytes of spooled pictures."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, span: Span | None) -> bytes | None:
        if span is None:
            return None
        self._file.seek(span[0])
        return self._file.read(span[1])
