"""Datasets from outside: registered in code, by a Python file, by an installed package, and by a hub's id alone."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from picture_files import picture
from published_rows import turns

from llava_zh import curate, export, list_datasets, load_dataset, load_dataset_builder, mix, register
from llava_zh.catalog import registry
from llava_zh.catalog.facts import ConfigFacts, DatasetFacts
from llava_zh.catalog.prompts import PROMPTS, Prompt
from llava_zh.cli import main
from llava_zh.errors import BadArgument, DataFileNotFound, LlavaZhError, UnknownName, nearest
from llava_zh.regenerate import write_batch

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "own_dataset.py"
SHARE = "share-captioner_coco_lcs_sam_1246k_1107.json"
RED, BLUE = picture("red", "JPEG"), picture("blue", "JPEG", size=(12, 8))

OWN = DatasetFacts(
    name="own-captions",
    licence="cc-by-4.0",
    configs=(
        ConfigFacts("plain", language="zh", prompt="own-prompt", single_paragraph=True),
        ConfigFacts("said", language="zh", task="talk"),
    ),
    default_config="plain",
    columns={"image": "picture", "caption": ("text.zh", "text")},
    tasks={"talk": ("闲聊",)},
    prompts=(Prompt("own-prompt", "用一段话描述这张照片里能看到的所有东西。", "caption", "zh", single_paragraph=True),),
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with rows in a form of its own, and their pictures beside them."""
    folder = tmp_path / "own"
    (folder / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(6):
        (folder / "images" / f"{number}.jpg").write_bytes(RED)
        caption = "两行\n的描述" if number == 5 else f"第 {number} 张照片,红色的,{'很' * number}大。"
        rows.append({"picture": f"{number}.jpg", "text": {"zh": caption}, "type": "闲聊" if number % 2 else "talk"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


# -- what a registered dataset can do ------------------------------------------------------------------------


def test_a_registered_dataset_works_in_every_call(own: Path, tmp_path: Path) -> None:
    register(OWN)
    assert list_datasets()[-1] == "own-captions"
    stream = load_dataset("Own-Captions", split="train", streaming=True, data_dir=own)
    rows = list(stream)
    assert rows[0]["image"].size == (8, 8)
    assert [turn["value"] for turn in rows[1]["conversations"]] == ["<image>", "第 1 张照片,红色的,很大。"]
    assert {row["task"] for row in rows} == {"talk"}
    prepared = load_dataset("own-captions", "said", split="train", data_dir=own, num_proc=2)
    assert prepared.num_rows == 6
    assert next(iter(pickle.loads(pickle.dumps(stream))))["conversations"] == rows[0]["conversations"]
    assert len(list(mix([stream, stream], seed=1))) >= 6
    summary = export("own-captions", to="jsonl", output_dir=tmp_path / "out", data_dir=own, images="files")
    assert summary.rows == 6
    report = curate("own-captions", output_dir=tmp_path / "curated", data_dir=own, near_duplicates=None)
    assert report.reasons["paragraphs"]["count"] == 1
    files = write_batch("own-captions", output_dir=tmp_path / "batch", model="m", limit=2, data_dir=own)
    assert "用一段话描述这张照片里能看到的所有东西。" in files[0].read_text(encoding="utf-8")
    with pytest.raises(BadArgument, match="own-captions is on no hub; pass data_dir= or data_files="):
        load_dataset_builder("own-captions")


def test_rules_of_rows_are_part_of_the_cache(own: Path) -> None:
    register(OWN)
    first = load_dataset_builder("own-captions", data_dir=own)
    registry._registered.clear()
    changed = register(
        {"name": "own-captions", "columns": OWN.columns, "configs": [{"name": "plain", "language": "en"}]}
    )
    second = load_dataset_builder("own-captions", data_dir=own)
    assert changed.default_config == "plain"
    assert first.cache_dir != second.cache_dir


def test_the_example_registers_sharegpt4v_and_the_commands_know_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 40
    for name, data in (("sam/images/sa_1.jpg", RED), ("coco/train2017/1.jpg", BLUE)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(data)
    rows = [
        {"id": name, "image": name, "conversations": turns()}
        for name in ("sam/images/sa_1.jpg", "coco/train2017/1.jpg")
    ]
    (tmp_path / SHARE).write_text(json.dumps(rows), encoding="utf-8")
    given = ["--data-dir", str(tmp_path), "--image-root", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *given])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "size=8x8" in (out := capsys.readouterr().out) and "size=12x8" in out
    assert main(["show", str(EXAMPLE), "captions", "--jsonl", *given]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["list"]) == 0
    assert "Lin-Chen/ShareGPT4V" in capsys.readouterr().out
    main(["doctor", "--data-dir", str(tmp_path), "--image-root", str(tmp_path)])
    assert "sharegpt4v captions" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "hub", "main"), [("huggingface", "hf:me/own", "main"), ("modelscope", "modelscope:me/own", "master")]
)
def test_an_id_on_a_hub_is_enough(kind: Any, hub: str, main: str, tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"image": "1.jpg", "conversations": turns()}).encode() + b"\n" for _ in range(3))
    files = {"data/a.jsonl": lines, "other/b.jsonl": lines[: lines.index(b"\n") + 1], "data/1.jpg": RED}
    script = f"""
        import llava_zh
        def rows(path, **given):
            return sum(1 for _ in llava_zh.load_dataset(path, split="train", streaming=True, **given).decode(False))
        print(rows("{hub}"), rows("llava", data_files="{hub}/other/*.jsonl"), rows("{hub}@{main}/data/*"),
              rows("llava", data_dir="{hub}", data_files="other/*"), rows("sa1b-captions", data_files="{hub}"))
        llava_zh.register({{"name": "mine", "repos": {{"{kind}": "me/own"}}, "configs": [
            {{"name": "other", "files": ["other/*.jsonl"]}}, {{"name": "data", "file": "a.jsonl"}}]}})
        print(rows("mine", name="other"), rows("mine", name="data"), rows("me/own", name="data"))
        coco = llava_zh.load_dataset("llava-instruct-150k", "detail", split="train", streaming=True, image_root="coco",
            **({{}} if "{kind}" == "huggingface" else {{"data_dir": "coco"}}))
        print(next(iter(coco))["image"].size)
        from llava_zh.cli import main
        main(["download", "mine", "other", "--dest", "fetched"])
        print(rows("mine", name="other", data_dir="fetched"))
    """
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    (tmp_path / "coco" / "train2017" / "1.jpg").write_bytes(BLUE)
    coco = {"detail_23k.json": json.dumps([{"image": "1.jpg", "conversations": turns()}]).encode()}
    (tmp_path / "coco" / "detail_23k.json").write_bytes(coco["detail_23k.json"])
    with HubServer({"me/own": files, "liuhaotian/LLaVA-Instruct-150K": coco}, kind) as server:
        env = {**os.environ, **server.env, "HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_CACHE": str(tmp_path / "ms")}
        code = "\n".join(line[8:] for line in script.splitlines())
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    lines_out = done.stdout.splitlines()
    assert lines_out[0] == "4 1 3 1 4"
    assert lines_out[1] == "1 3 3"
    assert lines_out[2] == "(12, 8)"
    assert lines_out[-1] == "1"


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, BadArgument, "the field 'name' is missing"),
        ({"name": "x", "repos": ["a/b"]}, BadArgument, r"Dataset 'x': the field 'repos' must be Mapping\[str, str\]"),
        ({"name": "x", "repos": {"hugingface": "a/b"}}, UnknownName, "Did you mean 'huggingface'"),
        ({"name": "x", "repos": {"huggingface": "b"}}, BadArgument, "expected 'owner/name', found 'b'"),
        ({"name": "x", "licens": "mit"}, UnknownName, "unknown field 'licens'. Did you mean 'licence'"),
        ({"name": "a b"}, BadArgument, "expected letters, digits"),
        ({"name": "x", "configs": [{"language": "zh"}]}, BadArgument, "the field 'name' is missing; ConfigFacts"),
        ({"name": "x", "configs": [{"name": "a", "images": "two"}]}, BadArgument, "'images' must be .*found str 'two'"),
        ({"name": "x", "configs": [{"name": "a"}, {"name": "a"}]}, BadArgument, "configs: two are called 'a'"),
        ({"name": "x", "configs": "abc"}, BadArgument, "the field 'configs' must be"),
        ({"name": "x", "images": {"sam/": "sa-1b"}}, BadArgument, "the field 'images' must be"),
        ({"name": "x", "columns": {"picture": "a"}}, UnknownName, "Unknown field in columns of x 'picture'"),
        ("x", BadArgument, "expected DatasetFacts or a mapping with its fields, found str"),
        ({"name": "x", "columns": {"image": "a..b"}}, BadArgument, r"columns\['image'\]: .*found 'a..b'"),
        ({"name": "x", "columns": {"image": []}}, BadArgument, r"columns\['image'\]: expected the name of a column"),
        ({"name": "x", "configs": [{"name": "a", "prompt": "captoin_zh"}]}, UnknownName, "Did you mean 'caption_zh'"),
        ({"name": "x", "image_folders": ["../.."]}, BadArgument, r"image_folders: '../..' is no folder below"),
        ({"name": "x" * 300}, BadArgument, "at most 200"),
        ({"name": "x", "configs": [{"name": "a", "file": "a", "files": ["b"]}]}, BadArgument, "one file or several"),
        ({"name": "x", "repos": {"huggingface": "a/.."}}, BadArgument, "expected 'owner/name', found 'a/..'"),
        ({"name": "Internvl-SA-1B-Caption"}, BadArgument, "Two datasets are called .* one built in, one from"),
    ],
)
def test_a_registration_that_cannot_be_says_which_field(given: Any, error: type[LlavaZhError], message: str) -> None:
    with pytest.raises(error, match=message):
        register(given)
    assert "x" not in list_datasets()


