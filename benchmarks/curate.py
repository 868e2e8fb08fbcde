"""Exact and near-duplicate search over captions, against a plain `datasets.filter` pass and `datasketch` used directly.

    python benchmarks/curate.py                  # 1 million captions of 800 bytes, half Chinese, half English
    python benchmarks/curate.py --rows 50000

Captions are drawn from a Zipf vocabulary; 2 % repeat an earlier caption and 3 % repeat one with a few words changed, so
what was found can be counted. Every measurement runs in a process of its own, the contenders one after the other in
each round; the table shows medians and the peak resident memory. `datasketch` looks at a sample only where the rows
are more (`--datasketch-rows`): it needs Python objects for every row and band.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

BYTES = 800
EXACT, NEAR = 0.02, 0.03
OFF: dict[str, Any] = {"length_quantiles": None, "max_repetition": None}
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"


def captions(rows: int) -> Iterator[tuple[str, str]]:
    """(language, caption) of about :data:`BYTES` bytes; the same for the same number of rows."""
    draw = random.Random(7)
    vocabulary = {
        "en": [_word(draw) for _ in range(8000)],
        "zh": ["".join(map(chr, draw.choices(range(0x4E00, 0x5E00), k=2))) for _ in range(8000)],
    }
    cumulative = list(accumulate(1 / (rank + 10) for rank in range(8000)))
    earlier: dict[str, list[list[str]]] = {"en": [], "zh": []}
    for row in range(rows):
        language = ("en", "zh")[row % 2]
        known, chance = earlier[language], draw.random()
        if known and chance < EXACT + NEAR:
            words = list(draw.choice(known))
            if chance >= EXACT:
                for _ in range(3):
                    words[draw.randrange(len(words))] = draw.choice(vocabulary[language])
        else:
            words = draw.choices(vocabulary[language], cum_weights=cumulative, k=BYTES // 6)
        if len(known) < 20_000:
            known.append(words)
        text = (" " if language == "en" else "").join(words)
        yield language, text.encode()[:BYTES].decode(errors="ignore") + (". " if language == "en" else "。").strip()


def _word(draw: random.Random) -> str:
    return "".join(draw.choice(letters) for _ in range(draw.randint(1, 3)) for letters in (_CONSONANTS, _VOWELS))


def write_rows(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row, (language, caption) in enumerate(captions(rows)):
            turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": caption}]
            image = f"sa_{row // 11186:06d}/sa_{row}.jpg"
            line = {"id": row, "image": image, "conversations": turns, "language": language}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def run_curate(path: Path, work: Path, **options: Any) -> dict[str, Any]:
    from llava_zh.curation import curate

    started = time.perf_counter()
    report = curate(path, output_dir=work / "curated", **options)
    return {
        "rows": report.rows,
        "seconds": time.perf_counter() - started,
        "exact": report.reasons["duplicate"]["count"],
        "near": report.reasons["near_duplicate"]["count"],
    }


def run_filter(path: Path, work: Path, whole: bool) -> dict[str, Any]:
    from datasets import load_dataset

    started = time.perf_counter()
    dataset = load_dataset("json", data_files=str(path), cache_dir=str(work / "cache"), split="train")
    if not whole:
        started = time.perf_counter()
    kept = dataset.filter(_is_long_enough)
    if whole:
        kept.to_json(work / "kept.jsonl", force_ascii=False)
    return {"rows": len(dataset), "seconds": time.perf_counter() - started, "kept": len(kept)}


def _is_long_enough(row: dict[str, Any]) -> bool:
    return len(row["conversations"][1]["value"]) > 50


def run_datasketch(path: Path, work: Path, rows: int) -> dict[str, Any]:
    from datasketch import MinHash, MinHashLSH

    from llava_zh.curation.text import windows

    lsh = MinHashLSH(threshold=0.8, num_perm=128)
    near = done = 0
    started = time.perf_counter()
    with path.open(encoding="utf-8") as file:
        for line in file:
            if done == rows:
                break
            row = json.loads(line)
            sketch = MinHash(num_perm=128)
            grams = windows(row["conversations"][1]["value"], row["language"])
            sketch.update_batch([gram.encode() for gram in grams])
            if lsh.query(sketch):
                near += 1
            else:
                lsh.insert(done, sketch)
            done += 1
    return {"rows": done, "seconds": time.perf_counter() - started, "near": near}


def contenders(datasketch_rows: int) -> dict[str, Callable[[Path, Path], dict[str, Any]]]:
    return {
        "datasets.filter, one comparison": lambda path, work: run_filter(path, work, False),
        "the same from and to JSON Lines": lambda path, work: run_filter(path, work, True),
        "curate, exact duplicates": lambda path, work: run_curate(path, work, near_duplicates=None, **OFF),
        "curate, exact and near": lambda path, work: run_curate(path, work, **OFF),
        "curate, every check": run_curate,
        "datasketch MinHashLSH": lambda path, work: run_datasketch(path, work, datasketch_rows),
    }


def measure(name: str, path: Path, datasketch_rows: int) -> dict[str, Any]:
    """One contender in a process of its own."""
    command = [sys.executable, __file__, "--only", name, "--data", str(path), "--datasketch-rows", str(datasketch_rows)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--datasketch-rows", type=int, default=20_000)
    parser.add_argument("--work", type=Path, help="folder for the generated rows (default: a temporary one)")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        with tempfile.TemporaryDirectory(dir=args.data.parent) as work:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            result = contenders(args.datasketch_rows)[args.only](args.data, Path(work))
        result |= {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "before_mb": before / 1024}
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        path = Path(folder) / "captions.jsonl"
        write_rows(path, args.rows)
        print(f"{args.rows:,} captions, {path.stat().st_size / 1e6:,.0f} MB; medians of {args.rounds}")
        names = list(contenders(0))
        rounds = [{name: measure(name, path, args.datasketch_rows) for name in names} for _ in range(args.rounds)]
        table(names, rounds, args.rows)


def table(names: list[str], rounds: list[dict[str, dict[str, Any]]], rows: int) -> None:
    rates = {name: statistics.median(rate(r[name]) for r in rounds) for name in names}
    print(f"{'':34} {'rows/s':>9} {'of filter':>9} {'peak MB':>8} {'exact':>7} {'near':>7}")
    for name in names:
        last = rounds[-1][name]
        peak = statistics.median(r[name]["peak_mb"] for r in rounds)
        ratio = statistics.median(rate(r[name]) / rate(r[names[0]]) for r in rounds)
        found = f"{last.get('exact', ''):>7} {last.get('near', ''):>7}"
        sample = f"  ({last['rows']:,} rows only)" if last["rows"] != rows else ""
        print(f"{name:34} {rates[name]:>9,.0f} {ratio:>8.2f}x {peak:>8,.0f} {found}{sample}")
    near, datasketch = "curate, exact and near", "datasketch MinHashLSH"
    ratio = statistics.median(rate(r[near]) / rate(r[datasketch]) for r in rounds)
    print(f"exact and near: {ratio:.1f} times the rows a second of datasketch")


def rate(result: dict[str, Any]) -> float:
    return float(result["rows"] / result["seconds"])


if __name__ == "__main__":
    main()
