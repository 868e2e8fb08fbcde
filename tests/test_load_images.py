"""``load_dataset`` and the images of SA-1B: which rows have theirs, and that a row shows the file's own pixels."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image, ImageOps
from sa1b.conftest import tar_bytes, write_archive, write_files
from sa1b.small import small_files

from llava_zh import decode_image, export, load_dataset
from llava_zh.errors import BadArchive, BadImage, ImageNotFound, RootNotFound
from llava_zh.regenerate.images import load_picture
from llava_zh.sa1b import filesystem
from llava_zh.sa1b.filesystem import Sa1bFileSystem
from llava_zh.sa1b.tools.verify import verify

SINGLE = "internvl_sa1b_caption_11m_single_image_en.jsonl"
MULTI = "internvl_sa1b_caption_77k_multi_image_en.jsonl"
Load = Callable[..., list[Any]]


@pytest.fixture(autouse=True)
def index_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SA1B_ROOT", raising=False)
    filesystem._roots.clear()
    yield tmp_path / "cache"


def row(number: int, *images: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\n" * len(images) + "?"}, {"from": "gpt", "value": f"answer {number}"}]
    return {"id": number, "image": images[0] if len(images) == 1 else list(images), "conversations": turns}


def write_rows(folder: Path, rows: list[dict[str, Any]], name: str = SINGLE) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Four rows an archive, of six archives; only images 10n+1 and 10n+2 will be there."""
    rows = [row(10 * n + i, f"sa_{n:06d}/sa_{10 * n + i}.jpg") for n in range(6) for i in range(1, 5)]
    return write_rows(tmp_path / "captions", rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Every layout, with two of the four images that rows name in each."""
    root = tmp_path / "root"
    sets = [small_files(range(10 * n + 1, 10 * n + 3)) for n in range(6)]
    write_archive(root / "sa_000000.tar", sets[0], "gzip")
    write_archive(root / "sa_000001.tar", sets[1], "tar")
    write_archive(root / "SA-1B-Part-000002.zip", sets[2], "zip")
    write_files(root / "sa_000003", sets[3])
    write_files(root / "sa_000004" / "images", sets[4])
    write_files(root / "sam" / "images", sets[5])
    return root


@pytest.fixture(params=["prepared", "streamed"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """Rows of a folder, by either way."""

    def rows(data_dir: Path, name: str = "single_en", **options: Any) -> list[Any]:
        loaded = load_dataset(
            "internvl-sa-1b-caption",
            name,
            split="train",
            data_dir=data_dir,
            cache_dir=tmp_path / "datasets",
            streaming=request.param == "streamed",
            **options,
        )
        return list(loaded)

    return rows


def ids(rows: list[Any]) -> list[int]:
    return [int(one["id"]) for one in rows]


THERE = [10 * n + i for n in range(6) for i in (1, 2)]


def test_available_keeps_the_rows_whose_images_are_there_in_every_layout(
    captions: Path, root: Path, load: Load
) -> None:
    rows = load(captions, image_root=root, archives="available")
    assert ids(rows) == THERE
    assert all(one["image"].size == (96, 64) for one in rows)


def test_available_opens_no_image(captions: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "root" / "sa_000000.tar", {"sa_1.jpg": b"no JPEG", "sa_2.jpg": b""}, "tar")
    write_files(tmp_path / "root" / "sa_000003", {"sa_31.jpg": b"no JPEG"})
    options = {"split": "train", "data_dir": captions, "image_root": tmp_path / "root", "archives": "available"}
    for streaming in (True, False):
        rows = load_dataset(
            "internvl-sa-1b-caption", "single_en", streaming=streaming, cache_dir=tmp_path / "datasets", **options
        )
        assert ids(list(rows.select_columns(["id"]))) == [1, 2, 31]


def test_an_archive_that_arrives_brings_its_rows_at_the_next_load(captions: Path, tmp_path: Path, load: Load) -> None:
    root = tmp_path / "root"
    write_archive(root / "sa_000000.tar", small_files(range(1, 3)), "tar")
    assert ids(load(captions, image_root=root, archives="available")) == [1, 2]
    assert ids(load(captions, image_root=root, on_missing_image="skip")) == [1, 2]
    write_files(root / "sa_000003", small_files(range(31, 32)))
    assert ids(load(captions, image_root=root, archives="available")) == [1, 2, 31]
    write_files(root / "sa_000003", small_files(range(32, 33)))
    assert ids(load(captions, image_root=root, on_missing_image="skip")) == [1, 2, 31, 32]


def test_of_a_truncated_archive_the_whole_part_is_available(captions: Path, tmp_path: Path, load: Load) -> None:
    files = small_files(range(1, 5))
    whole = tar_bytes(files)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "sa_000000.tar").write_bytes(whole[: whole.index(b"./sa_3.jpg") + 600])
    assert ids(load(captions, image_root=tmp_path / "root", archives="available")) == [1, 2]


def test_available_needs_a_root(captions: Path, load: Load) -> None:
    with pytest.raises(RootNotFound, match="image_root="):
        load(captions, archives="available")


def test_archives_by_number_and_name_keep_rows_by_what_they_name(captions: Path, load: Load) -> None:
    assert ids(load(captions, archives=[0, "sa_000004.tar"])) == [1, 2, 3, 4, 41, 42, 43, 44]
    assert ids(load(captions, archives=range(1))) == [1, 2, 3, 4]


# -- missing images ----------------------------------------------------------------------------------------


def test_a_missing_image_is_an_error_that_names_it(captions: Path, root: Path, load: Load) -> None:
    with pytest.raises(ImageNotFound, match=r"sa_000000/sa_3\.jpg"):
        load(captions, image_root=root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_missing_image": "skip"}, "12 rows with a missing image left out"),
        ({"on_missing_image": "null"}, "12 missing images given as null"),
        ({"archives": "available"}, "12 rows whose images are not available left out"),
    ],
)
def test_missing_images_are_counted_and_reported_at_the_end_of_an_epoch(
    captions: Path, root: Path, load: Load, options: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="llava_zh"):
        rows = load(captions, image_root=root, num_shards=4, **options)
    assert [record.getMessage() for record in caplog.records] == [f"internvl-sa-1b-caption/single_en: {message}"]
    if options.get("on_missing_image") == "null":
        assert [one["image"] is not None for one in rows] == [int(one["id"]) in THERE for one in rows]
        assert len(rows) == 24
    else:
        assert ids(rows) == THERE


def test_each_epoch_of_a_stream_reports_its_own_count_and_one_that_is_left_early_too(
    captions: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = load_dataset(
        "internvl-sa-1b-caption",
        "single_en",
        split="train",
        data_dir=captions,
        image_root=root,
        streaming=True,
        num_shards=2,
        on_missing_image="skip",
    )
    with caplog.at_level(logging.WARNING, logger="llava_zh"):
        left_early = iter(rows)
        next(left_early)
        left_early.close()
        for _ in range(2):
            assert len(list(rows)) == 12
    counts = [int(record.getMessage().split(": ")[1].split()[0]) for record in caplog.records]
    assert counts[0] < 12 and counts[1:] == [12, 12]


def test_workers_report_what_each_has_left_out(captions: Path, root: Path) -> None:
    pytest.importorskip("torch", reason="DataLoader is torch's, which the torch extra brings")
    code = (
        "import sys, torch, llava_zh\n"
        "rows = llava_zh.load_dataset('internvl-sa-1b-caption', 'single_en', split='train', streaming=True,\n"
        "    data_dir=sys.argv[1], image_root=sys.argv[2], num_shards=4, on_missing_image='skip')\n"
        "loaded = torch.utils.data.DataLoader(rows, num_workers=2, batch_size=None)\n"
        "print(sorted(int(row['id']) for row in loaded))\n"
    )
    arguments = [sys.executable, "-c", code, str(captions), str(root)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == THERE
    counts = re.findall(r": (\d+) rows with a missing image left out", done.stderr)
    assert len(counts) == 2 and sum(map(int, counts)) == 12


def test_a_row_of_several_images_needs_them_all(tmp_path: Path, root: Path, load: Load) -> None:
    rows = [
        row(0, "sa_000000/sa_1.jpg", "sa_000003/sa_32.jpg"),
        row(1, "sa_000000/sa_1.jpg", "sa_000003/sa_33.jpg"),
        row(2, "sa_000009/sa_51.jpg"),  # flat, whatever archive the row says
    ]
    folder = write_rows(tmp_path / "captions", rows, MULTI)
    assert ids(load(folder, "multi_en", image_root=root, archives="available")) == [0, 2]
    assert ids(load(folder, "multi_en", image_root=root, on_missing_image="skip")) == [0, 2]
    nulls = load(folder, "multi_en", image_root=root, on_missing_image="null")
    assert [[image is not None for image in one["image"]] for one in nulls] == [[True, True], [True, False], [True]]


# -- bad images --------------------------------------------------------------------------------------------


def test_what_verify_found_bad_is_left_out_and_all_others_open(
    captions: Path, root: Path, tmp_path: Path, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    write_archive(root / "sa_000000.tar", small_files(range(1, 3)) | {"sa_2.jpg": b"\xff\xd8\xff"}, "gzip")
    (root / "sa_000003" / "sa_31.jpg").write_bytes(b"")
    (root / "sam" / "images" / "sa_51.jpg").write_bytes(b"<html>")  # known by its name alone
    report = verify(Sa1bFileSystem(fo=[str(root)]), tmp_path / "verify", num_proc=1)
    assert len(report.bad_images) == 3
    with caplog.at_level(logging.WARNING, logger="llava_zh"):
        rows = load(captions, image_root=root, archives="available", bad_images=tmp_path / "verify" / "bad-images.txt")
    assert ids(rows) == [number for number in THERE if number not in (2, 31, 51)]
    assert "3 rows with a bad image left out" in caplog.text


def test_bad_images_may_be_a_list(captions: Path, root: Path, load: Load) -> None:
    rows = load(captions, image_root=root, archives="available", bad_images=["sa_000000/sa_1.jpg", "sa_12.jpg"])
    assert ids(rows) == [number for number in THERE if number not in (1, 12)]


def test_damage_inside_an_archive_names_archive_and_member(captions: Path, tmp_path: Path, load: Load) -> None:
    path = write_archive(tmp_path / "root" / "sa_000000.tar", small_files(range(1, 5)), "tar")
    Sa1bFileSystem(fo=[str(tmp_path / "root")]).build_index()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises((BadArchive, ImageNotFound), match=r"sa_000000\.tar"):
        load(captions, image_root=tmp_path / "root", archives=0)


# -- pixels ------------------------------------------------------------------------------------------------


def photographs() -> dict[str, bytes]:
    """A JPEG in every EXIF orientation, in grey, in CMYK, progressive, and 4:4:4."""
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(np.kron(rng.integers(0, 256, (6, 9, 3), "u1"), np.ones((8, 8, 1), "u1")))
    files = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"sa_{orientation}.jpg"] = encoded(pixels, exif=exif)
    files["sa_9.jpg"] = encoded(pixels.convert("L"))
    files["sa_10.jpg"] = encoded(pixels.convert("CMYK"))
    files["sa_11.jpg"] = encoded(pixels, progressive=True)
    files["sa_12.jpg"] = encoded(pixels, subsampling=0)
    return files


def encoded(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["gzip", "tar", "zip", "extracted"])
def test_a_rows_image_has_the_pixels_size_and_orientation_of_the_file_opened_by_hand(
    tmp_path: Path, load: Load, kind: str
) -> None:
    files = photographs()
    if kind == "extracted":
        write_files(tmp_path / "root" / "sa_000000", files)
    else:
        write_archive(tmp_path / "root" / "sa_000000.tar", files, kind)
    captions = write_rows(tmp_path / "captions", [row(n, f"sa_000000/sa_{n}.jpg") for n in range(1, 13)])
    for one in load(captions, image_root=tmp_path / "root"):
        with Image.open(io.BytesIO(files[f"sa_{one['id']}.jpg"])) as by_hand:
            upright = ImageOps.exif_transpose(by_hand)
        image = one["image"]
        assert (image.size, image.mode) == (upright.size, upright.mode), one["id"]
        assert np.array_equal(np.asarray(image), np.asarray(upright)), one["id"]
        assert image.getexif().get(0x0112) == upright.getexif().get(0x0112)


def test_the_undecoded_image_is_a_url_that_opens_to_the_files_own_bytes(tmp_path: Path) -> None:
    import fsspec

    path = write_archive(tmp_path / "root" / "sa_000000.tar", photographs(), "gzip")
    captions = write_rows(tmp_path / "captions", [row(6, "sa_000000/sa_6.jpg")])
    rows = load_dataset(
        "internvl-sa-1b-caption",
        "single_en",
        split="train",
        data_dir=captions,
        image_root=path.parent,
        streaming=True,
    ).decode(False)
    (one,) = rows
    with fsspec.open(one["image"]["path"]) as file, tarfile.open(path) as tar:
        assert file.read() == tar.extractfile("./sa_6.jpg").read() == photographs()["sa_6.jpg"]


def test_a_cut_an_empty_and_an_html_file_are_bad_images_by_name_however_a_row_is_opened(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "JPEG")
    whole = buffer.getvalue()
    bad = {1: whole[: len(whole) // 2], 2: b"", 3: b"<!DOCTYPE html><html>404</html>"}
    (tmp_path / "sa1b/sa_000000").mkdir(parents=True)
    for number, data in (bad | {4: whole}).items():
        (tmp_path / f"sa1b/sa_000000/sa_{number}.jpg").write_bytes(data)
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "猫"}]
    rows = [{"image": f"sa_000000/sa_{number}.jpg", "conversations": turns} for number in (1, 2, 3, 4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given: dict[str, Any] = {"data_files": str(tmp_path / "rows.jsonl"), "image_root": tmp_path / "sa1b"}
    loaded = load_dataset("internvl-sa-1b-caption", "single_zh", split="train", cache_dir=tmp_path / "cache", **given)
    stored = loaded.cast_column("image", datasets.Image(decode=False))
    for at, number in enumerate(bad):
        for opens in (
            lambda at=at: loaded[at],
            lambda at=at: decode_image(stored[at]["image"]),
            lambda at=at: load_picture(stored[at]["image"]),
        ):
            with pytest.raises(BadImage, match=rf"sa_000000/sa_{number}\.jpg"):
                opens()
    assert loaded[3]["image"].size == (64, 64)
    with pytest.raises(BadImage, match=r"row None: sa_000000/sa_1\.jpg: truncated"):
        export(
            "internvl-sa-1b-caption", "single_zh", to="parquet", images="embed", output_dir=tmp_path / "out", **given
        )