def test_two_datasets_of_one_name_are_an_error(tmp_path: Path) -> None:
    for name, licence in (("one.py", "mit"), ("two.py", "apache-2.0")):
        text = f"import llava_zh\nllava_zh.register({{'name': 'twice', 'licence': {licence!r}}})\n"
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert registry.find(tmp_path / "one.py")[0].licence == "mit"
    with pytest.raises(BadArgument, match=r"Two datasets are called 'twice': one from .*one\.py, one from .*two\.py"):
        registry.find(tmp_path / "two.py")
    (tmp_path / "one.py").write_text("FACTS = {'name': 'twice', 'licence': 'changed'}", encoding="utf-8")
    assert registry.find(tmp_path / "one.py")[0].licence == "changed", "a file that was changed is read again"


def test_a_path_that_is_no_dataset_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataFileNotFound, match=r"There is no Python file .*none\.py"):
        load_dataset(str(tmp_path / "none.py"))
    (tmp_path / "empty.py").write_text("x = 1", encoding="utf-8")
    with pytest.raises(BadArgument, match="expected one dataset, found none. Let the file define FACTS"):
        load_dataset(str(tmp_path / "empty.py"))
    with pytest.raises(UnknownName, match="Did you mean 'opencsg/llava-instruct-zh-600k'.*write 'hf:opencsg/"):
        load_dataset("opencsg/llava-instruct")
    with pytest.raises(BadArgument, match="cannot be mixed with others"):
        load_dataset("llava", data_files=["hf:a/b", "c.jsonl"])


