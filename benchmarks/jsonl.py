"""Loading one large JSON Lines file: llava-zh against stock `datasets.load_dataset("json")`, on the same file.

    python benchmarks/jsonl.py                      # a generated 1 GB file shaped like single_en, 3 rounds
    python benchmarks/jsonl.py --size 100MB --rounds 1

Every figure is the median of the rounds; the two sides take turns within a round, each in a process of its own, on a
file that is in the page cache. The parse rates of `wc -l` and bare `pyarrow.json` are printed as the limits.
Needs torch (`pip install "llava-zh[torch]"`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROMPT = (
    "<image>\nGenerate an accurate, single-paragraph description based on the given image. Do not use multiple "
    "paragraphs or line breaks. Avoid generating speculative content. Ensure that the description is based on clearly "
    "visible information in the image and avoid any over-speculation."
)
WORDS = """
    the a image shows man woman street building car tree sky blue red green large small left right front behind several
    people standing walking near water light window door sign wooden white black
""".split()


def generate(path: Path, size: int) -> None:
    """Write lines shaped like single_en's (about 1,020 bytes each) until the file has `size` bytes."""
    rng = random.Random(0)
    captions = [" ".join(rng.choices(WORDS, k=rng.randint(90, 130))) for _ in range(2000)]
    written = 0
    with path.open("w") as out:
        for i in range(1 << 62):
            turns = [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": rng.choice(captions)}]
            image = f"sa_{i // 11186:06d}/sa_{i}.jpg"
            line = json.dumps({"id": i, "image": image, "width": 2250, "height": 1500, "conversations": turns}) + "\n"
            out.write(line)
            written += len(line)
            if written >= size:
                return


# -- what is measured: each runs in a fresh process and returns seconds, or MB for the memory ------------------


def _ours(path: str, **kwargs: Any) -> Any:
    from llava_zh import load_dataset

    return load_dataset("internvl-sa-1b-caption", "single_en", data_files=path, split="train", **kwargs)


def _stock(path: str, **kwargs: Any) -> Any:
    from datasets import load_dataset

    return load_dataset("json", data_files=path, split="train", **kwargs)


LOADERS: dict[str, Callable[..., Any]] = {"ours": _ours, "stock": _stock}


def prepare(side: str, path: str) -> float:
    """Prepare the Arrow cache with `num_proc=2`; imports are not counted."""
    import datasets  # noqa: F401

    import llava_zh.streams.builder  # noqa: F401

    with tempfile.TemporaryDirectory(dir=Path(path).parent) as cache:
        start = time.perf_counter()
        LOADERS[side](path, cache_dir=cache, num_proc=2)
        return time.perf_counter() - start


def rows(side: str, path: str) -> float:
    """All rows of a stream, in this process."""
    stream = LOADERS[side](path, streaming=True)
    start = time.perf_counter()
    _exhaust(stream)
    return time.perf_counter() - start


def batches(side: str, path: str) -> float:
    """All rows of a stream, as Arrow tables of 1,000."""
    stream = LOADERS[side](path, streaming=True).with_format("arrow")
    start = time.perf_counter()
    _exhaust(stream.iter(batch_size=1000))
    return time.perf_counter() - start


def loader(side: str, path: str) -> float:
    """All rows of a stream, through a DataLoader with two workers."""
    from torch.utils.data import DataLoader

    stream = LOADERS[side](path, streaming=True)
    start = time.perf_counter()
    _exhaust(DataLoader(stream, num_workers=2, batch_size=64, collate_fn=list))
    return time.perf_counter() - start


def memory(side: str, path: str) -> float:
    """Peak memory of a process that streams all rows, beyond what importing alone takes, in MB."""
    import datasets  # noqa: F401
    import pyarrow.json  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _exhaust(LOADERS[side](path, streaming=True))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def first_row(side: str, path: str) -> float:
    """From the call to the first row of a stream from a loopback server that answers after 50 ms."""
    with _Server(Path(path)) as url:
        os.environ["NO_PROXY"] = "127.0.0.1"
        if side == "stock":
            # Stock http streaming needs packages that `datasets` does not install; hf:// does not.
            load = lambda: _stock(f"hf://datasets/OpenGVLab/InternVL-SA-1B-Caption@{REVISION}/{NAME}", streaming=True)  # noqa: E731
        else:
            from llava_zh import load_dataset

            load = lambda: load_dataset("internvl-sa-1b-caption", "single_en", split="train", streaming=True)  # noqa: E731
        assert os.environ["HF_ENDPOINT"] == url
        start = time.perf_counter()
        next(iter(load()))
        return time.perf_counter() - start


def _exhaust(iterable: Any) -> None:
    for _ in iterable:
        pass


# -- a hub with latency ----------------------------------------------------------------------------------------

NAME = "internvl_sa1b_caption_11m_single_image_en.jsonl"
REVISION = "eaf6bc78cb23d4c654f0db7b8684cf5e1a9957a0"
PORT = 18765


class _Server:
    """The few answers of a Hugging Face hub that streaming one file needs, each after 50 ms."""

    def __init__(self, path: Path) -> None:
        handler = type("Handler", (_Handler,), {"file": path, "size": path.stat().st_size})
        self._server = ThreadingHTTPServer(("127.0.0.1", PORT), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{PORT}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    file: Path
    size: int

    def log_message(self, *_: object) -> None:
        pass

    def _json(self, answer: object) -> None:
        self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        time.sleep(0.05)
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(body)), "X-Repo-Commit": REVISION, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _entry(self) -> dict[str, object]:
        return {"type": "file", "path": NAME, "size": self.size, "oid": "0" * 40}

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._json([self._entry()])

    def do_HEAD(self) -> None:
        self._answer(200, b"", {"ETag": '"0"', "Accept-Ranges": "bytes"}, length=self.size)

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            self._json([self._entry()])
        elif "/api/" in self.path:
            siblings = [{"rfilename": NAME, "size": self.size, "blobId": "0" * 40}]
            self._json({"id": "OpenGVLab/InternVL-SA-1B-Caption", "sha": REVISION, "siblings": siblings, "tags": []})
        else:
            wanted = (self.headers.get("Range") or f"bytes=0-{self.size - 1}").removeprefix("bytes=")
            first, _, last = wanted.partition("-")
            start, end = int(first), min(int(last or self.size - 1), self.size - 1)
            with self.file.open("rb") as handle:
                handle.seek(start)
                body = handle.read(end - start + 1)
            self._answer(206, body, {"Content-Range": f"bytes {start}-{end}/{self.size}", "ETag": '"0"'})


# -- running and reporting -------------------------------------------------------------------------------------

MEASURED: dict[str, tuple[Callable[[str, str], float], str]] = {
    "prepare": (prepare, "prepare, num_proc=2: at least 1.6 times as fast"),
    "loader": (loader, "stream through a DataLoader, 2 workers: at least 1.9 times the rows a second"),
    "rows": (rows, "stream, one process: never slower"),
    "batches": (batches, "Arrow batches of 1,000: at least 1.2 times the rows a second"),
    "first_row": (first_row, "first row over loopback with 50 ms latency: at most stock's time"),
    "memory": (memory, "peak memory beyond imports, MB: at most 300"),
}


def run_one(what: str, side: str, path: Path) -> float:
    """One measurement in a fresh process."""
    with tempfile.TemporaryDirectory(dir=path.parent) as home:
        env = {**os.environ, "HF_HOME": home, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        if what == "first_row":
            env["HF_ENDPOINT"] = f"http://127.0.0.1:{PORT}"
        command = [sys.executable, __file__, "--measure", what, "--side", side, "--file", str(path)]
        done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def limits(path: Path) -> None:
    """The parse rates that nothing can beat: counting lines, and pyarrow's own JSON reader."""
    import pyarrow.json

    start = time.perf_counter()
    subprocess.run(["wc", "-l", str(path)], check=True, stdout=subprocess.DEVNULL)
    counted = time.perf_counter() - start
    seconds = {}
    for threads in (True, False):
        start = time.perf_counter()
        with pyarrow.json.open_json(
            str(path), pyarrow.json.ReadOptions(use_threads=threads, block_size=4 << 20)
        ) as reader:
            _exhaust(reader)
        seconds[threads] = time.perf_counter() - start
    print(
        f"limits: wc -l {counted:.2f} s; pyarrow.json {seconds[True]:.2f} s threaded, "
        f"{seconds[False]:.2f} s on one thread"
    )


def main() -> None:
    from llava_zh.gates.sizes import parse as to_bytes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(MEASURED), action="append")
    parser.add_argument("--keep", type=Path, help="folder to keep the generated file in")
    parser.add_argument("--measure", choices=list(MEASURED), help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(MEASURED[args.measure][0](args.side, args.file))
        return
    folder = args.keep or Path(tempfile.mkdtemp(prefix="llava-zh-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"single_en_{args.size}.jsonl"
    if not path.exists():
        generate(path, to_bytes(args.size))
    try:
        subprocess.run(["wc", "-l", str(path)], check=True)  # also brings the file into the page cache
        limits(path)
        for what in args.only or MEASURED:
            seen: dict[str, list[float]] = {"stock": [], "ours": []}
            for _ in range(args.rounds):
                for side, values in seen.items():
                    values.append(run_one(what, side, path))
            stock, ours = (statistics.median(seen[side]) for side in ("stock", "ours"))
            shown = {side: " ".join(f"{v:.2f}" for v in values) for side, values in seen.items()}
            print(
                f"{MEASURED[what][1]}\n    stock {stock:.2f} ({shown['stock']})  "
                f"ours {ours:.2f} ({shown['ours']})  ratio {stock / ours:.2f}",
                flush=True,
            )
    finally:
        if not args.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
