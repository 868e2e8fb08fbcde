"""An archive that is still being fetched is read as far as it has come."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_zh.errors import BadArchive
from llava_zh.sa1b import store
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.source import LocalSource

from .conftest import Files, jpeg, tar_bytes

WRITER = """
import os, sys
data = open(sys.argv[1], "rb").read()
with open(sys.argv[2], "wb", buffering=0) as file:
    step = len(data) // 60
    for number, at in enumerate(range(0, len(data), step)):
        file.write(data[at : at + step])
        os.fsync(file.fileno())
        if number % 10 == 1:
            print("more", flush=True)
            sys.stdin.readline()
"""


def open_archive(path: Path) -> Archive:
    source = LocalSource(str(path))
    return Archive(source, store.load(source, str(path)) or store.build(source, str(path)))


def assert_reads(archive: Archive, files: Files) -> int:
    members = list(archive.index.members())
    for member in members:
        assert archive.read(member) == files[member.name]
    return len(members)


@pytest.mark.parametrize("compressed", [False, True], ids=["tar", "gzip"])
def test_every_member_that_has_arrived_is_read_while_the_archive_grows(
    tmp_path: Path, compressed: bool, files: Files, gzip_tar: Path
) -> None:
    some = dict(list(files.items())[:20])
    whole = tmp_path / "whole"
    whole.write_bytes(gzip_tar.read_bytes()[:900_000] if compressed else tar_bytes(some))
    path = tmp_path / "sa_000000.tar"
    command = [sys.executable, "-c", WRITER, str(whole), str(path)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdin is not None and writer.stdout is not None
    seen: list[int] = []
    first: Archive | None = None
    while writer.stdout.readline():
        writer.stdin.write("on\n")
        writer.stdin.flush()  # it goes on while the archive is looked at
        archive = open_archive(path)
        seen.append(assert_reads(archive, files))
        if first is None and seen[-1]:
            first = archive
        if first is not None:
            assert_reads(first, files)  # by a descriptor and an index of some time ago
    writer.stdin.close()
    writer.stdout.close()
    writer.wait(60)
    assert seen == sorted(seen) and len(set(seen)) > 2
    last = open_archive(path)
    assert first is not None and first.source.size < last.source.size == path.stat().st_size
    if not compressed:
        assert assert_reads(last, files) == 20 and not last.index.problems
    path.unlink()  # what the index says now is what it would say had it been made at once
    path.write_bytes(whole.read_bytes())
    again = open_archive(path)
    assert list(again.index.members()) == list(last.index.members())
    assert again.index.problems == last.index.problems


class Watched(LocalSource):
    least = 1 << 60

    def read_at(self, offset: int, size: int) -> bytes:
        if size == 512:  # a header
            self.least = min(self.least, offset)
        return super().read_at(offset, size)


names = st.one_of(
    st.builds("sa_{}.jpg".format, st.integers(0, 20)),
    st.builds("images/sa_{}.json".format, st.integers(0, 20)),
    st.just("a/" * 60 + "long.jpg"),
    st.text("ab/é", min_size=1, max_size=4).map("x{}y".format),
)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(names, st.integers(0, 1500)), min_size=1, max_size=12), st.data())
def test_an_index_that_is_continued_is_the_one_that_is_made_at_once(
    tmp_path_factory: pytest.TempPathFactory, listed: list[tuple[str, int]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("grown") / "a.tar"
    whole = b"".join(tar_bytes({name: bytes([row]) * size})[:-9216] for row, (name, size) in enumerate(listed))
    whole = whole[: -(-len(whole) // 512) * 512] + bytes(1024)
    cuts = sorted(data.draw(st.lists(st.integers(512, len(whole)), min_size=1, max_size=3)))
    for cut in [*cuts, len(whole)]:
        path.write_bytes(whole[:cut])
        grown = store.build(LocalSource(str(path)), str(path))
    once = store.build(LocalSource(str(path)), str(path), rebuild=True)
    assert list(grown.members()) == list(once.members())
    assert sorted(grown.problems) == sorted(once.problems)


def test_what_was_gone_through_is_not_gone_through_again(tmp_path: Path, files: Files) -> None:
    path, whole = tmp_path / "sa_000000.tar", tar_bytes(files)
    path.write_bytes(whole[: len(whole) // 2])
    half = store.build(LocalSource(str(path)), str(path))
    path.write_bytes(whole)
    source = Watched(str(path))
    assert len(store.build(source, str(path))) == len(files)
    assert source.least >= max(member.offset for member in half.members())


def test_an_archive_that_was_replaced_or_written_over_is_not_taken_for_one_that_grew(tmp_path: Path) -> None:
    pictures = {f"sa_{i}.jpg": jpeg(i, (64, 64)) for i in range(1, 100)}
    others = {f"sa_{i}.jpg": jpeg(i + 500, (64, 64)) for i in range(1, 140)}
    path, whole = tmp_path / "sa_000000.tar", tar_bytes(pictures)
    path.write_bytes(whole[:150_000])
    archive = open_archive(path)
    member = archive.index.find("sa_2.jpg")
    assert member is not None
    with path.open("r+b") as file:
        file.write(tar_bytes(others))  # the same file to a descriptor, and longer
    with pytest.raises(BadArchive, match="written to while it was open"):
        archive.read(member)
    assert assert_reads(open_archive(path), others) == len(others)
