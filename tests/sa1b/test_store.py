from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llava_zh.errors import BadArchive
from llava_zh.sa1b import store
from llava_zh.sa1b.source import LocalSource
from llava_zh.storage.atomic import write_atomically

from .conftest import Files, jpeg, sa1b_files, tar_bytes, write_archive


def build(path: Path, **options: bool) -> store.ArchiveIndex:
    return store.build(LocalSource(str(path)), str(path), **options)


def load(path: Path) -> store.ArchiveIndex | None:
    return store.load(LocalSource(str(path)), str(path))


@pytest.fixture
def tar(tmp_path: Path, files: Files) -> Path:
    return write_archive(tmp_path / "sa_000000.tar", files, "tar")


def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, index_cache: Path
) -> None:
    assert store.cache_dir() == index_cache
    monkeypatch.delenv("LLAVA_ZH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert store.cache_dir() == tmp_path / "xdg" / "llava-zh"


def test_an_index_is_built_once_and_then_read(tar: Path, index_cache: Path) -> None:
    assert load(tar) is None
    assert len(build(tar)) == 80
    [written] = index_cache.rglob("*.sa1bx")
    before = written.stat().st_mtime_ns
    assert len(build(tar)) == 80 and written.stat().st_mtime_ns == before


def test_a_sidecar_lies_beside_the_archive_and_is_preferred(tar: Path, index_cache: Path) -> None:
    build(tar, sidecar=True)
    assert tar.with_name("sa_000000.tar.sa1bx").exists()
    assert not list(index_cache.rglob("*.sa1bx"))
    assert load(tar) is not None


def test_an_index_of_another_version_of_the_archive_is_not_used(tar: Path) -> None:
    build(tar)
    stat = tar.stat()
    os.utime(tar, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load(tar) is None
    tar.write_bytes(tar_bytes(sa1b_files(range(5, 7))))
    assert len(build(tar)) == 4


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_index_is_thrown_away_and_made_anew(
    tar: Path, index_cache: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    build(tar)
    [written] = index_cache.rglob("*.sa1bx")
    good = written.read_bytes()
    written.write_bytes(good[: len(good) // 2] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert load(tar) is None
    assert "made anew" in caplog.text
    assert len(build(tar)) == 80 and written.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_a_warning_and_nothing_else(
    tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder can be made here")
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        index = build(tar)
    assert len(index) == 80 and "in memory only" in caplog.text


FULL = """
import resource, sys
from pathlib import Path
from llava_zh.storage.atomic import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))  # the system refuses what is longer
try:
    write_atomically(Path(sys.argv[1]), b"y" * 100)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_no_half_written_index_and_the_old_one_in_place(tmp_path: Path) -> None:
    target = tmp_path / "x.sa1bx"
    write_atomically(target, b"x" * 10)
    assert start(target, FULL).communicate(timeout=60)[0] == "OSError\n"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"x" * 10]


def test_threads_and_processes_that_write_one_file_never_show_a_part_of_it(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "x.sa1bx"
    writer = (
        "import sys; from pathlib import Path; from llava_zh.storage.atomic import write_atomically\n"
        "for _ in range(15): write_atomically(Path(sys.argv[1]), b'p' * 300_000)"
    )
    others = [start(target, writer) for _ in range(2)]
    wrong: list[object] = []

    def write(letter: bytes) -> None:
        try:
            for _ in range(15):
                write_atomically(target, letter * 300_000)
                data = target.read_bytes()
                if len(data) != 300_000 or len(set(data)) != 1:
                    wrong.append(len(data))
        except OSError as error:  # another writer took its temporary file away
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in others] == [0, 0] and not wrong
    assert [path.name for path in target.parent.iterdir()] == ["x.sa1bx"]


def test_something_that_is_no_archive_says_what_it_starts_with(tmp_path: Path) -> None:
    path = tmp_path / "sa_000000.tar"
    path.write_bytes(b"<html>Your link has expired</html>" + bytes(600))
    with pytest.raises(BadArchive, match="no tar, gzip or zip file"):
        build(path)


def test_an_empty_file_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "sa_000000.tar"
    path.touch()
    with pytest.raises(BadArchive, match="0 bytes"):
        build(path)


BUILD = """
import sys
from llava_zh.sa1b import store
from llava_zh.sa1b.source import LocalSource
scan = store.scan
def counted(*args):
    print("scanned", flush=True)
    return scan(*args)
store.scan = counted
print(len(store.build(LocalSource(sys.argv[1]), sys.argv[1])))
"""


def start(path: Path, program: str = BUILD) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)


def test_eight_processes_that_want_one_index_build_it_once(gzip_tar: Path) -> None:
    running = [start(gzip_tar) for _ in range(8)]
    outputs = [process.communicate(timeout=120)[0].split() for process in running]
    assert [output[-1] for output in outputs] == ["80"] * 8
    assert sum("scanned" in output for output in outputs) == 1


KILLED = BUILD.replace("return scan(*args)", "import time; result = scan(*args); time.sleep(60)")
KILLED_WRITING = """
import os, sys, time
from llava_zh.sa1b import store
from llava_zh.sa1b.source import LocalSource
def stop(fd):
    print("scanned", flush=True)
    time.sleep(60)
os.fsync = stop
store.build(LocalSource(sys.argv[1]), sys.argv[1])
"""


@pytest.mark.parametrize("program", [KILLED, KILLED_WRITING])
def test_a_killed_build_leaves_no_index_and_the_next_one_cleans_up(
    gzip_tar: Path, index_cache: Path, program: str
) -> None:
    process = start(gzip_tar, program)
    assert process.stdout is not None and process.stdout.readline() == "scanned\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert load(gzip_tar) is None
    began = time.monotonic()
    assert len(build(gzip_tar)) == 80
    assert time.monotonic() - began < 30  # the dead process holds no lock
    assert not list(index_cache.rglob("*.tmp"))


MANY = """
import resource, sys
from llava_zh.sa1b.filesystem import Sa1bFileSystem
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))  # macOS' default
fs = Sa1bFileSystem(fo=sys.argv[1], skip_instance_cache=True)
for _ in range(2):
    print(sum(len(fs.cat_file(f"sa_{number:06d}/sa_{number + 1}.jpg")) for number in range(160)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the number of files")
def test_more_archives_are_read_than_files_may_be_open(tmp_path: Path) -> None:
    pictures = [jpeg(number, (16, 16)) for number in range(160)]
    for number, picture in enumerate(pictures):
        kind = "gzip" if number % 20 == 0 else ("tar", "zip")[number % 2]
        suffix = "zip" if kind == "zip" else "tar"
        write_archive(tmp_path / f"sa_{number:06d}.{suffix}", {f"sa_{number + 1}.jpg": picture}, kind)
    total = str(sum(map(len, pictures)))
    assert start(tmp_path, MANY).communicate(timeout=120)[0].split() == [total, total]


def swapped(path: Path) -> tuple[bytes, bytes]:
    """An archive of two members, and one of the same size with these the other way round."""
    both = [("sa_1.jpg", b"1" * 90_000), ("sa_2.jpg", b"2" * 90_000)]
    return tar_bytes(dict(both)), tar_bytes({both[1][0]: both[0][1], both[0][0]: both[1][1]})


def write_with_time(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.utime(path, (10**9, 10**9))


def test_an_archive_written_over_with_its_old_time_is_indexed_anew(tmp_path: Path) -> None:
    path = tmp_path / "sa_000000.tar"
    before, after = swapped(path)
    write_with_time(path, before)
    build(path)
    assert load(path) is not None
    write_with_time(path, after)
    assert load(path) is None


def test_a_sidecar_that_is_copied_with_its_archive_is_taken_and_one_of_other_bytes_is_not(tmp_path: Path) -> None:
    path, copy = tmp_path / "sa_000000.tar", tmp_path / "copy" / "sa_000000.tar"
    before, after = swapped(path)
    write_with_time(path, before)
    build(path, sidecar=True)
    shutil.copytree(tmp_path, copy.parent, ignore=shutil.ignore_patterns("copy"))
    assert load(copy) is not None
    write_with_time(copy, after)
    assert load(copy) is None
