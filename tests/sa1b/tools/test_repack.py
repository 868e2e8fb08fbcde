from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from llava_zh.errors import BadArgument, OutputError
from llava_zh.sa1b.filesystem import Sa1bFileSystem
from llava_zh.sa1b.tools import repack as module
from llava_zh.sa1b.tools.repack import Selection, repack

from ..conftest import Files, tar_bytes, write_archive, write_files
from ..small import kill_when, small_files

MakeFs = Callable[..., Sa1bFileSystem]


def contents(path: Path) -> Files:
    with tarfile.open(path, "r:") as tar:  # plain tar and nothing else
        return {member.name: tar.extractfile(member).read() for member in tar}


def images(files: Files) -> Files:
    return {name: data for name, data in files.items() if name.endswith(".jpg")}


@pytest.mark.parametrize("kind", ["gzip", "zip", "tar", "extracted", "images"])
def test_the_jpegs_of_every_form_come_out_unchanged_as_a_plain_tar(tmp_path: Path, make_fs: MakeFs, kind: str) -> None:
    root, files = tmp_path / "root", small_files(range(1, 9))
    if kind in ("extracted", "images"):
        write_files(root / "sa_000000" / ("images" if kind == "images" else ""), files)
    else:
        write_archive(root / "sa_000000.tar", files, kind)
    (done,) = repack(make_fs(root), tmp_path / "out")
    assert (done.problem, done.members, done.kept) == (None, 8, False)
    assert contents(tmp_path / "out" / "sa_000000.tar") == images(files)
    fs = make_fs(tmp_path / "out")
    assert [info.kind for info in fs.archives()] == ["tar"]
    assert fs.cat_file("sa_000000/sa_3.jpg") == files["sa_3.jpg"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sa_000000.tar"]


def test_masks_come_along_when_they_are_wanted(tmp_path: Path, make_fs: MakeFs) -> None:
    files = small_files(range(1, 5))
    write_archive(tmp_path / "root" / "sa_000000.tar", files, "gzip")
    repack(make_fs(tmp_path / "root"), tmp_path / "out", masks=True)
    assert contents(tmp_path / "out" / "sa_000000.tar") == files
    chosen = Selection(["sa_000000/sa_2.jpg"])
    repack(make_fs(tmp_path / "root"), tmp_path / "chosen", masks=True, images=chosen)
    assert contents(tmp_path / "chosen" / "sa_000000.tar").keys() == {"sa_2.jpg", "sa_2.json"}


def test_only_the_images_chosen_are_taken_and_absent_ones_are_named(tmp_path: Path, make_fs: MakeFs) -> None:
    for n in range(3):
        write_archive(tmp_path / "root" / f"sa_{n:06d}.tar", small_files(range(10 * n, 10 * n + 5)), "gzip")
    chosen = Selection(["sa_000000/sa_3.jpg", "sa_000000/sa_77.jpg"])
    chosen.add(pa.array(["sa_000002/sa_21.jpg", "sa_000009/sa_99.jpg", "sa_000000/sa_3.jpg"]))
    assert chosen.archives() == {"sa_000000", "sa_000002", "sa_000009"}
    done = repack(make_fs(tmp_path / "root"), tmp_path / "out", images=chosen)
    assert [(one.name, one.members, one.missing) for one in done] == [
        ("sa_000000", 1, ["sa_77.jpg"]),
        ("sa_000002", 1, []),
    ]
    assert contents(tmp_path / "out" / "sa_000002.tar").keys() == {"sa_21.jpg"}
    assert not (tmp_path / "out" / "sa_000001.tar").exists()


def test_images_may_be_named_without_their_archive(tmp_path: Path, make_fs: MakeFs) -> None:
    for n in range(2):
        write_archive(tmp_path / "root" / f"sa_{n:06d}.tar", small_files(range(10 * n, 10 * n + 5)), "tar")
    done = repack(make_fs(tmp_path / "root"), tmp_path / "out", images=Selection(["sa_13.jpg"]))
    assert contents(tmp_path / "out" / "sa_000001.tar").keys() == {"sa_13.jpg"}
    assert done[0].problem == "none of the images asked for is in it"


def test_a_path_that_is_no_image_and_images_that_are_nowhere_are_refused(tmp_path: Path, make_fs: MakeFs) -> None:
    with pytest.raises(BadArgument, match=r"'sa_000000/cat\.png' names no SA-1B image"):
        Selection(["sa_000000/sa_1.jpg", "sa_000000/cat.png"])
    write_archive(tmp_path / "root" / "sa_000000.tar", small_files(range(1, 3)), "tar")
    with pytest.raises(BadArgument, match="no archive to repack"):
        repack(make_fs(tmp_path / "root"), tmp_path / "out", images=Selection(["sa_000005/sa_1.jpg"]))


def test_the_folder_of_the_archives_is_refused(tmp_path: Path, make_fs: MakeFs) -> None:
    path = write_archive(tmp_path / "root" / "sa_000000.tar", small_files(range(1, 3)), "gzip")
    before = path.read_bytes()
    for folder in (tmp_path / "root", tmp_path / "root" / "data" / ".."):
        with pytest.raises(BadArgument, match="is where the archives are"):
            repack(make_fs(tmp_path / "root"), folder)
    assert path.read_bytes() == before


def test_what_is_there_is_kept_and_the_same_images_give_the_same_bytes(tmp_path: Path, make_fs: MakeFs) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", small_files(range(1, 5)), "gzip")
    fs, out = make_fs(tmp_path / "root"), tmp_path / "out" / "sa_000000.tar"
    repack(fs, tmp_path / "out")
    before = out.stat()
    (done,) = repack(fs, tmp_path / "out")
    assert done.kept and done.members == 4 and out.stat() == before
    repack(fs, tmp_path / "again")
    assert (tmp_path / "again" / "sa_000000.tar").read_bytes() == out.read_bytes()


def test_a_tar_with_other_images_is_not_touched(tmp_path: Path, make_fs: MakeFs) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", small_files(range(1, 5)), "gzip")
    fs, out = make_fs(tmp_path / "root"), tmp_path / "out" / "sa_000000.tar"
    repack(fs, tmp_path / "out", images=Selection(["sa_000000/sa_1.jpg"]))
    before = out.read_bytes()
    for _ in range(2):
        (done,) = repack(fs, tmp_path / "out")
        assert "holds other images than those asked for (1, not 4)" in str(done.problem)
    assert out.read_bytes() == before


def test_of_a_truncated_archive_the_whole_part_is_taken_and_the_rest_named(tmp_path: Path, make_fs: MakeFs) -> None:
    root, files = tmp_path / "root", small_files(range(1, 9))
    whole = tar_bytes(files)
    root.mkdir()
    (root / "sa_000000.tar").write_bytes(whole[: len(whole) // 2])
    write_archive(root / "sa_000001.tar", files, "gzip")
    for kept in (False, True):
        cut, good = repack(make_fs(root), tmp_path / "out")
        assert (cut.problem, good.problem, good.members) == (None, None, 8)
        assert (cut.kept, good.kept) == (kept, kept)
        assert any("truncated" in reason for reason in cut.left_out) and not good.left_out
    taken = contents(tmp_path / "out" / "sa_000000.tar")
    assert 0 < len(taken) < 8 and taken.items() <= files.items()


def test_a_member_that_cannot_be_read_is_left_out_by_name_and_no_byte_is_wrong(tmp_path: Path, make_fs: MakeFs) -> None:
    files = small_files(range(1, 13))
    path = write_archive(tmp_path / "root" / "sa_000000.tar", files, "gzip")
    make_fs(tmp_path / "root").build_index()
    before, data = path.stat(), bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for kept in (False, True):
        (done,) = repack(make_fs(tmp_path / "root"), tmp_path / "out")
        assert done.problem is None and done.kept == kept
        assert done.members + len(done.left_out) == 12
        assert all(re.search("does not decode|is no JPEG|Cannot read", reason) for reason in done.left_out)
    taken = contents(tmp_path / "out" / "sa_000000.tar")
    assert 6 <= len(taken) < 12 and taken.items() <= files.items()


def test_a_source_that_may_not_be_read_is_named_and_not_the_target(unprivileged: Path, make_fs: MakeFs) -> None:
    write_files(unprivileged / "root" / "sa_000000", small_files(range(1, 4)))
    (unprivileged / "root" / "sa_000000" / "sa_2.jpg").chmod(0)
    (done,) = repack(make_fs(unprivileged / "root"), unprivileged / "out")
    assert f"{unprivileged / 'root' / 'sa_000000' / 'sa_2.jpg'} may not be read by this user" in str(done.left_out)
    assert str(unprivileged / "out") not in str(done.left_out) and done.members == 2


def test_a_file_that_is_gone_since_the_folder_was_listed_is_named(
    tmp_path: Path, make_fs: MakeFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "root" / "sa_000000", small_files(range(1, 4)))
    write = module._Job._write

    def remove_one(self: module._Job, *args: Any) -> None:
        (tmp_path / "root" / "sa_000000" / "sa_2.jpg").unlink()  # it is listed now
        write(self, *args)

    monkeypatch.setattr(module._Job, "_write", remove_one)
    (done,) = repack(make_fs(tmp_path / "root"), tmp_path / "out")
    assert "sa_2.jpg is gone since the folder was listed" in str(done.left_out)
    assert contents(tmp_path / "out" / "sa_000000.tar").keys() == {"sa_1.jpg", "sa_3.jpg"}


def test_an_archive_in_several_forms_is_repacked_once(tmp_path: Path, make_fs: MakeFs) -> None:
    files = small_files(range(1, 4))
    write_archive(tmp_path / "root" / "sa_000000.tar", files, "gzip")
    write_files(tmp_path / "root" / "sa_000000", files)
    assert [one.name for one in repack(make_fs(tmp_path / "root"), tmp_path / "out")] == ["sa_000000"]


def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, make_fs: MakeFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", small_files(range(1, 4)), "gzip")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"sa_000000\.tar needs .* kB, and 1\.0 kB are free"):
        repack(make_fs(tmp_path / "root"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path: Path, make_fs: MakeFs, index_cache: Path) -> None:
    root = tmp_path / "root"
    write_archive(root / "sa_000000.tar", small_files(range(1, 30)), "tar")
    make_fs(root).build_index()
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from llava_zh.sa1b import filesystem; from llava_zh.sa1b.tools import repack\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        f"repack.repack(filesystem.Sa1bFileSystem(fo={str(root)!r}), {str(tmp_path / 'out')!r})\n"
    )
    environment = {**os.environ, "LLAVA_ZH_CACHE": str(index_cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "OutputError" in child.stderr and "cannot be written: File too large" in child.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tar_that_does_not_read_back_is_not_given_its_name(
    tmp_path: Path, make_fs: MakeFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", small_files(range(1, 4)), "tar")
    read_back = module._read_back

    def on_a_bad_disk(path: Path, written: list[module._Written]) -> None:
        data = bytearray(path.read_bytes())
        data[700] ^= 1
        path.write_bytes(data)
        read_back(path, written)

    monkeypatch.setattr(module, "_read_back", on_a_bad_disk)
    (done,) = repack(make_fs(tmp_path / "root"), tmp_path / "out")
    assert "did not read back as it was written" in str(done.problem)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_call_is_gone_on_from_at_the_archive_it_was_at(
    tmp_path: Path, make_fs: MakeFs, index_cache: Path
) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    files = small_files(range(1, 60))
    for n in range(12):
        write_archive(root / f"sa_{n:06d}.tar", files, "gzip")
    make_fs(root).build_index()
    code = (
        "from llava_zh.sa1b import filesystem; from llava_zh.sa1b.tools import repack\n"
        f"repack.repack(filesystem.Sa1bFileSystem(fo={str(root)!r}), {str(out)!r}, num_proc=1)\n"
    )
    kill_when(code, lambda: len(list(out.glob("sa_*.tar"))) >= 3 and any(out.glob(".sa_*.tmp")), index_cache)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("sa_*.tar")}
    assert 3 <= len(finished) < 12
    assert all(contents(path) == images(files) for path in finished)
    done = repack(make_fs(root), out)
    assert [one.kept for one in done] == [out / f"{one.name}.tar" in finished for one in done]
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    assert sorted(path.name for path in out.iterdir()) == [f"sa_{n:06d}.tar" for n in range(12)]
    assert all(contents(path) == images(files) for path in out.iterdir())


def test_an_archive_of_which_nothing_can_be_read_is_a_problem_and_the_others_are_repacked(
    tmp_path: Path, make_fs: MakeFs
) -> None:
    root = tmp_path / "root"
    write_archive(root / "sa_000001.tar", small_files(range(1, 4)), "tar")
    (root / "sa_000002.tar").write_bytes(bytes(1 << 20))
    (root / "sa_000003.tar").write_bytes(b"")
    done = {one.name: one for one in repack(make_fs(root), tmp_path / "out")}
    assert "sa_000001" in done and done.pop("sa_000001").problem is None
    assert all(one.problem for one in done.values())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sa_000001.tar"]


def test_a_link_under_the_temporary_name_is_not_written_through(tmp_path: Path, make_fs: MakeFs) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", small_files(range(1, 4)), "tar")
    (tmp_path / "out").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out" / ".sa_000000.tar.tmp").symlink_to(victim)
    (done,) = repack(make_fs(tmp_path / "root"), tmp_path / "out")
    assert done.problem is None and victim.read_text() == "mine"
    (tmp_path / "out" / ".lock").symlink_to(victim)
    with pytest.raises(OutputError, match=r"\.lock is a link"):
        repack(make_fs(tmp_path / "root"), tmp_path / "out")
    assert victim.read_text() == "mine"


def test_a_choice_of_nothing_is_refused(tmp_path: Path, make_fs: MakeFs) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", small_files(range(1, 4)), "tar")
    with pytest.raises(BadArgument, match="names no archive"):
        repack(make_fs(tmp_path / "root"), tmp_path / "out", archives=[])
    with pytest.raises(BadArgument, match="num_proc=0"):
        repack(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=0)
