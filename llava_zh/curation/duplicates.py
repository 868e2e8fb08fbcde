"""Exact and near-duplicates among millions of rows, in memory that holds one column of facts at a time.

Each row leaves fixed-size facts in column files: a 128-bit digest of its text, a MinHash sketch (128 slots of 8 bits)
and one 64-bit key a band of the sketch. Rows that share a band's key are candidates (locality-sensitive hashing, see
Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets*, chapter 3); sorting a band brings them side by side, so
no index of all bands is ever held. A candidate pair counts if its sketches agree as often as the threshold asks.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing import BinaryIO

Array = npt.NDArray[Any]

SLOTS = 128
_SEED = 1
# Rows of a bucket are compared with so many rows before them; those of one cluster link up through each other.
_REACH = 8
_CHUNK = 1 << 16


class Columns:
    """Facts of every row, in files of one column each under `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}

    def append(self, name: str, values: Array) -> None:
        """Add the values of further rows to the column `name`."""
        if not len(values):
            return  # an empty file cannot be mapped
        if name not in self._files:
            self._files[name] = (self._folder / name).open("xb")
        self._files[name].write(np.ascontiguousarray(values).tobytes())

    def read(self, name: str, dtype: npt.DTypeLike, width: int = 1) -> Array:
        """The column `name` of all rows, mapped from its file: one dimension, or rows by `width`."""
        if name not in self._files:
            return np.zeros(0, dtype) if width == 1 else np.zeros((0, width), dtype)
        self.flush()
        values = np.memmap(self._folder / name, dtype, mode="r")
        return values if width == 1 else values.reshape(-1, width)

    def flush(self) -> None:
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # the files are temporary; a full disk would fail again
                file.close()


def text_digest(text: str) -> bytes:
    """16 bytes that are equal for texts equal but for white space."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def bands_for(threshold: float) -> int:
    """Bands of the sketch such that at least nine pairs in ten as similar as `threshold` become candidates."""
    for rows in (64, 32, 16, 8, 4, 2):
        bands = SLOTS // rows
        if 1 - (1 - threshold**rows) ** bands >= 0.9:
            return bands
    return SLOTS


def append_sketches(columns: Columns, grams: Sequence[list[str]], bands: int, apart: Array | None = None) -> None:
    """Sketch rows, given the windows of each, into the columns ``sketch``, ``apart`` and ``band-0`` … .

    Args:
        apart: A number of 64 bits for each row; rows with different ones are no near-duplicates of each other.
    """
    from rensa import RMinHash

    slots = np.array(RMinHash.digest_matrix_from_token_sets(grams, SLOTS, _SEED).to_rows(), dtype=np.uint64)
    columns.append("sketch", slots.astype(np.uint8))
    apart = np.zeros(len(grams), np.uint64) if apart is None else apart
    columns.append("apart", apart)
    # In the keys too: else a bucket fills up with rows that are told apart, and its duplicates never meet.
    keys = np.repeat(apart[:, None], bands, axis=1)
    for slot in np.moveaxis(slots.reshape(len(grams), bands, -1), 2, 0):
        keys = (keys ^ slot) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    for band in range(bands):
        columns.append(f"band-{band}", keys[:, band])


def exact_duplicates(columns: Columns, sound: Array) -> Array:
    """For each row the earliest sound row with the same text, or -1; only `sound` rows (a mask) are looked at."""
    digests = columns.read("digest", np.uint64, 2)
    rows = np.flatnonzero(sound).astype(np.int32)
    first, second = digests[rows, 0], digests[rows, 1]
    order = np.lexsort((second, first))
    first, second, rows = first[order], second[order], rows[order]
    same = np.zeros(len(rows), dtype=bool)
    same[1:] = (first[1:] == first[:-1]) & (second[1:] == second[:-1])
    leader = np.maximum.accumulate(np.where(same, 0, np.arange(len(rows))))
    original = np.full(len(sound), -1, dtype=np.int32)
    original[rows[same]] = rows[leader[same]]
    return original


def near_duplicates(columns: Columns, sound: Array, threshold: float) -> Array:
    """For each row the earliest row of its cluster of near-duplicates, or -1; only `sound` rows are looked at.

    Pairs that nothing tells apart (see :func:`append_sketches`) and whose estimated Jaccard similarity of windows is at
    least `threshold` belong to one cluster.
    """
    sketches, apart = columns.read("sketch", np.uint8, SLOTS), columns.read("apart", np.uint64)
    rows = np.flatnonzero(sound).astype(np.int32)
    clusters = _Clusters(len(sound))
    for band in range(bands_for(threshold)):
        keys = columns.read(f"band-{band}", np.uint64)[rows]
        order = np.argsort(keys, kind="stable")
        for left, right in _candidates(rows[order], keys[order]):
            new = (clusters.of(left) != clusters.of(right)) & (apart[left] == apart[right])
            left, right = left[new], right[new]
            alike = similarity(sketches[left], sketches[right]) >= threshold
            clusters.join(left[alike], right[alike])
    leaders = clusters.of(np.arange(len(sound), dtype=np.int32))
    return np.where(leaders == np.arange(len(sound)), -1, leaders)


def similarity(left: Array, right: Array) -> Array:
    """Estimated Jaccard similarity of sketches, row by row; standard error at most 0.045.

    Slots of 8 bits also agree by chance, one in 256, which is taken out (b-bit MinHash, Li and König 2010).
    """
    agreeing: Array = (left == right).mean(axis=1)
    return (agreeing - 1 / 256) / (1 - 1 / 256)


def _candidates(rows: Array, keys: Array) -> Iterator[tuple[Array, Array]]:
    """Pairs of rows with the same key at most :data:`_REACH` places apart, in chunks; `keys` are sorted."""
    for lag in range(1, _REACH + 1):
        same = np.flatnonzero(keys[lag:] == keys[:-lag])
        if not len(same):
            return
        for start in range(0, len(same), _CHUNK):
            chunk = same[start : start + _CHUNK]
            yield rows[chunk], rows[chunk + lag]


class _Clusters:
    """Disjoint sets of rows, each known by its earliest row."""

    def __init__(self, rows: int) -> None:
        self._leader = np.arange(rows, dtype=np.int32)

    def of(self, rows: Array) -> Array:
        """The earliest row of each row's cluster."""
        leaders = self._leader[rows]
        while np.any((further := self._leader[leaders]) != leaders):
            leaders = further
        return leaders

    def join(self, left: Array, right: Array) -> None:
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            one, other = self._find(one), self._find(other)
            self._leader[max(one, other)] = min(one, other)

    def _find(self, row: int) -> int:
        leader = self._leader
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = int(leader[row])
        return row
