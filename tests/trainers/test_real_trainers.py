"""The real trainers on the miniature, each in a virtual environment of its own with PyTorch for the CPU."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from llava_zh import load_dataset
from llava_zh.demo import DemoPaths
from llava_zh.exporters import export

sys.path.insert(0, str(Path(__file__).parent))
import venvs

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
PATCHES = 16  # image tokens a picture of the tiny model has

pytestmark = pytest.mark.slow


def python_of(name: str) -> str:
    """The Python of a trainer's environment; tests that run at once wait for the one that makes it."""
    folder = venvs.folder_of(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        return str(venvs.python_of(name))


def run(*command: object, **environment: str) -> str:
    """Run a command without a hub to reach, and return what it printed."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "USE_HF": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **offline, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=400,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


# -- TRL ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "config"), [("internvl-sa-1b-caption", "multi_zh"), ("llava-instruct-zh-600k", "default")]
)
def test_trl_trains_on_a_stream_and_the_loss_falls(demo: DemoPaths, tmp_path: Path, dataset: str, config: str) -> None:
    captions = dataset == "internvl-sa-1b-caption"
    where = ["--data-dir", demo.internvl, "--image-root", demo.sa1b] if captions else ["--data-dir", demo.llava]
    printed = run(
        python_of("trl"), EXAMPLES / "train_trl.py", "--dataset", dataset, "--config", config, *where,
        "--max-steps", 20, "--output-dir", tmp_path,
    )  # fmt: skip
    losses = json.loads(printed.splitlines()[-1])["losses"]
    assert len(losses) == 20
    # An untrained model of 600 words starts at ln(600) = 6.4; a tenth of that is more than batches differ by.
    assert 5.5 < losses[0] < 7.5
    assert sum(losses[-5:]) / 5 < losses[0] - 0.7


# -- LLaMA-Factory and ms-swift ----------------------------------------------------------------------------


@pytest.fixture(params=["single_zh", "multi_zh", "default"])
def exported(request: pytest.FixtureRequest, demo: DemoPaths) -> Iterator[Any]:
    """A function that exports a configuration to a trainer, and the rows that the trainer has to find."""
    config = request.param
    dataset = "llava-instruct-zh-600k" if config == "default" else "internvl-sa-1b-caption"
    where = {"data_dir": demo.llava} if config == "default" else {"data_dir": demo.internvl, "image_root": demo.sa1b}

    def make(to: str, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
        # Several files where there can be: the registration files name them one by one.
        export(dataset, config, to=to, output_dir=folder, num_shards=1 if config == "default" else 2, **where)
        rows = load_dataset(dataset, config, split="train", streaming=True, row_format="messages", **where)
        return folder, list(rows)

    yield make


def check(found: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """`found` by a trainer are `rows`: the same turns, each picture at its place, the answers to be learned."""

    def key(row: dict[str, Any]) -> str:
        return json.dumps([[turn["role"], turn["content"]] for turn in row["messages"]])

    assert sorted(map(key, found)) == sorted(map(key, rows))
    by_turns = {key(row): row for row in rows}
    assert len(by_turns) == len(rows)
    for row in found:
        wanted = by_turns[key(row)]
        assert row["image_tokens"] == PATCHES * len(wanted["images"])
        for path, picture in zip(row["images"], wanted["images"], strict=True):
            with Image.open(path) as image:
                assert image.size == picture.size
                assert image.convert("RGB").tobytes() == picture.convert("RGB").tobytes()
        for turn in row["messages"]:
            if turn["role"] == "assistant":
                assert squeezed(turn["content"]) in squeezed(row["learned"])
            else:
                assert squeezed(turn["content"].replace("<image>", "")) not in squeezed(row["learned"])


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_llama_factory_reads_an_export(exported: Any, tmp_path: Path) -> None:
    folder, rows = exported("llama-factory", tmp_path / "export")
    (name,) = json.loads((folder / "dataset_info.json").read_text("utf-8"))
    run(python_of("llama-factory"), HERE / "read_llama_factory.py", folder, name, tmp_path)
    check(json.loads((tmp_path / "found.json").read_text("utf-8")), rows)


def test_ms_swift_reads_an_export(exported: Any, tmp_path: Path) -> None:
    folder, rows = exported("ms-swift", tmp_path / "export")
    run(python_of("ms-swift"), HERE / "read_ms_swift.py", folder, tmp_path)
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert [row["pictures"] for row in found] == [len(row["images"]) for row in found]
    check(found, rows)
    # The example's command uses options that `swift sft` has.
    used = re.findall(r"^  --(\w+)", (EXAMPLES / "ms_swift" / "train.sh").read_text("utf-8"), re.MULTILINE)
    assert len(used) > 10 and set(used) <= set(json.loads((tmp_path / "options.json").read_text("utf-8")))


# -- plain PyTorch -----------------------------------------------------------------------------------------


def test_plain_pytorch_killed_and_resumed_trains_on_the_rows_of_an_uninterrupted_run(
    demo: DemoPaths, tmp_path: Path
) -> None:
    command = [
        python_of("trl"), EXAMPLES / "train_pytorch.py", "--data-dir", demo.internvl, "--image-root", demo.sa1b,
        "--save-every", 3, "--epochs", 2, "--batch-size", 8,
    ]  # fmt: skip
    calm = [json.loads(line) for line in run(*command, "--output-dir", tmp_path / "calm").splitlines()]
    assert [step["step"] for step in calm] == list(range(1, 21))
    assert calm[-1]["loss"] < calm[0]["loss"] - 1.5
    for epoch in range(2):
        ids = [row for step in calm if step["epoch"] == epoch for row in step["ids"]]
        assert sorted(map(int, ids)) == list(range(80))

    stormy: dict[int, Any] = {}
    for steps in (4, 8):
        killed = start([*command, "--output-dir", tmp_path / "stormy"])
        assert killed.stdout
        for _ in range(steps):
            step = json.loads(killed.stdout.readline())
            stormy[step["step"]] = step
        os.killpg(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    rest = [json.loads(line) for line in run(*command, "--output-dir", tmp_path / "stormy").splitlines()]
    stormy |= {step["step"]: step for step in rest}
    # Steps after the last checkpoint were trained twice, on the same rows; the last time counts.
    assert 1 < rest[0]["step"] <= 13
    assert [(step["epoch"], step["ids"]) for _, step in sorted(stormy.items())] == [
        (step["epoch"], step["ids"]) for step in calm
    ]
    assert stormy[20]["loss"] == pytest.approx(calm[-1]["loss"], rel=1e-3)


def start(command: list[object]) -> subprocess.Popen[str]:
    """Start a command as a group of processes that can be killed together."""
    words = [str(word) for word in command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
