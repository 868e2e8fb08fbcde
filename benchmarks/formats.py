"""Row formats and exports: what each costs next to rows as published and next to bare Arrow.

    python benchmarks/formats.py                       # a generated 200 MB file shaped like single_en, 3 rounds
    python benchmarks/formats.py --size 1GB --rounds 5

Two tables. The first: rows a second of a stream in each row format, as a share of `llava`'s. The second: from the JSON
Lines file to Parquet with image URLs by `llava_zh.export` (one process), as a share of the rate of bare pyarrow, which
reads the file with a given schema and writes the columns as they are, to the same compression and row groups. Figures
are medians of the rounds; within a round all take turns, each in a process of its own, on a file in the page cache, and
every round starts with another one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jsonl

FORMATS = ("llava", "sharegpt", "messages", "parts")
DATASET, CONFIG = "internvl-sa-1b-caption", "single_en"


def stream(path: str, row_format: str) -> float:
    """Seconds for all rows of a stream, in this process."""
    from llava_zh import load_dataset

    rows = load_dataset(DATASET, CONFIG, split="train", data_files=path, streaming=True, row_format=row_format)
    start = time.perf_counter()
    for _ in rows:
        pass
    return time.perf_counter() - start


def export_parquet(path: str, row_format: str) -> float:
    """Seconds from the published file to Parquet with URLs; imports are not counted, as for bare Arrow."""
    import datasets  # noqa: F401
    import huggingface_hub.repocard  # noqa: F401

    import llava_zh.exporters.run  # noqa: F401
    from llava_zh import export

    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        start = time.perf_counter()
        export(DATASET, CONFIG, to="parquet", data_files=path, output_dir=folder, row_format=row_format)
        return time.perf_counter() - start


def bare_arrow(path: str, _: str) -> float:
    """Seconds from the published file to Parquet with pyarrow alone: every column as it is, nothing looked at."""
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet

    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("image", pa.string()),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("conversations", pa.list_(turn)),
        ]
    )
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        start = time.perf_counter()
        reader = pyarrow.json.open_json(
            path,
            read_options=pyarrow.json.ReadOptions(block_size=8 << 20),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=schema),
        )
        target = f"{folder}/x.parquet"
        with pyarrow.parquet.ParquetWriter(target, schema, compression="zstd", write_page_index=True) as writer:
            for batch in reader:
                writer.write_table(pa.Table.from_batches([batch]), row_group_size=20_000)
        with open(target, "rb+") as handle:
            os.fsync(handle.fileno())
        return time.perf_counter() - start


WORK: dict[str, Callable[[str, str], float]] = {
    "stream": stream,
    "export": export_parquet,
    "bare": bare_arrow,
}


def measure(work: str, path: Path, row_format: str) -> float:
    """One figure, from a fresh process."""
    command = [sys.executable, __file__, "--run", work, row_format, str(path)]
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="200MB", help="size of the file (default: 200MB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", help="where the file is generated (default: a temporary folder)")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        work, row_format, path = args.run
        print(json.dumps(WORK[work](path, row_format)))
        return
    from llava_zh.gates.sizes import parse

    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        path = Path(folder, "single_en.jsonl")
        jsonl.generate(path, parse(args.size))
        with path.open("rb") as handle:
            count = sum(1 for _ in handle)
        runs = [("stream", name) for name in FORMATS] + [("bare", "llava")] + [("export", name) for name in FORMATS]
        seconds: dict[tuple[str, str], list[float]] = {run: [] for run in runs}
        for _ in range(args.rounds):
            for work, row_format in runs:
                seconds[work, row_format].append(measure(work, path, row_format))
            runs = runs[1:] + runs[:1]  # nobody always comes right after the exports
    report(seconds, count)


def report(seconds: dict[tuple[str, str], list[float]], rows: int) -> None:
    """Print both tables."""
    rate = {run: rows / statistics.median(times) for run, times in seconds.items()}
    print(f"{rows:,} rows, {os.cpu_count()} cores, medians of {len(next(iter(seconds.values())))}\n")
    print("streamed, rows/s         of llava's   aim")
    for name in FORMATS:
        print(
            f"  {name:10} {rate['stream', name]:>12,.0f} {rate['stream', name] / rate['stream', 'llava']:>14.2f}  0.90"
        )
    print("\nexported, rows/s     of bare Arrow's   aim")
    print(f"  {'bare Arrow':10} {rate['bare', 'llava']:>12,.0f}")
    for name in FORMATS:
        aim = "0.80" if name == "llava" else ""
        share = rate["export", name] / rate["bare", "llava"]
        print(f"  {name:10} {rate['export', name]:>12,.0f} {share:>14.2f}  {aim}")


if __name__ == "__main__":
    main()
