"""Which rows belong to a run is settled when it begins; archives and images that come or go change nothing about it."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_server import ModelServer
from PIL import Image

from llava_zh import load_dataset
from llava_zh.errors import RunConflict
from llava_zh.regenerate import Report, read_batch, regenerate, write_batch

from .archives import IMAGES, NAME, images_of, stem, write_archive, write_rows
from .conftest import lines_of, output_of, positions_of


class Input:
    """A published file over archives that arrive one by one, and the run over it."""

    def __init__(self, folder: Path, server: ModelServer, archives: int) -> None:
        self.folder, self.server, self.out = folder, server, folder / "out"
        self.images = write_rows(folder / "rows", archives)

    def arrive(self, *archives: int) -> None:
        for archive in archives:
            write_archive(self.folder / "sa1b", archive)

    def run(self, **given: Any) -> Report:
        return regenerate(
            "internvl-sa-1b-caption", "single_zh",
            **{
                "data_dir": self.folder / "rows", "image_root": self.folder / "sa1b", "output_dir": self.out,
                "base_url": self.server.url, "model": "tiny-vlm", "progress": False, "unit_rows": 100,
                "archives": "available", **given,
            },
        )  # fmt: skip

    def of(self, *archives: int) -> list[str]:
        """The images of rows over these archives, in the order of the input."""
        stems = {stem(archive) for archive in archives}
        return [image for image in self.images if image.split("/")[0] in stems]


@pytest.fixture
def published(tmp_path: Path, server: ModelServer) -> Input:
    return Input(tmp_path, server, 46)


def images_out(out: Path) -> list[str]:
    return [row["image"] for row in output_of(out)]


def test_archives_that_arrive_between_sessions_neither_repeat_nor_drop_a_row(published: Input) -> None:
    published.arrive(*range(40))
    assert published.run(limit=150).rows == 150
    published.arrive(*range(40, 46))
    report = published.run(limit=300)
    assert (report.rows, report.distinct, report.failed) == (300, 300, {})
    assert images_out(published.out) == published.of(*range(40))[:300]
    assert published.server.calls == 300
    assert report.notes == [
        "6 archives (sa_000040, sa_000041, sa_000042 …) have arrived since the run began; "
        "widen=True (--widen) takes in their rows"
    ]


def test_rows_of_arriving_archives_wait_also_where_paths_name_no_archive(tmp_path: Path, server: ModelServer) -> None:
    published = Input(tmp_path, server, 6)
    images = write_rows(tmp_path / "rows", 6, below="sam/images")
    published.arrive(*range(4))
    published.run(limit=3, num_shards=4)
    published.arrive(4, 5)
    published.run(num_shards=4)
    known = {f"sam/images/sa_{image}.jpg" for archive in range(4) for image in images_of(archive)}
    assert images_out(published.out) == [image for image in images if image in known]


def test_a_widened_run_appends_the_new_rows_after_the_old_ones(published: Input) -> None:
    published.arrive(*range(3))
    assert published.run().rows == 3 * IMAGES
    published.arrive(3, 4)
    report = published.run(widen=True)
    assert (report.rows, report.distinct, report.notes) == (5 * IMAGES, 5 * IMAGES, [])
    assert images_out(published.out) == published.of(0, 1, 2) + published.of(3, 4)
    published.run(widen=True)
    assert published.run().notes == []
    assert published.server.calls == 5 * IMAGES


def test_a_run_is_widened_in_the_middle_of_a_unit(published: Input) -> None:
    published.arrive(*range(10))
    published.run(limit=13)
    published.arrive(*range(10, 20))
    report = published.run(widen=True)
    assert report.distinct == report.rows == 20 * IMAGES
    assert sorted(images_out(published.out)) == sorted(published.of(*range(20)))


def test_rows_of_an_archive_that_is_gone_fail_with_the_reason_and_are_asked_again_when_it_is_back(
    published: Input,
) -> None:
    published.arrive(*range(4))
    published.run(limit=5, archives="available")
    gone = published.folder / "sa1b" / f"{stem(2)}.tar"
    gone.rename(published.folder / "away.tar")
    report = published.run()
    lost = [image for image in published.of(0, 1, 2, 3)[5:] if image.startswith(stem(2))]
    assert report.failed == {"ImageNotFound": len(lost)}
    assert report.notes == ["1 archive (sa_000002) is gone since the run began; their rows will fail"]
    failed = lines_of(published.out / "failed.jsonl")
    assert sorted(row["image"][0] for row in failed) == sorted(lost)
    assert all(f"No image {row['image'][0]} under" in row["message"] for row in failed)
    (published.folder / "away.tar").rename(gone)
    report = published.run(retry_failed=True)
    assert (report.rows, report.distinct, report.failed) == (4 * IMAGES, 4 * IMAGES, {})


def test_images_that_were_missing_are_taken_in_only_when_the_run_is_widened(published: Input) -> None:
    published.arrive(0, 1)
    given: dict[str, Any] = {"archives": range(4), "on_missing_image": "skip"}
    assert published.run(limit=9, **given).rows == 9
    published.arrive(2, 3)
    assert published.run(**given).rows == 2 * IMAGES
    report = published.run(widen=True, **given)
    assert report.distinct == report.rows == 4 * IMAGES
    assert images_out(published.out) == published.of(0, 1) + published.of(2, 3)


def test_another_list_of_bad_images_changes_no_row_of_a_run(published: Input) -> None:
    published.arrive(0, 1)
    rows = published.of(0, 1)
    published.run(limit=4, bad_images=[rows[0], rows[8]])
    report = published.run(bad_images=[rows[8], rows[9], rows[10]])
    assert images_out(published.out) == [row for row in rows if row not in (rows[0], rows[8])]
    assert "bad_images: 2 more and 1 fewer" in report.notes[0]
    report = published.run(bad_images=[rows[10]], widen=True)
    assert images_out(published.out)[-2:] == [rows[0], rows[8]]
    assert Counter(images_out(published.out)) == Counter(rows)


def test_other_archives_asked_for_are_refused_and_taken_in_with_widen(published: Input) -> None:
    published.arrive(*range(6))
    published.run(archives=range(2), limit=7)
    with pytest.raises(
        RunConflict, match=r"archives: 2 archives \(sa_000000, sa_000001\) in the run, 6 archives .*now"
    ):
        published.run(archives=range(6))
    with pytest.raises(RunConflict, match="on_missing_image: raise in the run, skip now"):
        published.run(archives=range(2), on_missing_image="skip")
    report = published.run(archives=range(6), widen=True)
    assert report.distinct == report.rows == 6 * IMAGES


def test_a_position_is_the_rows_number_in_the_published_file(published: Input) -> None:
    published.arrive(3, 5)
    published.run()
    expected = [number for number, image in enumerate(published.images) if image.split("/")[0] in (stem(3), stem(5))]
    assert positions_of(published.out) == expected
    rows = load_dataset(
        "internvl-sa-1b-caption", "single_zh", split="train", streaming=True,
        data_dir=published.out, image_root=published.folder / "sa1b",
    )  # fmt: skip
    assert len(list(rows)) == 2 * IMAGES


def test_a_batch_means_the_same_rows_as_the_run_that_began_it(published: Input) -> None:
    from .test_batch import answered

    published.arrive(0, 1)
    given: dict[str, Any] = {
        "data_dir": published.folder / "rows", "image_root": published.folder / "sa1b", "output_dir": published.out,
        "model": "tiny-vlm", "archives": "available",
    }  # fmt: skip
    files = write_batch("internvl-sa-1b-caption", "single_zh", **given)
    results = answered(files, published.server, published.folder / "results.jsonl")
    published.arrive(2)
    report = read_batch("internvl-sa-1b-caption", "single_zh", results=[results], **given)
    assert (report.status, report.rows, report.distinct) == ("finished", 2 * IMAGES, 2 * IMAGES)
    assert images_of(2)[0] not in [row["id"] for row in output_of(published.out)]
    assert "1 archive (sa_000002) has arrived" in report.notes[0]


def test_pictures_that_were_in_the_rows_are_in_what_comes_out(server: ModelServer, tmp_path: Path) -> None:
    pictures = []
    for number in range(6):
        buffer = io.BytesIO()
        Image.new("RGB", (24, 16), (number * 40, 10, 200)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    turns = [{"from": "human", "value": "<image>\n描述。"}, {"from": "gpt", "value": "旧。"}]
    table = {
        "type": ["detail"] * 6,
        "image": [{"bytes": picture, "path": "0.png"} for picture in pictures],  # one name for all of them
        "conversations": [turns] * 6,
    }
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.table(table), tmp_path / "rows" / "data.parquet")
    regenerate(
        "llava-instruct-zh-600k", "detail", data_dir=tmp_path / "rows", output_dir=tmp_path / "out",
        base_url=server.url, model="tiny-vlm", progress=False,
    )  # fmt: skip
    rows = load_dataset("llava-instruct-zh-600k", "detail", split="train", data_dir=tmp_path / "out", streaming=True)
    assert [row["image"].getpixel((0, 0)) for row in rows] == [(number * 40, 10, 200) for number in range(6)]


def test_a_session_reads_no_shard_before_the_unit_it_goes_on_with(
    published: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_zh.files import readers

    published.arrive(*range(46))
    given: dict[str, Any] = {"unit_rows": 50, "num_shards": 8}
    published.run(limit=250, **given)
    read: list[int] = []
    tables = readers.tables

    def watched(shard: Any, reading: Any) -> Any:
        read.append(shard.start)
        return tables(shard, reading)

    monkeypatch.setattr(readers, "tables", watched)
    assert published.run(**given).rows == 46 * IMAGES
    size = (published.folder / "rows" / NAME).stat().st_size
    assert len(read) <= 4  # of eight; 250 of 368 rows are done
    assert min(read) >= size // 2
    read.clear()
    published.run(**given)
    assert read == []  # published files do not grow


def test_rows_of_text_alone_are_left_out_of_a_run_and_counted(
    server: ModelServer, tmp_path: Path, images: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    turns = [{"from": "human", "value": "问？"}, {"from": "gpt", "value": "旧。"}]
    rows = [
        {"id": at, "conversations": turns, **({"image": Path(images[at]).name} if at % 3 else {})} for at in range(9)
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = regenerate(
        "llava", data_files=str(tmp_path / "my.jsonl"), image_root=Path(images[0]).parent, output_dir=tmp_path / "out",
        base_url=server.url, model="tiny-vlm", progress=False,
    )  # fmt: skip
    assert (report.rows, report.failed) == (6, {})
    assert positions_of(tmp_path / "out") == [1, 2, 4, 5, 7, 8]
    assert "3 rows of text alone, about which no model is asked, left out" in caplog.text
