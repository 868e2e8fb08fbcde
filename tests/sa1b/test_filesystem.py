from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pytest
from PIL import Image

from llava_zh.errors import BadArchive, BadIndex, ImageNotFound, ReadOnlyFileSystemError, RootNotFound
from llava_zh.sa1b import image_url, layout
from llava_zh.sa1b.filesystem import Sa1bFileSystem

from .conftest import Files, sa1b_files, tar_bytes, write_archive, write_files

MakeFs = Callable[..., Sa1bFileSystem]


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Every layout in one root, four images each, and what each path should give."""
    root = tmp_path_factory.mktemp("mixed")
    sets = [sa1b_files(range(10 * n + 1, 10 * n + 5)) for n in range(10)]
    write_archive(root / "sa_000000.tar", sets[0], "gzip")
    write_archive(root / "sa_000001.tar", sets[1], "tar")
    write_archive(root / "data" / "sa_000002.tar", sets[2], "gzip", prefix="")
    write_archive(root / "data" / "sa_000003.tar.gz", sets[3], "gzip", prefix="sa_000003/")
    write_archive(root / "SA-1B-Part-000004.zip", sets[4], "zip")
    write_files(root / "sa_000005", sets[5])
    write_files(root / "sa_000006" / "images", sets[6])
    write_files(root / "sam" / "images", sets[7])
    write_files(root / "images", sets[8])
    write_files(root, sets[9])
    expected = {f"sa_{n:06d}/{name}": data for n, files in enumerate(sets) for name, data in files.items()}
    return root, expected


def test_every_layout_mixed_in_one_root_gives_its_images_and_masks(
    mixed: tuple[Path, dict[str, bytes]], make_fs: MakeFs
) -> None:
    root, expected = mixed
    fs = make_fs(root)
    for path, data in expected.items():
        assert fs.cat_file(path) == data, path


def test_an_image_is_found_without_its_archive_in_every_layout_that_tells_ids(
    mixed: tuple[Path, dict[str, bytes]], make_fs: MakeFs
) -> None:
    root, expected = mixed
    fs = make_fs(root)
    in_folders = ("sa_000005", "sa_000006")  # an extracted folder has no range of ids
    for path, data in expected.items():
        if not path.startswith(in_folders):
            assert fs.cat_file(path.partition("/")[2]) == data, path


def test_have_agrees_with_open_in_every_layout(mixed: tuple[Path, dict[str, bytes]], make_fs: MakeFs) -> None:
    root, expected = mixed
    absent = [path.replace("/sa_", "/sa_99") for path in expected] + ["nowhere/x.jpg", "sa_77.jpg", ""]
    fs = make_fs(root)
    assert fs.have([*expected, *absent]).tolist() == [True] * len(expected) + [False] * len(absent)
    assert all(fs.exists(path) for path in expected) and not any(fs.exists(path) for path in absent[:-1])


def test_archives_tells_what_the_root_holds(mixed: tuple[Path, dict[str, bytes]], make_fs: MakeFs) -> None:
    fs = make_fs(mixed[0])
    kinds = sorted((info.name, info.kind) for info in fs.archives())
    assert kinds == sorted(
        [
            ("sa_000000", "gzip"),
            ("sa_000001", "tar"),
            ("sa_000002", "gzip"),
            ("sa_000003", "gzip"),
            ("sa_000004", "zip"),
        ]
        + [("sa_000005", "extracted"), ("sa_000006", "extracted"), ("", "flat"), ("", "flat"), ("", "flat")]
    )
    assert not any(info.indexed for info in fs.archives() if info.kind == "gzip")
    built = fs.build_index()
    assert {(info.name, info.members, info.indexed) for info in built} >= {("sa_000000", 8, True)}
    assert all(info.indexed for info in fs.archives()) and fs.build_index() == []


@pytest.mark.parametrize("kind", ["tar", "gzip", "zip"])
def test_the_usual_fsspec_calls_work(tmp_path: Path, make_fs: MakeFs, kind: str) -> None:
    files = sa1b_files(range(1, 4))
    write_archive(tmp_path / "root" / ("sa_000000.zip" if kind == "zip" else "sa_000000.tar"), files, kind)
    fs = make_fs(tmp_path / "root")
    paths = sorted(f"sa_000000/{name}" for name in files)
    assert fs.ls("", detail=False) == ["sa_000000"]
    assert fs.ls("sa_000000", detail=False) == paths
    assert fs.find("") == paths
    assert sorted(fs.glob("sa_000000/*.jpg")) == [path for path in paths if path.endswith("jpg")]
    assert [(top, sorted(names)) for top, _, names in fs.walk("sa_000000")] == [("sa_000000", sorted(files))]
    assert fs.isdir("sa_000000") and fs.isfile(paths[0]) and not fs.exists("sa_000000/sa_9.jpg")
    data = files["sa_1.jpg"]
    assert fs.info("sa_000000/sa_1.jpg")["size"] == fs.size("sa_000000/sa_1.jpg") == len(data)
    assert fs.cat(paths) == {path: files[path.partition("/")[2]] for path in paths}
    assert fs.cat_ranges(["sa_000000/sa_1.jpg"] * 3, [0, 10, -5], [4, 20, None]) == [data[:4], data[10:20], data[-5:]]
    assert fs.head("sa_000000/sa_1.jpg", 2) == b"\xff\xd8"
    fs.get("sa_000000/sa_1.jpg", str(tmp_path / "copy.jpg"))
    assert (tmp_path / "copy.jpg").read_bytes() == data
    with fs.open("sa_000000/sa_1.jpg") as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == data[-10:] and file.seek(5) == 5 and file.read(3) == data[5:8]


def test_a_large_member_is_read_in_ranges(tmp_path: Path, make_fs: MakeFs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_zh.sa1b.filesystem._WHOLE", 1000)
    data = np.random.default_rng(0).bytes(5 << 20)
    for kind, name in (("gzip", "a.tar"), ("tar", "b.tar"), ("zip", "c.zip")):
        write_archive(tmp_path / name, {"deep/large.bin": data}, kind)
        with make_fs(tmp_path).open(f"{name[0]}/deep/large.bin") as file:
            assert not isinstance(file, io.BytesIO)
            file.seek(3 << 20)
            assert file.read(100) == data[3 << 20 :][:100]
            file.seek(0)
            assert file.read() == data


def test_writing_is_refused_in_every_form(tmp_path: Path, make_fs: MakeFs, files: Files) -> None:
    write_archive(tmp_path / "sa_000000.tar", files, "tar")
    fs = make_fs(tmp_path)
    calls: list[Callable[[], object]] = [
        lambda: fs.open("sa_000000/sa_1.jpg", "wb"),
        lambda: fs.open("sa_000000/sa_1.jpg", "r+b"),
        lambda: fs.pipe("sa_000000/x.jpg", b"x"),
        lambda: fs.rm("sa_000000/sa_1.jpg"),
        lambda: fs.mkdir("sa_000009"),
        lambda: fs.touch("sa_000000/x"),
        lambda: fs.mv("sa_000000/sa_1.jpg", "sa_000000/sa_2.jpg"),
        lambda: fs.put(str(tmp_path / "sa_000000.tar"), "sa_000000/x"),
        lambda: fs.copy("sa_000000/sa_1.jpg", "sa_000000/y.jpg"),
    ]
    for call in calls:
        with pytest.raises(ReadOnlyFileSystemError, match="read-only"):
            call()


def test_any_archive_is_addressed_by_its_stem_with_nested_members(tmp_path: Path, make_fs: MakeFs) -> None:
    for number, kind in enumerate(("tar", "gzip", "zip")):
        members = {"images/1.jpg": b"one%d" % number, "images/deep/2.jpg": b"two", "[odd]*?.jpg": b"odd"}
        name = f"photos{number}.{'zip' if kind == 'zip' else 'tar'}"
        write_archive(tmp_path / ("data" if number else "images") / name, members, kind)
        fs = make_fs(tmp_path)
        stem = f"photos{number}"
        assert fs.find(stem) == sorted(f"{stem}/{member}" for member in members)
        assert fs.ls(f"{stem}/images", detail=False) == [f"{stem}/images/1.jpg", f"{stem}/images/deep"]
        assert fs.have([f"{stem}/{member}" for member in members] + [f"{stem}/2.jpg"]).tolist() == [True] * 3 + [False]
        # Of one archive that has it, the member is found; several that have different ones are no answer.
        assert fs.find_members(["images/1.jpg"]) == ["photos0/images/1.jpg" if number == 0 else None]
        assert fs.find_members([f"{stem}/images/deep/2.jpg"]) == [f"{stem}/images/deep/2.jpg"]
        with fsspec.open(image_url(f"{stem}/[odd]*?.jpg", str(tmp_path))) as file:
            assert file.read() == b"odd"


# -- roots -----------------------------------------------------------------------------------------------------


def test_the_first_root_of_several_wins_and_the_others_fill_its_gaps(tmp_path: Path, make_fs: MakeFs) -> None:
    write_files(tmp_path / "fast" / "sa_000000", {"sa_1.jpg": b"fast"})
    write_archive(tmp_path / "slow" / "sa_000000.tar", {"sa_1.jpg": b"slow", "sa_2.jpg": b"2"}, "tar")
    fs = make_fs(tmp_path / "fast", tmp_path / "slow")
    assert fs.cat("sa_000000/sa_1.jpg") == b"fast" and fs.cat("sa_000000/sa_2.jpg") == b"2"
    assert fs.have(["sa_000000/sa_1.jpg", "sa_000000/sa_2.jpg", "sa_000000/sa_3.jpg"]).tolist() == [True, True, False]


def test_a_chain_of_several_roots_is_a_search_path(tmp_path: Path) -> None:
    write_files(tmp_path / "a" / "sa_000000", {"sa_1.jpg": b"a"})
    write_files(tmp_path / "b, c" / "sa_000000", {"sa_2.jpg": b"b"})
    fsspec.filesystem("memory").pipe("/sa1b/sa_000000/sa_3.jpg", b"c")
    roots = [str(tmp_path / "a"), str(tmp_path / "b, c"), "memory://sa1b"]
    for name, data in {"sa_1.jpg": b"a", "sa_2.jpg": b"b", "sa_3.jpg": b"c"}.items():
        with fsspec.open(image_url(f"sa_000000/{name}", roots)) as file:
            assert file.read() == data


def test_options_of_a_protocol_reach_every_hop_that_uses_it(tmp_path: Path) -> None:
    fs, _ = fsspec.core.url_to_fs(
        "sa1b://x::file:///a::memory://b::file:///c", file={"auto_mkdir": True}, memory={"skip_instance_cache": True}
    )
    assert [root.path for root in fs.roots] == ["/a", "/b", "/c"]
    assert [root.fs.auto_mkdir for root in fs.roots if root.local] == [True, True]


def test_the_environment_names_the_roots_and_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_files(tmp_path / name / "sa_000000", {"sa_1.jpg": name.encode()})
    fs = fsspec.filesystem("sa1b")
    for name in ("a", "b"):
        monkeypatch.setenv("SA1B_ROOT", str(tmp_path / name))
        assert fs.cat("sa_000000/sa_1.jpg") == name.encode()
    monkeypatch.delenv("SA1B_ROOT")
    with pytest.raises(RootNotFound, match="SA1B_ROOT"):
        fs.cat("sa_000000/sa_1.jpg")


def test_a_root_that_is_missing_or_empty_is_named(tmp_path: Path, make_fs: MakeFs) -> None:
    with pytest.raises(RootNotFound, match="does not exist"):
        make_fs(tmp_path / "none").cat("sa_000000/sa_1.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RootNotFound, match="is empty"):
        make_fs(tmp_path / "empty").cat("sa_000000/sa_1.jpg")


# -- what can be wrong -----------------------------------------------------------------------------------------


def test_an_id_that_is_nowhere_names_the_nearest_archive(tmp_path: Path, make_fs: MakeFs) -> None:
    write_archive(tmp_path / "sa_000014.tar", {"sa_156625.jpg": b"", "sa_167810.jpg": b""}, "tar")
    write_archive(tmp_path / "sa_000016.tar", {"sa_179000.jpg": b"", "sa_190187.jpg": b""}, "tar")
    fs = make_fs(tmp_path)
    fs.build_index()
    for path in ("sa_170000.jpg", "sa_000015/sa_170000.jpg"):
        with pytest.raises(ImageNotFound, match="sa_000014 comes nearest: it holds the ids 156625 to 167810"):
            fs.cat(path)


def test_an_image_that_its_archive_lacks_is_not_found_there(tmp_path: Path, make_fs: MakeFs, files: Files) -> None:
    write_archive(tmp_path / "sa_000000.tar", files, "gzip")
    with pytest.raises(ImageNotFound, match=r"sa_000000\.tar has no such member"):
        make_fs(tmp_path).cat("sa_000000/sa_99.jpg")


def test_an_archive_name_with_a_slip_gets_a_suggestion(tmp_path: Path, make_fs: MakeFs) -> None:
    write_archive(tmp_path / "photos.tar", {"a/1.jpg": b"1"}, "tar")
    with pytest.raises(ImageNotFound, match="Did you mean 'photos'"):
        make_fs(tmp_path).cat("photo/a/1.jpg")


def test_a_truncated_archive_says_so_for_what_it_lost_and_the_rest_of_the_root_works(
    tmp_path: Path, make_fs: MakeFs, files: Files
) -> None:
    root = tmp_path / "root"
    whole = write_archive(root / "sa_000001.tar", files, "gzip")
    packed = whole.read_bytes()
    (root / "sa_000000.tar").write_bytes(packed[: len(packed) // 2])
    (root / "sa_000002.tar").write_bytes(b"rubbish" * 200)
    fs = make_fs(root)
    names = list(files)
    assert fs.cat(f"sa_000000/{names[0]}") == files[names[0]]
    with pytest.raises(ImageNotFound, match=r"sa_000000\.tar, which is truncated: only its first [0-9,]+ bytes"):
        fs.cat(f"sa_000000/{names[-1]}")
    with pytest.raises(BadArchive, match=r"sa_000002\.tar is no tar"):
        fs.cat("sa_000002/sa_1.jpg")
    assert fs.cat(f"sa_000001/{names[-1]}") == files[names[-1]]
    assert fs.have([f"sa_00000{n}/{names[-1]}" for n in range(3)]).tolist() == [False, True, False]
    problems = {info.name: (info.kind, info.problems) for info in fs.archives()}
    assert problems == {
        "sa_000000": ("gzip", {"truncated": 1}),
        "sa_000001": ("gzip", {}),
        "sa_000002": ("unusable", {}),
    }


def test_a_member_that_is_a_link_is_refused_by_name(tmp_path: Path, make_fs: MakeFs) -> None:
    with tarfile.open(tmp_path / "sa_000000.tar", "w") as tar:
        link = tarfile.TarInfo("./sa_1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ImageNotFound, match="symbolic link, which is not followed"):
        make_fs(tmp_path).cat("sa_000000/sa_1.jpg")


def test_the_same_id_in_two_archives_is_each_archives_own(tmp_path: Path, make_fs: MakeFs) -> None:
    write_archive(tmp_path / "sa_000000.tar", {"sa_1.jpg": b"zero"}, "tar")
    write_archive(tmp_path / "sa_000001.tar", {"sa_1.jpg": b"one"}, "gzip")
    fs = make_fs(tmp_path)
    assert (fs.cat("sa_000000/sa_1.jpg"), fs.cat("sa_000001/sa_1.jpg")) == (b"zero", b"one")
    assert fs.cat("sa_1.jpg") == b"zero"


def test_an_archive_overwritten_while_open_is_noticed_and_indexed_anew(tmp_path: Path, make_fs: MakeFs) -> None:
    path = write_archive(tmp_path / "sa_000000.tar", {"sa_1.jpg": b"old" * 1000}, "tar")
    fs = make_fs(tmp_path)
    assert fs.cat("sa_000000/sa_1.jpg") == b"old" * 1000
    path.write_bytes(tar_bytes({"sa_0.jpg": b"x", "sa_1.jpg": b"new"}))
    with pytest.raises(BadArchive, match="was written to while it was open"):
        fs.cat("sa_000000/sa_1.jpg")
    assert fs.cat("sa_000000/sa_1.jpg") == b"new"


def test_an_archive_replaced_while_open_is_read_to_the_end_as_it_was(tmp_path: Path, make_fs: MakeFs) -> None:
    write_archive(tmp_path / "sa_000000.tar", {"sa_1.jpg": b"old"}, "tar")
    fs = make_fs(tmp_path)
    assert fs.cat("sa_000000/sa_1.jpg") == b"old"
    write_archive(tmp_path / "new", {"sa_1.jpg": b"newer"}, "tar").replace(tmp_path / "sa_000000.tar")
    assert fs.cat("sa_000000/sa_1.jpg") == b"old"
    fs.invalidate_cache()
    assert fs.cat("sa_000000/sa_1.jpg") == b"newer"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


def test_open_archives_are_bounded(tmp_path: Path, make_fs: MakeFs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_OPEN", 3)
    for n in range(8):
        write_archive(tmp_path / f"sa_{n:06d}.tar", {f"sa_{n}.jpg": str(n).encode()}, "tar")
    fs = make_fs(tmp_path)
    before = open_files()
    for n in (*range(8), *range(8)):
        assert fs.cat(f"sa_{n:06d}/sa_{n}.jpg") == str(n).encode()
    assert open_files() - before <= 6


def test_without_an_archive_name_only_the_nearest_archives_are_indexed(tmp_path: Path, make_fs: MakeFs) -> None:
    for n in range(6):
        write_archive(tmp_path / f"sa_{n:06d}.tar", {f"sa_{100 * n + i}.jpg": b"%d" % i for i in (7, 3, 9)}, "gzip")
    fs = make_fs(tmp_path)
    assert fs.cat("sa_303.jpg") == b"3" and fs.cat("sa_309.jpg") == b"9"
    assert sum(info.indexed for info in fs.archives()) <= 2


# -- processes and threads -------------------------------------------------------------------------------------


def _read(job: tuple[Sa1bFileSystem, str]) -> bytes:
    fs, path = job
    return bytes(fs.cat_file(path))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_through_a_pickled_filesystem(
    tmp_path: Path, make_fs: MakeFs, gzip_tar: Path, files: Files, method: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    shutil.copy(gzip_tar, tmp_path / "sa_000000.tar")
    fs = make_fs(tmp_path)
    assert fs.cat("sa_000000/sa_1.jpg") == files["sa_1.jpg"]  # the parent's archive is open when the others start
    assert pickle.loads(pickle.dumps(fs)).cat("sa_000000/sa_1.jpg") == files["sa_1.jpg"]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        read = list(pool.map(_read, [(fs, f"sa_000000/{name}") for name in files], chunksize=20))
    assert read == list(files.values())


def test_threads_share_an_archive(tmp_path: Path, make_fs: MakeFs, gzip_tar: Path, files: Files) -> None:
    shutil.copy(gzip_tar, tmp_path / "sa_000000.tar")
    write_archive(tmp_path / "sa_000001.tar", files, "tar")
    fs = make_fs(tmp_path)
    wrong: list[str] = []

    def read(shift: int) -> None:
        names = list(files)
        for name in names[shift:] + names[:shift]:
            stems = ("sa_000000", "sa_000001")
            wrong.extend(name for stem in stems if fs.cat_file(f"{stem}/{name}") != files[name])

    threads = [threading.Thread(target=read, args=(10 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_dataloader_workers_decode_images_of_a_dataset(tmp_path: Path, gzip_tar: Path, files: Files) -> None:
    data = pytest.importorskip("torch.utils.data", reason="DataLoader is torch's, which the torch extra brings")
    shutil.copy(gzip_tar, tmp_path / "sa_000000.tar")
    names = [name for name in files if name.endswith("jpg")]
    urls = [image_url(f"sa_000000/{name}", str(tmp_path)) for name in names]
    rows = datasets.Dataset.from_dict({"image": urls}).cast_column("image", datasets.Image())
    loader: Any = data.DataLoader(rows, batch_size=4, num_workers=2, collate_fn=_pixels)
    pixels = [array for batch in loader for array in batch]
    for name, array in zip(names, pixels, strict=True):
        assert (array == np.asarray(Image.open(io.BytesIO(files[name])))).all()


def _pixels(batch: list[dict[str, Any]]) -> list[Any]:
    return [np.asarray(row["image"]) for row in batch]


def test_other_programs_need_not_import_this_package(tmp_path: Path, files: Files) -> None:
    write_archive(tmp_path / "sa_000000.tar", files, "gzip")
    url = image_url("sa_000000/sa_1.jpg", str(tmp_path))
    program = f"import fsspec, sys; sys.stdout.buffer.write(fsspec.open({url!r}).open().read())"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=tmp_path, check=True)
    assert run.stdout == files["sa_1.jpg"]


# -- remote roots ----------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Any:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


def test_a_remote_archive_without_an_index_names_the_command(memory: Any, make_fs: MakeFs, files: Files) -> None:
    memory.pipe("/sa1b/sa_000000.tar", tar_bytes(files))
    with pytest.raises(BadIndex, match="llava-zh sa1b index --image-root memory://sa1b"):
        make_fs("memory://sa1b").cat("sa_000000/sa_1.jpg")


def test_a_remote_archive_is_read_through_an_index_built_by_streaming_it(
    memory: Any, make_fs: MakeFs, gzip_tar: Path, files: Files
) -> None:
    memory.pipe("/sa1b/sa_000000.tar", gzip_tar.read_bytes())
    memory.pipe("/sa1b/data/sa_000001.tar", tar_bytes(files))
    memory.pipe("/sa1b/sa_000002/sa_1.jpg", files["sa_1.jpg"])
    fs = make_fs("memory://sa1b")
    assert len(fs.build_index()) == 2
    for stem in ("sa_000000", "sa_000001"):
        for name, data in files.items():
            assert fs.cat(f"{stem}/{name}") == data
    assert fs.cat("sa_000002/sa_1.jpg") == files["sa_1.jpg"]
    assert fs.have(["sa_000000/sa_1.jpg", "sa_000002/sa_1.jpg", "sa_000002/sa_2.jpg"]).tolist() == [True, True, False]


def test_a_sidecar_that_travelled_with_its_archive_serves_a_remote_root(
    memory: Any, make_fs: MakeFs, tmp_path: Path, files: Files
) -> None:
    path = write_archive(tmp_path / "sa_000000.tar", files, "gzip")
    make_fs(tmp_path).build_index(sidecar=True)
    for name in ("sa_000000.tar", "sa_000000.tar.sa1bx"):
        memory.pipe(f"/sa1b/{name}", path.with_name(name).read_bytes())
    assert make_fs("memory://sa1b").cat("sa_000000/sa_1.jpg") == files["sa_1.jpg"]
    memory.pipe("/sa1b/sa_000000.tar", path.read_bytes()[:-1] + b"\1")
    make_fs("memory://sa1b").invalidate_cache()
    with pytest.raises(BadIndex, match="no index"):
        make_fs("memory://sa1b").cat("sa_000000/sa_1.jpg")


def test_an_archive_renamed_over_with_the_same_size_and_time_is_read_anew(tmp_path: Path, make_fs: MakeFs) -> None:
    path, new = tmp_path / "sa_000000.tar", tmp_path / "new"
    for place, first in ((path, b"a"), (new, b"b")):
        place.write_bytes(tar_bytes({"sa_1.jpg": first * 600}))
        os.utime(place, (10**9, 10**9))
    fs = make_fs(tmp_path)
    assert fs.cat("sa_000000/sa_1.jpg") == b"a" * 600
    new.replace(path)
    fs.find_members(["sa_000000/sa_1.jpg"])  # as a loader does before it reads rows
    assert fs.cat("sa_000000/sa_1.jpg") == b"b" * 600


def test_an_archive_written_over_in_place_with_its_old_time_is_noticed(tmp_path: Path, make_fs: MakeFs) -> None:
    path = tmp_path / "sa_000000.tar"
    fs = make_fs(tmp_path)
    for round, byte in enumerate((b"a", b"b")):
        path.write_bytes(tar_bytes({"sa_1.jpg": byte * 600}))
        os.utime(path, (10**9, 10**9))
        if round:
            with pytest.raises(BadArchive, match="was written to while it was open"):
                fs.cat("sa_000000/sa_1.jpg")
        assert fs.cat("sa_000000/sa_1.jpg") == byte * 600
    path.chmod(0o600)
    assert fs.cat("sa_000000/sa_1.jpg") == b"b" * 600
