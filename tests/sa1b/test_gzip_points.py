from __future__ import annotations

import gzip
import io
import itertools
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip_lib

from llava_zh.errors import BadArchive
from llava_zh.sa1b import gzip_points, gzip_scan
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.deflate_bits import bits_before
from llava_zh.sa1b.gzip_header import gzip_header_length
from llava_zh.sa1b.gzip_points import PointReader
from llava_zh.sa1b.gzip_scan import scan_gzip
from llava_zh.sa1b.index import ArchiveIndex, Scan, assemble
from llava_zh.sa1b.source import LocalSource

from .conftest import Files, tar_bytes


def index_of(path: Path, scan: Scan | None = None) -> ArchiveIndex:
    source = LocalSource(str(path))
    return ArchiveIndex(assemble("gzip", scan or scan_gzip(source), source.state()))


def assert_reads_as(path: Path, files: Files) -> None:
    archive = Archive(LocalSource(str(path)), index_of(path))
    for name, data in files.items():
        member = archive.index.find(name)
        assert member is not None, name
        assert archive.read(member) == data, name


@pytest.mark.parametrize("bit", range(8))
def test_the_blocks_put_before_a_stream_are_empty_and_of_the_length_that_bit_needs(bit: int) -> None:
    prefix = bits_before(bit)
    # A stored last block, "hi", from that bit on: 1 00, then padding to a byte edge.
    tail = (1 << bit).to_bytes(2, "little") if bit > 5 else bytes([1 << bit])
    data = bytearray(prefix)
    if bit:
        data[-1] |= tail[0]
        data += tail[1:]
    else:
        data += tail
    data += b"\x02\x00\xfd\xffhi"
    assert zlib.decompress(bytes(data), -15) == b"hi"
    assert igzip_lib.decompress(bytes(data), igzip_lib.DECOMP_DEFLATE) == b"hi"


def test_every_member_of_a_gzip_tar_reads_as_it_was_written(gzip_tar: Path, files: Files) -> None:
    assert_reads_as(gzip_tar, files)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_range_equals_the_same_range_of_the_full_decompression(gzip_tar: Path, data: st.DataObject) -> None:
    whole = gzip.decompress(gzip_tar.read_bytes())
    index = _index(gzip_tar)
    reader = PointReader(index.array, index.window)
    offset = data.draw(st.integers(0, len(whole)))
    size = data.draw(st.integers(0, 1 << 20))
    assert reader.read(LocalSource(str(gzip_tar)), offset, size) == whole[offset : offset + size]


_cached: dict[Path, ArchiveIndex] = {}


def _index(path: Path) -> ArchiveIndex:
    return _cached.get(path) or _cached.setdefault(path, index_of(path))


def test_a_read_starts_at_a_point_close_before_the_member(gzip_tar: Path) -> None:
    index = _index(gzip_tar)
    assert len(index.array("points_out")) > 4
    reader = PointReader(index.array, index.window)
    for member in index.members():
        row, _, _ = reader.span(member.offset, member.size)
        assert 0 <= member.offset - int(index.array("points_out")[row]) < 2 * gzip_points.SPACING


@pytest.mark.parametrize("level", [1, 6, 9])
def test_streams_joined_end_to_end_are_one(files: Files, tmp_path: Path, level: int) -> None:
    raw = tar_bytes(files)
    third = len(raw) // 3
    pieces = [raw[:third], raw[third : third + 1000], b"", raw[third + 1000 :]]
    path = tmp_path / "joined.tar.gz"
    path.write_bytes(b"".join(gzip.compress(piece, level) for piece in pieces))
    assert_reads_as(path, files)


def test_many_small_streams_as_bgzip_writes_them_are_read_from_their_own_starts(files: Files, tmp_path: Path) -> None:
    raw = tar_bytes(files)
    path = tmp_path / "blocked.tar.gz"
    path.write_bytes(b"".join(gzip.compress(raw[i : i + 65280], 6) for i in range(0, len(raw), 65280)))
    assert_reads_as(path, files)
    index = index_of(path)
    last = max(index.members(), key=lambda m: m.offset)
    row, _, _ = PointReader(index.array, index.window).span(last.offset, last.size)
    assert row > 0


def test_a_header_with_a_name_a_comment_and_extra_fields_is_skipped(tmp_path: Path, files: Files) -> None:
    body = gzip.compress(tar_bytes(files), 6)[10:]
    head = b"\x1f\x8b\x08" + bytes([4 | 8 | 16]) + bytes(6) + b"\x03\x00abc" + b"name.tar\0" + b"a comment\0"
    assert gzip_header_length(head + body) == len(head)
    path = tmp_path / "named.tar"
    path.write_bytes(head + body)
    assert_reads_as(path, files)


