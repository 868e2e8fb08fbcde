"""How fast a regeneration run is, against an ``AsyncOpenAI`` loop on the same loopback server in the same minutes.

Run: ``python benchmarks/regenerate.py [--quick]`` with the package and ``openai`` installed. Prints one line a
measurement: medians of three, interleaved, each side in a process of its own.

- ``requests``: 100 kB images, concurrency 64, a server that answers at once: rows a second of ``regenerate`` (all:
  reading, checking, asking, journal, output files) and of a loop that reads, encodes and asks with ``AsyncOpenAI``.
- ``journal``: the same run with a ledger that keeps nothing; what the journal costs. Both are also given in CPU time a
  row, start included, which a busy machine disturbs less.
- ``latency``: 500 ms an answer, concurrency 256; the ideal is 512 rows a second. Peak memory of the same run.
- ``resume``: seconds until a run of which a million rows are finished sends its first request.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVER = Path(__file__).parent.parent / "tests" / "model_server.py"
IMAGE_BYTES = 100_000


# -- what is measured, each in a process of its own --------------------------------------------------------


def rows_of(folder: str, count: int) -> list[dict[str, Any]]:
    images = sorted(str(path) for path in Path(folder).glob("*.jpg"))
    turns = [{"from": "human", "value": "<image>\n描述图片。"}, {"from": "gpt", "value": "一片草地。"}]
    return [
        {"id": number, "image": image, "conversations": turns}
        for number, image in zip(range(count), itertools.cycle(images), strict=False)
    ]


def ours(folder: str, url: str, count: int, concurrency: int, journal: bool = True) -> dict[str, float]:
    from llava_zh.regenerate import ledger, regenerate

    if not journal:
        ledger.Ledger = _Forgetful  # type: ignore[misc]
        from llava_zh.regenerate import selection

        selection.Ledger = _Forgetful  # type: ignore[attr-defined]
    rows, before = rows_of(folder, count), time.process_time()
    with tempfile.TemporaryDirectory() as out:
        report = regenerate(
            rows, "bench_zh", output_dir=out, base_url=url, model="tiny-vlm",
            concurrency=concurrency, progress=False,
        )  # fmt: skip
    assert journal is False or (report.rows, report.failed) == (count, {}), report
    cpu = (time.process_time() - before) / count * 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows/s": report.session["done"] / report.session["seconds"], "CPU µs a row": cpu, "peak MB": peak}


class _Forgetful:
    """Stands in for the ledger and keeps nothing; the folder is only made."""

    def __init__(self, folder: Path, unit_rows: int, manifest: dict[str, Any]) -> None:
        from collections import Counter

        from llava_zh.regenerate.plan import Plan
        from llava_zh.regenerate.source import Standing
        from llava_zh.regenerate.tally import Tally

        (folder / "journal").mkdir(parents=True)
        self.folder, self.unit_rows, self.tally = folder, unit_rows, Tally()
        self.plan, self.standing = Plan(folder / "journal"), Standing
        self.failures: Counter[str] = Counter()

    def is_known(self, place: Any) -> bool:
        return False

    def select(self, selection: Any) -> None:
        self.plan.selections.append(selection)

    def distinct_keys(self) -> int:
        return 0

    def tell(self, *_: Any) -> None: ...
    def done(self, *_: Any) -> None: ...
    def flush(self) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


def openai_loop(folder: str, url: str, count: int, concurrency: int) -> dict[str, float]:
    from openai import AsyncOpenAI

    async def loop() -> float:
        rows = iter(rows_of(folder, count))

        async def worker() -> None:
            for row in rows:
                data = base64.b64encode(Path(row["image"]).read_bytes()).decode()
                content = [
                    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
                    {"type": "text", "text": "描述图片。"},
                ]
                answer = await client.chat.completions.create(
                    model="tiny-vlm",
                    messages=[{"role": "user", "content": content}],  # type: ignore[list-item,misc]
                )
                assert answer.choices[0].message.content

        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            started = time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(concurrency)))
            return time.perf_counter() - started

    before = time.process_time()
    seconds = asyncio.run(loop())
    return {"rows/s": count / seconds, "CPU µs a row": (time.process_time() - before) / count * 1e6}


def resume(folder: str, url: str, count: int, _: int) -> dict[str, float]:
    """Finish `count` rows, write a million's worth of finished units around them, and go on."""
    from llava_zh.regenerate import regenerate

    rows = rows_of(folder, 1)[0]
    with tempfile.TemporaryDirectory() as out:
        given: dict[str, Any] = {"output_dir": out, "base_url": url, "model": "tiny-vlm", "progress": False}
        unit_rows = 10_000

        def stream(number: int) -> Iterator[dict[str, Any]]:
            return ({**rows, "id": position} for position in range(number))

        regenerate(stream(unit_rows), "bench_zh", unit_rows=unit_rows, **given)
        _multiply(Path(out), count // unit_rows)
        started = time.perf_counter()
        report = regenerate(stream(count + 1), "bench_zh", unit_rows=unit_rows, **given)
        seconds = time.perf_counter() - started
        assert report.session["done"] == 1, report
    return {"seconds": seconds}


def _multiply(out: Path, units: int) -> None:
    """Make the one finished unit into so many, as they would lie there (but for their keys, which count as told)."""
    log = out / "journal" / "plan-0000.log"
    head, selection, begun, closed = map(json.loads, log.read_bytes().splitlines())
    rows = closed["rows"]
    done = json.loads((out / "journal" / "000000.r0.done").read_bytes())
    data = (out / "data" / "000000.jsonl").read_bytes()
    lines = [head, selection]
    for unit in range(units):
        lines.append({**begun, "unit": unit, "start": {"position": unit * rows}})
        lines.append({**closed, "unit": unit, "end": {"position": (unit + 1) * rows}})
        if unit:
            (out / "data" / f"{unit:06d}.jsonl").write_bytes(data)
            journal = out / "journal" / f"{unit:06d}.r0"
            journal.with_name(f"{journal.name}.done").write_text(json.dumps({**done, "first_key": ""}))
            keys = b"".join((unit * rows + row).to_bytes(8, "big") for row in range(rows))
            journal.with_name(f"{journal.name}.keys").write_bytes(keys)
    log.write_text("".join(json.dumps(each) + "\n" for each in lines))


# -- the comparison ----------------------------------------------------------------------------------------


def measured(what: str, *arguments: object) -> dict[str, float]:
    """One measurement in a fresh process."""
    words = [sys.executable, __file__, "--measure", what, *map(str, arguments)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def server(latency: float) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(SERVER), "--latency", str(latency)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("")


def make_images(folder: Path) -> None:
    """Fifty noisy JPEGs of 100 kB; the rest of a smaller one is a comment segment, which decoders skip."""
    import io

    from PIL import Image

    noise = random.Random(0)
    for number in range(50):
        buffer = io.BytesIO()
        Image.frombytes("RGB", (200, 160), noise.randbytes(200 * 160 * 3)).save(buffer, "JPEG", quality=95)
        data = buffer.getvalue()
        padding = IMAGE_BYTES - len(data) - 4
        assert 0 < padding < 65_000, len(data)
        comment = b"\xff\xfe" + (padding + 2).to_bytes(2, "big") + bytes(padding)
        (folder / f"{number:02d}.jpg").write_bytes(data[:2] + comment + data[2:])


def compare(folder: str, quick: bool) -> None:
    scale, runs = (10, 1) if quick else (1, 3)
    with server(0.0) as url:
        theirs, mine, forgetful = [], [], []
        for _ in range(runs):
            theirs.append(measured("openai_loop", folder, url, 1500 // scale, 64))
            mine.append(measured("ours", folder, url, 12_000 // scale, 64))
            forgetful.append(measured("forgetful", folder, url, 12_000 // scale, 64))
        for unit in ("rows/s", "CPU µs a row"):
            print(
                f"requests: {_median(mine, unit)} {unit}, AsyncOpenAI {_median(theirs, unit)}: "
                f"{_ratio(mine, theirs, unit):.1f} times as good",
                flush=True,
            )
            print(
                f"journal: {_median(forgetful, unit)} {unit} without, so it costs "
                f"{1 - _ratio(mine, forgetful, unit):.1%}",
                flush=True,
            )
        seconds = [measured("resume", folder, url, 1_000_000 // scale, 64)["seconds"] for _ in range(runs)]
        print(f"resume: {statistics.median(seconds):.1f} s over {1_000_000 // scale:,} finished rows", flush=True)
    with server(0.5) as url:
        found = [measured("ours", folder, url, 15_360 // scale, 256) for _ in range(runs)]
        rate = statistics.median(each["rows/s"] for each in found)
        peak = statistics.median(each["peak MB"] for each in found)
        print(f"latency: {rate:.0f} rows/s of the ideal 512, {rate / 512:.1%}; peak memory {peak:.0f} MB")


def _median(runs: list[dict[str, float]], unit: str) -> str:
    return f"{statistics.median(run[unit] for run in runs):,.0f}"


def _ratio(mine: list[dict[str, float]], theirs: list[dict[str, float]], unit: str) -> float:
    """How many times as good mine is: more rows a second, or less CPU time; the median over the rounds."""
    ratio = statistics.median(a[unit] / b[unit] for a, b in zip(mine, theirs, strict=True))
    return ratio if unit == "rows/s" else 1 / ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, once; to see that it works")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, folder, url, count, concurrency = arguments.measure
        functions = {"ours": ours, "openai_loop": openai_loop, "resume": resume}
        functions["forgetful"] = lambda *given: ours(*given, journal=False)
        print(json.dumps(functions[what](folder, url, int(count), int(concurrency))))
        return
    with tempfile.TemporaryDirectory(prefix="bench-regenerate-") as folder:
        make_images(Path(folder))
        compare(folder, arguments.quick)


if __name__ == "__main__":
    main()
