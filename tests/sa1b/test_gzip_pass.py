from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from llava_zh.errors import BadArchive
from llava_zh.sa1b.gzip_pass import PassReader, decompressed
from llava_zh.sa1b.source import LocalSource

RAW = np.random.default_rng(0).integers(0, 64, 3_000_000, "u1").tobytes()


def source(tmp_path: Path, data: bytes) -> LocalSource:
    (tmp_path / "data.gz").write_bytes(data)
    return LocalSource(str(tmp_path / "data.gz"))


def test_concatenated_and_padded_streams_decompress_in_full(tmp_path: Path) -> None:
    data = gzip.compress(RAW[:1_000_000], 1) + gzip.compress(b"") + gzip.compress(RAW[1_000_000:], 1) + bytes(700)
    digest = hashlib.md5()
    assert b"".join(decompressed(source(tmp_path, data), digest)) == RAW
    assert digest.hexdigest() == hashlib.md5(data).hexdigest()


def test_ranges_are_read_in_one_pass(tmp_path: Path) -> None:
    reader = PassReader(source(tmp_path, gzip.compress(RAW, 1)))
    for start, size in ((0, 10), (10, 0), (11, 1_500_000), (2_999_000, 1000)):
        assert reader.read(start, size) == RAW[start : start + size]
    reader.finish()
    with pytest.raises(BadArchive, match="ends at 3,000,000"):
        reader.read(3_000_000, 1)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.999])
def test_one_flipped_byte_anywhere_is_noticed(tmp_path: Path, place: float) -> None:
    data = bytearray(gzip.compress(RAW, 1))
    data[int(len(data) * place)] ^= 0x55
    with pytest.raises(BadArchive, match="does not fit its checksum"):
        list(decompressed(source(tmp_path, bytes(data))))


def test_a_wrong_checksum_and_a_missing_end_are_noticed(tmp_path: Path) -> None:
    data = gzip.compress(RAW, 1)
    with pytest.raises(BadArchive, match="ncorrect checksum"):
        list(decompressed(source(tmp_path, data[:-6] + b"\0" + data[-5:])))
    for cut in (1, 9, 100_000):
        with pytest.raises(BadArchive, match="ends in the middle"):
            list(decompressed(source(tmp_path, data[:-cut])))


def test_what_follows_and_is_no_gzip_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(BadArchive):
        list(decompressed(source(tmp_path, gzip.compress(RAW, 1) + b"<html>")))
