from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_zh.errors import BadArchive
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.index import ArchiveIndex, assemble
from llava_zh.sa1b.source import LocalSource
from llava_zh.sa1b.tar_scan import safe_name
from llava_zh.sa1b.zip_scan import scan_zip


def open_zip(path: Path) -> Archive:
    source = LocalSource(str(path))
    return Archive(source, ArchiveIndex(assemble("zip", scan_zip(source), source.state())))


names = st.one_of(
    st.builds("sa_{}.jpg".format, st.integers(0, 99)), st.text("ab/中", min_size=1).map("x{}y".format)
).filter(lambda name: safe_name(name) == name)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(names, st.binary(max_size=3000), max_size=10), st.binary(max_size=300))
def test_members_read_as_zipfile_reads_them(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes], extra: bytes
) -> None:
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    path.write_bytes(extra)  # a zip file may follow other bytes
    with zipfile.ZipFile(path, "a") as archive:
        for number, (name, data) in enumerate(contents.items()):
            entry = zipfile.ZipInfo(name)
            entry.extra = b"\x01\x99\x04\x00" + bytes(4)
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    opened = open_zip(path)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            member = opened.index.find(name)
            assert member is not None and opened.read(member) == archive.read(name)


def test_a_truncated_zip_has_no_directory_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sa_1.jpg", bytes(5000))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BadArchive, match=r"no readable zip directory.*cut off at 3,000 bytes"):
        open_zip(path)


def test_climbing_names_and_links_are_refused_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../sa_1.jpg", b"x")
        link = zipfile.ZipInfo("sa_2.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("sa_3.jpg", b"x")
    index = open_zip(path).index
    assert [member.name for member in index.members()] == ["sa_3.jpg"]
    assert sorted((p.kind, p.member) for p in index.problems) == [("link", "sa_2.jpg"), ("unsafe", "../sa_1.jpg")]


def test_a_member_that_inflates_beyond_its_promise_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sa_1.jpg", bytes(50_000_000))
    data = path.read_bytes()
    path.write_bytes(data.replace((50_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    opened = open_zip(path)
    member = opened.index.find("sa_1.jpg")
    assert member is not None and member.size == 100
    with pytest.raises(BadArchive, match="not the 100 bytes"):
        opened.read(member)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_does_not_fit_its_checksum_is_never_handed_out(tmp_path: Path, packing: int) -> None:
    path = tmp_path / "a.zip"
    picture = bytes(range(256)) * 20
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("sa_1.jpg", picture)
    data = path.read_bytes()
    crc = zlib.crc32(picture).to_bytes(4, "little")
    assert data.count(crc) == 2
    path.write_bytes(data.replace(crc, (zlib.crc32(picture) ^ 1).to_bytes(4, "little")))
    opened = open_zip(path)
    member = opened.index.find("sa_1.jpg")
    assert member is not None
    for stop in (None, 100):
        with pytest.raises(BadArchive, match="do not fit their checksum"):
            opened.read(member, 0, stop)
