"""What type checkers and editors see of the public calls, and that it is what there is."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import datasets
import pytest

import llava_zh
from llava_zh.catalog import registry, request, signatures
from llava_zh.files.data_files import SOURCES
from llava_zh.rows.formats import ROW_FORMATS

sys.path.insert(0, str(Path(__file__).parent / "trainers"))
import venvs

ROOT = Path(__file__).parent.parent

USER = """\
from pathlib import Path

import llava_zh
from llava_zh import load_dataset, load_dataset_builder

whole = load_dataset("internvl-sa-1b-caption", "single_zh")
rows = load_dataset("llava", "my-config", split="train[:1%]", image_root=Path("/data/sa1b"))
streams = load_dataset("my-own", streaming=True, row_format="messages")
stream = load_dataset("mine/my.jsonl", split="train", streaming=True, on_bad_row="skip", archives=range(45))
several = load_dataset("llava", "zh", "folder", split=["train[:1%]", "train[1%:]"])
reveal_type(whole)
reveal_type(rows)
reveal_type(streams)
reveal_type(stream)
reveal_type(several)
reveal_type(load_dataset_builder("llava").config.found)
print(rows.num_rows, llava_zh.list_datasets())
load_dataset("llava", split="train", row_format="sharegtp")
load_dataset("llava", split="train", on_bad_row="drop")
load_dataset("llava", split="train", row_fromat="messages")
"""
SEEN = ["DatasetDict", "Dataset", "IterableDatasetDict", "IterableDataset", "list[Dataset]", "str"]
WRONG = {18, 19, 20}


def test_the_names_that_checkers_know_are_those_that_there_are() -> None:
    configs = {config.name for name in registry.BUILT_IN for config in registry.find(name)[0].configs}
    for literal, names in (
        (signatures.DatasetName, registry.BUILT_IN),
        (signatures.ConfigName, configs),
        (signatures.RowFormat, ROW_FORMATS),
        (signatures.OnBadRow, request.ON_BAD_ROW),
        (signatures.OnMissingImage, request.ON_MISSING_IMAGE),
        (signatures.SourceName, SOURCES),
        (signatures.DownloadModeName, [mode.value for mode in datasets.DownloadMode]),
        (signatures.VerificationModeName, [mode.value for mode in datasets.VerificationMode]),
    ):
        assert set(get_args(literal)) == set(names)


def test_the_overloads_have_every_keyword_that_is_taken() -> None:
    parameters = inspect.signature(llava_zh.load_dataset).parameters
    before = {"path", "name", "data_dir", "data_files", "split", "streaming"}
    shared = signatures.LoadOptions.__annotations__
    assert set(shared) == parameters.keys() - before - {"unknown"} | {"trust_remote_code"}


@pytest.mark.slow
def test_both_checkers_see_what_split_and_streaming_give_and_what_is_misspelt(tmp_path: Path) -> None:
    python = venvs.python_of("type-checkers")
    # Checkers follow no editable install; what they are to look at is the package as it is installed by users.
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", ROOT]
    subprocess.run([str(word) for word in install], check=True)
    try:
        (tmp_path / "user.py").write_text(USER)
        mypy, pyright = (shutil.which(name, path=str(python.parent)) for name in ("mypy", "basedpyright"))
        assert mypy and pyright
        # `datasets` marks itself as untyped, so that mypy has to be told to look into it.
        command = [mypy, "--follow-untyped-imports", "--hide-error-context", "user.py"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
        seen = re.findall(r'user\.py:\d+: note: Revealed type is "(.*)"', said)
        assert [re.sub(r"datasets\.\w+\.", "", one) for one in seen] == SEEN, said[:3000]
        assert {int(line) for line in re.findall(r"user\.py:(\d+): error", said)} == WRONG, said[:3000]
        command = [pyright, "--pythonpath", str(python), "--outputjson", "user.py"]
        told = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout)
        of = {
            kind: [m for m in told["generalDiagnostics"] if m["severity"] == kind] for kind in ("information", "error")
        }
        assert [re.findall('is "(.*)"', message["message"])[0] for message in of["information"]] == SEEN
        assert {message["range"]["start"]["line"] + 1 for message in of["error"]} == WRONG, of["error"]
    finally:
        editable = [python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", "-e", ROOT]
        subprocess.run([str(word) for word in editable], check=True)
