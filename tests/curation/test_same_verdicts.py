"""The same rows have the same verdicts, row by row, whichever way they come to curation."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hunting import hunt
from hypothesis import given
from hypothesis import strategies as st

from llava_zh import load_dataset
from llava_zh.curation import curate

from .test_curate import CAT, DOG, SIGN
from .test_sources import INTERNVL, ZH, png

TEXTS = st.sampled_from(
    [
        *(CAT, CAT + "\n", CAT.replace("路灯亮着", "路灯暗了"), DOG, SIGN, f"{DOG}\n{CAT}", "猫", " "),
        *("根据你的描述，" + DOG, "抱歉，我无法提供帮助。", DOG + "它跑得很快。" * 8, "<think>看</think>" + DOG),
    ]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"text": TEXTS},
        optional={
            "type": st.sampled_from(["conv", "detail", "complex_reasoning", "else"]),
            "prompt": st.sampled_from(["caption_zh", "caption_en", "detail", "original", "mine"]),
            "asked": st.sampled_from(["图里有什么？", "用一段话描述图片。"]),
        },
    ),
    min_size=1,
    max_size=12,
)


def published(rows: list[dict[str, Any]], image: str = "sa_000000/sa_{}.jpg") -> list[dict[str, Any]]:
    lines = []
    for number, about in enumerate(rows):
        said = [("human", "<image>\n" + about.get("asked", "?")), ("gpt", about["text"])]
        line: dict[str, Any] = {"id": number, "image": image.format(number)}
        line["conversations"] = [{"from": role, "value": text} for role, text in said]
        if "type" in about:
            line["type"] = about["type"]
        if "prompt" in about:
            line["regenerated"] = {"position": number, "model": "m", "prompt": about["prompt"]}
        lines.append(line)
    return lines


def verdicts(folder: Path, path: Any, name: str | None = None, **options: Any) -> dict[int, Any]:
    """What is wrong with each row, and in which groups the lengths were compared."""
    report = curate(path, name, output_dir=folder, length_quantiles=(0.1, 0.9), **options)
    dropped = [json.loads(line) for line in (folder / "dropped.jsonl").read_bytes().splitlines()]
    groups = {group: (figures["all"], figures["bounds"]) for group, figures in report.lengths.items()}
    return {**{row["row"]: row["reasons"] for row in dropped}, -1: [report.rows, groups]}


def loaded(dataset: str, name: str | None, folder: Path) -> Any:
    """The rows as loading has them, with what a run says of each."""
    options: Any = {"regenerated": True}
    return load_dataset(dataset, name, split="train", streaming=True, data_dir=folder, options=options).decode(False)


@pytest.mark.parametrize(
    ("dataset", "name", "file"),
    [(INTERNVL, "single_zh", ZH), ("llava", "zh", "my.jsonl"), ("llava", None, "my.jsonl")],
)
@hunt(3)
@given(rows=ROWS)
def test_a_row_has_the_same_verdict_by_name_by_folder_by_file_and_as_given(
    dataset: str, name: str | None, file: str, rows: list[dict[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "in").mkdir()
        image = "sa_000000/sa_{}.jpg" if dataset == INTERNVL else "pictures/{}.jpg"
        lines = published(rows, image)
        (folder / "in" / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
        by_name = verdicts(folder / "0", dataset, name, data_dir=folder / "in")
        config = None if dataset == INTERNVL else name  # the published file's name says it
        assert verdicts(folder / "1", folder / "in", config) == by_name
        assert verdicts(folder / "2", str(folder / "in" / file), config) == by_name
        assert verdicts(folder / "3", loaded(dataset, name, folder / "in")) == by_name
        # Chosen by their images, rows come another way; here all are taken.
        chosen = {"data_dir": folder / "in", "bad_images": ["none.jpg"]}
        assert verdicts(folder / "4", dataset, name, **chosen) == by_name


def test_a_wrong_language_is_known_by_path_as_by_name_since_the_published_file_says_its_configuration(
    tmp_path: Path,
) -> None:
    (tmp_path / "in").mkdir()
    lines = published([{"text": CAT}, {"text": SIGN}])
    (tmp_path / "in" / ZH).write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number, path in enumerate((tmp_path / "in", tmp_path / "in" / ZH)):
        assert verdicts(tmp_path / str(number), path)[1] == ["language: en where zh is expected"]


def test_rows_of_text_alone_are_kept_in_every_way_also_beside_embedded_pictures(tmp_path: Path) -> None:
    lines = published([{"text": CAT}, {"text": DOG}], "pictures/{}.jpg")
    del lines[1]["image"]
    lines[1]["conversations"][0]["value"] = "说说小狗。"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = list(loaded("llava", None, tmp_path / "in"))
    table = [{**lines[0], "image": {"bytes": png(1), "path": "a.png"}}, lines[1]]
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "parquet" / "rows.parquet")
    for number, path in enumerate((tmp_path / "in", lines, rows, tmp_path / "parquet", table)):
        out = tmp_path / str(number)
        assert curate(path, output_dir=out).kept == 2
        kept = list(load_dataset(str(out), split="train", streaming=True).decode(False))
        assert [row["image"] is None for row in kept] == [False, True]


def test_options_choose_rows_of_a_path_as_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "sa1b").mkdir()
    with tarfile.open(tmp_path / "sa1b" / "sa_000000.tar", "w") as tar:
        member = tarfile.TarInfo("sa_1.jpg")
        member.size = len(png(1))
        tar.addfile(member, io.BytesIO(png(1)))
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in published([{"text": CAT}, {"text": DOG}, {"text": SIGN}]))
    )
    report = curate(
        tmp_path / "rows.jsonl", dry_run=True, image_root=tmp_path / "sa1b", archives="available", language="zh"
    )
    assert (report.rows, report.kept) == (1, 1)
