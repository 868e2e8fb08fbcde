"""An index is a file like any other: it may be damaged, cut, or written by a stranger."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hunting import hunt
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib

from llava_zh.errors import BadArchive, BadIndex
from llava_zh.sa1b import index_file, store
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.index import ArchiveIndex, Member, Scan, assemble
from llava_zh.sa1b.source import LocalSource
from llava_zh.sa1b.tar_header import safe_name
from llava_zh.storage.atomic import write_atomically

from .conftest import Files, jpeg, sa1b_files, write_archive

FILES = {"other/x.jpg": jpeg(1, (32, 32)), "other/empty.jpg": b"", "deep/er/中.jpg": b"abc" * 1000}
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("archives")
    files = sa1b_files(range(1, 4)) | FILES
    for kind in ("tar", "gzip", "zip"):
        write_archive(folder / f"{kind}.bin", files, kind)
    return lambda kind: folder / f"{kind}.bin"


@pytest.mark.parametrize("kind", ["tar", "gzip", "zip"])
@hunt(1)
@given(seed=st.integers(0, 10**9))
def test_an_index_by_a_stranger_is_refused_or_is_of_use_and_nothing_else(
    archives: Callable[[str], Path], kind: str, seed: int
) -> None:
    command = [sys.executable, "-m", "sa1b.hostile_index", str(archives(kind)), str(seed), "100"]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "could be used" in done.stdout, done.stdout + done.stderr[-3000:]


def signed(header: dict[str, Any] | bytes, body: bytes = b"") -> bytes:
    """An index file with a checksum that fits."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    length = len(text).to_bytes(4, "little")
    crc = isal_zlib.crc32(length + text + body)
    return index_file.MAGIC + length + crc.to_bytes(4, "little") + text + body


HEADER: dict[str, Any] = {
    "kind": "tar",
    "archive": {"size": 10**6, "stamp": "", "ends": ""},
    "prefixes": ["", ""],
    "end": 0,
    "problem_counts": {},
    "problems": [],
    "arrays": {},
}


