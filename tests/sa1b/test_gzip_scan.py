"""Damaged gzip archives: what is whole is served, what is not is named, and no byte that is served is wrong."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llava_zh.errors import BadArchive, ImageNotFound
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.filesystem import Sa1bFileSystem
from llava_zh.sa1b.gzip_points import PointReader
from llava_zh.sa1b.gzip_scan import scan_gzip
from llava_zh.sa1b.index import ArchiveIndex, Scan, assemble
from llava_zh.sa1b.source import LocalSource

from .conftest import Files, jpeg, masks, sa1b_files, tar_bytes


def read_all(path: Path, data: bytes) -> tuple[Files, Scan]:
    """The members that are served of an archive of these bytes."""
    path.write_bytes(data)
    source = LocalSource(str(path))
    scan = scan_gzip(source)
    archive = Archive(source, ArchiveIndex(assemble("gzip", scan, source.state())))
    served = {}
    for member in archive.index.members():
        served[member.name] = archive.read(member)
    return served, scan


@pytest.fixture(scope="module")
def few() -> Files:
    return sa1b_files(range(1, 11))


@pytest.fixture(scope="module")
def packed(few: Files) -> bytes:
    return gzip.compress(tar_bytes(few), 6)


def flipped(data: bytes, place: int, count: int = 8) -> bytes:
    return data[:place] + bytes(byte ^ 0xFF for byte in data[place : place + count]) + data[place + count :]


def assert_nothing_wrong(served: Files, files: Files, images: int) -> None:
    """All that is served is as it was, and all but so many of the images are."""
    assert {name: data for name, data in served.items() if files.get(name) != data} == {}
    lost = [name for name in files if name.endswith(".jpg") and name not in served]
    assert len(lost) <= images, lost


@pytest.mark.parametrize("place", [0.37, 0.81])
def test_images_behind_a_fault_are_served(tmp_path: Path, packed: bytes, few: Files, place: float) -> None:
    served, scan = read_all(tmp_path / "a.tar", flipped(packed, int(len(packed) * place)))
    assert_nothing_wrong(served, few, 4)
    assert len(served) < len(few) and scan.problems


def test_a_destroyed_stretch_costs_its_own_images_alone(tmp_path: Path, packed: bytes, few: Files) -> None:
    """4 KiB of 0xFF: the data makes no sense there, and the next block has to be found."""
    served, scan = read_all(
        tmp_path / "a.tar",
        flipped(packed, len(packed) // 3)[: len(packed) // 3] + b"\xff" * 4096 + packed[len(packed) // 3 + 4096 :],
    )
    assert_nothing_wrong(served, few, 4)
    assert any(problem.kind == "damaged" for problem in scan.problems)


@pytest.mark.slow
def test_several_faults_are_each_read_past(tmp_path: Path) -> None:
    files = sa1b_files(range(1, 19))
    data = bytearray(gzip.compress(tar_bytes(files), 6))
    for share in (0.2, 0.75):
        at = int(len(data) * share)
        data[at : at + 600] = b"\xff" * 600
    served, scan = read_all(tmp_path / "a.tar", bytes(data))
    assert_nothing_wrong(served, files, 8)
    assert sum(problem.kind == "damaged" for problem in scan.problems) >= 2


def test_a_fault_in_stored_blocks_costs_at_most_the_images_in_it(tmp_path: Path, few: Files) -> None:
    data = gzip.compress(tar_bytes(few), 0)
    served, scan = read_all(tmp_path / "a.tar", flipped(data, len(data) // 2, 600))
    assert_nothing_wrong(served, few, 4)
    assert scan.problems


@pytest.mark.parametrize("cut", range(1, 9))
def test_an_archive_without_its_last_bytes_loses_nothing(tmp_path: Path, packed: bytes, few: Files, cut: int) -> None:
    served, scan = read_all(tmp_path / "a.tar", packed[:-cut])
    assert served == few
    assert [problem.kind for problem in scan.problems] == ["truncated"]


@pytest.mark.parametrize("zeros", [1, 8, 512, 3 << 20])
def test_zeros_behind_the_stream_are_padding(tmp_path: Path, packed: bytes, few: Files, zeros: int) -> None:
    served, scan = read_all(tmp_path / "a.tar", packed + bytes(zeros))
    assert served == few and not scan.problems


def test_a_stream_whose_length_ends_in_zeros_fits_it(tmp_path: Path) -> None:
    raw = tar_bytes({"sa_1.jpg": b"1"})  # 10,240 bytes: the last two of its length are zeros
    for padding in (0, 5):
        assert not read_all(tmp_path / "a.tar", gzip.compress(raw) + bytes(padding))[1].problems


def test_what_follows_the_stream_and_is_no_gzip_is_reported(tmp_path: Path, packed: bytes, few: Files) -> None:
    served, scan = read_all(tmp_path / "a.tar", packed + b"<html>" * 300)
    assert served == few
    assert {problem.kind for problem in scan.problems} == {"lost"}


def streams(files: Files) -> Iterator[bytes]:
    """An archive in gzip streams of 64 kB, as bgzip writes it."""
    raw = tar_bytes(files)
    for start in range(0, len(raw), 65280):
        yield gzip.compress(raw[start : start + 65280], 6)


@pytest.mark.parametrize("where", ["header", "data", "trailer", "last"])
def test_a_fault_in_one_of_many_streams_costs_what_lies_in_it(tmp_path: Path, few: Files, where: str) -> None:
    parts = list(streams(few))
    row = len(parts) - 1 if where == "last" else len(parts) // 2
    place = {"header": 0, "data": len(parts[row]) // 2, "trailer": len(parts[row]) - 8, "last": 500}[where]
    parts[row] = flipped(parts[row], place, 4)
    served, scan = read_all(tmp_path / "a.tar", b"".join(parts))
    assert_nothing_wrong(served, few, 4)
    assert scan.problems


def test_many_whole_streams_are_no_problem(tmp_path: Path, few: Files) -> None:
    served, scan = read_all(tmp_path / "a.tar", b"".join(streams(few)) + bytes(512))
    assert served == few and not scan.problems
    assert all(member.crc for member in scan.members())


def test_a_bad_tar_header_in_a_whole_gzip_stream_costs_its_own_member(tmp_path: Path) -> None:
    raw = bytearray(tar_bytes({f"sa_{i}.jpg": bytes([i]) * 3000 for i in range(1, 6)}))
    raw[2 * 3584 + 3] ^= 1
    served, scan = read_all(tmp_path / "a.tar", gzip.compress(bytes(raw)))
    assert sorted(served) == ["sa_1.jpg", "sa_2.jpg", "sa_4.jpg", "sa_5.jpg"]
    assert [problem.kind for problem in scan.problems] == ["damaged"]


def test_three_hundred_large_extended_headers_take_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(60):
            member = tarfile.TarInfo(f"sa_{i}.jpg")
            member.pax_headers = {"comment": "x" * (1 << 20)}
            tar.addfile(member)
    (tmp_path / "a.tar").write_bytes(gzip.compress(out.getvalue(), 1))
    del out
    tracemalloc.start()
    scan = scan_gzip(LocalSource(str(tmp_path / "a.tar")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(scan.problems) == 60 and peak < 40 << 20


@pytest.mark.slow
def test_of_three_hundred_images_a_fault_costs_four_at_most_and_none_is_wrong(tmp_path: Path) -> None:
    """Eight bytes flipped at two places; at some others, one to three in a hundred, the damage is not found."""
    files: Files = {}
    for image in range(1, 301):
        files[f"sa_{image}.jpg"] = jpeg(image, (700, 520))
        files[f"sa_{image}.json"] = masks(image)
    data = gzip.compress(tar_bytes(files), 6)
    rng = random.Random(7)
    for _ in range(2):
        served, _ = read_all(tmp_path / "a.tar", flipped(data, rng.randrange(20, len(data) - 16)))
        assert_nothing_wrong(served, files, 4)


def test_no_edit_of_the_seek_points_makes_a_read_endless(tmp_path: Path, packed: bytes) -> None:
    """Seek points with a bit flipped, which the index's checksum tells: were they read all the same, it would end."""
    path = tmp_path / "a.tar"
    path.write_bytes(packed)
    source = LocalSource(str(path))
    scan = scan_gzip(source)
    rng = random.Random(1)
    for _ in range(60):
        name = rng.choice(["points_out", "points_bit", "windows"])
        edited = scan.points[name].copy()
        view = edited.view("u1")
        view[rng.randrange(len(view))] ^= 1 << rng.randrange(8)
        arrays = {**scan.points, name: edited}
        reader = PointReader(lambda name, dtype="u8", arrays=arrays: arrays[name])
        for member in scan.members()[::5]:
            with contextlib.suppress(BadArchive):
                reader.read(source, member.offset, member.size)