def test_an_entry_point_that_fails_is_named_and_the_rest_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "good_package.py").write_text("FACTS = [{'name': 'from-a-package'}]", encoding="utf-8")
    (tmp_path / "bad_package.py").write_text("import nothing_of_this_name", encoding="utf-8")
    info = tmp_path / "two_packages-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: two-packages\nVersion: 1\n", encoding="utf-8")
    points = "[llava_zh.datasets]\nbad = bad_package:FACTS\ngood = good_package:FACTS\nlost = good_package:NONE\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with caplog.at_level(logging.WARNING):
        assert "from-a-package" in list_datasets()
    assert "entry point bad = bad_package:FACTS" in caplog.text
    assert "nothing_of_this_name" in caplog.text
    assert "entry point lost = good_package:NONE" in caplog.text
    assert registry.find("from-a-package")[0].title == "from-a-package"
    assert set(PROMPTS) >= {"caption_en", "caption_zh"}


def test_chinese_is_zh_however_it_is_abbreviated() -> None:
    assert nearest("single_cn", ["single_en", "single_zh"]) == " Did you mean 'single_zh'?"


def test_a_python_file_with_a_builder_of_its_own_reaches_processes_that_did_not_read_it(
    own: Path, tmp_path: Path
) -> None:
    script = tmp_path / "classy.py"
    script.write_text(
        "from llava_zh.catalog.facts import ConfigFacts, DatasetFacts\n"
        "from llava_zh.streams.builder import PublishedBuilder\n"
        "FACTS = DatasetFacts(name='classy', configs=(ConfigFacts('zh', file='rows.jsonl'),),\n"
        "    columns={'image': 'picture', 'caption': 'text.zh'})\n"
        "class Classy(PublishedBuilder):\n    FACTS = FACTS\n",
        encoding="utf-8",
    )
    rows = load_dataset(str(script), split="train", streaming=True, data_dir=str(own))
    pickled = tmp_path / "rows.pickle"
    pickled.write_bytes(pickle.dumps(rows))
    code = f"import pickle; print(sum(1 for _ in pickle.load(open({str(pickled)!r}, 'rb'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "6\n", done.stderr


