"""Every export that this library writes, it loads, with the same rows and the same pictures."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported_rows import INTERNVL, LLAVA
from hunting import hunt
from hypothesis import given
from hypothesis import strategies as st
from picture_files import picture
from PIL import Image

import llava_zh
from llava_zh import export, load_dataset
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadRow, ImageNotFound, LlavaZhError
from llava_zh.exporters import TARGET_NAMES
from llava_zh.exporters.targets import TARGETS
from llava_zh.images import written_paths

WAYS = [(to, images) for to in TARGET_NAMES for images in TARGETS[to].images if (to, images) != ("webdataset", "url")]
TURNS = [{"from": "human", "value": "<image>\n颜色?"}, {"from": "gpt", "value": "红"}]


def rows_of(dataset: str, config: str, **arguments: Any) -> list[tuple[Any, ...]]:
    """Of each row its id, its turns and its decoded pictures."""
    stream = load_dataset(dataset, config, split="train", streaming=True, row_format="sharegpt", **arguments)
    return [
        (
            row["id"],
            [(turn["from"], turn["value"]) for turn in row["conversations"]],
            [np.asarray(image.convert("RGB")).tobytes() for image in row["images"]],
        )
        for row in stream
    ]


@pytest.fixture(scope="module")
def extracted(demo: DemoPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SA-1B as folders of files, for trainers that open files only."""
    root = tmp_path_factory.mktemp("extracted")
    for path in sorted(demo.sa1b.glob("sa_*.tar")):
        shutil.unpack_archive(path, root / path.stem, "tar")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("to", "images"), WAYS)
@pytest.mark.parametrize("config", ["single_zh", "multi_zh"])
def test_rows_of_sa_1b_load_again(
    demo: DemoPaths, extracted: Path, tmp_path: Path, to: str, images: str, config: str
) -> None:
    root = extracted if TARGETS[to].trainer and images == "url" else demo.sa1b
    export(
        INTERNVL, config, to=to, images=images, output_dir=tmp_path, data_dir=demo.internvl, image_root=root, limit=6
    )
    before = rows_of(INTERNVL, config, data_dir=demo.internvl, image_root=demo.sa1b)[:6]
    where = {"image_root": root} if images == "url" else {}
    assert rows_of(INTERNVL, config, data_dir=tmp_path, **where) == before


@pytest.mark.slow
@pytest.mark.parametrize(("to", "images"), WAYS)
def test_rows_with_images_as_files_load_again(demo: DemoPaths, tmp_path: Path, to: str, images: str) -> None:
    shutil.copytree(demo.llava, tmp_path / "in")
    export(LLAVA, to=to, images=images, output_dir=tmp_path / "out", data_dir=tmp_path / "in", limit=6)
    before = rows_of(LLAVA, "default", data_dir=tmp_path / "in")[:6]
    where = {"image_root": tmp_path / "in"} if images == "url" else {}
    if images == "url":
        with pytest.raises(BadRow, match=r"image_root='.*in"):
            rows_of(LLAVA, "default", data_dir=tmp_path / "out")
    assert rows_of(LLAVA, "default", data_dir=tmp_path / "out", **where) == before