def u8(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


KEYED = {"keys": 2, "offsets": 2, "sizes": 2}
NAMED = {"names": 2, "name_starts": 2, "by_base": 1, "named_offsets": 1, "named_sizes": 1}
FAULTS = {
    "no header": signed(b""),
    "a missing key": signed({key: value for key, value in HEADER.items() if key != "end"}),
    "a key too many": signed(HEADER | {"more": 1}),
    "deep JSON": signed(b"[" * 100_000),
    "a number of 5,000 digits": signed(b'{"end": ' + b"9" * 5000 + b"}"),
    "a header of four gigabytes": index_file.MAGIC + b"\xff" * 8,
    "another kind": signed(HEADER | {"kind": "rar"}),
    "an array of objects": signed(HEADER | {"arrays": {"objects": 1}}, u8(1)),
    "more entries than bytes": signed(HEADER | {"arrays": {"keys": 2**61}}),
    "arrays of different lengths": signed(HEADER | {"arrays": {"keys": 1}}, u8(2)),
    "keys that do not ascend": signed(HEADER | {"arrays": KEYED}, u8(4 | 2 << 32, 512, 1024, 0)),
    "a member beyond the archive": signed(HEADER | {"arrays": KEYED}, u8(2 | 4 << 32, 512, 10**6, 1 << 32)),
    "an offset near 2**64": signed(HEADER | {"arrays": KEYED}, u8(2 | 4 << 32, 512, 2**64 - 512, 512 << 32)),
    "a name that climbs": signed(
        HEADER | {"arrays": NAMED | {"names": 3}}, b"..\0" + bytes(5) + u8(0, 3) + u8(0, 512, 1)
    ),
    "names that end elsewhere": signed(HEADER | {"arrays": NAMED}, b"a\0" + bytes(6) + u8(0, 1) + u8(0, 512, 1)),
    "an order beyond the names": signed(HEADER | {"arrays": NAMED}, b"a\0" + bytes(6) + u8(0, 2) + u8(1, 512, 1)),
    "a folder that climbs": signed(HEADER | {"prefixes": ["../", ""]}),
    "a gzip archive without a seek point": signed(HEADER | {"kind": "gzip", "arrays": KEYED}, u8(2 | 4 << 32, 0, 1, 0)),
}


@pytest.mark.parametrize("data", FAULTS.values(), ids=FAULTS)
def test_what_an_index_cannot_be_is_a_bad_index(data: bytes) -> None:
    with pytest.raises(BadIndex, match="Damaged SA-1B index"):
        ArchiveIndex(data)


def test_the_faults_above_are_the_only_thing_wrong_with_them() -> None:
    assert len(ArchiveIndex(signed(HEADER))) == 0
    assert len(ArchiveIndex(signed(HEADER | {"arrays": KEYED}, u8(2 | 4 << 32, 512, 1024, 1 << 32)))) == 2
    named = ArchiveIndex(signed(HEADER | {"arrays": NAMED}, b"a\0" + bytes(6) + u8(0, 2) + u8(0, 512, 1)))
    assert list(named.members()) == [Member("a", 512, 1, 1)]


@given(st.text("a./:\0é\udcff", max_size=6))
def test_an_index_takes_the_names_that_an_archive_may_have_and_no_other(name: str) -> None:
    assert index_file.is_name(name) == (safe_name(name) == name)


def test_a_stranger_cannot_have_an_index_read_that_is_larger_than_any(monkeypatch: pytest.MonkeyPatch) -> None:
    data = signed(HEADER)
    monkeypatch.setenv("LLAVA_ZH_MAX_INDEX_BYTES", str(len(data) - 1))
    with pytest.raises(BadIndex, match="LLAVA_ZH_MAX_INDEX_BYTES"):
        ArchiveIndex(data)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
def test_a_fifo_or_folder_in_place_of_an_index_or_archive_is_not_waited_for(tmp_path: Path, files: Files) -> None:
    path = write_archive(tmp_path / "sa_000000.tar", {"sa_1.jpg": files["sa_1.jpg"]}, "tar")
    os.mkfifo(f"{path}{store.SUFFIX}")
    assert len(store.build(LocalSource(str(path)), str(path))) == 1
    os.mkfifo(tmp_path / "sa_000001.tar")
    with pytest.raises(BadArchive, match="no regular file"):
        LocalSource(str(tmp_path / "sa_000001.tar"))


def kept(gzip_tar: Path, tmp_path: Path) -> tuple[Path, Path, Archive]:
    """A gzip archive, its index beside it, and the open archive, which has read nothing yet."""
    path = Path(shutil.copy(gzip_tar, tmp_path / "sa_000000.tar"))
    source = LocalSource(str(path))
    index = store.build(source, str(path), sidecar=True)
    return path, Path(f"{path}{store.SUFFIX}"), Archive(source, index)


def test_each_flipped_byte_of_an_index_is_noticed_and_the_index_made_anew(
    gzip_tar: Path, tmp_path: Path, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    path, beside, _ = kept(gzip_tar, tmp_path)
    good = beside.read_bytes()
    for place in range(0, len(good), len(good) // 40):
        damaged = bytearray(good)
        damaged[place] ^= 4
        with pytest.raises(BadIndex):
            ArchiveIndex(bytes(damaged)).prove()
    places = memoryview(good)[len(good) // 2 :]  # the windows
    beside.write_bytes(good[: len(good) // 2] + bytes(byte ^ 4 for byte in places))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            source = LocalSource(str(path))
            index = store.load(source, str(path)) or store.build(source, str(path))
            member = index.find("sa_7.jpg")
            assert member is not None and Archive(source, index).read(member) == files["sa_7.jpg"]
    assert caplog.text.count("made anew") == 1


@pytest.mark.parametrize("what", ["cut", "emptied", "removed", "replaced", "flipped"])
def test_an_index_that_is_changed_while_it_is_in_use_costs_no_read(
    gzip_tar: Path, tmp_path: Path, files: Files, what: str
) -> None:
    _, beside, archive = kept(gzip_tar, tmp_path)
    data = beside.read_bytes()
    if what in ("cut", "emptied"):
        with beside.open("r+b") as file:
            file.truncate(len(data) // 2 if what == "cut" else 0)
    elif what == "removed":
        beside.unlink()
    elif what == "flipped":
        with beside.open("r+b") as file:
            file.write(data[:-2000] + bytes(2000))
    else:
        write_atomically(beside, assemble("tar", Scan([Member("sa_7.jpg", 0, 9, 9)]), HEADER["archive"]))
    for name in ("sa_7.jpg", "sa_8.jpg"):
        member = archive.index.find(name)
        assert member is not None and archive.read(member) == files[name]


def test_windows_are_not_held_in_memory_nor_their_file_open(gzip_tar: Path, tmp_path: Path) -> None:
    links = Path("/proc/self/fd")
    before = len(list(links.iterdir())) if links.exists() else 0
    _, beside, archive = kept(gzip_tar, tmp_path)
    assert len(archive.index.array("windows")) == 0
    held = sum(archive.index.array(name).nbytes for name in index_file.ARRAYS)
    assert held < beside.stat().st_size / 2
    if before:
        assert len(list(links.iterdir())) - before == 1  # the archive