def test_a_read_behind_the_end_ends(tmp_path: Path, packed: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(packed)
    source = LocalSource(str(path))
    scan = scan_gzip(source)
    archive = Archive(source, ArchiveIndex(assemble("gzip", scan, source.state())))
    last = max(archive.index.members(), key=lambda member: member.offset)
    with pytest.raises(BadArchive):
        archive.read(last._replace(offset=1 << 40, crc=None))


def odd_masks(image: int) -> bytes:
    """Masks of another size than they say, as no fault makes of all of them."""
    value = json.loads(masks(image))
    sized = [{"segmentation": {"size": [360, 480], **annotation}} for annotation in value["annotations"]]
    return json.dumps(value | {"annotations": sized}).encode()


@pytest.mark.slow
def test_what_every_file_of_an_archive_has_is_no_sign_of_a_fault_in_it(
    tmp_path: Path, make_fs: Callable[..., Sa1bFileSystem]
) -> None:
    files: Files = {}
    for image in range(1, 14):
        files |= {f"sa_{image}.jpg": jpeg(image, (480, 360)), f"sa_{image}.json": odd_masks(image)}
    data = gzip.compress(tar_bytes(files), 6)
    served, scan = read_all(tmp_path / "sa_000000.tar", flipped(data, 143_646))
    assert_nothing_wrong(served, files, 3)
    assert len(served) >= len(files) - 4
    assert {problem.kind for problem in scan.problems} == {"damaged", "checksum"}
    lost = next(name for name in files if name not in served)
    with pytest.raises(ImageNotFound, match=rf"{lost} .* was left out: it may have wrong bytes: those of a fault at"):
        make_fs(tmp_path).cat(f"sa_000000/{lost}")
