from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from hunting import hunt
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_zh.errors import BadArchive
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.index import ArchiveIndex, assemble
from llava_zh.sa1b.source import LocalSource
from llava_zh.sa1b.tar_header import safe_name
from llava_zh.sa1b.zip_scan import scan_zip

from .conftest import jpeg


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


PICTURE = jpeg(1, (64, 48))


def named(raw: bytes, system: int = 0, utf8: bool = False) -> bytes:
    """A zip file of one member with these bytes for a name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x" * len(raw), PICTURE)
    data = bytearray(out.getvalue().replace(b"x" * len(raw), raw))
    entry = data.rindex(b"PK\1\2")
    data[entry + 5] = system
    data[entry + 9] = 8 * utf8
    return bytes(data)


def opened(tmp_path: Path, data: bytes) -> Archive:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    return open_zip(path)


@pytest.mark.parametrize(
    ("raw", "system", "name"),
    [
        (b"images\\sa_1.jpg", 0, "images/sa_1.jpg"),  # .NET before 4.6.1, old Compress-Archive
        ("图片/猫.jpg".encode("gbk"), 0, "图片/猫.jpg"),
        ("猫.jpg".encode("gbk"), 0, "猫.jpg"),  # which is valid UTF-8 too, of a letter that no one puts there
        ("誠\\1.jpg".encode("gbk"), 0, "誠/1.jpg"),
        ("宠乗.jpg".encode("gbk"), 0, "宠乗.jpg"),  # the last byte before the point is a backslash
        ("图片/猫.jpg".encode(), 3, "图片/猫.jpg"),
        ("é.jpg".encode(), 3, "é.jpg"),
        ("图.jpg".encode(), 0, "图.jpg"),
        ("café.jpg".encode("cp437"), 0, "café.jpg"),
        ("Übung.jpg".encode("cp437"), 0, "Übung.jpg"),  # valid GBK too
        (b"sa_1.jpg\0.exe", 0, "sa_1.jpg"),
    ],
)
def test_a_name_is_read_as_its_writer_meant_it(tmp_path: Path, raw: bytes, system: int, name: str) -> None:
    archive = opened(tmp_path, named(raw, system))
    member = archive.index.find(name)
    assert member is not None and archive.read(member) == PICTURE
    assert [member.name for member in archive.index.members()] == [name]


def test_names_are_told_by_all_of_a_zip_together(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    words = ["猫", "狗", "宠物", "联通"]
    with zipfile.ZipFile(path, "w") as archive:
        for word in words:
            archive.writestr("x" * len(word.encode("gbk")) + f"{words.index(word)}.jpg", PICTURE)
    data = path.read_bytes()
    for number, word in enumerate(words):
        data = data.replace(b"x" * len(word.encode("gbk")) + b"%d" % number, word.encode("gbk") + b"%d" % number)
    names = [member.name for member in opened(tmp_path, data).index.members()]
    assert sorted(names) == sorted(f"{word}{number}.jpg" for number, word in enumerate(words))


def test_the_name_in_unicode_beside_the_other_is_taken(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        entry = zipfile.ZipInfo("?.jpg")
        name = "猫.jpg".encode()
        entry.extra = struct.pack("<HHBL", 0x7075, 5 + len(name), 1, zlib.crc32(b"?.jpg")) + name
        archive.writestr(entry, PICTURE)
    assert opened(tmp_path, out.getvalue()).index.find("猫.jpg") is not None


def packed(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("sa_1.jpg", PICTURE)
    return out.getvalue()


def edited(data: bytes, at: int, value: bytes) -> bytes:
    """`data` with a field of its first directory entry replaced."""
    entry = data.index(b"PK\1\2") + at
    return data[:entry] + value + data[entry + len(value) :]


STORED = packed(zipfile.ZIP_STORED)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (packed(zipfile.ZIP_BZIP2), "packed with bzip2"),
        (packed(zipfile.ZIP_LZMA), "packed with LZMA"),
        (edited(STORED, 10, b"\x09\0"), "packed with Deflate64"),
        (edited(STORED, 10, b"\x63\0"), "packed with AES encryption"),
        (edited(STORED, 10, b"\xff\xff"), "packed with method 65535"),
        (edited(STORED, 8, b"\1\0"), "encrypted"),
    ],
)
def test_a_member_that_is_not_read_says_why(tmp_path: Path, data: bytes, cause: str) -> None:
    archive = opened(tmp_path, data)
    assert len(archive.index) == 0
    [problem] = archive.index.problems
    assert (problem.kind, problem.member) == ("unreadable", "sa_1.jpg") and cause in problem.detail


def wide(size: int, stored: int, offset: int) -> bytes:
    """A zip64 entry that claims these numbers."""
    extra = struct.pack("<HH3Q", 1, 24, size, stored, offset)
    entry = edited(STORED, 20, b"\xff" * 8)
    entry = edited(edited(entry, 42, b"\xff" * 4), 30, len(extra).to_bytes(2, "little"))
    at = entry.index(b"PK\1\2") + 46 + len("sa_1.jpg")
    end = bytearray(entry[at:])
    directory = 46 + len("sa_1.jpg") + len(extra)
    end[12:16] = directory.to_bytes(4, "little")
    return entry[:at] + extra + bytes(end)


def test_sizes_of_eight_bytes_are_read(tmp_path: Path) -> None:
    archive = opened(tmp_path, wide(len(PICTURE), len(PICTURE), 0))
    [member] = archive.index.members()
    assert archive.read(member) == PICTURE


@pytest.mark.parametrize(
    ("data", "kind", "cause"),
    [
        (wide(2**62, 2**62, 0), "damaged", "past the archive's end"),
        (wide(2**64 - 1, 2**64 - 1, 0), "damaged", "past the archive's end"),
        (wide(len(PICTURE), len(PICTURE), 2**64 - 40), "damaged", "past the archive's end"),
        (wide(2**40, len(PICTURE), 0), "damaged", "promises"),
        (edited(edited(STORED, 10, b"\x08\0"), 24, b"\xff" * 4), "damaged", "promises"),
        (edited(STORED, 42, b"\xf0\xff\xff\xff"), "damaged", "past the archive's end"),
        (named(b"../sa_1.jpg"), "unsafe", "leaves"),
        (named(b"..\\..\\sa_1.jpg"), "unsafe", "leaves"),
        (named(b"/"), None, ""),
        (edited(STORED, 0, b"PK\0\0"), "damaged", "damaged after 0 entries"),
        (edited(STORED, 28, b"\xff\xff"), "damaged", "runs past"),
    ],
)
def test_what_a_zip_cannot_hold_is_a_problem_of_that_member_alone(
    tmp_path: Path, data: bytes, kind: str | None, cause: str
) -> None:
    index = opened(tmp_path, data).index
    assert len(index) == 0
    assert [problem.kind for problem in index.problems] == ([kind] if kind else [])
    assert all(cause in problem.detail for problem in index.problems)


def test_a_member_of_a_version_to_come_is_read_if_it_is_stored(tmp_path: Path) -> None:
    archive = opened(tmp_path, edited(STORED, 6, b"\x63\0"))  # "version 9.9"
    [member] = archive.index.members()
    assert archive.read(member) == PICTURE


def test_members_in_each_other_are_left_out_but_one(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"sa_{number}.jpg", PICTURE)
        for entry in archive.infolist():
            entry.header_offset = 0
    index = opened(tmp_path, out.getvalue()).index
    assert len(index) == 1 and index.problem_counts == {"damaged": 3}


def test_a_part_of_a_split_zip_says_so(tmp_path: Path) -> None:
    data = bytearray(STORED)
    data[-18] = 1  # this is part 2
    with pytest.raises(BadArchive, match="split"):
        opened(tmp_path, bytes(data))


def test_more_members_than_may_be_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(10):
            archive.writestr(f"sa_{number}.jpg", b"x")
    monkeypatch.setenv("LLAVA_ZH_MAX_MEMBERS", "7")
    index = opened(tmp_path, out.getvalue()).index
    assert len(index) == 7
    assert [problem.kind for problem in index.problems] == ["damaged"]
    assert "LLAVA_ZH_MAX_MEMBERS" in index.problems[0].detail


def test_of_members_with_one_name_the_last_is_read_as_other_readers_do(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as archive:
        for picture in (PICTURE, b"repaired"):
            archive.writestr("sa_1.jpg", picture)
    archive = open_zip(path)
    [member] = archive.index.members()
    assert archive.read(member) == zipfile.ZipFile(path).read("sa_1.jpg") == b"repaired"
    assert archive.index.problem_counts == {"duplicate": 1}


@hunt(1)
@given(seed=st.integers(0, 10**9))
def test_no_bytes_of_a_zip_do_more_than_fail(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "sa1b.hostile_zip", str(folder), str(seed), "150"]
    tests = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "could be used" in done.stdout, done.stdout + done.stderr[-3000:]
