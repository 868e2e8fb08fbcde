"""An archive with one damaged block: the tools name the few images that are lost, and keep all the others."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_zh import load_dataset
from llava_zh.sa1b.filesystem import Sa1bFileSystem
from llava_zh.sa1b.tools.repack import repack
from llava_zh.sa1b.tools.verify import verify

from ..conftest import Files, write_archive
from ..small import small_files

MakeFs = Callable[..., Sa1bFileSystem]
ZH = "internvl_sa1b_caption_1m_single_image_zh.jsonl"
IMAGES, LOST = 40, 8  # of about 80 kB; at most what the block and the 32 kB after it touch, or half a megabyte


def damaged(root: Path, files: Files) -> Path:
    """A root with a sound archive and one whose compressed bytes are flipped in the middle."""
    write_archive(root / "sa_000001.tar", small_files(range(1000, 1003)), "gzip")
    path = write_archive(root / "sa_000000.tar", files, "gzip")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    for at in range(middle, middle + 8):
        data[at] ^= 0x5A
    path.write_bytes(data)
    return path


def test_verify_names_the_lost_and_everything_else_is_checked(tmp_path: Path, make_fs: MakeFs, files: Files) -> None:
    damaged(tmp_path / "root", files)
    bad, good = verify(make_fs(tmp_path / "root"), tmp_path / "out", num_proc=1).archives
    assert good.ok and not bad.ok
    assert bad.images >= IMAGES - LOST
    named = " ".join([*(problem["member"] for problem in bad.problems), *(one.path for one in bad.bad)])
    fs = make_fs(tmp_path / "root")
    there = {name for name in files if name.endswith(".jpg") and fs.exists(f"sa_000000/{name}")}
    lost = {name for name in files if name.endswith(".jpg")} - there
    assert len(lost) <= LOST
    assert bad.images + sum(one.is_image for one in bad.bad) == len(there)
    assert bad.problems and (named or lost)


@pytest.mark.parametrize("when", ["before indexing", "after indexing"])
def test_repack_writes_what_is_left_to_the_byte_and_leaves_the_archive_alone(
    tmp_path: Path, make_fs: MakeFs, files: Files, when: str
) -> None:
    if when == "after indexing":
        whole = write_archive(tmp_path / "root" / "sa_000000.tar", files, "gzip")
        make_fs(tmp_path / "root").build_index()
        before = whole.stat()
    path = damaged(tmp_path / "root", files)
    if when == "after indexing":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # bit rot changes no time
    content = path.read_bytes()
    one, other = repack(make_fs(tmp_path / "root"), tmp_path / "out")
    assert (one.problem, other.problem, other.left_out) == (None, None, [])
    assert one.left_out
    with tarfile.open(tmp_path / "out" / "sa_000000.tar") as tar:
        taken = {member.name: tar.extractfile(member).read() for member in tar}
    assert len(taken) >= IMAGES - LOST
    assert taken.items() <= files.items()
    assert path.read_bytes() == content


def test_rows_whose_images_are_left_are_kept(
    tmp_path: Path, make_fs: MakeFs, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(tmp_path / "root", files)
    turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "图"}]
    rows = [{"id": n, "image": f"sa_000000/sa_{n}.jpg", "conversations": turns} for n in range(1, IMAGES + 1)]
    (tmp_path / ZH).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kept = load_dataset(
        "internvl-sa-1b-caption", "single_zh", split="train", streaming=True, data_dir=tmp_path,
        image_root=str(tmp_path / "root"), archives="available",
    )  # fmt: skip
    ids = [int(row["id"]) for row in kept.decode(False)]
    fs = make_fs(tmp_path / "root")
    assert IMAGES - LOST <= len(ids) < IMAGES
    assert all(fs.cat_file(f"sa_000000/sa_{n}.jpg") == files[f"sa_{n}.jpg"] for n in ids)
