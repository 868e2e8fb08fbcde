"""Sets in neighbouring forms, each made small from its description, load without registration or with a short one."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_server import ModelServer
from picture_files import picture
from published_rows import turns

from llava_zh import export, load_dataset, register
from llava_zh.catalog.facts import ConfigFacts, DatasetFacts
from llava_zh.catalog.request import image_roots
from llava_zh.regenerate import regenerate

RED, BLUE = picture("red", "JPEG"), picture("blue", "JPEG", size=(12, 8))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images: of SA-1B in a folder as captions name it, of COCO as files and in a zip."""
    base = tmp_path_factory.mktemp("images")
    for name, data in (
        ("sa1b/sa_000000/sa_1.jpg", RED),
        ("all/sam/images/sa_1.jpg", RED),
        ("all/coco/train2017/1.jpg", BLUE),
    ):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(data)
    with zipfile.ZipFile(base / "train2017.zip", "w") as archive:
        archive.writestr("train2017/1.jpg", BLUE)
    return base


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        text = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(text) + "\n" if name.endswith(".jsonl") else f"[{','.join(text)}]", encoding="utf-8")
    return path


def read(path: str, name: str | None = None, **arguments: Any) -> list[dict[str, Any]]:
    """The rows of a stream, which a prepared dataset has as well, with the size of their pictures and their texts."""
    rows = []
    for row in load_dataset(path, name, split="train", streaming=True, **arguments):
        image = row["image"][0] if isinstance(row["image"], list) else row["image"]
        rows.append({"size": image.size, "said": [turn["value"] for turn in row["conversations"]]})
    return rows


CHAT = [{"role": "user", "content": "<image>这是什么?"}, {"role": "assistant", "content": "一棵树。"}]
URL = "https://images.example/some/where/sa_1.jpg"


@pytest.mark.parametrize(
    ("file", "row", "said"),
    [
        # facebook/PLM-Image-Auto
        (
            "plm.parquet",
            {"image_id": "sa_1", "image": "sa_1.jpg", "conversations": turns()},
            ["<image>\nWhat?", "一棵树。"],
        ),
        # Tongyi-DataEngine/SA1B-Dense-Caption: a Python dict as text
        (
            "dense.parquet",
            {"url": URL, "cap_seg": str({"global_caption": "It's 红色。", "n": [1]})},
            ["<image>", "It's 红色。"],
        ),
        # Tongyi-DataEngine/SA1B-Paired-Captions-Images
        ("paired.parquet", {"opensource_url": URL + "?sign=1", "global_caption": "红色。"}, ["<image>", "红色。"]),
        # OpenGVLab/AS-Core, in its two forms
        (
            "core.jsonl",
            {"image": "sa_000000/sa_1.jpg", "width": 8, "caption": "Red."},
            ["<image>", "Red."],
        ),
        ("qa.jsonl", {"image": "sa_000000/sa_1.jpg", "question": "What?", "answer": "Red."}, ["What?", "Red."]),
    ],
)
def test_sets_over_sa1b_load_as_its_captions(
    root: Path, tmp_path: Path, file: str, row: dict[str, Any], said: list[str]
) -> None:
    path = write(tmp_path, file, [row])
    assert read("sa1b-captions", data_files=path, image_root=root / "sa1b") == [{"size": (8, 8), "said": said}]


def test_mminstruct_and_minimind_and_messages_load_as_llava(root: Path, tmp_path: Path) -> None:
    coco = root / "all" / "coco" / "train2017"
    path = write(tmp_path, "caption_cn.jsonl", [{"id": "1", "image": "1.jpg", "conversations": turns()}])
    assert read("llava", "zh", data_files=path, image_root=coco)[0]["size"] == (12, 8)
    # BUAADreamer/llava-en-zh-300k
    path = write(tmp_path / "chat", "zh.parquet", [{"messages": CHAT, "images": [{"bytes": RED, "path": None}]}])
    assert read("llava", data_dir=path.parent) == [{"size": (8, 8), "said": ["<image>这是什么?", "一棵树。"]}]
    # jingyaogong/minimind-v_dataset: the conversation is JSON text, the picture binary or a list of them
    rows = [{"conversations": json.dumps(CHAT, ensure_ascii=False), "image_bytes": data} for data in (RED, BLUE)]
    path = write(tmp_path / "mini", "pretrain.parquet", rows)
    assert [row["size"] for row in read("llava", data_files=path)] == [(8, 8), (12, 8)]
    path = write(tmp_path / "mini", "sft.parquet", [{**rows[0], "image_bytes": [BLUE]}])
    assert read("llava", "multi", data_files=path)[0]["size"] == (12, 8)


