"""Rows of text alone among rows with images, as mixed sets for instruction tuning have them."""

from __future__ import annotations

import io
import json
import logging
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_server import ModelServer
from picture_files import picture

from llava_zh import decode_images, export, load_dataset, load_dataset_builder, mix, register, shuffled
from llava_zh.catalog.registry import find
from llava_zh.cli import main
from llava_zh.curation import curate
from llava_zh.errors import BadArgument, BadRow, UnknownLayout
from llava_zh.exporters.targets import TARGETS
from llava_zh.files import readers
from llava_zh.regenerate import regenerate
from llava_zh.rows.formats import ROW_FORMATS
from llava_zh.sa1b.tools.status import coverage

RED, BLUE = picture("red", "JPEG"), picture("blue", "JPEG", size=(12, 8))
STORED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
#: Of each row: its images, and what its human turn says.
ROWS: dict[str, tuple[list[str], str]] = {
    "t0": ([], "1 < 2 吗?"),
    "i1": (["a.jpg"], "<image>\n颜色?"),
    "t2": ([], "写一首诗。"),
    "m3": (["a.jpg", "b.jpg"], "<image><image>哪个蓝?"),
    "i4": (["b.jpg"], "没有标记。"),
}
FILES = {"a.jpg": RED, "b.jpg": BLUE}
SIZES = {"a.jpg": (8, 8), "b.jpg": (12, 8)}


def turns(asked: str, role: str = "from", text: str = "value") -> list[dict[str, str]]:
    human, gpt = ("human", "gpt") if role == "from" else ("user", "assistant")
    return [{role: human, text: asked}, {role: gpt, text: f"答:{asked.replace('<image>', '')}"}]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, columns: dict[str, pa.Array]) -> None:
    asked = [turns(said) for id_, (_, said) in ROWS.items() if id_ in columns["id"].to_pylist()]
    pq.write_table(pa.table({"conversations": pa.array(asked, pa.list_(TURN)), **columns}), path)


def stored(images: list[str]) -> list[dict[str, Any]]:
    return [{"bytes": FILES[name], "path": name} for name in images]


