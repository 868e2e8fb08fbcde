"""Exports as runs: whole or not there, resumed after a kill, one at a time, and only what was asked."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from exported_rows import INTERNVL, ids, published, tree
from filelock import FileLock
from hub_server import HubServer, VirtualFile
from PIL import Image

from llava_zh import export
from llava_zh.demo import DemoPaths
from llava_zh.errors import ImageNotFound, NothingLeft, OutputError, RunConflict
from llava_zh.exporters import TARGET_NAMES, names
from llava_zh.exporters.names import file_name

# -- whole, once, and only what was asked ------------------------------------------------------------------


@pytest.mark.parametrize("to", TARGET_NAMES)
def test_one_process_and_two_write_the_same_files(demo: DemoPaths, tmp_path: Path, to: str) -> None:
    arguments = {"to": to, "data_dir": demo.internvl, "image_root": demo.sa1b, "num_shards": 4, "limit": 30}
    out = tmp_path / "out"
    first = export(INTERNVL, "single_zh", output_dir=out, num_proc=1, **arguments)
    once = tree(out)
    shutil.rmtree(out)
    second = export(INTERNVL, "single_zh", output_dir=out, num_proc=2, **arguments)
    assert tree(out) == once
    assert (
        (first.rows, first.files, first.size)
        == (second.rows, second.files, second.size)
        == (30, first.files, first.size)
    )
    again = export(INTERNVL, "single_zh", output_dir=out, **arguments)
    assert (again.written, again.found) == (0, 4) and tree(out) == once


@pytest.mark.slow
def test_an_export_killed_at_any_moment_is_finished_by_asking_again(demo: DemoPaths, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = ["internvl-sa-1b-caption", "single_en", "--to", "webdataset", "--num-shards", "8", "--num-proc", "2"]
    arguments += [
        "--max-side",
        "150",
        "--data-dir",
        str(demo.internvl),
        "--image-root",
        str(demo.sa1b),
        "--sample",
        "60",
    ]
    command = [sys.executable, "-m", "llava_zh", "export", *arguments]
    killed = 0
    for kill in range(3):
        process = subprocess.Popen([*command, str(out)], start_new_session=True, stderr=subprocess.DEVNULL)
        finished = out / ".export" / "finished"
        before = len(list(finished.glob("*"))) if finished.exists() else 0
        while process.poll() is None and (
            not finished.exists() or len(list(finished.glob("*"))) < min(before + kill, 8)
        ):
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):  # it may have come to its end by itself
            os.killpg(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        for path in (out / "data").glob("*") if (out / "data").exists() else ():
            with tarfile.open(path) as tar:  # what has its name is whole
                assert all(member.size for member in tar)
    assert killed
    done = {path.name: path.stat().st_mtime_ns for path in (out / "data").glob("*")} if (out / "data").exists() else {}
    finished_names = {path.name.removesuffix(".json") for path in (out / ".export" / "finished").glob("*")}
    result = subprocess.run([*command, str(out), "--json"], capture_output=True, text=True, check=True)
    summary = json.loads(result.stdout)
    assert summary["rows"] == 60 and summary["found"] == len(finished_names)
    for name in finished_names:
        assert (out / "data" / name).stat().st_mtime_ns == done[name]  # not written a second time
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    ours, reference = tree(out), tree(whole)
    assert {name: data for name, data in ours.items() if name != "README.md"} == {
        name: data for name, data in reference.items() if name != "README.md"
    }
    assert not list((out / ".export" / "unfinished").iterdir())


def test_a_folder_with_another_export_is_refused_with_the_difference(demo: DemoPaths, tmp_path: Path) -> None:
    arguments = {"to": "jsonl", "output_dir": tmp_path, "data_dir": demo.internvl}
    export(INTERNVL, "single_zh", sample=5, **arguments)
    before = tree(tmp_path)
    with pytest.raises(
        RunConflict, match=r'selection: \{"sample": 5, "seed": 0\} there, \{"sample": 6, "seed": 0\} asked for'
    ):
        export(INTERNVL, "single_zh", sample=6, **arguments)
    with pytest.raises(RunConflict, match=r'row_format: "llava" there, "parts" asked for'):
        export(INTERNVL, "single_zh", sample=5, row_format="parts", **arguments)
    assert tree(tmp_path) == before


def test_a_folder_that_is_no_export_or_in_use_is_refused(demo: DemoPaths, tmp_path: Path) -> None:
    arguments = {"to": "jsonl", "data_dir": demo.internvl}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunConflict, match="holds files that are not of an export"):
        export(INTERNVL, "single_zh", output_dir=tmp_path / "mine", **arguments)
    with pytest.raises(RunConflict, match="is a file"):
        export(INTERNVL, "single_zh", output_dir=tmp_path / "file", **arguments)
    (tmp_path / "busy" / ".export").mkdir(parents=True)
    with (
        FileLock(tmp_path / "busy" / ".export" / "lock"),
        pytest.raises(RunConflict, match="another process is exporting"),
    ):
        export(INTERNVL, "single_zh", output_dir=tmp_path / "busy", **arguments)


def test_a_damaged_or_deleted_shard_is_written_again(demo: DemoPaths, tmp_path: Path) -> None:
    arguments = {"to": "parquet", "output_dir": tmp_path, "data_dir": demo.internvl, "num_shards": 4}
    export(INTERNVL, "single_zh", **arguments)
    before = tree(tmp_path)
    paths = sorted((tmp_path / "data").iterdir())
    paths[0].write_bytes(b"cut short")
    paths[2].unlink()
    summary = export(INTERNVL, "single_zh", **arguments)
    assert (summary.written, summary.found) == (2, 2) and tree(tmp_path) == before


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_missing_picture_stops_the_export_or_leaves_the_row_out(
    demo: DemoPaths, tmp_path: Path, num_proc: int
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(demo.sa1b / "sa_000001.tar", root)
    arguments = {"to": "llama-factory", "data_dir": demo.internvl, "image_root": root, "num_proc": num_proc}
    with pytest.raises(ImageNotFound, match=r"sa_00000[02]/sa_\d+\.jpg"):
        export(INTERNVL, "single_zh", output_dir=tmp_path / "raise", **arguments)
    assert not list((tmp_path / "raise" / "data").glob("*"))
    export(INTERNVL, "single_zh", output_dir=tmp_path / "skip", on_missing_image="skip", **arguments)
    expected = [row for row in published(demo, "single_zh") if "/sa_000001/" in row["image"]["path"]]
    assert ids(tmp_path / "skip") == [row["id"] for row in expected] != []


@pytest.mark.parametrize("num_proc", [1, 2])
def test_what_is_left_out_is_told_once_for_all_processes(
    demo: DemoPaths, tmp_path: Path, num_proc: int, caplog: pytest.LogCaptureFixture
) -> None:
    first = published(demo, "single_zh")[0]["image"]["path"]
    arguments = {"to": "jsonl", "data_dir": demo.internvl, "num_shards": 4, "num_proc": num_proc}
    bad = [first, "sa_000009/sa_99999999.jpg"]
    export(INTERNVL, "single_zh", output_dir=tmp_path / "a", bad_images=bad, **arguments)
    told = [record.getMessage() for record in caplog.records]
    assert sum("1 row with a bad image left out" in message for message in told) == 1
    assert sum("1 of 2 entries of bad_images match no row" in message for message in told) == 1
    with pytest.raises(NothingLeft, match="none of 80 rows is left: 80 rows with images in other archives"):
        export(INTERNVL, "single_zh", output_dir=tmp_path / "b", archives=[999], **arguments)


def test_a_folder_that_cannot_be_written_to_is_an_error_that_names_it(demo: DemoPaths, tmp_path: Path) -> None:
    export(INTERNVL, "single_zh", to="jsonl", output_dir=tmp_path, data_dir=demo.internvl)
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(OutputError, match=r"data/single_zh-00000-of-00001\.jsonl: cannot be written"):
        export(INTERNVL, "single_zh", to="jsonl", output_dir=tmp_path, data_dir=demo.internvl)


def test_the_name_of_an_embedded_picture_cannot_lead_out_of_the_folder() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    data = buffer.getvalue()
    plain = {path: file_name(path, data, embedded=False) for path in ("a.png", "sa_000000/A b.PNG", "图片/猫.png")}
    assert all(path == name for path, name in plain.items())
    digest = names.digest(data)[:16]
    for path, name in (
        ("../../etc/passwd", "etc/passwd"),
        ("/abs/a.jpg", "abs/a"),
        ("C:\\x\\..\\a.png", "C_/x/a"),
        ("..", "image"),
        ("a\x00\x1b]b\u202e.png", "a_x00_x1b]b_u202e"),
        ("con.png", "_con"),
        ("v1.2/a", "v1.2/a"),
        ("a. /b...", "a_/b_"),
    ):
        assert file_name(path, data, embedded=True) == f"{name}-{digest}.png"
    assert file_name(None, data, embedded=True) == f"{names.digest(data)}.png"
    long = file_name("x/" * 500 + "很" * 500, data, embedded=True)
    assert max(len(step.encode()) for step in long.split("/")) < 200 and len(long.split("/")) == 8


def test_rows_come_from_a_hub_by_ranges_and_no_more_than_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [{"from": "human", "value": "<image>\nQ"}, {"from": "gpt", "value": "x" * 800}]
    row = json.dumps({"id": "%08d", "image": "sa_000000/sa_1.jpg", "conversations": turns})
    big = VirtualFile.lines(lambda i: (row % i).encode(), 500_000)
    name = "internvl_sa1b_caption_1m_single_image_zh.jsonl"
    with HubServer({"thomas/InternVL-SA-1B-Caption": {name: big}}, "modelscope") as hub:
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
        for variable, value in hub.env.items():
            monkeypatch.setenv(variable, value)
        summary = export(
            INTERNVL, "single_zh", to="jsonl", output_dir=tmp_path / "out", limit=1000, source="modelscope"
        )
        assert summary.rows == 1000 and hub.bytes_sent < big.size / 4
    assert ids(tmp_path / "out") == [f"{i:08d}" for i in range(1000)]
