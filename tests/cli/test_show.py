"""`llava-zh show`: rows as they are, and images that can be opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hub_server import HubServer, VirtualFile

from llava_zh.cli import main
from llava_zh.demo import DemoPaths

INTERNVL, LLAVA = "internvl-sa-1b-caption", "llava-instruct-zh-600k"
SINGLE_ZH = "internvl_sa1b_caption_1m_single_image_zh.jsonl"


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")


def published(demo: DemoPaths, name: str = SINGLE_ZH) -> list[dict]:
    return [json.loads(line) for line in (demo.internvl / name).read_text(encoding="utf-8").splitlines()]


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["show", *args]) == 0
    return capsys.readouterr().out


def test_five_rows_are_shown_unless_told_otherwise(demo: DemoPaths, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data-dir", str(demo.internvl)]
    assert shown(capsys, INTERNVL, "single_zh", *data).count("── row ") == 5
    assert shown(capsys, INTERNVL, "single_zh", "-n", "2", *data).count("── row ") == 2


def test_a_row_shows_its_id_its_turns_and_the_size_of_its_image(
    demo: DemoPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data-dir", str(demo.internvl), "--image-root", str(demo.sa1b)]
    out = shown(capsys, INTERNVL, "single_zh", "-n", "1", *data)
    row = published(demo)[0]
    assert out.startswith(f"── row 0 · id {row['id']} · single_zh · zh ──")
    assert f"image    sa1b://{row['image']}::{demo.sa1b} ({row['width']}×{row['height']})\n" in out
    joined = "".join(out.split())
    for turn in row["conversations"]:
        assert "".join(turn["value"].split()) in joined


def test_every_image_of_a_row_with_several_is_shown(demo: DemoPaths, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data-dir", str(demo.internvl), "--image-root", str(demo.sa1b)]
    out = shown(capsys, INTERNVL, "multi_en", "-n", "1", *data)
    row = published(demo, "internvl_sa1b_caption_77k_multi_image_en.jsonl")[0]
    sizes = zip(row["image"], row["width_list"], row["height_list"], strict=True)
    assert [f"sa1b://{path}::{demo.sa1b} ({w}×{h})" in out for path, w, h in sizes] == [True] * len(row["image"])


def test_images_beside_the_data_are_opened_too(demo: DemoPaths, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, LLAVA, "detail", "-n", "1", "--data-dir", str(demo.llava))
    assert f"image    {demo.llava}/images/" in out
    assert ".jpg (" in out
    assert "· detail · zh ──" in out


def test_without_a_root_images_are_urls_and_a_note_says_how_to_open_them(
    demo: DemoPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", INTERNVL, "single_zh", "-n", "1", "--data-dir", str(demo.internvl)]) == 0
    said = capsys.readouterr()
    assert f"image    sa1b://{published(demo)[0]['image']}\n" in said.out
    assert "give --image-root, or set SA1B_ROOT" in said.err


def test_an_image_that_is_not_there_says_so_and_ends_nothing(
    demo: DemoPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = "sa_000000"
    shutil.copy(demo.sa1b / f"{there}.tar", tmp_path)
    out = shown(
        capsys, INTERNVL, "single_zh", "-n", "80", "--data-dir", str(demo.internvl), "--image-root", str(tmp_path)
    )
    absent = sum(not row["image"].startswith(there) for row in published(demo))
    assert 0 < absent < 80
    assert out.count("── row ") == 80
    assert out.count("(cannot be opened: ") == absent


def test_jsonl_is_a_row_a_line_with_images_as_their_urls(demo: DemoPaths, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data-dir", str(demo.internvl), "--image-root", str(demo.sa1b)]
    rows = [
        json.loads(line) for line in shown(capsys, INTERNVL, "single_zh", "-n", "80", "--jsonl", *data).splitlines()
    ]
    for row, origin in zip(rows, published(demo), strict=True):
        assert row["image"] == f"sa1b://{origin['image']}::{demo.sa1b}"
        assert row["conversations"] == origin["conversations"]
        assert (row["width"], row["height"], row["config"]) == (origin["width"], origin["height"], "single_zh")


@pytest.mark.parametrize("row_format", ["llava", "messages", "sharegpt", "parts"])
def test_every_row_format_shows_the_same_words(
    row_format: str, demo: DemoPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data-dir", str(demo.internvl), "--row-format", row_format]
    out = "".join(shown(capsys, INTERNVL, "multi_zh", "-n", "1", *data).split())
    row = published(demo, "internvl_sa1b_caption_77k_multi_image_zh.jsonl")[0]
    assert "".join(row["conversations"][1]["value"].split()) in out
    assert all(f"sa1b://{path}" in out for path in row["image"])


def test_only_rows_of_the_archives_asked_for_are_shown(demo: DemoPaths, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data-dir", str(demo.internvl), "--jsonl", "-n", "80"]
    for chosen in ("0-1", "0,1", "sa_000000,1"):
        out = shown(capsys, INTERNVL, "single_zh", "--archives", chosen, *data)
        images = [json.loads(line)["image"] for line in out.splitlines()]
        expected = [row["image"] for row in published(demo) if row["image"] < "sa_000002"]
        assert images == [f"sa1b://{path}" for path in expected]


def test_archives_that_are_none_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["show", INTERNVL, "single_zh", "--archives", "zero"])
    assert stop.value.code == 2
    assert "expected 0-44, 3,5,sa_000007 or available, found 'zero'" in capsys.readouterr().err


def test_a_broken_row_is_an_error_or_left_out_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "树"}]
    good = {"id": 1, "image": "sa_000000/sa_1.jpg", "conversations": turns}
    lines = [json.dumps(good), '{"id": 2, "image": 3}', json.dumps({**good, "id": 3})]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    args = ["show", INTERNVL, "single_zh", "--data-files", str(tmp_path / "rows.jsonl"), "--jsonl"]
    assert main(args) == 1
    assert "rows.jsonl" in capsys.readouterr().err
    assert main([*args, "--on-bad-row", "skip"]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["1", "3"]


def test_a_row_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"from": "human", "value": "<image>\x1b[2J"}, {"from": "gpt", "value": "\x07树"}]
    row = {"id": "\x1b]0;x\x07", "image": "sa_000000/sa_1.jpg", "conversations": turns}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    out = shown(capsys, INTERNVL, "single_zh", "--data-files", str(tmp_path / "rows.jsonl"))
    assert "\x1b" not in out
    assert "<image>\\x1b[2J" in out


def test_rows_from_a_hub_cost_no_more_than_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x" * 800}]
    row = {"id": "%08d", "image": "sa_000000/sa_1.jpg", "conversations": turns}
    big = VirtualFile.lines(lambda i: (json.dumps(row) % i).encode(), 1_000_000)
    with HubServer({"thomas/InternVL-SA-1B-Caption": {SINGLE_ZH: big}}, "modelscope") as hub:
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "ms-home"))
        for name, value in hub.env.items():
            monkeypatch.setenv(name, value)
        out = shown(
            capsys, INTERNVL, "single_zh", "-n", "3", "--jsonl", "--source", "modelscope", "--num-shards", "256"
        )
        assert [json.loads(line)["id"] for line in out.splitlines()] == ["00000000", "00000001", "00000002"]
        # A shard is 1/256; what the kernel had already taken from the server is counted with it.
        assert hub.bytes_sent < big.size / 256 + (8 << 20)
