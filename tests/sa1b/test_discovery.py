"""SA-1B is found as people have it: archives, shard folders and flat folders, wherever they lie below a root."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from llava_zh.errors import NotPermitted, RootNotFound
from llava_zh.images.locations import Sa1bImages
from llava_zh.sa1b import discovery
from llava_zh.sa1b.filesystem import Sa1bFileSystem
from llava_zh.sa1b.published import own_archive

from .conftest import Files, tar_bytes, write_archive, write_files

MakeFs = Callable[..., Sa1bFileSystem]
IMAGE = {"sa_3000.jpg": b"a picture", "sa_3001.jpg": b"another"}


@pytest.mark.parametrize(
    "place",
    [
        "images/sa_000003/",
        "sa_000003/images/",
        "SA-1B/extracted/images/sa_000003/",
        "OpenDataLab___SA-1B/raw/sa_000003.tar",
        "dataset/sa_000003.tar.gz",
        "a/b/c/d/sa_000003.zip",
        "SA-1B/raw/SA-1B-Part-000003.zip",
        "ShareGPT4V/data/sam/images/",
    ],
)
@pytest.mark.parametrize(
    "path",
    ["sa_000003/sa_3000.jpg", "sa1b/sa_000003/sa_3000.jpg", "sam/images/sa_3000.jpg", "sa_3000.jpg"],
)
def test_an_image_is_found_wherever_it_lies_by_the_last_parts_of_its_path(
    tmp_path: Path, make_fs: MakeFs, place: str, path: str
) -> None:
    if place.endswith("/"):
        write_files(tmp_path / place, IMAGE)
    else:
        write_archive(tmp_path / place, IMAGE, "zip" if place.endswith("zip") else "gzip")
    fs = make_fs(tmp_path)
    absent = path.replace("sa_3000", "sa_9")
    assert fs.cat_file(path) == b"a picture"
    assert fs.have([path, absent]).tolist() == [True, False]
    assert not fs.exists(absent)
    asked = pa.array([path, absent])
    assert fs.archive_of(asked).to_pylist()[0] in ("sa_000003", None if "sam" in place else "sa_000003")
    if "sam" not in place:
        assert [info.name for info in fs.archives()] == ["sa_000003"]


def test_shard_folders_may_be_links_and_a_circle_of_links_ends(tmp_path: Path, make_fs: MakeFs) -> None:
    volume = tmp_path / "volume" / "sa_000003"
    write_files(volume, IMAGE)
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (root / "images" / "sa_000003").symlink_to(volume)
    (root / "data").symlink_to(".")
    (root / "images" / "again").symlink_to("..")
    fs = make_fs(root)
    assert fs.cat_file("sa_3001.jpg") == b"another"
    assert [(info.name, info.path) for info in fs.archives()] == [("sa_000003", "images/sa_000003")]


def test_folders_of_images_are_not_looked_through(tmp_path: Path, make_fs: MakeFs) -> None:
    write_archive(tmp_path / "raw" / "sa_000003.tar", IMAGE, "tar")
    write_files(tmp_path / "photos", {f"{n}.jpg": b"" for n in range(700)})
    (tmp_path / "photos" / "deep").mkdir()
    write_archive(tmp_path / "photos" / "deep" / "sa_000004.tar", IMAGE, "tar")
    seen: list[str] = []

    def audit(event: str, args: tuple[object, ...]) -> None:
        if event == "os.scandir":
            seen.append(str(args[0]))

    sys.addaudithook(audit)
    fs = make_fs(tmp_path)
    assert list(fs.roots[0].stems()) == ["sa_000003"]
    assert str(tmp_path / "photos") in seen and str(tmp_path / "photos" / "deep") not in seen


def test_the_search_is_bounded(tmp_path: Path, make_fs: MakeFs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "MOST_LOCAL", 10)
    for n in range(30):
        write_archive(tmp_path / f"part{n:02d}" / f"sa_{n:06d}.tar", {f"sa_{n}.jpg": b"x"}, "tar")
    write_archive(tmp_path / "a/b/c/d/e/sa_000099.tar", IMAGE, "tar")
    assert 5 < len(make_fs(tmp_path).roots[0].stems()) < 10


def test_a_search_that_ends_at_its_bound_says_which_it_was(make_fs: MakeFs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "llava_zh")
    remote = fsspec.filesystem("memory")
    for n in range(discovery.MOST_REMOTE):
        remote.pipe(f"/bounded/part{n:02d}/1.jpg", b"x")
    try:
        make_fs("memory://bounded").roots[0].stems()
    finally:
        remote.rm("/bounded", recursive=True)
    assert "only 64 folders were looked at" in caplog.text


def test_a_bare_name_is_found_among_many_shard_folders_by_looking_into_few(tmp_path: Path, make_fs: MakeFs) -> None:
    for n in range(64):
        write_files(tmp_path / f"sa_{n:06d}", {f"sa_{100 * n + i}.jpg": f"{n}/{i}".encode() for i in (1, 50, 99)})
    (tmp_path / "sa_000064").mkdir()
    fs = make_fs(tmp_path)
    for n in (0, 1, 33, 63):
        assert fs.cat_file(f"sa_{100 * n + 50}.jpg") == f"{n}/50".encode()
    assert fs.have([f"sa_{i}.jpg" for i in (1, 2, 150, 6399, 6400)]).tolist() == [True, False, True, True, False]
    assert len(fs.roots[0]._some_ids) < 40


def test_an_archive_that_still_arrives_is_read_as_far_as_it_has_come(tmp_path: Path, make_fs: MakeFs) -> None:
    whole = tar_bytes({f"sa_{n}.jpg": bytes([n]) * 20_000 for n in range(10)})
    path = tmp_path / "sa_000000.tar"
    path.write_bytes(whole[:65_000])
    fs = make_fs(tmp_path)
    names = [f"sa_000000/sa_{n}.jpg" for n in range(10)]
    assert fs.have(names).tolist() == [True] * 3 + [False] * 7
    with path.open("ab") as file:
        file.write(whole[65_000:130_000])
    assert fs.cat_file("sa_000000/sa_1.jpg") == bytes([1]) * 20_000
    assert fs.cat_file("sa_000000/sa_4.jpg") == bytes([4]) * 20_000
    with path.open("ab") as file:
        file.write(whole[130_000:])
    assert fs.have(names).all()


def test_archives_are_chosen_by_ids_where_paths_do_not_name_them(tmp_path: Path) -> None:
    write_archive(tmp_path / "sa_000003.tar", IMAGE, "tar")
    write_files(tmp_path / "images" / "sa_000004", {"sa_4000.jpg": b"4"})
    images = Sa1bImages((str(tmp_path),))
    paths = pa.array(
        ["sa_000009/sa_1.jpg", "sam/images/sa_3000.jpg", "sa_4000.jpg", "coco/1.jpg", "x/sa_000004/sa_7.jpg"]
    )
    found = images.archive_of(paths, ["sa_000003", "sa_000004"]).to_pylist()
    assert found == ["sa_000009", "sa_000003", "sa_000004", None, "sa_000004"]
    assert images.archive_of(paths, ["sa_000004"]).to_pylist()[1:3] == [None, "sa_000004"]
    with pytest.raises(RootNotFound, match="image_root="):
        Sa1bImages(None).archive_of(paths, ["sa_000003"])
    assert Sa1bImages(None).archive_of(paths.take([0, 3, 4]), ["sa_000003"]).to_pylist() == [
        "sa_000009",
        None,
        "sa_000004",
    ]


def test_a_path_names_its_archive_whatever_paths_are_beside_it() -> None:
    named = {"sa_000003/sa_1.jpg": "sa_000003", "sa_000004/images/sa_2.jpg": "sa_000004"}
    unnamed = dict.fromkeys(
        ["sa_12.jpg", "sa_34.jpg", "sa_345.jpg", "sa_000005", "sa_00005x/1.jpg", "sa_000006/a/1.jpg"]
    )
    for path, archive in (named | unnamed).items():
        assert own_archive(pa.array([path])).to_pylist() == [archive]
    assert own_archive(pa.array([*named, *unnamed])).to_pylist() == [*named.values(), *unnamed.values()]
    assert own_archive(pa.array([*named])).to_pylist() == [*named.values()]


def test_a_root_that_may_not_be_read_is_named(unprivileged: Path, make_fs: MakeFs) -> None:
    (unprivileged / "shut").mkdir(mode=0)
    with pytest.raises(RootNotFound, match="may not be read"):
        make_fs(unprivileged / "shut").cat_file("sa_1.jpg")


def test_an_archive_and_a_folder_that_may_not_be_read_are_called_so(
    unprivileged: Path, files: Files, make_fs: MakeFs, caplog: pytest.LogCaptureFixture
) -> None:
    root = unprivileged / "root"
    write_archive(root / "sa_000000.tar", files, "tar").chmod(0)
    write_files(root / "sa_000001", files)
    (root / "sa_000002").mkdir()
    (root / "sa_000002" / "sa_50.jpg").write_bytes(files["sa_1.jpg"])
    (root / "sa_000002" / "sa_50.jpg").chmod(0)
    (root / "sa_000001").chmod(0)
    fs = make_fs(root)
    for path, shut in (
        ("sa_000000/sa_1.jpg", "sa_000000.tar"),
        ("sa_000001/sa_1.jpg", "sa_000001"),
        ("sa_000002/sa_50.jpg", "sa_50.jpg"),
    ):
        with pytest.raises(NotPermitted, match=rf"{shut} may not be read by this user .*chmod") as raised:
            fs.cat_file(path)
        assert isinstance(raised.value, PermissionError) and raised.value.errno == errno.EACCES
    kinds = {info.name: info.kind for info in fs.archives()}
    assert kinds == {"sa_000000": "unusable", "sa_000001": "unusable", "sa_000002": "extracted"}
    assert not fs.have(["sa_000001/sa_1.jpg"]).any()
    assert "counts as not there" in caplog.text
    (root / "sa_000001").chmod(0o755)