def written(kind: str, folder: Path) -> tuple[str, list[str]]:
    """Write the rows as one kind of file has them; the configuration to read it by, and the rows that are in it."""
    single = [id_ for id_ in ROWS if id_ != "m3"]
    for name, data in FILES.items() if kind in ("jsonl", "json", "messages") else ():
        (folder / name).write_bytes(data)
    if kind in ("jsonl", "json"):
        none: list[dict[str, Any]] = [{}, {"image": None}]
        rows = [
            {"id": id_, **({"image": images} if images else none.pop()), "conversations": turns(said)}
            for id_, (images, said) in ROWS.items()
        ]
        rows[1]["image"], rows[2]["width"] = "a.jpg", None
        path = lines(folder / "rows.jsonl", rows)
        if kind == "json":
            path.rename(folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    elif kind == "messages":
        rows = [
            {"id": id_, "images": images, "messages": turns(said, "role", "content")}
            for id_, (images, said) in ROWS.items()
        ]
        lines(folder / "rows.jsonl", rows)
    elif kind == "parquet of one":
        images = [stored(ROWS[id_][0])[0] if ROWS[id_][0] else None for id_ in single]
        table(folder / "rows.parquet", {"id": pa.array(single), "image": pa.array(images, STORED)})
        return "default", single
    elif kind == "parquet of lists":
        lists = [stored(images) or (None if id_ == "t0" else []) for id_, (images, _) in ROWS.items()]
        table(folder / "rows.parquet", {"id": pa.array(list(ROWS)), "images": pa.array(lists, pa.list_(STORED))})
    elif kind == "parquet without":
        table(folder / "rows.parquet", {"id": pa.array(["t0", "t2"])})
        return "default", ["t0", "t2"]
    elif kind == "minimind":
        data = [[FILES[name] for name in images] for images, _ in ROWS.values()]
        said = [json.dumps(turns(said, "role", "content")) for _, said in ROWS.values()]
        pq.write_table(pa.table({"id": list(ROWS), "conversations": said, "image_bytes": data}), folder / "sft.parquet")
    elif kind == "tar":
        with tarfile.open(folder / "rows.tar", "w") as archive:
            for id_, (images, said) in ROWS.items():
                says = {"image": None} if id_ == "t2" else {}
                record = json.dumps({"id": id_, "conversations": turns(said), **says}).encode()
                members = {f"{id_}.{name}": FILES[name] for name in images} | {f"{id_}.json": record}
                for name, content in members.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return "multi", ["i1", "t2", "m3", "t0", "i4"]  # of t0 it is known at the end that it has no picture
    return "multi", list(ROWS)


def seen(row: dict[str, Any]) -> tuple[str, list[tuple[int, int]], str]:
    """The id of a row in any format, the sizes of its pictures, and what its human turn says without marks."""
    images = row.get("images", row.get("image"))
    images = images if isinstance(images, list) else [] if images is None else [images]
    said = row.get("conversations", row.get("messages"))[0]
    text = said.get("value", said.get("content"))
    if isinstance(text, list):
        assert [part["type"] for part in text].count("image") == len(images)
        text = "".join(part["text"] for part in text)
    elif "images" in row:
        assert text.count("<image>") == len(images)
    return row["id"], [image.size for image in images], text.replace("<image>", "").strip()


def expected(ids: list[str]) -> list[tuple[str, list[tuple[int, int]], str]]:
    return [(id_, [SIZES[name] for name in ROWS[id_][0]], ROWS[id_][1].replace("<image>", "").strip()) for id_ in ids]


QUICK = ["jsonl", "parquet of lists", "tar"]
KINDS = ["json", "messages", "parquet of one", "parquet without", "minimind"]


def each(quick: list[str], slow: list[str]) -> list[Any]:
    return [*quick, *(pytest.param(one, marks=pytest.mark.slow) for one in slow)]


@pytest.mark.parametrize("kind", each(QUICK, KINDS))
def test_rows_of_text_alone_load_and_stream_in_every_format_and_come_back_from_an_export(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    config, ids = written(kind, tmp_path / "in")
    where: dict[str, Any] = {"data_dir": tmp_path / "in", "split": "train"}
    for row_format in ROW_FORMATS:
        stream = load_dataset("llava", config, row_format=row_format, streaming=True, **where)
        assert [seen(row) for row in stream] == expected(ids)
        column = "image" if row_format == "llava" else "images"
        bare = next(row for row in stream.decode(False) if row["id"] == "t2")
        assert bare[column] == (None if row_format == "llava" and config == "default" else [])
    prepared = load_dataset("llava", config, cache_dir=tmp_path / "cache", **where)
    assert [seen(row) for row in prepared] == expected(ids)
    small = [seen(row) for row in decode_images(prepared, max_side=4)]
    assert [(id_, len(sizes)) for id_, sizes, _ in small] == [(id_, len(ROWS[id_][0])) for id_ in ids]
    assert all(max(size) == 4 for _, sizes, _ in small for size in sizes)
    to, images = ("jsonl", "files") if kind in ("jsonl", "tar") else ("parquet", "embed")
    export("llava", config, to=to, images=images, output_dir=tmp_path / "out", data_dir=tmp_path / "in")
    again = load_dataset("llava", config, data_dir=tmp_path / "out", split="train", streaming=True)
    assert [seen(row) for row in again] == expected(ids)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    written("jsonl", folder)
    return folder


@pytest.mark.parametrize("to", list(TARGETS))
def test_each_target_has_rows_of_text_alone_as_its_reader_knows_them(to: str, mixed: Path, tmp_path: Path) -> None:
    images = "embed" if "embed" in TARGETS[to].images else "files"
    export("llava", "multi", to=to, images=images, output_dir=tmp_path / "out", data_dir=mixed)
    if TARGETS[to].suffix in (".jsonl", ".json"):
        [path] = (tmp_path / "out" / "data").iterdir()
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
        # InternVL (`internvl_chat_finetune.py`), LLaVA (`train.py`) and Qwen-VL (`data_processor.py`) take a row
        # without the key for one of text alone; LLaMA-Factory and ms-swift have a list of each row.
        alone = {"llama-factory": {"images": []}, "ms-swift": {"images": []}, "jsonl": {"image": []}}.get(to, {})
        found = {name: value for name, value in rows[0].items() if name.startswith("image")}
        assert (rows[0]["id"], found) == ("t0", alone)
        assert all(rows[i].get("image", rows[i].get("images")) for i in (1, 3, 4))
    if TARGETS[to].suffix == ".tar":
        [path] = (tmp_path / "out" / "data").iterdir()
        with tarfile.open(path) as archive:
            assert [name.partition(".")[2] for name in archive.getnames()[:3]] == ["json", "json", "jpg"]
    again = load_dataset("llava", "multi", data_dir=tmp_path / "out", split="train", streaming=True)
    assert [seen(row) for row in again] == expected(list(ROWS))


def test_a_mark_without_an_image_is_a_bad_row_in_a_mixed_set_too(tmp_path: Path) -> None:
    for image in ({}, {"image": None}, {"image": []}, {"images": ""}):
        rows = [{"id": "t", "conversations": turns("?")}, {"id": "x", **image, "conversations": turns("<image>?")}]
        path = lines(tmp_path / "rows.jsonl", rows)
        with pytest.raises(BadRow, match=r"line 2 .*no <image> mark in a row without an image, found 1 mark and 0 im"):
            list(load_dataset("llava", data_files=path, split="train", streaming=True))
    # A caption is about an image, whichever set it is in.
    path = lines(tmp_path / "captions.jsonl", [{"caption": "一棵树"}])
    with pytest.raises(BadRow, match="found 1 mark and 0 images"):
        list(load_dataset("llava", data_files=path, split="train", streaming=True))


def test_pictures_under_a_name_that_is_not_read_are_an_error_and_no_text(tmp_path: Path) -> None:
    for value in ("a.jpg", ["x/a.PNG"], {"bytes": None, "path": "a.webp"}):
        path = lines(tmp_path / "rows.jsonl", [{"picture": value, "conversations": turns("?")}])
        with pytest.raises(UnknownLayout, match="no column for image under a name that is read, and 'picture' looks"):
            load_dataset("llava", data_files=path, split="train", streaming=True)
    tar = tmp_path / "rows.tar"
    record = json.dumps({"image": "a.jpg", "conversations": turns("?")}).encode()
    with tarfile.open(tar, "w") as archive:
        member = tarfile.TarInfo("a.json")
        member.size = len(record)
        archive.addfile(member, io.BytesIO(record))
    with pytest.raises(BadRow, match="no picture"):
        list(load_dataset("llava", data_files=tar, split="train", streaming=True))


def test_the_images_of_a_set_that_begins_with_text_are_found(tmp_path: Path) -> None:
    text = [{"id": f"t{i}", "conversations": turns("很长的文字" * 200)} for i in range(200)]
    image = {"id": "i", "image": "a.jpg", "conversations": turns("?")}
    (tmp_path / "a.jpg").write_bytes(RED)
    lines(tmp_path / "0.jsonl", text)
    lines(tmp_path / "1.jsonl", [*text, image])
    rows = list(load_dataset("llava", data_dir=tmp_path, split="train", streaming=True))
    assert [row["image"] and row["image"].size for row in rows] == [None] * 400 + [(8, 8)]


def test_a_set_of_text_alone_mixes_with_images_and_goes_on_where_it_was(mixed: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "text.jsonl", [{"id": f"t{i}", "conversations": turns(str(i))} for i in range(6)])
    sets: list[dict[str, Any]] = [{"data_files": path}, {"data_dir": mixed}]
    streams = [
        load_dataset("llava", "multi", split="train", streaming=True, row_format="parts", **where) for where in sets
    ]
    both = mix([shuffled(stream, seed=1) for stream in streams], seed=0)
    ids = [row["id"] for row in both]
    assert set(ids) == {f"t{i}" for i in range(6)} | set(ROWS)
    taken = iter(both)
    for _ in range(4):
        next(taken)
    state = both.state_dict()
    both.load_state_dict(state)
    assert [row["id"] for row in both] == ids[4:]


def test_what_is_asked_of_images_leaves_no_row_of_text_alone_out(tmp_path: Path) -> None:
    register(
        {"name": "mixed-sa1b", "images": "sa1b", "configs": [{"name": "all", "images": "many", "text_only": True}]}
    )
    names = ["sa_000000/sa_1.jpg", "sa_000001/sa_2.jpg", "sa_000001/sa_3.jpg"]
    rows: list[dict[str, Any]] = [{"id": "t0", "conversations": turns("?")}]
    rows += [{"id": name[-5:-4], "image": name, "conversations": turns("?")} for name in names]
    rows += [{"id": "both", "image": names[:2], "conversations": turns("?")}, {"id": "t1", "conversations": turns("!")}]
    path = lines(tmp_path / "rows.jsonl", rows)
    for name in names[:2]:
        (tmp_path / "root" / name).parent.mkdir(parents=True)
        (tmp_path / "root" / name).write_bytes(RED)
    where: dict[str, Any] = {"split": "train", "streaming": True, "data_files": path, "image_root": tmp_path / "root"}

    def kept(**asked: Any) -> list[str]:
        return [row["id"] for row in load_dataset("mixed-sa1b", "all", **where, **asked).decode(False)]

    assert kept() == ["t0", "1", "2", "3", "both", "t1"]
    assert kept(archives=[0]) == ["t0", "1", "t1"]
    assert kept(archives=[1]) == ["t0", "2", "3", "t1"]
    assert kept(bad_images=["sa_2.jpg"]) == ["t0", "1", "3", "t1"]
    assert kept(archives="available") == kept(on_missing_image="skip") == ["t0", "1", "2", "both", "t1"]
    # Nothing that they need is missing, so they count as covered.
    builder = load_dataset_builder("mixed-sa1b", "all", data_files=path, image_root=tmp_path / "root")
    covered = coverage(builder.config.images.filesystem(), builder.image_paths())
    assert (covered.rows, covered.covered, covered.missing) == (6, 5, 1)
    null = load_dataset("mixed-sa1b", "all", **where, on_missing_image="null")
    assert [row["image"] for row in null.decode(False)][::3] == [[], [None]]


def test_a_row_without_an_image_is_bad_unless_the_facts_allow_it(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", [{"id": "t0", "image": None, "conversations": turns("?")}])
    own: dict[str, Any] = {"name": "own-text", "configs": [{"name": "all", "text_only": True}]}
    asked: dict[str, Any] = {"data_files": path, "split": "train", "cache_dir": tmp_path / "cache"}
    register(own)
    assert load_dataset("own-text", **asked)[0]["image"] is None
    # What was prepared while they were allowed is not taken for rows of a set in which they are not.
    register({**own, "configs": [{"name": "all"}]})
    with pytest.raises(BadRow, match=r"image: expected the path of an image.*registered with text_only=True"):
        load_dataset("own-text", **asked)
    with pytest.raises(BadRow, match="image: expected the path of an image"):
        load_dataset("llava-instruct-zh-600k", **asked)
    for config in ("single_en", "multi_zh"):
        with pytest.raises(BadRow, match="image: expected the path of an image"):
            load_dataset("internvl-sa-1b-caption", config, **asked)


@pytest.mark.parametrize("kind", each(QUICK[1:2], [QUICK[0], QUICK[2]]))
def test_curation_keeps_rows_of_text_alone_and_knows_their_duplicates_by_their_text(kind: str, tmp_path: Path) -> None:
    loose: dict[str, Any] = {"length_quantiles": None, "max_repetition": None}
    (tmp_path / "in").mkdir()
    config, ids = written(kind, tmp_path / "in")
    sources: list[tuple[Any, dict[str, Any]]] = [
        ("llava", {"name": config, "data_dir": tmp_path / "in"}),
        (next(iter((tmp_path / "in").glob("rows*"))), {}),
    ]
    given = load_dataset("llava", config, data_dir=tmp_path / "in", split="train", streaming=True)
    sources.append((list(given.decode(False)), {}))
    for number, (source, where) in enumerate(sources):
        out = tmp_path / str(number)
        report = curate(source, output_dir=out, **where, **loose)
        assert (report.rows, report.kept) == (5, 5)
        root = {} if kind != "jsonl" else {"image_root": tmp_path / "in"}
        again = load_dataset("llava", config, data_dir=out, split="train", streaming=True, **root)
        assert sorted(seen(row) for row in again) == sorted(expected(ids))
    twice = [{"id": str(i), "image": None, "conversations": turns("?")} for i in range(2)]
    assert curate(twice, output_dir=tmp_path / "twice", **loose).kept == 1
    with pytest.raises(BadRow, match="image: expected an image's path or its bytes"):
        curate([{"id": "x", "conversations": turns("<image>?")}], output_dir=tmp_path / "marked")


def test_a_run_leaves_out_rows_of_text_alone_and_says_how_many(
    mixed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = load_dataset("llava", "multi", data_dir=mixed, split="train")
    for number, (rows, where) in enumerate([("llava", {"data_dir": mixed}), (given, {})]):
        out = tmp_path / str(number)
        with ModelServer() as server:
            asked: dict[str, Any] = {"output_dir": out, "model": "tiny-vlm", "base_url": server.url, "progress": False}
            for limit in (1, None):  # stopped and gone on with
                with caplog.at_level(logging.WARNING):
                    report = regenerate(rows, "multi", prompt="caption_zh", limit=limit, unit_rows=2, **asked, **where)
        assert (report.rows, report.failed) == (3, {})
        told = re.findall("([0-9]+) rows? of text alone, about which no model is asked, left out", caplog.text)
        assert sum(map(int, told)) == 2  # each once, though the run was stopped and went on
        caplog.clear()
        written_rows = [json.loads(line) for path in sorted(out.glob("data/*")) for line in path.open()]
        assert [row["id"] for row in written_rows] == ["i1", "m3", "i4"]


def test_show_prints_rows_of_text_alone(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "llava", "multi", "--data-dir", str(mixed), "-n", "2"]) == 0
    shown = capsys.readouterr().out.split("── row 1")
    assert "t0" in shown[0] and "1 < 2 吗?" in shown[0] and "image " not in shown[0]
    assert "a.jpg (8×8)" in shown[1]


def test_an_export_of_rows_of_which_none_near_the_start_has_an_image_ends_at_the_first_that_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "SAMPLED_PLACES", 1)
    (tmp_path / "in").mkdir()
    written("parquet without", tmp_path / "in")
    done = export("llava", to="ms-swift", output_dir=tmp_path / "out", data_dir=tmp_path / "in")
    assert (done.rows, done.images) == (2, 0)
    text = [{"id": f"t{i}", "conversations": turns("x" * 1000)} for i in range(400)]
    path = lines(tmp_path / "rows.jsonl", [*text, {"id": "i", "image": "a.jpg", "conversations": turns("?")}, *text])
    asked: dict[str, Any] = {"to": "jsonl", "output_dir": tmp_path / "late", "data_files": path}
    with pytest.raises(BadArgument, match="Row 'i' has an image, unlike those before.*image_root="):
        export("llava", **asked)


def test_the_names_of_caches_of_before_stay(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", [{"id": "i", "image": "a.jpg", "conversations": turns("?")}])
    builder = load_dataset_builder("llava", data_files=path, image_root=tmp_path)
    before = replace(builder.config, text_only=False)
    assert builder.config.text_only and builder.config.create_config_id({}) == before.create_config_id({})
    # Only where bad rows are left out may what was prepared lack rows that are read now.
    skips = load_dataset_builder("llava", data_files=path, image_root=tmp_path, on_bad_row="skip").config
    assert skips.create_config_id({}) != replace(skips, text_only=False).create_config_id({})
    # The facts of a repository that is merely named are as good as before; those that somebody registers are not.
    facts = find("hf:somebody/something")[0]
    strict = replace(facts, configs=tuple(replace(config, text_only=False) for config in facts.configs))
    assert facts.rules("zh", registered=False) == strict.rules("zh")
    assert facts.rules("zh") != strict.rules("zh")
