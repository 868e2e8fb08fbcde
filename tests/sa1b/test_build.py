"""One bad archive stops itself, not its neighbours."""

from __future__ import annotations

import io
import logging
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_zh.errors import BadArchive
from llava_zh.sa1b import advice, store
from llava_zh.sa1b.filesystem import Sa1bFileSystem
from llava_zh.sa1b.source import LocalSource, open_limit

from .conftest import jpeg, write_archive

PICTURE = jpeg(1, (32, 32))
MakeFs = Callable[..., Sa1bFileSystem]


def header(name: bytes = b"sa_1.jpg", size: bytes = b"00000000010\0", kind: bytes = b"0") -> bytes:
    """A tar header with any bytes for its size, and a checksum that fits."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = size
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    block[148:156] = b"%06o\0 " % (256 + sum(block))
    return bytes(block)


def pax(record: bytes) -> bytes:
    data = b"%d %s\n" % (len(record) + len(str(len(record) + 6)) + 2, record)
    return header(b"pax", b"%011o\0" % len(data), b"x") + data + bytes(-len(data) % 512) + header() + bytes(512)


BAD = {
    "a size beyond 2**63": header(size=b"\x80" + b"\xff" * 11) + bytes(1024),
    "a negative size": header(size=b"\xff" * 12) + bytes(1024),
    "a PAX size of 5,000 digits": pax(b"size=" + b"9" * 5000) + bytes(1024),
    "a PAX size of 20 digits": pax(b"size=" + b"9" * 20) + bytes(1024),
    "no archive": b"<html>",
    "nothing": b"",
    "zeros": bytes(1 << 20),
    "a gzip of no tar": b"\x1f\x8b\x08\0" + b"\xff" * 900,
    "a zip without a directory": b"PK\3\4" + bytes(900),
    "a zip with a directory before its start": b"PK\3\4" + b"PK\5\6" + bytes(4) + b"\xff" * 12 + bytes(2),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_an_archive_out_to_do_harm_leaves_the_good_ones_beside_it_indexed(
    tmp_path: Path, make_fs: MakeFs, data: bytes
) -> None:
    (tmp_path / "sa_000001.tar").write_bytes(data)
    for number in (0, 2):
        write_archive(tmp_path / f"sa_00000{number}.tar", {f"sa_{number}.jpg": PICTURE}, "tar")
    fs = make_fs(tmp_path)
    infos = {info.name: info for info in fs.build_index()}
    assert infos["sa_000000"].members == infos["sa_000002"].members == 1
    assert not infos["sa_000001"].members
    assert infos["sa_000001"].problem or infos["sa_000001"].problems
    assert fs.cat("sa_000000/sa_0.jpg") == fs.cat("sa_000002/sa_2.jpg") == PICTURE


def test_names_that_are_no_utf8_are_members_like_others(tmp_path: Path, make_fs: MakeFs) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        member = tarfile.TarInfo("café.jpg")
        member.size = len(PICTURE)
        tar.addfile(member, io.BytesIO(PICTURE))
    (tmp_path / "sa_000000.tar").write_bytes(out.getvalue())
    fs = make_fs(tmp_path)
    [info] = fs.build_index()
    assert (info.members, info.problems) == (1, {})
    assert fs.cat("sa_000000/caf\udce9.jpg") == PICTURE


def test_what_was_not_foreseen_is_an_error_of_its_archive_and_logged(
    tmp_path: Path, make_fs: MakeFs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        write_archive(tmp_path / f"sa_00000{number}.tar", {f"sa_{number}.jpg": PICTURE}, "tar")
    scan = store.scan

    def failing(source: LocalSource, *rest: Any) -> Any:
        if source.path.endswith("sa_000001.tar"):
            raise ZeroDivisionError("who would have thought")
        return scan(source, *rest)

    monkeypatch.setattr(store, "scan", failing)
    fs = make_fs(tmp_path)
    with caplog.at_level(logging.ERROR):
        infos = {info.name: info for info in fs.build_index()}
    assert "sa_000001.tar" in caplog.text and "ZeroDivisionError" in caplog.text
    assert infos["sa_000001"].kind == "unusable" and "ZeroDivisionError" in (infos["sa_000001"].problem or "")
    assert infos["sa_000000"].members == infos["sa_000002"].members == 1
    with pytest.raises(BadArchive, match="not foreseen"):
        fs.cat("sa_000001/sa_1.jpg")


def test_a_fifo_that_is_called_like_an_archive_is_not_waited_for(tmp_path: Path, make_fs: MakeFs) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("Windows has no FIFOs")
    os.mkfifo(tmp_path / "sa_000001.tar")
    write_archive(tmp_path / "sa_000000.tar", {"sa_0.jpg": PICTURE}, "tar")
    fs = make_fs(tmp_path)
    assert [info.members for info in fs.build_index() if info.name == "sa_000000"] == [1]


def test_open_archives_take_a_share_of_the_files_that_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no limits that a process can read")
    for most, expected in ((256, 32), (20, 4), (1024, 128), (10**6, 128), (resource.RLIM_INFINITY, 128)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, most=most: (most, most))
        assert open_limit() == expected


def test_one_name_in_two_forms_is_one_name_and_the_last_is_read(tmp_path: Path, make_fs: MakeFs) -> None:
    last = jpeg(2, (32, 32))
    with tarfile.open(tmp_path / "sa_000000.tar", "w") as tar:
        for name, data in (("./sa_1.jpg", PICTURE), ("sa_1.jpg", last)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    fs = make_fs(tmp_path)
    assert fs.cat("sa_000000/sa_1.jpg") == last
    assert [info.problems for info in fs.archives()] == [{"duplicate": 1}]


def test_the_first_index_that_is_made_on_the_way_tells_of_all_that_lack_one_once(
    tmp_path: Path, make_fs: MakeFs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, "WORTH_TELLING", 0)  # these take no time
    for number in range(3):
        write_archive(tmp_path / f"sa_{number:06d}.tar", {f"sa_{number + 1}.jpg": PICTURE}, "gzip")
    make_fs(tmp_path).build_index(["sa_000000"])
    assert not caplog.records  # whoever asks for indexes knows
    fs = make_fs(tmp_path)
    assert fs.cat_file("sa_000001/sa_2.jpg") == fs.cat_file("sa_000002/sa_3.jpg") == PICTURE
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith(f"2 of the 3 archives in {tmp_path} have no index yet.")
    assert told.endswith(f"llava-zh sa1b index --image-root {tmp_path}")