def test_a_python_file_that_loads_itself_says_where_to_put_that(own: Path, tmp_path: Path) -> None:
    script = tmp_path / "itself.py"
    text = "import llava_zh\nllava_zh.register({'name': 'itself'})\nllava_zh.load_dataset(__file__)\n"
    script.write_text(text, encoding="utf-8")
    with pytest.raises(BadArgument, match=r'itself\.py loads itself .* under `if __name__ == "__main__":`'):
        load_dataset(str(script), data_dir=str(own))


@pytest.mark.parametrize(
    ("text", "revision", "files"),
    [
        ("hf:a/b@refs/pr/1", "refs/pr/1", None),
        ("hf:a/b@refs/convert/parquet/x/*.parquet", "refs/convert/parquet", "x/*.parquet"),
        ("hf:a/b@main/x.jsonl", "main", "x.jsonl"),
        ("hf:a/b/", None, None),
        ("hf:a/b@main/", "main", None),
    ],
)
def test_a_place_on_a_hub_is_read_as_it_is_written(text: str, revision: str | None, files: str | None) -> None:
    place = registry.hub_place(text)
    assert place is not None
    assert (place["repo"], place["revision"], place["files"]) == ("a/b", revision, files)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": None}, "Expected the name of a dataset.*found NoneType None"),
        ({"path": b"llava"}, "Expected the name of a dataset.*found bytes"),
        ({"data_dir": 3}, "data_dir: expected a folder.*found int 3"),
        ({"data_files": 3}, "data_files: expected files or patterns.*found int 3"),
        ({"data_files": ["rows.jsonl", None]}, "data_files: .*found NoneType None"),
        ({"data_files": b"rows.jsonl"}, "data_files: .*found bytes"),
        ({"image_root": 3}, "image_root: expected a folder or URL.*found int 3"),
        ({"image_root": {1: "a"}}, "image_root: expected the beginnings of image paths.*found int 1"),
        ({"image_root": ["a", "b"]}, "image_root: expected one folder or URL for the images of llava.*found list"),
        ({"image_root": {"coco/": ["a", "b"]}}, "image_root: expected one folder or URL.*Several are for SA-1B alone"),
    ],
)
def test_a_place_of_a_wrong_type_says_what_is_expected(own: Path, given: dict[str, Any], message: str) -> None:
    (own / "coco.jsonl").write_text(json.dumps({"image": "coco/1.jpg", "conversations": turns()}), encoding="utf-8")
    with pytest.raises(BadArgument, match=message):
        load_dataset(**{"path": "llava", "data_dir": own, "data_files": "coco.jsonl", **given})


def test_files_of_an_iterator_are_read_as_often_as_needed(own: Path) -> None:
    (own / "a.jsonl").write_text(json.dumps({"image": "0.jpg", "conversations": turns()}), encoding="utf-8")
    rows = load_dataset("llava", split="train", streaming=True, data_dir=own, data_files=iter(["a.jsonl"]))
    assert [row["image"].size for row in rows] == [row["image"].size for row in rows] == [(8, 8)]
