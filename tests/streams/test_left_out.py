"""A selection says what it leaves out, means the same in every form, and is an error where it leaves nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import fsspec
import pytest

from llava_zh import load_dataset
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument, ImageNotFound, LlavaZhError, NothingLeft


def load(demo: DemoPaths, **arguments: Any) -> Any:
    given = {"split": "train", "data_dir": demo.internvl, "image_root": demo.sa1b} | arguments
    return load_dataset("internvl-sa-1b-caption", "single_zh", **given)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))


def paths(demo: DemoPaths) -> list[str]:
    name = "internvl_sa1b_caption_1m_single_image_zh.jsonl"
    return [json.loads(line)["image"] for line in (demo.internvl / name).read_text().splitlines()]


FORMS = {
    "as published": "{path}",
    "with a dot": "./{path}",
    "as a URL": "sa1b://{path}",
    "as rows show it": "sa1b://{path}::{root}",
    "with another root": "sa1b://{path}::/elsewhere",
    "with a folder before it": "sa1b/{path}",
    "from another layout": "sam/images/{base}",
    "by its name": "{base}",
    "from Windows": "sa_000000\\{base}",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_bad_image_is_known_in_every_form_that_the_library_prints(demo: DemoPaths, form: str) -> None:
    bad, *others = paths(demo)
    entry = form.format(path=bad, base=bad.rpartition("/")[2], root=demo.sa1b)
    kept = [r["image"]["path"] for r in load(demo, streaming=True, image_root=None, bad_images=[entry])]
    assert kept == [f"sa1b://{path}" for path in others]


def test_what_a_row_has_as_its_image_is_a_form_too(demo: DemoPaths, tmp_path: Path) -> None:
    import datasets

    for name, config, root in (
        ("internvl-sa-1b-caption", "single_zh", demo.sa1b),
        ("llava-instruct-zh-600k", "default", None),
    ):
        folder = demo.internvl if root else demo.llava
        given: dict[str, Any] = {"data_dir": folder, "image_root": root, "split": "train", "cache_dir": tmp_path}
        rows = load_dataset(name, config, **given).cast_column("image", datasets.Image(decode=False))
        left = load_dataset(name, config, **given, bad_images=[rows[0]["image"], rows[1]["image"]["path"]])
        assert len(left) == len(rows) - 2


@pytest.mark.parametrize("num_proc", [1, 2])
def test_what_is_left_out_is_told_once_for_all_processes(
    demo: DemoPaths, tmp_path: Path, num_proc: int, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [paths(demo)[0], paths(demo)[-1], "sa_000000/sa_99999.jpg", "nothing.jpg"]
    with caplog.at_level(logging.WARNING, logger="llava_zh"):
        rows = load(demo, bad_images=bad, num_proc=num_proc, num_shards=4, cache_dir=tmp_path / "cache")
    assert len(rows) == 78
    assert [record.getMessage() for record in caplog.records] == [
        "internvl-sa-1b-caption/single_zh: 2 rows with a bad image left out",
        "internvl-sa-1b-caption/single_zh: 2 of 4 entries of bad_images match no row that was read: "
        "nothing.jpg, sa_99999.jpg",
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="llava_zh"):  # found prepared, and told of again
        load(demo, bad_images=bad, num_proc=num_proc, num_shards=4, cache_dir=tmp_path / "cache")
        load(demo, cache_dir=tmp_path / "cache")
        load(demo, cache_dir=tmp_path / "cache")  # of which nothing was left out
    assert [record.getMessage() for record in caplog.records] == [
        "internvl-sa-1b-caption/single_zh: when these rows were prepared, 2 rows with a bad image left out"
    ]


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_selection_that_leaves_no_row_says_which_filter_left_out_how_many(
    demo: DemoPaths, tmp_path: Path, num_proc: int | None
) -> None:
    for _ in range(2):  # nothing half prepared is found the second time
        with pytest.raises(NothingLeft) as caught:
            load(demo, archives=[777], num_proc=num_proc, num_shards=2, cache_dir=tmp_path / "cache")
        assert str(caught.value).startswith(
            "internvl-sa-1b-caption/single_zh: none of 80 rows is left: 80 rows with images in other "
            "archives left out. Asked for: archives=['sa_000777']."
        )
        assert caught.value.rows == 80
    with pytest.raises(NothingLeft, match=r"80 rows whose images are not available left out\. .*archives='available'"):
        load(demo, archives="available", image_root=_root_without_images(tmp_path), cache_dir=tmp_path / "cache")


def _root_without_images(tmp_path: Path) -> Path:
    (tmp_path / "root/sa_000000").mkdir(parents=True)
    return tmp_path / "root"


def test_a_stream_that_gives_no_row_says_why(demo: DemoPaths, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="llava_zh"):
        assert list(load(demo, streaming=True, archives=[777])) == []
    assert "80 rows with images in other archives left out" in caplog.text


@pytest.mark.parametrize("archives", [[], (), range(0)])
def test_a_choice_of_no_archive_is_refused(demo: DemoPaths, archives: Any) -> None:
    with pytest.raises(BadArgument, match="chooses no row"):
        load(demo, streaming=True, archives=archives)


@pytest.mark.parametrize("entry", [3, None, "", {"bytes": b""}])
def test_an_entry_that_is_no_image_is_refused(demo: DemoPaths, entry: Any) -> None:
    with pytest.raises(BadArgument, match="bad_images: expected paths or URLs"):
        load(demo, streaming=True, bad_images=[entry])


def test_every_command_says_that_nothing_is_left(demo: DemoPaths, tmp_path: Path) -> None:
    from model_server import ModelServer

    from llava_zh import curate, export
    from llava_zh.regenerate import regenerate

    name, given = ("internvl-sa-1b-caption", "single_zh"), {"data_dir": demo.internvl, "image_root": demo.sa1b}
    told = "none of 80 rows is left: 80 rows with images in other archives left out"
    with pytest.raises(NothingLeft, match=told):
        export(*name, to="jsonl", output_dir=tmp_path / "export", archives=[777], **given)
    with pytest.raises(NothingLeft, match=told):
        curate(*name, output_dir=tmp_path / "curate", archives=[777], **given)
    with ModelServer() as server, pytest.raises(NothingLeft, match=told):
        regenerate(
            *name, output_dir=tmp_path / "new", base_url=server.url, model=server.model, prompt="caption_zh",
            archives=[777], **given,
        )  # fmt: skip
    told = "none of 80 rows is left: 80 rows with answers of fewer than 100,000 characters left out"
    with pytest.raises(NothingLeft, match=rf"{told}\. Asked for: min_length=100000"):
        export(*name, to="jsonl", output_dir=tmp_path / "export2", min_length=100_000, **given)


def test_advice_for_images_of_sa1b_is_given_of_datasets_on_sa1b_alone(
    demo: DemoPaths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(NothingLeft, match=r"sa1b status"):
        load(demo, archives=[777], cache_dir=tmp_path)
    folder = tmp_path / "llava"
    folder.mkdir()
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "猫"}]
    row = {"id": "1", "image": "images/1.jpg", "conversations": turns}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    given: dict[str, Any] = {
        "split": "train",
        "data_dir": folder,
        "image_root": folder,
        "cache_dir": tmp_path / "cache",
    }
    with pytest.raises(NothingLeft, match=r"Widen the selection\.$"), caplog.at_level(logging.WARNING):
        load_dataset("llava-instruct-zh-600k", on_missing_image="skip", **given)
    assert f"image_root={folder}: the first row's image, images/1.jpg, is not there" in caplog.text
    with pytest.raises(ImageNotFound, match=r'start from as image_root=; .* left out with on_missing_image="skip"\.$'):
        fsspec.filesystem("sa1b", fo=str(folder)).cat_file("images/1.jpg")
    (folder / "images" / "sa_000000").mkdir(parents=True)
    with pytest.raises(ImageNotFound, match=r'with archives="available" or on_missing_image="skip"\.$'):
        fsspec.filesystem("sa1b", fo=str(folder / "images")).cat_file("sa_000000/sa_1.jpg")


def test_a_run_that_has_finished_no_rows_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    for name, config in (("internvl-sa-1b-caption", "single_zh"), ("llava-instruct-zh-600k", None)):
        with pytest.raises(LlavaZhError, match="A regeneration that has finished no rows yet wrote this folder"):
            load_dataset(name, config, split="train", streaming=True, data_dir=tmp_path)