def test_pictures_in_archives_load_again_by_the_urls_of_an_export(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "images.zip", "w") as archive:
        for name, colour in (("a/1.png", "red"), ("b/1.png", "blue")):
            archive.writestr(name, picture(colour))
    rows = [{"id": name, "image": name, "conversations": TURNS} for name in ("a/1.png", "b/1.png")]
    (tmp_path / "in" / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = rows_of(LLAVA, "default", data_dir=tmp_path / "in")
    for to in ("jsonl", "parquet"):
        out = tmp_path / to
        export(LLAVA, to=to, images="url", output_dir=out, data_dir=tmp_path / "in")
        assert rows_of(LLAVA, "default", data_dir=out, image_root=tmp_path / "in") == before
        with pytest.raises(BadRow, match="image_root"):
            rows_of(LLAVA, "default", data_dir=out)


def test_one_configuration_of_several_in_an_export_is_loaded(demo: DemoPaths, tmp_path: Path) -> None:
    export(INTERNVL, to="jsonl", language="zh", row_format="messages", output_dir=tmp_path, data_dir=demo.internvl)
    more: dict[str, Any] = {"split": "train", "streaming": True, "row_format": "messages"}
    for config in ("single_zh", "multi_zh"):
        found = load_dataset(INTERNVL, config, data_dir=tmp_path, **more).decode(False)
        assert list(found) == list(load_dataset(INTERNVL, config, data_dir=demo.internvl, **more).decode(False))


def test_an_export_that_was_moved_loads_where_it_names_its_files_relatively_and_else_says_what_to_pass(
    tmp_path: Path,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture("red"))
    (tmp_path / "in" / "t.jsonl").write_text(json.dumps({"id": "a", "image": "a.png", "conversations": TURNS}))
    before = rows_of(LLAVA, "default", data_dir=tmp_path / "in")
    for to in ("jsonl", "parquet", "ms-swift"):
        export(LLAVA, to=to, images="files", output_dir=tmp_path / to / "old", data_dir=tmp_path / "in")
        assert rows_of(LLAVA, "default", data_dir=tmp_path / to / "old") == before
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / to / "old")
        assert rows_of(LLAVA, "default", data_dir=tmp_path / "link") == before
        (tmp_path / to / "old").rename(tmp_path / to / "new")
        if to == "jsonl":
            assert rows_of(LLAVA, "default", data_dir=tmp_path / to / "new") == before
        else:
            with pytest.raises(BadRow, match=r"pass image_root='.*old/images'"):
                rows_of(LLAVA, "default", data_dir=tmp_path / to / "new")


# -- what a row names is believed below the places that the caller named, and nowhere else ------------------


REFUSED = (
    "/etc/passwd",
    "{root}-evil/1.png",
    "{root}/../private.png",
    "{root}//private.png",
    "{root}/",
    "{root}",
    "{root}/./private.png/..",
    "sa1b://a::/etc",
    "sa1b:///etc/passwd",
    "file://{root}/private.png",
)


