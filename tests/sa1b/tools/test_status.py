from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from llava_zh.errors import ImageNotFound, RootNotFound
from llava_zh.sa1b.filesystem import Sa1bFileSystem
from llava_zh.sa1b.tools.status import coverage, locate, status

from ..conftest import write_archive, write_files
from ..small import small_files

MakeFs = Callable[..., Sa1bFileSystem]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each layout once, two images each: 1 and 2 in the first, 11 and 12 in the second, …"""
    root = tmp_path_factory.mktemp("layouts")
    sets = [small_files(range(10 * n + 1, 10 * n + 3)) for n in range(6)]
    write_archive(root / "sa_000000.tar", sets[0], "gzip")
    write_archive(root / "sa_000001.tar", sets[1], "tar")
    write_archive(root / "SA-1B-Part-000002.zip", sets[2], "zip")
    write_files(root / "sa_000003", sets[3])
    write_files(root / "sa_000004" / "images", sets[4])
    write_files(root / "images", sets[5])
    (root / "captions").mkdir()
    (root / "captions" / "rows.jsonl").write_text("{}\n")
    return root


def test_status_lists_every_layout_and_nothing_else(root: Path, make_fs: MakeFs) -> None:
    found = {info.name: info.kind for info in status(make_fs(root))}
    assert found == {
        "sa_000000": "gzip",
        "sa_000001": "tar",
        "sa_000002": "zip",
        "sa_000003": "extracted",
        "sa_000004": "extracted",
        "": "flat",
    }


def test_status_builds_no_index(root: Path, make_fs: MakeFs, index_cache: Path) -> None:
    status(make_fs(root))
    coverage(make_fs(root), [pa.array([["sa_000000/sa_1.jpg"]])])
    assert not list(index_cache.rglob("*.sa1bx"))


def test_status_of_a_root_that_is_not_there_says_so(tmp_path: Path, make_fs: MakeFs) -> None:
    with pytest.raises(RootNotFound, match="nowhere"):
        status(make_fs(tmp_path / "nowhere"))


def test_a_row_counts_where_its_worst_image_does(root: Path, make_fs: MakeFs) -> None:
    fs = make_fs(root)
    fs.build_index(["sa_000001"])
    rows = pa.array(
        [
            ["sa_000001/sa_11.jpg"],
            ["sa_000003/sa_31.jpg", "sa_000004/sa_42.jpg"],
            ["sa_000077/sa_51.jpg"],  # in the flat folder, whatever archive it came from
            ["sa_000000/sa_1.jpg"],  # this archive has no index yet
            ["sa_000001/sa_11.jpg", "sa_000000/sa_99.jpg"],
            ["sa_000001/sa_19.jpg"],
            ["sa_000000/sa_1.jpg", "sa_000088/sa_3.jpg"],
        ]
    )
    found = coverage(fs, [rows, rows.slice(5), rows.slice(0, 0)])
    assert (found.rows, found.covered, found.unindexed, found.missing) == (9, 3, 2, 4)


def test_coverage_is_exact_once_everything_is_indexed(root: Path, make_fs: MakeFs) -> None:
    fs = make_fs(root)
    fs.build_index()
    found = coverage(fs, [pa.array([["sa_000000/sa_1.jpg"], ["sa_000000/sa_99.jpg"]])])
    assert (found.covered, found.unindexed, found.missing) == (1, 0, 1)


@pytest.mark.parametrize(
    ("image", "path", "kind"),
    [
        (1, "sa_000000/sa_1.jpg", "gzip"),
        ("11", "sa_000001/sa_11.jpg", "tar"),
        ("sa_21.json", "sa_000002/sa_21.json", "zip"),
        ("sa_31.jpg", "sa_000003/sa_31.jpg", "file"),
        (41, "sa_000004/sa_41.jpg", "file"),
        ("sa_000005/sa_51.jpg", "sa_000005/sa_51.jpg", "file"),
    ],
)
def test_locate_finds_an_image_by_id_name_or_path(
    root: Path, make_fs: MakeFs, image: int | str, path: str, kind: str
) -> None:
    found = locate(make_fs(root), image)
    assert (found.path, found.kind) == (path, kind)
    expected = small_files(range(int(path.split("_")[-1].split(".")[0]), 0x7FFFFFFF)[:1])[path.rpartition("/")[2]]
    assert found.size == len(expected)
    data = Path(found.file).read_bytes()
    if kind == "tar":
        assert data[found.offset :][: found.size] == expected
    elif kind == "file":
        assert data == expected


def test_locate_of_an_id_that_is_nowhere_names_the_nearest_archive(root: Path, make_fs: MakeFs) -> None:
    fs = make_fs(root)
    fs.build_index()
    with pytest.raises(ImageNotFound, match="sa_000002 comes nearest: it holds the ids 21 to 22"):
        locate(fs, 29)
