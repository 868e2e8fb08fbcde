"""Shuffled and mixed streams: llava_zh's, which resume exactly, against `datasets`' shuffle buffer and interleaving.

    python benchmarks/shuffle.py                    # a generated 200 MB file shaped like single_en, 3 rounds
    python benchmarks/shuffle.py --size 60MB --rounds 1

Rows a second of one process on text rows (`row_format="messages"`), medians of the rounds; all sides take turns within
a round, on a file in the page cache. *spread* tells how far apart in the file consecutive rows are: the median
distance, where a full shuffle has 0.29 of the file. *resume* is the time from a state in mid-epoch to the next row.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
from jsonl import generate

from llava_zh import load_dataset
from llava_zh.streams.shuffle import mix, shuffled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="200MB", help="of the generated file")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder, "internvl_sa1b_caption_11m_single_image_en.jsonl"), int(args.size[:-2]) * 10**6)
        measure(folder, args.rounds)


def measure(folder: str, rounds: int) -> None:
    def stream() -> Any:
        return load_dataset(
            "internvl-sa-1b-caption", "single_en", data_dir=folder, split="train", streaming=True, row_format="messages"
        )

    def halves(one: Callable[[Any], Any]) -> list[Any]:
        return [one(stream()), one(stream())]

    sides: dict[str, Callable[[], Any]] = {
        "no shuffle": stream,
        "llava_zh.shuffled": lambda: shuffled(stream()),
        "IterableDataset.shuffle, buffer 1,000": lambda: stream().shuffle(seed=0, buffer_size=1000),
        "IterableDataset.shuffle, buffer 100,000": lambda: stream().shuffle(seed=0, buffer_size=100_000),
        "llava_zh.mix of two": lambda: mix(halves(shuffled), [3, 1], stopping_strategy="first_exhausted"),
        "interleave_datasets of two, buffer 1,000": lambda: datasets.interleave_datasets(
            halves(lambda one: one.shuffle(seed=0, buffer_size=1000)), [0.75, 0.25], seed=0
        ),
    }
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, make in sides.items():
            figures[name].append(once(make))
    print(f"{'':42}{'rows/s':>10}{'of no shuffle':>15}{'spread':>9}{'resume':>9}")
    base = statistics.median(rate for rate, _, _ in figures["no shuffle"])
    for name, found in figures.items():
        rate, spread, resume = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name:42}{rate:10,.0f}{rate / base:15.2f}{spread:9.3f}{resume:8.2f}s")


def once(make: Callable[[], Any]) -> tuple[float, float, float]:
    """Rows a second, the spread, and the seconds to resume."""
    ids: list[int] = []
    began = time.perf_counter()
    for row in make():
        ids.append(int(row["id"]))  # noqa: PERF401 (the loop of a training run)
    seconds = time.perf_counter() - began
    apart = statistics.median(abs(a - b) for a, b in pairwise(ids)) / (max(ids) + 1)

    stopped = make()
    for number, _ in enumerate(stopped):
        if number == len(ids) // 2:
            break
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    began = time.perf_counter()
    next(iter(resumed), None)  # a shuffle buffer that held all that was left is lost, and with it every row
    return len(ids) / seconds, apart, time.perf_counter() - began


if __name__ == "__main__":
    main()