def test_the_whole_index_stays_within_a_thousandth_of_the_archive(
    monkeypatch: pytest.MonkeyPatch, gzip_tar: Path
) -> None:
    limit = int(gzip_tar.stat().st_size * gzip_scan.BUDGET)
    monkeypatch.setattr(gzip_scan, "LEAST_BUDGET", 0)
    index = index_of(gzip_tar)
    assert len(index.array("points_out")) > 0
    # So small an archive cannot hold the arrays of its members and the header in a thousandth; windows add nothing.
    assert int(index.array("window_starts")[-1]) <= limit


def test_windows_beyond_the_budget_are_dropped_and_everything_still_reads(gzip_tar: Path, files: Files) -> None:
    source = LocalSource(str(gzip_tar))
    scan = scan_gzip(source)
    points = scan.points
    starts = points["window_starts"]
    windows = [bytes(points["windows"][a:b]) for a, b in itertools.pairwise(starts)]
    for budget in (0, 10**4, 10**9):
        kept = gzip_points.thin((points["points_out"], points["points_bit"], windows), scan, budget)
        archive = Archive(source, index_of(gzip_tar, Scan(scan.members(), points=kept)))
        member = max(archive.index.members(), key=lambda m: m.offset)
        assert archive.read(member) == files[member.name]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_archive_gives_the_members_that_are_whole_and_says_where_it_ends(
    tmp_path: Path, gzip_tar: Path, files: Files, share: float
) -> None:
    packed = gzip_tar.read_bytes()
    packed = packed[: int(len(packed) * share)]
    path = tmp_path / "sa_000000.tar"
    path.write_bytes(packed)
    whole = zlib.decompressobj(31).decompress(packed)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(gzip_tar.read_bytes()))) as tar:
        complete = {m.name[2:] for m in tar.getmembers() if m.offset_data + m.size <= len(whole)}
    index = index_of(path)
    found = {m.name for m in index.members()}
    # The decoder may hold back a little of what precedes the cut, so the last member before it may be missing.
    assert found <= complete and len(complete - found) <= 1
    assert [p.kind for p in index.problems] == ["truncated"] and index.problems[0].offset == index.end
    archive = Archive(LocalSource(str(path)), index)
    for member in index.members():
        assert archive.read(member) == files[member.name]


def damage(path: Path, gzip_tar: Path, start: int, replacement: bytes) -> None:
    packed = bytearray(gzip_tar.read_bytes())
    packed[start : start + len(replacement)] = replacement
    path.write_bytes(packed)


def test_a_damaged_block_leaves_the_members_before_it_readable(tmp_path: Path, gzip_tar: Path, files: Files) -> None:
    path = tmp_path / "sa_000000.tar"
    middle = gzip_tar.stat().st_size // 2
    damage(path, gzip_tar, middle, bytes([0xFF]) * 4096)
    index = index_of(path)
    assert index.problems and index.problems[0].kind in ("truncated", "damaged", "checksum")
    archive = Archive(LocalSource(str(path)), index)
    good = [m for m in index.members() if m.offset + m.size < middle * 0.9]
    assert len(good) > 20
    for member in good:
        assert archive.read(member) == files[member.name]


def test_a_wrong_checksum_is_reported_and_hides_nothing(tmp_path: Path, gzip_tar: Path, files: Files) -> None:
    path = tmp_path / "sa_000000.tar"
    damage(path, gzip_tar, gzip_tar.stat().st_size - 8, b"\0\0\0\0")
    index = index_of(path)
    assert [p.kind for p in index.problems] == ["checksum"]
    assert_reads_as(path, files)


def test_damage_under_a_good_index_is_an_error_with_archive_and_offset(tmp_path: Path, gzip_tar: Path) -> None:
    path = tmp_path / "sa_000000.tar"
    damage(path, gzip_tar, 10, bytes([0xFF]) * 2000)
    first = min(_index(gzip_tar).members(), key=lambda m: m.offset)
    archive = Archive(LocalSource(str(path)), _index(gzip_tar))
    with pytest.raises(BadArchive, match=first.name) as caught:
        archive.read(first)
    assert (caught.value.archive, caught.value.member, caught.value.offset) == (str(path), first.name, first.offset)  # type: ignore[attr-defined]


def test_an_archive_without_members_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "empty.tar"
    path.write_bytes(gzip.compress(tar_bytes({})))
    index = index_of(path)
    assert len(index) == 0 and not index.problems
