"""A curation drops exactly the rows with a defect, names every reason, and leaves files that load again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_zh import load_dataset
from llava_zh.curation import curate
from llava_zh.demo.write import DemoPaths, write_demo
from llava_zh.errors import BadArgument, BadRow, DataFileNotFound, OutputError, RunConflict, UnknownName

CAT = "一只黑色的猫坐在红色的沙发上，旁边有一本打开的书和一杯热咖啡，窗外是下着雨的街道，路灯亮着。"
DOG = "草地上有两只棕色的小狗在追一个黄色的球，远处的长椅上坐着一位穿蓝色外套的老人，天空很晴朗。"
SIGN = "A stone bridge crosses a narrow river, and a wooden sign beside the path points to the old village mill."


def row(number: int, *answers: str, **fields: Any) -> dict[str, Any]:
    turns = [turn for text in answers for turn in (("human", "图里有什么？"), ("gpt", text))]
    conversations = [{"from": role, "value": text} for role, text in turns]
    conversations[0]["value"] = "<image>\n" + conversations[0]["value"]
    return {"id": str(number), "image": f"sa_000000/sa_{number}.jpg", "conversations": conversations, **fields}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def reasons(folder: Path) -> dict[int, list[str]]:
    return {
        dropped["row"]: [reason.split(":")[0] for reason in dropped["reasons"]]
        for dropped in lines(folder / "dropped.jsonl")
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPaths:
    return write_demo(tmp_path_factory.mktemp("demo"))


def test_each_defect_is_named_and_every_sound_row_is_kept_in_order(tmp_path: Path) -> None:
    rows = [
        row(0, CAT, language="zh", config="single_zh"),
        row(1, f"{CAT}\n", language="zh"),  # white space does not make another text
        row(2, CAT.replace("路灯亮着", "路灯暗了"), language="zh"),
        row(3, "根据您的描述，" + DOG, language="zh"),
        row(4, SIGN, language="zh"),
        row(5, DOG[:20] + "\n" + DOG[20:], language="zh", config="single_zh"),
        row(6, DOG + "它跑得很快。" * 8, language="zh"),
        {**row(7, DOG), "conversations": [{"from": "gpt", "value": DOG}, {"from": "human", "value": "?"}]},
        row(8, SIGN, language="en"),
        row(9, DOG, " ", language="zh"),
        row(10, DOG, language="zh"),
    ]
    report = curate(iter(rows), output_dir=tmp_path / "out", length_quantiles=None)
    assert reasons(tmp_path / "out") == {
        1: ["duplicate"],
        2: ["near_duplicate"],
        3: ["leak"],
        4: ["language"],
        5: ["paragraphs"],
        6: ["repetition"],
        7: ["turns"],
        9: ["empty"],
    }
    assert lines(tmp_path / "out/data/000000.jsonl") == [rows[0], rows[8], rows[10]]
    assert (report.rows, report.kept, report.dropped) == (11, 3, 8)


def test_a_row_with_several_defects_names_all_of_them(tmp_path: Path) -> None:
    rows = [row(0, "根据你的描述\n这是猫", language="en")]
    curate(rows, output_dir=tmp_path, length=(20, None), length_quantiles=None, single_paragraph=True)
    [dropped] = lines(tmp_path / "dropped.jsonl")
    assert dropped["reasons"] == [
        "paragraphs: 2 lines where one paragraph is asked",
        "leak: '根据你的描述'",
        "language: zh where en is expected",
        "length: 10 characters; 20 to any are kept (en)",
    ]
    assert dropped["image"] == "sa_000000/sa_0.jpg"


def test_a_cluster_keeps_its_earliest_row_that_nothing_else_is_wrong_with(tmp_path: Path) -> None:
    rows = [row(0, CAT, language="en"), row(1, CAT), row(2, CAT)]
    curate(rows, output_dir=tmp_path)
    assert reasons(tmp_path) == {0: ["language"], 2: ["duplicate"]}


def test_length_bounds_apply_to_their_language_and_quantiles_to_language_and_task(tmp_path: Path) -> None:
    texts = [f"{number:04d}" + "字" * (50 + number % 7) for number in range(400)]
    rows = [row(number, text, task="detail") for number, text in enumerate(texts)]
    rows += [
        row(400, "短" * 3, task="detail"),
        row(401, "长" * 900, task="detail"),
        row(402, "句" * 300, task="conversation"),
    ]
    options: dict[str, Any] = {"near_duplicates": None, "exact_duplicates": False, "max_repetition": None}
    curate(rows, output_dir=tmp_path / "quantiles", length_quantiles=(0.01, 0.99), **options)
    assert set(reasons(tmp_path / "quantiles")) == {400, 401}
    report = curate(
        rows, output_dir=tmp_path / "bounds", length={"zh": (10, 500), "en": (1, 2)}, length_quantiles=None, **options
    )
    assert set(reasons(tmp_path / "bounds")) == {400, 401}
    assert report.lengths["zh detail"]["bounds"] == [10, 500]
    assert (report.lengths["zh detail"]["all"]["max"], report.lengths["zh detail"]["kept"]["max"]) == (900, 60)


def test_few_rows_lose_none_to_the_default_quantiles(tmp_path: Path) -> None:
    assert curate([row(0, CAT), row(1, DOG), row(2, "小猫")], output_dir=tmp_path).kept == 3


def test_the_report_counts_and_shows_at_most_three_examples(tmp_path: Path) -> None:
    report = curate([row(number, CAT) for number in range(10)], output_dir=tmp_path)
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert written["reasons"]["duplicate"]["count"] == 9
    assert [example["row"] for example in written["reasons"]["duplicate"]["examples"]] == [1, 2, 3]
    assert written["reasons"]["duplicate"]["examples"][0] == {
        "row": 1, "id": "1", "image": "sa_000000/sa_1.jpg", "detail": "of row 0", "text": CAT,
    }  # fmt: skip
    assert "10 rows: 1 kept, 9 dropped (90.0%)" in str(report)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("internvl-sa-1b-caption", "single_zh"),
        pytest.param("internvl-sa-1b-caption", "multi_en", marks=pytest.mark.slow),
        ("llava-instruct-zh-600k", "default"),
    ],
)
def test_a_published_dataset_comes_through_and_what_is_kept_loads_as_before(
    demo: DemoPaths, tmp_path: Path, path: str, name: str
) -> None:
    folder = demo.internvl if path.startswith("internvl") else demo.llava
    curate(path, name, data_dir=folder, output_dir=tmp_path / "out", length_quantiles=(0.1, 0.9))
    before = list(load_dataset(path, name, data_dir=folder, split="train", streaming=True).decode(False))
    roots = {} if path.startswith("internvl") else {"image_root": folder}
    loaded = load_dataset(path, name, data_dir=tmp_path / "out", split="train", streaming=True, **roots)
    dropped = reasons(tmp_path / "out")
    assert 0 < len(dropped) < len(before)
    kept = [original for position, original in enumerate(before) if position not in dropped]
    assert list(loaded.decode(False)) == kept


def test_a_run_is_read_as_it_is_and_its_lines_are_kept_to_the_byte(tmp_path: Path) -> None:
    data = tmp_path / "run" / "data"
    data.mkdir(parents=True)
    prompt = {"regenerated": {"prompt": "caption_zh", "model": "m"}}
    first = json.dumps(row(0, CAT, **prompt), ensure_ascii=False, indent=None, separators=(" ,\t", " : ")) + "\n"
    second = json.dumps(row(1, DOG + "\n" + DOG[:9], **prompt)) + "\n" + json.dumps(row(2, SIGN, **prompt))
    (data / "000000.jsonl").write_text(first, encoding="utf-8")
    (data / "000001.jsonl").write_text(second, encoding="utf-8")
    (tmp_path / "run" / "failed.jsonl").write_text("not rows\n")
    curate(tmp_path / "run", output_dir=tmp_path / "out")
    assert (tmp_path / "out/data/000000.jsonl").read_text(encoding="utf-8") == first
    # What was asked, and in which language, is known from the prompt that the rows name.
    assert reasons(tmp_path / "out") == {1: ["paragraphs"], 2: ["language"]}


def test_the_files_of_rows_are_the_same_every_time(tmp_path: Path) -> None:
    rows = [row(number, (CAT, DOG)[number % 2][number % 5 :]) for number in range(60)]
    for folder in ("a", "b"):
        curate(rows, output_dir=tmp_path / folder)
    for file in ("data/000000.jsonl", "dropped.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_images_are_named_as_published_whatever_form_they_come_in(tmp_path: Path) -> None:
    images: list[Any] = [
        "sa://".replace("sa", "sa1b") + "sa_000000/sa_1.jpg::/data/sa1b",
        {"path": "sa1b://sa_000000/sa_1.jpg", "bytes": None},
        [{"path": "a.jpg", "bytes": None}, "b.jpg"],
    ]
    rows = [
        {**row(number, text), "image": image}
        for number, (text, image) in enumerate(zip((CAT, DOG, SIGN), images, strict=True))
    ]
    curate(rows, output_dir=tmp_path)
    names = [kept["image"] for kept in lines(tmp_path / "data/000000.jsonl")]
    assert names == ["sa_000000/sa_1.jpg", "sa_000000/sa_1.jpg", ["a.jpg", "b.jpg"]]


def test_limit_looks_at_the_first_rows_only(tmp_path: Path) -> None:
    def endless() -> Iterator[dict[str, Any]]:
        number = 0
        while True:
            yield row(number, f"{number}{CAT}")
            number += 1

    assert curate(endless(), output_dir=tmp_path, limit=5).rows == 5


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"image": "a.jpg"}, "row 1: conversations: expected a list of at least one turn, found nothing"),
        ({**row(0, CAT), "conversations": [{"from": "gpt"}]}, "row 1: conversations[0].value: expected text"),
        ({**row(0, CAT), "image": None}, "row 1: image: expected an image's path or its bytes"),
        (
            {**row(0, CAT), "image": {"bytes": None, "path": None}},
            "row 1: image: expected an image's path or its bytes",
        ),
        ({**row(0, CAT), "extra": object()}, "row 1: row: expected values that JSON can hold"),
        ("text", "row 1: row: expected a mapping, found str"),
    ],
)
def test_a_row_in_another_form_is_an_error_that_says_which_and_why(tmp_path: Path, bad: Any, says: str) -> None:
    with pytest.raises(BadRow) as caught:
        curate([row(0, CAT), bad], output_dir=tmp_path)
    assert says in str(caught.value)
    assert not [entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".")]


@pytest.mark.parametrize(
    ("line", "expected"), [(b"{", "one JSON object"), (b"[1]", "one JSON object"), (b'{"image": "\xff"}', "UTF-8 text")]
)
def test_a_bad_line_of_a_run_is_named_by_file_and_line(tmp_path: Path, line: bytes, expected: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(json.dumps(row(0, CAT)).encode() + b"\n\n" + line)
    with pytest.raises(BadRow, match=rf"rows\.jsonl, line 3 \(byte \d+\): line: expected {expected}"):
        curate(tmp_path / "rows.jsonl", output_dir=tmp_path / "out")


def test_a_folder_without_rows_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileNotFound, match="without a file of rows"):
        curate(tmp_path, output_dir=tmp_path / "out")
    with pytest.raises(UnknownName, match="internvl-sa-1b-caption"):
        curate("internvl-sa1b-captions", "single_zh", output_dir=tmp_path / "out")


@pytest.mark.parametrize(
    "options",
    [
        {"length": (9, 3)},
        {"length": {"zh": (9, 3)}},
        {"length_quantiles": (0.9, 0.1)},
        {"length_quantiles": (0, 2)},
        {"near_duplicates": 0},
        {"near_duplicates": 80},
        {"max_repetition": 1.5},
        {"language": "fr"},
        {"language": ""},
        {"length": {"fr": (1, 2)}},
        {"length": (-1, 2)},
        {"length": 5},
        {"length": ()},
        {"length_quantiles": ()},
        {"limit": -1},
        {"leaks": "abc"},
        {"leaks": [""]},
        {"name": "single_zh"},
        {"data_dir": "x"},
    ],
)
def test_an_argument_that_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(BadArgument):
        curate([row(0, CAT)], output_dir=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_within_the_one_that_is_read_is_refused_and_so_are_shards(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    (source / "rows.jsonl").write_text(json.dumps(row(0, CAT)) + "\n", encoding="utf-8")
    (tmp_path / "link").symlink_to(source)
    for output in (source, source / "curated", tmp_path / "link" / "curated"):
        for given in ({"path": source}, {"path": str(source), "dry_run": True}):
            with pytest.raises(BadArgument, match=r"output_dir: .* the folder that the rows are read from, .*outside"):
                curate(**given, output_dir=output)
    assert [entry.name for entry in source.iterdir()] == ["rows.jsonl"]
    curate(source / "rows.jsonl", output_dir=source / "curated")  # of a file no more is read the next time
    for options in ({"chunk_size": "1MB"}, {"num_shards": 2}):
        with pytest.raises(BadArgument, match=f"{next(iter(options))}: rows are curated in their order"):
            curate(source / "rows.jsonl", output_dir=tmp_path / "out", **options)


def test_what_is_there_already_is_never_overwritten_unasked(tmp_path: Path) -> None:
    curate([row(0, CAT)], output_dir=tmp_path / "out")
    with pytest.raises(RunConflict, match="overwrite=True replaces it"):
        curate([row(0, DOG)], output_dir=tmp_path / "out")
    curate([row(0, DOG)], output_dir=tmp_path / "out", overwrite=True)
    assert lines(tmp_path / "out/data/000000.jsonl") == [row(0, DOG)]
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(RunConflict, match=r"thesis\.tex"):
        curate([row(0, CAT)], output_dir=tmp_path / "out", overwrite=True)


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        curate([row(0, CAT)], output_dir=tmp_path / "file" / "out")


def test_a_folder_that_another_curation_writes_to_is_refused(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        with pytest.raises(RunConflict, match="in use by another curation"):
            curate([row(1, DOG)], output_dir=tmp_path)
        yield row(0, CAT)

    assert curate(rows(), output_dir=tmp_path).kept == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is Unix's")
def test_memory_does_not_grow_with_the_text_of_the_rows(tmp_path: Path) -> None:
    code = f"""
