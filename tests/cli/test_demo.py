"""``llava-zh demo``: what it loads, prints and writes."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llava_zh.cli import demo
from llava_zh.demo import dialogues, write


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser()
    demo.add_parser(main.add_subparsers())
    return main


def run_demo(*arguments: object) -> None:
    args = parser().parse_args(["demo", *map(str, arguments)])
    assert args.run(args) == 0


@pytest.fixture(scope="module")
def loaded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("command") / "demo"


@pytest.mark.slow
def test_the_command_loads_every_config_both_ways(loaded_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(loaded_folder, "--json")
    configs = {(one["dataset"], one["config"]): one for one in json.loads(capsys.readouterr().out)["configs"]}
    assert {config: one["rows"] for (_, config), one in configs.items()} == {
        "single_en": 80,
        "single_zh": 80,
        "multi_en": 20,
        "multi_zh": 20,
        "default": 40,
        "conversation": 14,
        "complex_reasoning": 13,
        "detail": 13,
    }
    for (dataset, config), one in configs.items():
        first = first_published_row(loaded_folder, dataset, config)
        assert one["caption"] == first["conversations"][1]["value"]
        if dataset == demo.INTERNVL:
            many = config.startswith("multi")
            sizes = [first["width_list"][0], first["height_list"][0]] if many else [first["width"], first["height"]]
            assert one["image_size"] == sizes
        assert one["columns"]["conversations"] == "list of {from, value}"
        assert one["columns"]["image"] == ("list of Image" if config.startswith("multi") else "Image")


def first_published_row(folder: Path, dataset: str, config: str) -> dict:
    if dataset == demo.INTERNVL:
        files = {
            f"{kind}_{language}": name
            for kind, names in (("single", write.SINGLE), ("multi", write.MULTI))
            for language, name in names.items()
        }
        return json.loads((folder / "internvl" / files[config]).read_text(encoding="utf-8").splitlines()[0])
    rows = pq.read_table(next((folder / "llava").glob("*.parquet"))).to_pylist()
    tasks = dict(zip(("conversation", "complex_reasoning", "detail"), dialogues.TASKS, strict=True))
    return next(row for row in rows if config == "default" or row["type"] == tasks[config])


@pytest.mark.slow
def test_another_seed_in_the_same_folder_shows_the_new_rows(tmp_path: Path) -> None:
    captions_by_seed = []
    for seed in (0, 3):
        output = in_a_process("demo", "here", "--seed", str(seed), "--json", folder=tmp_path)
        captions_by_seed.append([one["caption"] for one in json.loads(output)["configs"]])
    assert all(one != other for one, other in zip(*captions_by_seed, strict=True))


@pytest.mark.slow
def test_the_report_ends_with_lines_that_can_be_pasted(
    loaded_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_demo(loaded_folder)
    report = capsys.readouterr().out
    for config in ("single_en", "single_zh", "multi_en", "multi_zh", "default", "conversation", "detail"):
        assert re.search(rf" {config} +\d+ +\d+\.\d\d s +\d+\.\d\d s  \d+×\d+  \S", report)
    python, show, _ = report.rstrip().splitlines()[-3:]
    namespace: dict = {}
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    exec(python.strip(), namespace)
    assert len(namespace["rows"]) == 80
    assert shlex.split(show)[:4] == ["llava-zh", "show", demo.INTERNVL, "single_zh"]


@pytest.mark.slow
def test_the_command_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    in_a_process("demo", "here", folder=tmp_path, HOME=str(home))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "home"]
    assert list(home.rglob("*")) == []


def in_a_process(*arguments: str, folder: Path, **variables: str) -> str:
    """What the command prints when it is run in `folder` by a fresh interpreter, no cache folder being set."""
    code = (
        "import argparse, sys; from llava_zh.cli import demo; main = argparse.ArgumentParser();"
        "demo.add_parser(main.add_subparsers()); args = main.parse_args(sys.argv[1:]); sys.exit(args.run(args))"
    )
    hidden = ("HF_", "XDG_", "LLAVA_ZH_", "SA1B_", "MODELSCOPE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1", **variables}
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE
    )
    return process.stdout.decode()


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["demo", "--help"])
    assert "llava-zh demo ./llava-zh-demo --rows 240" in capsys.readouterr().out
