from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
from hunting import hunt
from hypothesis import given
from hypothesis import strategies as st

from llava_zh.errors import BadArgument, BadFile, OutputError, RootNotFound, RunConflict, UnknownName
from llava_zh.sa1b.filesystem import Sa1bFileSystem
from llava_zh.sa1b.lists import read_image_list
from llava_zh.sa1b.tools import verify as module
from llava_zh.sa1b.tools.verify import jpeg_problem, verify

from ..conftest import jpeg, tar_bytes, write_archive, write_files
from ..small import gone, kill_when, small_files

MakeFs = Callable[..., Sa1bFileSystem]
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def good() -> Files:
    return small_files(range(1, 9))


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "state.jsonl").read_bytes().splitlines()]


def test_a_good_root_is_found_good_in_every_layout(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    root, output = tmp_path / "root", tmp_path / "out"
    for n, kind in enumerate(("gzip", "tar", "zip")):
        write_archive(root / f"sa_{n:06d}.tar", small_files(range(10 * n + 1, 10 * n + 4)), kind)
    write_files(root / "sa_000003" / "images", small_files(range(31, 33)))
    write_files(root / "images", small_files(range(41, 42)))
    report = verify(make_fs(root), output, num_proc=1)
    assert report.ok
    assert {one.name: (one.members, one.images) for one in report.archives} == {
        "sa_000000": (6, 3),
        "sa_000001": (6, 3),
        "sa_000002": (6, 3),
        "sa_000003": (4, 2),
        "": (2, 1),
    }
    written = json.loads((output / "report.json").read_text())
    assert written["ok"] is True
    assert [one["images"] for one in written["archives"]] == [one.images for one in report.archives]
    assert read_image_list(output / "bad-images.txt") == []


def bomb() -> bytes:
    """A JPEG that says it has 65,000 by 65,000 pixels."""
    data = bytearray(jpeg(1, (64, 64)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (65000).to_bytes(2, "big") * 2
    return bytes(data)


BAD: Files = {
    "sa_2.jpg": jpeg(2, (96, 64))[:-500],
    "sa_3.jpg": b"<html>gone</html>",
    "sa_4.jpg": b"",
    "sa_5.jpg": bomb(),
    "sa_6.json": b'{"image": {',
}


@pytest.mark.parametrize("kind", ["gzip", "zip"])
def test_each_bad_member_is_named_with_its_reason(tmp_path: Path, make_fs: MakeFs, good: Files, kind: str) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", good | BAD, kind)
    report = verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1)
    assert not report.ok
    found = {bad.path: bad.reason for bad in report.archives[0].bad}
    assert found.keys() == {f"sa_000000/{name}" for name in BAD}
    assert "does not decode: truncated" in found["sa_000000/sa_2.jpg"]
    assert "is no JPEG: 17 bytes that start with b'<html>go'" in found["sa_000000/sa_3.jpg"]
    assert "is no JPEG: 0 bytes" in found["sa_000000/sa_4.jpg"]
    assert "pixels are too many" in found["sa_000000/sa_5.jpg"]
    assert "is no JSON" in found["sa_000000/sa_6.json"]
    assert report.archives[0].images == 4
    if kind == "gzip":
        with tarfile.open(tmp_path / "root" / "sa_000000.tar") as tar:
            offsets = {member.name.removeprefix("./"): member.offset_data for member in tar}
        assert all(bad.offset == offsets[bad.path.partition("/")[2]] for bad in report.archives[0].bad)


def test_the_list_of_bad_images_names_images_with_reasons(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", good | BAD, "gzip")
    write_files(tmp_path / "root" / "images", {"sa_90.jpg": b"no"})
    verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1)
    path = tmp_path / "out" / "bad-images.txt"
    images = [f"sa_000000/{name}" for name in BAD if name.endswith(".jpg")]
    assert sorted(read_image_list(path)) == sorted([*images, "sa_90.jpg"])
    assert "sa_000000/sa_4.jpg\tis no JPEG: 0 bytes" in path.read_text()


def test_no_good_jpeg_is_called_bad(good: Files) -> None:
    from PIL import Image

    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            out = io.BytesIO()
            Image.new(mode, (33, 17)).save(out, "JPEG", progressive=progressive)
            assert jpeg_problem(out.getvalue()) is None


def test_md5_sums_are_compared_with_the_checklist(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    root = tmp_path / "root"
    paths = [write_archive(root / f"sa_{n:06d}.tar", good, "gzip") for n in range(3)]
    digest = hashlib.md5(paths[0].read_bytes()).hexdigest()
    checklist = tmp_path / "checklist.chk"
    checklist.write_text(f"{digest}  sa_000000.tar\n{'0' * 32}  sa_000001.tar\n")
    report = verify(make_fs(root), tmp_path / "out", checklist=checklist, num_proc=1)
    assert [one.md5 for one in report.archives] == ["ok", "differs", "not listed"]
    assert [one.ok for one in report.archives] == [True, False, True]
    assert report.archives[1].md5_found == digest
    checklist.write_text("what\n")
    with pytest.raises(BadFile, match="line 1"):
        verify(make_fs(root), tmp_path / "out", checklist=checklist)


def test_a_damaged_archive_is_reported_and_the_others_are_checked(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    root = tmp_path / "root"
    whole = write_archive(root / "sa_000000.tar", good, "gzip").read_bytes()
    (root / "sa_000001.tar").write_bytes(whole[: len(whole) * 2 // 3])
    (root / "sa_000002.tar").write_text("<html>expired</html>")
    write_archive(root / "sa_000003.tar", good, "tar")
    report = verify(make_fs(root), tmp_path / "out", num_proc=1)
    whole_one, cut, page, plain = report.archives
    assert whole_one.ok and plain.ok and plain.images == 8
    assert not cut.ok and [problem["kind"] for problem in cut.problems] == ["truncated"]
    assert 0 < cut.images < 8 and not cut.bad
    assert not page.ok and "is no tar, gzip or zip file" in str(page.problem)


def test_compressed_data_that_went_bad_after_indexing_is_found_even_if_it_inflates(
    tmp_path: Path, make_fs: MakeFs, good: Files
) -> None:
    path = write_archive(tmp_path / "root" / "sa_000000.tar", good, "gzip")
    make_fs(tmp_path / "root").build_index()
    before = path.stat()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # bit rot changes no time
    report = verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1)
    (problem,) = report.archives[0].problems
    assert not report.ok
    assert problem["kind"] == "checksum" and "does not fit its checksum" in problem["detail"]


def test_duplicates_in_an_archive_are_reported_and_harmless(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    (tmp_path / "root").mkdir()
    two = tar_bytes(good).rstrip(b"\0")
    two += bytes(-len(two) % 512) + tar_bytes({"sa_1.jpg": jpeg(99, (96, 64))})
    (tmp_path / "root" / "sa_000000.tar").write_bytes(two)
    report = verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1)
    assert [problem["kind"] for problem in report.archives[0].problems] == ["duplicate"]
    assert report.ok


def test_images_in_two_archives_are_told_of(tmp_path: Path, make_fs: MakeFs) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", small_files(range(1, 4)), "tar")
    write_files(tmp_path / "root" / "sa_000000", small_files(range(1, 4)))  # another form of the same: no matter
    write_archive(tmp_path / "root" / "sa_000001.tar", small_files(range(3, 6)), "tar")
    report = verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1)
    assert (report.twice, report.twice_count) == ({"sa_3.jpg": ["sa_000000", "sa_000001"]}, 1)
    assert report.ok


def test_only_chosen_archives_are_checked(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    for n in range(3):
        write_archive(tmp_path / "root" / f"sa_{n:06d}.tar", good, "tar")
    report = verify(make_fs(tmp_path / "root"), tmp_path / "out", archives=[0, "sa_000002"], num_proc=1)
    assert [one.name for one in report.archives] == ["sa_000000", "sa_000002"]
    with pytest.raises(UnknownName, match="sa_000007"):
        verify(make_fs(tmp_path / "root"), tmp_path / "out", archives=7)


def test_several_processes_find_the_same_as_one(
    tmp_path: Path, make_fs: MakeFs, good: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 5)
    for n in range(3):
        write_archive(tmp_path / "root" / f"sa_{n:06d}.tar", good | BAD, "gzip")
    reports = [verify(make_fs(tmp_path / "root"), tmp_path / f"out{n}", num_proc=n) for n in (1, 2)]
    for one, two in zip(reports[0].archives, reports[1].archives, strict=True):
        assert one == two
    lists = [(tmp_path / f"out{n}" / "bad-images.txt").read_bytes() for n in (1, 2)]
    assert lists[0] == lists[1]


# -- later calls -------------------------------------------------------------------------------------------


def test_what_was_good_is_not_checked_again_and_what_changed_is(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    for n in range(2):
        write_archive(tmp_path / "root" / f"sa_{n:06d}.tar", good, "tar")
    output = tmp_path / "out"
    assert verify(make_fs(tmp_path / "root"), output, num_proc=1).ok
    assert verify(make_fs(tmp_path / "root"), output, num_proc=1).ok
    assert len(lines(output)) == 2
    write_archive(tmp_path / "root" / "sa_000001.tar", good | BAD, "tar")
    assert not verify(make_fs(tmp_path / "root"), output, num_proc=1).ok
    assert [Path(line["archive"]).name for line in lines(output)][2:] == ["sa_000001.tar"]
    verify(make_fs(tmp_path / "root"), output, num_proc=1, fresh=True)
    assert len(lines(output)) == 2


def test_what_was_bad_is_checked_again(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    folder = tmp_path / "root" / "sa_000000"
    write_files(folder, good | {"sa_3.jpg": b"no"})
    assert not verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1).ok
    (folder / "sa_3.jpg").write_bytes(good["sa_3.jpg"])
    report = verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1)
    assert report.ok and report.archives[0].images == 8


def test_a_killed_call_leaves_no_process_and_is_gone_on_from(
    tmp_path: Path, make_fs: MakeFs, index_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, output = tmp_path / "root", tmp_path / "out"
    for n in range(6):
        write_archive(root / f"sa_{n:06d}.tar", small_files(range(100 * n, 100 * n + 60)), "tar")
    code = (
        "from llava_zh.sa1b import filesystem; from llava_zh.sa1b.tools import verify; verify.PIECE = 2\n"
        "if __name__ == '__main__':\n"
        f"    verify.verify(filesystem.Sa1bFileSystem(fo={str(root)!r}), {str(output)!r}, num_proc=2)\n"
    )
    state = output / "state.jsonl"
    workers = kill_when(code, lambda: state.exists() and state.read_bytes().count(b"\n") > 5, index_cache)
    done = state.read_bytes().count(b"\n")
    assert 5 < done < 360, "the process was killed too late to show anything"
    assert all(gone(pid) for pid in workers)
    monkeypatch.setattr(module, "PIECE", 2)
    report = verify(make_fs(root), output, num_proc=1)
    assert report.ok and sum(one.images for one in report.archives) == 360
    times = Counter((line["archive"], line.get("start", 0)) for line in lines(output))
    assert len(times) == 360 and max(times.values()) == 1


def test_a_torn_last_line_of_the_state_is_dropped(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", good, "tar")
    verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1)
    state = tmp_path / "out" / "state.jsonl"
    state.write_bytes(state.read_bytes()[:-20])
    assert verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1).archives[0].images == 8
    assert len(lines(tmp_path / "out")) == 1


def test_a_state_of_another_version_is_checked_again(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", good, "tar")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.jsonl").write_text('{"archive": 1, "what": "else"}\n')
    assert verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1).archives[0].images == 8


def test_two_calls_do_not_share_an_output_folder(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", good, "tar")
    (tmp_path / "out").mkdir()
    with filelock.FileLock(tmp_path / "out" / ".lock"), pytest.raises(RunConflict, match="Another process"):
        verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1)
    shutil.rmtree(tmp_path / "out")
    assert verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1).ok


# -- what was lost, what was passed over -------------------------------------------------------------------


def test_an_archive_of_zeros_or_without_a_member_is_not_ok_and_stops_no_other(
    tmp_path: Path, make_fs: MakeFs, good: Files
) -> None:
    root = tmp_path / "root"
    write_archive(root / "sa_000000.tar", good, "tar")
    (root / "sa_000001.tar").write_bytes(bytes(100_000))
    write_archive(root / "sa_000002.tar", {}, "tar")
    write_archive(root / "sa_000003.tar", {}, "zip")
    (root / "sa_000004.tar").write_bytes(b"")
    report = verify(make_fs(root), tmp_path / "out", num_proc=1)
    assert [one.ok for one in report.archives] == [True, False, False, False, False]
    assert all(one.problem for one in report.archives[1:])
    assert not report.ok


@pytest.mark.parametrize("hole", ["concatenated", "zeroed member"])
def test_bytes_that_were_passed_over_are_not_ok_and_what_follows_is_checked(
    tmp_path: Path, make_fs: MakeFs, good: Files, hole: str
) -> None:
    (tmp_path / "root").mkdir()
    data, expected = bytearray(tar_bytes(good)), 7
    if hole == "concatenated":
        data += tar_bytes(small_files(range(20, 24)))
        expected = 12
    else:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            member = tar.getmember("./sa_4.jpg")
        data[member.offset : member.offset + 512] = bytes(512)
    (tmp_path / "root" / "sa_000000.tar").write_bytes(data)
    (one,) = verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1).archives
    assert (one.images, one.bad) == (expected, [])
    assert not one.ok and one.problems


def test_a_zip_member_with_a_wrong_checksum_is_bad(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    path = write_archive(tmp_path / "root" / "sa_000000.zip", good, "zip")
    data = bytearray(path.read_bytes())
    at = data.find(good["sa_3.jpg"][-200:])  # stored, not packed
    assert at > 0
    data[at + 100] ^= 0x10
    path.write_bytes(data)
    (one,) = verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1).archives
    assert [bad.path for bad in one.bad] == ["sa_000000/sa_3.jpg"]
    assert "checksum" in one.bad[0].reason and not one.ok


def test_a_zip_with_backslashes_is_checked_under_the_names_that_it_is_served_by(
    tmp_path: Path, make_fs: MakeFs
) -> None:
    import zipfile

    (tmp_path / "root").mkdir()
    with zipfile.ZipFile(tmp_path / "root" / "sa_000000.zip", "w") as archive:
        for number, data in ((1, jpeg(1, (96, 64))), (2, b"no")):
            info = zipfile.ZipInfo("x")
            info.filename = f"images\\sa_{number}.jpg"
            archive.writestr(info, data)
    fs = make_fs(tmp_path / "root")
    (one,) = verify(fs, tmp_path / "out", num_proc=1).archives
    assert (one.images, [Path(bad.path).name for bad in one.bad]) == (1, ["sa_2.jpg"])
    assert fs.cat_file(one.bad[0].path) == b"no"


def test_a_member_twice_is_told_of_and_the_last_is_the_one_that_is_checked(
    tmp_path: Path, make_fs: MakeFs, good: Files
) -> None:
    (tmp_path / "root").mkdir()
    with tarfile.open(tmp_path / "root" / "sa_000000.tar", "w") as tar:
        for data in (good["sa_1.jpg"], b"no"):
            member = tarfile.TarInfo("sa_1.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (one,) = verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1).archives
    assert [bad.path for bad in one.bad] == ["sa_000000/sa_1.jpg"]
    assert [problem["kind"] for problem in one.problems] == ["duplicate"]


def test_a_fault_in_one_archive_is_its_line_and_the_others_are_checked(
    tmp_path: Path, make_fs: MakeFs, good: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a reader of archives raises, an error of ours or not."""
    from llava_zh.sa1b import store

    for n in range(3):
        write_archive(tmp_path / "root" / f"sa_{n:06d}.tar", good, "tar")
    scan = store.scan

    def fails(source: Any, *args: Any) -> Any:
        if "sa_000001" in source.path:
            raise OverflowError("Python int too large")
        return scan(source, *args)

    monkeypatch.setattr(store, "scan", fails)
    fs = make_fs(tmp_path / "root")
    assert [info.problem is None for info in fs.build_index()] == [True, False, True]
    report = verify(fs, tmp_path / "out", num_proc=1)
    assert [one.ok for one in report.archives] == [True, False, True]
    assert "OverflowError" in str(report.archives[1].problem)


def test_nothing_to_verify_is_an_error_and_no_success(tmp_path: Path, make_fs: MakeFs, good: Files) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", good, "tar")
    with pytest.raises(BadArgument, match="names no archive"):
        verify(make_fs(tmp_path / "root"), tmp_path / "out", archives=[])
    with pytest.raises(BadArgument, match="num_proc=0"):
        verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("nothing here")
    with pytest.raises(RootNotFound, match="no archive and no folder"):
        verify(make_fs(tmp_path / "other"), tmp_path / "out")


@pytest.mark.parametrize("name", [".lock", "state.jsonl", "report.json", "bad-images.txt"])
@pytest.mark.parametrize("what", ["link", "folder"])
def test_what_is_planted_in_the_output_folder_is_named_and_not_written_through(
    tmp_path: Path, make_fs: MakeFs, good: Files, name: str, what: str
) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", good, "tar")
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    if what == "folder":
        (out / name).mkdir()
    else:
        (out / name).symlink_to(victim)
    if what == "link" and name in ("report.json", "bad-images.txt"):
        verify(make_fs(tmp_path / "root"), out, num_proc=1)  # the new file takes the link's place
    else:
        with pytest.raises(OutputError, match=name.replace(".", r"\.")):
            verify(make_fs(tmp_path / "root"), out, num_proc=1)
    assert victim.read_text() == "mine"


STATES = (b"[" * 100_000, b"{}", b'{"archive":1}', b"\0" * 600)


@hunt(30)
@given(st.lists(st.binary(max_size=40) | st.sampled_from(STATES), max_size=5))
def test_a_state_file_of_anything_is_no_reason_to_fail(lines_: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.jsonl")
        path.write_bytes(b"\n".join(lines_))
        with module._State(path) as state:
            state.add(module.Piece("a", "b"))
        assert len(path.read_bytes().splitlines()) >= 1