import resource, sys
from llava_zh.curation import curate
def rows():
    for n in range(3000):
        yield {{"image": f"{{n}}.jpg", "conversations": [
            {{"from": "human", "value": "?"}}, {{"from": "gpt", "value": f"{{n}} " + "x" * 60_000}}]}}
curate(rows(), output_dir={str(tmp_path / "small")!r}, limit=1024)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
curate(rows(), output_dir={str(tmp_path / "big")!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    assert int(done.stdout) * unit < 60e6  # of 180 MB of text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is Unix's")
def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    code = f"""
import resource
from llava_zh.curation import curate
from llava_zh.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # no file may grow beyond, as on a full disk
rows = ({{"image": f"{{n}}.jpg", "conversations": [
    {{"from": "human", "value": "?"}}, {{"from": "gpt", "value": f"{{n}} " * 200}}]}} for n in range(3000))
try:
    curate(rows, output_dir={str(tmp_path)!r}, max_repetition=None)
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "cannot be written: File too large" in done.stdout, done.stderr
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.endswith(".lock")] == []


def test_what_a_killed_curation_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".curating").mkdir()
    (tmp_path / ".curating" / "rows").write_text("half a li")
    assert curate([row(0, CAT)], output_dir=tmp_path).kept == 1
    assert not (tmp_path / ".curating").exists()


def test_a_source_that_fails_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield row(0, CAT)
        raise ConnectionResetError("the hub went away")

    with pytest.raises(ConnectionResetError):
        curate(rows(), output_dir=tmp_path)
