"""What a shuffled stream holds, and what `datasets`' own shuffle does to one on versions that get it wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node

from llava_zh import load_dataset, shuffled
from llava_zh.streams import typed as streams

TURNS = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
MEASURE = """
import resource, sys, datasets
from llava_zh import load_dataset, shuffled
stream = load_dataset("llava-instruct-zh-600k", split="train", streaming=True, data_dir=sys.argv[1])
stream = stream.cast_column("image", datasets.Image(decode=False))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ids = [row["id"] for row in shuffled(stream, seed=1)]
print(len(ids), len(set(ids)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_a_window_of_tars_holds_no_more_than_it_says(tmp_path: Path) -> None:
    for tar_number in range(4):
        with tarfile.open(tmp_path / f"shard-{tar_number:04d}.tar", "w") as tar:
            for i in range(50):
                picture = b"\xff\xd8" + np.random.default_rng(i).bytes(1_400_000)
                text = json.dumps({"id": f"{tar_number}-{i}", "conversations": TURNS}).encode()
                for name, data in ((f"{tar_number}_{i}.jpg", picture), (f"{tar_number}_{i}.json", text)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, different, kilobytes = map(int, done.stdout.split())
    assert (rows, different) == (200, 200)
    assert kilobytes < 240_000  # a tar of 70 MB, what is read ahead, and the rows under way


def rows(tmp_path: Path) -> datasets.IterableDataset:
    lines = [json.dumps({"id": i, "image": "1.jpg", "conversations": TURNS}) for i in range(400)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return load_dataset("llava-instruct-zh-600k", split="train", streaming=True, data_dir=tmp_path, num_shards=16)


def test_the_shuffle_of_datasets_keeps_the_shards_or_says_that_it_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    streams._tell_of_starving.cache_clear()
    stock = rows(tmp_path).shuffle(seed=1)
    starved = stock.num_shards < 16
    assert starved == streams.SHUFFLE_STARVES
    assert ("leaves fewer of them" in caplog.text) == starved


def test_our_shuffle_keeps_enough_parts_for_workers_on_every_version(tmp_path: Path) -> None:
    ours = shuffled(rows(tmp_path), seed=1)
    assert ours.num_shards >= 64
    shares = [{row["id"] for row in split_dataset_by_node(ours, i, 4)} for i in range(4)]
    assert sum(map(len, shares)) == len(set().union(*shares)) == 400
