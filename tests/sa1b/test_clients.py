"""What programs that build on fsspec ask of a filesystem and its file objects, with fsspec's own caches as clients."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.cached import CachingFileSystem, WholeFileCacheFileSystem

from llava_zh.errors import UnknownTime
from llava_zh.sa1b.filesystem import Sa1bFileSystem

from .conftest import Files, sa1b_files, write_archive, write_files

NAME = "sa_000000/sa_1.jpg"


def written(root: Path, layout: str, files: Files) -> Path:
    """The files in an archive, or a folder, below `root`; gives what a new version of them takes the place of."""
    if layout == "folder":
        write_files(root / "sa_000000", files)
        return root / NAME
    new = write_archive(root / "new.part", files, layout)
    return new.rename(root / ("sa_000000.zip" if layout == "zip" else "sa_000000.tar"))


@pytest.mark.parametrize("layout", ["gzip", "folder"])
def test_filecache_gives_the_new_bytes_of_a_file_that_changed(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "root"
    first, second = sa1b_files(range(1, 3)), sa1b_files(range(1, 3))
    second["sa_1.jpg"] = first["sa_1.jpg"][::-1]
    written(root, layout, first)
    fs = Sa1bFileSystem(fo=str(root), skip_instance_cache=True)
    cached = WholeFileCacheFileSystem(fs=fs, cache_storage=str(tmp_path / "kept"), check_files=True)
    for expected in (first, first, second, second):
        if expected is second and cached.cat_file(NAME) == first["sa_1.jpg"]:
            written(root, layout, second)
        with cached.open(NAME) as file:
            assert file.read() == expected["sa_1.jpg"]


@pytest.mark.parametrize("layout", ["tar", "folder"])
def test_a_file_is_as_old_as_what_it_is_in_and_known_by_that(tmp_path: Path, layout: str) -> None:
    place = written(tmp_path, layout, sa1b_files(range(1, 3)))
    os.utime(place, (1_700_000_000, 1_700_000_000.5))
    fs = Sa1bFileSystem(fo=str(tmp_path), skip_instance_cache=True)
    assert fs.modified(NAME) == datetime.datetime.fromtimestamp(1_700_000_000.5, tz=datetime.UTC)
    assert fs.info(NAME)["mtime"] == 1_700_000_000.5
    assert fs.created(NAME) == datetime.datetime.fromtimestamp(place.stat().st_ctime, tz=datetime.UTC)
    # DuckDB, `PythonFilesystem::GetLastModifiedTime` in pyfilesystem.cpp: int(filesystem.modified(path).timestamp())
    assert int(fs.modified(f"sa1b://{NAME}").timestamp()) == 1_700_000_000
    before = fs.ukey(NAME)
    assert fs.ukey(NAME) == before
    os.utime(place, (1_700_000_001, 1_700_000_001))
    assert Sa1bFileSystem(fo=str(tmp_path), skip_instance_cache=True).ukey(NAME) != before
    with pytest.raises(UnknownTime, match="sa_000000"):
        fs.modified("sa_000000")


def test_a_file_of_a_server_has_the_time_that_the_server_tells(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/clients/sa_000000/sa_1.jpg", b"\xff\xd8 \xff\xd9")
    fs = Sa1bFileSystem(fo="memory://clients", skip_instance_cache=True)
    before = fs.created(NAME), fs.ukey(NAME)
    memory.pipe_file("/clients/sa_000000/sa_1.jpg", b"\xff\xd8!\xff\xd9")
    assert fs.created(NAME) == memory.created("/clients/sa_000000/sa_1.jpg") >= before[0]
    assert fs.ukey(NAME) != before[1]
    with pytest.raises(UnknownTime, match="its root tells no mtime"):
        fs.modified(NAME)


@pytest.mark.parametrize("layout", ["gzip", "zip", "folder"])
def test_read_block_and_blockcache_read_what_is_there(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"sa_1.jpg": np.random.default_rng(0).bytes(300_000), "sa_2.jpg": b"one\ntwo\nthree"}
    written(tmp_path / "root", layout, files)
    fs = Sa1bFileSystem(fo=str(tmp_path / "root"), skip_instance_cache=True)
    assert fs.read_block(NAME, 1000, 50) == files["sa_1.jpg"][1000:1050]
    assert fs.read_block("sa_000000/sa_2.jpg", 2, None, b"\n") == b"two\nthree"
    cached = CachingFileSystem(fs=fs, cache_storage=str(tmp_path / "kept"))
    ranges: list[int] = []
    inner = Sa1bFileSystem.fetch
    monkeypatch.setattr(Sa1bFileSystem, "fetch", lambda self, hit, a, b: ranges.append(b - a) or inner(self, hit, a, b))
    for _ in range(2):
        with cached.open(NAME, block_size=10_000) as file:
            file.seek(150_000)
            assert file.read(20) == files["sa_1.jpg"][150_000:150_020]
            file.seek(-5, os.SEEK_END)
            assert file.read() == files["sa_1.jpg"][-5:]
    assert 0 < sum(ranges) <= 50_000  # the second time nothing is read, and never the whole file
    with fsspec.open(f"blockcache::sa1b://{NAME}::{tmp_path / 'root'}", blockcache={"cache_storage": "TMP"}) as file:
        assert file.read() == files["sa_1.jpg"]


@pytest.mark.slow
def test_duckdb_reads_names_sizes_times_and_bytes(tmp_path: Path) -> None:
    uv, packages = shutil.which("uv"), str(tmp_path / "packages")
    pip = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    subprocess.run([*pip, "-q", "--no-deps", "--target", packages, "duckdb"], check=True)
    files = sa1b_files(range(1, 4))
    os.utime(written(tmp_path, "gzip", files), (1_700_000_000, 1_700_000_000))
    query = "select filename, size, epoch(last_modified), content from read_blob('sa1b://sa_000000/*.jpg') order by 1"
    script = (
        "import duckdb, fsspec, hashlib, json, sys\n"
        "duckdb.register_filesystem(fsspec.filesystem('sa1b', fo=sys.argv[1]))\n"
        f"rows = duckdb.sql({query!r}).fetchall()\n"
        "print(json.dumps([(n, s, t, hashlib.md5(c).hexdigest()) for n, s, t, c in rows]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": packages}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [
        [f"sa1b://sa_000000/{name}", len(data), 1_700_000_000, hashlib.md5(data).hexdigest()]
        for name, data in sorted(files.items())
        if name.endswith(".jpg")
    ]
    assert json.loads(done.stdout) == expected