def test_pictures_beside_their_captions_in_a_tar_load_as_captions(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "sa_000000.tar", "w") as archive:
        for name, data in (
            ("sa_1.jpg", RED),
            ("sa_1.txt", "红色。\n".encode()),
            ("sa_2.txt", b"Blue."),
            ("sa_2.jpg", BLUE),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    rows = read("sa1b-captions", data_files=tmp_path / "sa_000000.tar")
    assert rows == [{"size": (8, 8), "said": ["<image>", "红色。"]}, {"size": (12, 8), "said": ["<image>", "Blue."]}]


def test_llava_instruct_150k_finds_coco_in_a_folder_or_a_zip(root: Path, tmp_path: Path) -> None:
    row = {"id": "000000000001", "image": "1.jpg", "conversations": turns()}
    write(tmp_path, "llava_instruct_150k.json", [row])
    write(tmp_path, "detail_23k.json", [row, row])
    for place in (root / "all" / "coco" / "train2017", root / "all" / "coco", root / "train2017.zip"):
        assert read("llava-instruct-150k", data_dir=tmp_path, image_root=place)[0]["size"] == (12, 8)
    assert (
        len(read("liuhaotian/LLaVA-Instruct-150K", "detail", data_dir=tmp_path, image_root=root / "all" / "coco")) == 2
    )
    features = load_dataset("llava-instruct-150k", split="train", streaming=True, data_dir=tmp_path).features
    chinese = write(tmp_path / "zh", "zh.jsonl", [row])
    assert features == load_dataset("llava", split="train", streaming=True, data_files=chinese).features


def test_a_set_with_images_in_two_places_needs_their_prefixes_alone(root: Path, tmp_path: Path) -> None:
    register(
        DatasetFacts(
            name="sharegpt4v-like",
            configs=(ConfigFacts("captions", language="en", file="share.json"),),
            images={"sam/": "sa1b", "coco/": "own"},
        )
    )
    rows = [
        {"id": name, "image": name, "conversations": turns()}
        for name in ("sam/images/sa_1.jpg", "coco/train2017/1.jpg")
    ]
    write(tmp_path, "share.json", [*rows, {**rows[0], "image": "web/1.jpg"}])
    by_prefix = image_roots(f"sam/={root / 'sa1b'},coco/={root / 'all' / 'coco'}")  # as on the command line
    for place in (root / "all", by_prefix):
        found = read("sharegpt4v-like", data_dir=tmp_path, image_root=place, on_missing_image="skip")
        assert [row["size"] for row in found] == [(8, 8), (12, 8)]


def test_what_is_written_of_images_told_apart_by_prefix_loads_again(root: Path, tmp_path: Path) -> None:
    images: dict[str, Any] = {"sam/": "sa1b", "coco/": "own"}
    register(DatasetFacts(name="apart", configs=(ConfigFacts("zh", language="zh", file="apart.json"),), images=images))
    names = ("sam/images/sa_1.jpg", "./coco/train2017/1.jpg", "coco/train2017/1.jpg")
    rows = [{"id": str(number), "image": name, "conversations": turns()} for number, name in enumerate(names)]
    where = {"image_root": {"sam/": str(root / "sa1b"), "coco/": str(root / "all" / "coco")}}
    given: dict[str, Any] = {"data_dir": str(write(tmp_path / "in", "apart.json", rows).parent), **where}
    before = read("apart", **given)
    assert [row["size"] for row in before] == [(8, 8), (12, 8), (12, 8)]
    for to, kept in (
        ("jsonl", "url"),
        ("parquet", "url"),
        ("jsonl", "files"),
        ("parquet", "files"),
        ("ms-swift", "files"),
    ):
        out = tmp_path / f"{to}-{kept}"
        export("apart", "zh", to=to, images=kept, output_dir=out, **given)
        for asked in (where, {}) if kept == "files" else (where,):
            assert read("apart", data_dir=out, **asked) == before
    with ModelServer() as server:
        regenerate(
            "apart",
            "zh",
            prompt="caption_zh",
            output_dir=tmp_path / "new",
            base_url=server.url,
            model="tiny-vlm",
            **given,
        )
    assert [row["size"] for row in read("apart", data_dir=tmp_path / "new", **where)] == [(8, 8), (12, 8), (12, 8)]
    written = [json.loads(line)["image"] for line in (tmp_path / "new/data/000000.jsonl").read_text().splitlines()]
    assert sorted(written) == ["coco/train2017/1.jpg", "coco/train2017/1.jpg", "sam/images/sa_1.jpg"]