@pytest.mark.parametrize("path", REFUSED)
def test_a_path_that_is_not_plainly_below_the_root_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root-evil").mkdir()
    for name in ("private.png", "root-evil/1.png", "root/1.png"):
        (tmp_path / name).write_bytes(picture("red"))
    path = path.format(root=tmp_path / "root")
    for number, first in enumerate([path, str(tmp_path / "root" / "1.png")]):
        folder = tmp_path / f"rows{number}"
        folder.mkdir()
        rows = [{"id": str(i), "image": name, "conversations": TURNS} for i, name in enumerate((first, path))]
        (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for where in ({}, {"image_root": tmp_path / "root"}):
            with pytest.raises(LlavaZhError):
                rows_of(LLAVA, "default", data_dir=folder, **where)


def test_a_url_of_the_root_that_the_caller_named_is_a_path_below_it(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "1.png").write_bytes(picture("red"))
    row = {"id": "0", "image": f"sa1b://x::{tmp_path / 'root'}", "conversations": TURNS}
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "t.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(LlavaZhError):
        rows_of(LLAVA, "default", data_dir=tmp_path / "rows")
    with pytest.raises(ImageNotFound, match="No image x under"):
        rows_of(LLAVA, "default", data_dir=tmp_path / "rows", image_root=tmp_path / "root")
    (tmp_path / "root" / "x").write_bytes(picture("red"))
    assert len(rows_of(LLAVA, "default", data_dir=tmp_path / "rows", image_root=tmp_path / "root")) == 1


def test_paths_below_the_folder_of_the_rows_are_believed(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(picture("red"))
    row = {"id": "a", "image": str(tmp_path / "1.png"), "conversations": TURNS}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = rows_of(LLAVA, "default", data_dir=tmp_path)
    assert found[2] == [np.asarray(Image.open(tmp_path / "1.png")).tobytes()]
    (again,) = rows_of(LLAVA, "default", data_files=str(tmp_path / "t.jsonl"))
    assert again == found


@hunt(100)
@given(
    st.lists(st.text(alphabet="a/.:é", max_size=6).map(lambda text: f"/r{text}") | st.text(max_size=8), max_size=5),
    st.sampled_from(
        [
            (("/r/", "", "a/"),),
            (("/r/", "::/r"), ("/r", "")),
            (("sa1b://", "::/r", "/é"), ("sa1b://", "")),
            (("/r/", ""),),
            (),
        ]
    ).map(lambda around: tuple(written_paths.Around(*one) for one in around)),
)
def test_a_column_gives_what_its_paths_give_one_by_one(
    paths: list[str], around: tuple[written_paths.Around, ...]
) -> None:
    paths += [f"sa1b://{path}::/r" for path in paths] + [f"sa1b://{path}" for path in paths]
    column = pa.array(paths, pa.string())
    expected = [written_paths.published(path, around) for path in paths]
    assert written_paths.published_column(column, around).to_pylist() == expected


# -- the hunt: nothing outside the scratch folder is opened or written, whatever pictures are called --------

_watched: list[str] | None = None
_scratch = ""


_FILES = ("open", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.rename", "os.link", "os.symlink")
_NEVER = ("socket.connect", "subprocess.Popen", "os.exec", "os.system", "os.posix_spawn")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None or event not in _FILES + _NEVER:
        return
    paths = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
    names = [os.fsdecode(path) for path in paths if isinstance(path, str | bytes)]
    if event in _NEVER or not all(_harmless(name, event, arguments) for name in names):
        _watched.append(f"{event} {arguments}")


def _harmless(path: str, event: str, arguments: tuple[Any, ...]) -> bool:
    real = os.path.realpath(path)
    if real.startswith((_scratch, os.path.realpath(datasets.config.HF_DATASETS_CACHE))):
        return True
    installed = (sys.prefix, sys.base_prefix, str(Path(llava_zh.__file__).parent.parent), "/proc", "/usr", "/dev")
    reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return reads and real.startswith(installed)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder beside which nothing may be touched while `_watched` is a list."""
    global _scratch
    folder = tmp_path_factory.mktemp("watched")
    _scratch = os.path.realpath(folder)
    sys.addaudithook(_audit)
    yield folder
    _scratch = "/"


AWKWARD = (
    *("/etc/passwd", "../../../../etc/passwd", "..", ".", "/", "C:\\x", "con", "nul.jpg", "a\x00b", "\x1b]0;x\x07"),
    *("sa1b://x::/etc", "http://127.0.0.1:9/x", "file:///etc/passwd", "private.png", "./private.png", "%2e%2e/x"),
    *("a" * 5000, "图" * 300, "a.png/b.png", "a.png", "A.PNG", "a.", "a ", " ", "~", "~/x", "$HOME", "-rf"),
    *(".export/lock", "x\u202egnp.exe", "data:image/png;base64,AAAA", "e\u0301.png", "\xe9.png"),
)
NAMES = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.text("./\\:a~%", min_size=1, max_size=12),
)
WRITTEN = [way for way in WAYS if way[1] != "url"]


@hunt(12)
@given(
    labels=st.lists(st.none() | NAMES, min_size=2, max_size=4), way=st.sampled_from([w for w in WAYS if w[1] != "url"])
)
def test_whatever_embedded_pictures_are_called_they_come_back_and_nothing_else_is_touched(
    watched: Path, labels: list[str | None], way: tuple[str, str]
) -> None:
    global _watched
    folder = Path(tempfile.mkdtemp(dir=watched))
    colours = [(40 * i, 200 - 40 * i, 7) for i in range(len(labels))]
    images = [{"bytes": picture(colour), "path": label} for colour, label in zip(colours, labels, strict=True)]
    (folder / "in").mkdir()
    turn = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    table = {
        "id": [str(i) for i in range(len(labels))],
        "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "conversations": pa.array([TURNS] * len(labels), turn),
    }
    pq.write_table(pa.table(table), folder / "in" / "t.parquet")
    _watched = []
    try:
        export(LLAVA, to=way[0], images=way[1], output_dir=folder / "out", data_dir=folder / "in")
        found = rows_of(LLAVA, "default", data_dir=folder / "out")
    finally:
        touched, _watched = _watched, None
    assert not touched
    assert [id_ for id_, _, _ in found] == table["id"]
    assert [pixels[0][:3] for _, _, pixels in found] == [bytes(colour) for colour in colours]
    shutil.rmtree(folder)
