"""Images straight out of archives: ``sa1b://`` against bare reads, rapidgzip, ratarmount, tarfile, webdataset, files.

    pip install "llava-zh" ratarmountcore indexed_gzip webdataset
    python benchmarks/images.py                          # 2 GB, 3 rounds
    python benchmarks/images.py --size 200MB --rounds 1  # a quick look

The data: JPEGs of 2250 x 1500 with the noise of a camera, quality 85 to 95, about 1 MB each, and masks between them, as
one plain tar, one gzip tar (level 6), eight gzip tars and extracted files. 48 distinct pictures repeat under new ids;
gzip looks back 32 kB and so gains nothing from it. Files are in the page cache. Every figure is the median of the
rounds; within a round all sides take turns on the same images. Exit status 1 means that some side gave wrong bytes.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import logging
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

DISTINCT = 48
ARCHIVES = 8

# -- data ------------------------------------------------------------------------------------------------------


def picture(seed: int) -> tuple[bytes, bytes]:
    """A JPEG with a photograph's statistics, and masks as SA-1B writes them."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(20, 235, (24, 36, 3), dtype="u1")).resize(
        (2250, 1500), Image.Resampling.BICUBIC
    )
    noise = rng.normal(0, rng.uniform(3.5, 6), (1500, 2250, 1)).astype("f4")
    pixels = (np.asarray(shapes, "f4") + noise).clip(0, 255).astype("u1")
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=int(rng.integers(85, 96)))
    counts = [bytes(rng.integers(48, 112, rng.integers(60, 700), dtype="u1")).decode() for _ in range(100)]
    annotations = [
        {"bbox": rng.integers(0, 1500, 4).tolist(), "segmentation": {"size": [1500, 2250], "counts": text}, "id": i}
        for i, text in enumerate(counts)
    ]
    return out.getvalue(), json.dumps({"annotations": annotations}).encode()


def compress(source: Path, target: Path) -> None:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    with source.open("rb") as raw, target.open("wb") as out:
        while chunk := raw.read(1 << 20):
            out.write(packer.compress(chunk))
        out.write(packer.flush())


class Data:
    """The archives and files of one run, and the CRC of every image."""

    def __init__(self, folder: Path, size: int) -> None:
        self.plain, self.gzip, self.eight, self.files, self.captions = (
            folder / name for name in ("plain", "gzip", "eight", "files", "captions")
        )
        self.tar, self.gzip_tar = self.plain / "sa_000000.tar", self.gzip / "sa_000000.tar"
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            self._write(folder, size)
        self.crc: dict[int, int] = dict(enumerate(json.loads((folder / "complete").read_text())))

    def _write(self, folder: Path, size: int) -> None:
        extracted, raw = self.files / "sa_000000", folder / "raw"
        for path in (self.plain, self.gzip, self.eight, extracted, self.captions, raw):
            path.mkdir(parents=True)
        with ProcessPoolExecutor() as pool:
            pictures = list(pool.map(picture, range(DISTINCT)))
            count = max(ARCHIVES, int(size / statistics.mean(len(a) + len(b) for a, b in pictures)))
            raws = [raw / f"sa_{n:06d}.tar" for n in range(ARCHIVES)]
            tars = [tarfile.open(path, "w") for path in raws]  # noqa: SIM115 (closed below)
            captions = (self.captions / "internvl_sa1b_caption_1m_single_image_zh.jsonl").open("w")
            with tarfile.open(self.tar, "w") as whole, captions:
                for image in range(count):
                    jpeg, masks = pictures[image % DISTINCT]
                    (extracted / f"sa_{image}.jpg").write_bytes(jpeg)
                    for kind, data in (("jpg", jpeg), ("json", masks)):
                        member = tarfile.TarInfo(f"./sa_{image}.{kind}")
                        member.size = len(data)
                        for tar in (whole, tars[image % ARCHIVES]):
                            tar.addfile(member, io.BytesIO(data))
                    turns = [{"from": "human", "value": "<image>\n描述"}, {"from": "gpt", "value": "一张照片"}]
                    captions.write(json.dumps({"image": name(image), "conversations": turns}) + "\n")
            for tar in tars:
                tar.close()
            list(pool.map(compress, [self.tar, *raws], [self.gzip_tar, *(self.eight / path.name for path in raws)]))
        shutil.rmtree(raw)
        crcs = [zlib.crc32(pictures[image % DISTINCT][0]) for image in range(count)]
        (folder / "complete").write_text(json.dumps(crcs))


def name(image: int) -> str:
    """The path of an image, the same in every layout."""
    return f"sa_000000/sa_{image}.jpg"


# -- the sides: each gives a function from an image's id to its bytes -------------------------------------------


def sa1b(root: Path) -> Callable[[int], bytes]:
    import fsspec

    fs = fsspec.filesystem("sa1b", fo=str(root))
    return lambda image: fs.cat(name(image))


def bare_pread(tar: Path) -> Callable[[int], bytes]:
    fd = os.open(tar, os.O_RDONLY)
    with tarfile.open(tar) as members:
        known = {member.name: (member.offset_data, member.size) for member in members}

    def read(image: int) -> bytes:
        offset, size = known[f"./sa_{image}.jpg"]
        return os.pread(fd, size, offset)

    return read


def by_tarfile(tar: Path) -> Callable[[int], bytes]:
    archive = tarfile.open(tar)  # noqa: SIM115 (open for the whole run)
    members = {member.name: member for member in archive}
    return lambda image: archive.extractfile(members[f"./sa_{image}.jpg"]).read()  # type: ignore[union-attr]


def stock_tar(tar: Path) -> Callable[[int], bytes]:
    import fsspec

    def read(image: int) -> bytes:
        with fsspec.open(f"tar://./sa_{image}.jpg::{tar}", tar={"skip_instance_cache": True}) as file:
            return bytes(file.read())

    return read


def by_ratarmount(tar: Path, scratch: Path) -> Callable[[int], bytes]:
    from ratarmountcore.mountsource.formats.tar import SQLiteIndexedTar

    logging.getLogger("ratarmountcore").setLevel(logging.ERROR)
    options: dict[str, Any] = {
        "indexFilePath": str(scratch / f"{tar.parent.name}.sqlite"),
        "writeIndex": True,
        "prioritizedBackends": ["rapidgzip"],
    }
    SQLiteIndexedTar(str(tar), **options).close()  # the index is made before the clock starts
    source = SQLiteIndexedTar(str(tar), **options)

    def read(image: int) -> bytes:
        info = source.lookup(f"/sa_{image}.jpg")
        with source.open(info) as file:
            return bytes(file.read())

    return read


def by_rapidgzip(tar: Path, root: Path) -> Callable[[int], bytes]:
    import fsspec
    import rapidgzip

    index = io.BytesIO()
    with rapidgzip.open(str(tar), parallelization=1) as whole:
        whole.export_index(index)
    index.seek(0)
    file = rapidgzip.open(str(tar), parallelization=1)
    file.import_index(index)
    fs = fsspec.filesystem("sa1b", fo=str(root))

    @functools.cache
    def place(image: int) -> tuple[int, int]:
        member = fs.locate(name(image)).member
        return member.offset, member.size

    def read(image: int) -> bytes:
        offset, size = place(image)
        file.seek(offset)
        return bytes(file.read(size))

    return read


# -- measuring -------------------------------------------------------------------------------------------------


class Table:
    def __init__(self) -> None:
        self.wrong = 0

    def row(self, what: str, figure: str, ratio: str = "", target: str = "") -> None:
        print(f"{what:<58} {figure:>14}  {ratio:>24}  {target}", flush=True)

    def section(self, title: str) -> None:
        print(f"\n{title}\n{'-' * len(title)}", flush=True)


def race(
    sides: dict[str, Callable[[int], bytes]], images: list[int], data: Data, rounds: int, table: Table
) -> dict[str, float]:
    """Median seconds an image of every side; they take turns; bytes are checked before the clock starts."""
    for what, read in sides.items():
        for image in images[:: max(1, len(images) // 20)]:
            if zlib.crc32(read(image)) != data.crc[image]:
                table.wrong += 1
                print(f"WRONG BYTES: {what}, image {image}", file=sys.stderr)
    times: dict[str, list[float]] = {what: [] for what in sides}
    for number in range(rounds):
        # Other images in every round: a side that keeps decompressed data shall not be timed on what it kept.
        part = images[number::rounds]
        for what, read in sides.items():
            start = time.perf_counter()
            for image in part:
                read(image)
            times[what].append((time.perf_counter() - start) / len(part))
    return {what: statistics.median(taken) for what, taken in times.items()}


def clocked(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def medians(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {what: [] for what in sides}
    for _ in range(rounds):
        for what, work in sides.items():
            taken[what].append(clocked(work))
    return {what: statistics.median(times) for what, times in taken.items()}


def plain_reads(data: Data, images: list[int], rounds: int, scratch: Path, table: Table) -> None:
    table.section("Random images from a plain tar")
    sides = {
        "bare os.pread on known offsets": bare_pread(data.tar),
        "sa1b:// through fs.cat": sa1b(data.plain),
        "tarfile, members known": by_tarfile(data.tar),
        "ratarmountcore": by_ratarmount(data.tar, scratch),
        "extracted files": lambda image: (data.files / name(image)).read_bytes(),
    }
    times = race(sides, images, data, rounds, table)
    bare = times["bare os.pread on known offsets"]
    for what, seconds in times.items():
        target = "at most 1.3" if "sa1b" in what else ""
        table.row(what, f"{seconds * 1e3:.3f} ms", f"{seconds / bare:.2f} of bare pread", target)
    stock = race({"stock tar://": stock_tar(data.tar)}, images[: 3 * rounds], data, rounds, table)["stock tar://"]
    ours = times["sa1b:// through fs.cat"]
    table.row("stock tar:// chaining", f"{stock * 1e3:.1f} ms", f"{stock / ours:.0f} times sa1b://", "at least 100")


def image_feature(data: Data, images: list[int], table: Table) -> None:
    table.section("One image through datasets.Image, decoded, beside the same file by its path (processor time)")
    from datasets import Image

    feature = Image()
    differences, files = [], []
    for image in images:
        values = [f"sa1b://{name(image)}::{data.plain}", str(data.files / name(image))]
        taken: dict[str, float] = dict.fromkeys(values, 1e9)
        for _ in range(5):
            for path in values:
                work = functools.partial(feature.decode_example, {"path": path, "bytes": None})
                taken[path] = min(taken[path], clocked(work, time.process_time))
        differences.append(taken[values[0]] - taken[values[1]])
        files.append(taken[values[1]])
    table.row("extracted file", f"{statistics.median(files) * 1e3:.2f} ms")
    overhead = statistics.median(differences)
    table.row("sa1b:// from a plain tar", f"{overhead * 1e3:+.3f} ms", "over the file", "at most +0.3 ms")


def gzip_reads(data: Data, images: list[int], rounds: int, scratch: Path, table: Table) -> None:
    table.section("Random images from a gzip tar")
    sides = {
        "sa1b:// through fs.cat": sa1b(data.gzip),
        "rapidgzip, index imported": by_rapidgzip(data.gzip_tar, data.gzip),
        "ratarmountcore": by_ratarmount(data.gzip_tar, scratch),
    }
    times = race(sides, images, data, rounds, table)
    ours = times["sa1b:// through fs.cat"]
    table.row("sa1b:// through fs.cat", f"{ours * 1e3:.2f} ms")
    for what in list(times)[1:]:
        table.row(what, f"{times[what] * 1e3:.2f} ms", f"ours is {ours / times[what]:.2f} of it", "at most 0.5")


def sequential(data: Data, rounds: int, table: Table) -> None:
    table.section("All images of the plain tar in order, undecoded")
    import webdataset

    count = len(data.crc)
    ours = sa1b(data.plain)

    def by_webdataset() -> None:
        for _ in webdataset.WebDataset(str(data.tar), shardshuffle=False):
            pass

    sides = {
        "webdataset": by_webdataset,
        "sa1b:// one after the other": lambda: [ours(image) for image in range(count)],
    }
    for what, seconds in medians(sides, rounds).items():
        table.row(what, f"{count / seconds:.0f} images/s")


def indexing(data: Data, rounds: int, table: Table) -> None:
    table.section("Making an index")
    import rapidgzip

    from llava_zh.sa1b import gzip_points, store
    from llava_zh.sa1b.index import assemble
    from llava_zh.sa1b.source import LocalSource

    def bare_walk() -> None:
        fd = os.open(data.tar, os.O_RDONLY)
        position, found = 0, []
        while (block := os.pread(fd, 512, position))[:1] != b"\0":
            size = int(block[124:135], 8)
            found.append((block[:100].rstrip(b"\0"), position + 512, size))
            position += 512 + (size + 511) // 512 * 512
        os.close(fd)

    def index(path: Path) -> int:
        source = LocalSource(str(path))
        kind, scan = store.scan(source)
        return len(assemble(kind, scan, source.state()))

    times = medians({"bare": bare_walk, "ours": lambda: index(data.tar)}, max(rounds, 5))
    table.row("plain: bare walk over the headers", f"{times['bare'] * 1e3:.1f} ms")
    ratio = times["ours"] / times["bare"]
    table.row("plain: sa1b index", f"{times['ours'] * 1e3:.1f} ms", f"{ratio:.2f} of the walk", "at most 1.5")

    tar = data.gzip_tar
    buffer = bytearray(4 << 20)

    def bare_pass() -> None:
        options = {"parallelization": gzip_points.cores(), "chunk_size": gzip_points.SPACING}
        with rapidgzip.RapidgzipFile(str(tar), **options) as file:
            while file.readinto(buffer):
                pass

    times = medians({"bare": bare_pass, "ours": lambda: index(tar)}, rounds)
    size = tar.stat().st_size
    table.row("gzip: bare pass of rapidgzip at this spacing", f"{size / times['bare'] / 1e6:.0f} MB/s")
    ratio = times["bare"] / times["ours"]
    table.row("gzip: sa1b index", f"{size / times['ours'] / 1e6:.0f} MB/s", f"{ratio:.2f} of its speed", "at least 0.8")
    table.row(
        "gzip: size of the index", f"{index(tar):,} B", f"{index(tar) / size:.3%} of the archive", "at most 0.1 %"
    )
    members = 2 * len(data.crc)
    table.row(
        "plain: size of the index",
        f"{index(data.tar):,} B",
        f"{index(data.tar) / members:.1f} B a member",
        "at most 20",
    )


MEMORY = """
import sys
def resident(field="VmRSS"):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024
import fsspec, llava_zh.sa1b.filesystem
before = resident()
fs = fsspec.filesystem("sa1b", fo=sys.argv[1])
names = sys.stdin.read().split()
for name in names:
    fs.cat(name)
print(resident() - before, resident("VmHWM") - before)
"""


def memory(data: Data, images: list[int], table: Table) -> None:
    table.section(f"Memory of a worker that reads at random from {ARCHIVES} gzip tars, above an import")
    names = "\n".join(f"sa_{image % ARCHIVES:06d}/sa_{image}.jpg" for image in images)
    command = [sys.executable, "-c", MEMORY, str(data.eight)]
    subprocess.run(command, input=names, capture_output=True, text=True, check=True)  # makes the indexes
    run = subprocess.run(command, input=names, capture_output=True, text=True, check=True)
    now, peak = map(float, run.stdout.split())
    table.row("resident at the end / at the peak", f"{now:.0f} / {peak:.0f} MB", "", "at most 250 MB")


def streams(data: Data, rounds: int, table: Table) -> None:
    table.section("A stream of captions with decoded images (llava_zh.load_dataset)")
    from llava_zh import load_dataset

    def rows(root: Path) -> Iterator[Any]:
        stream = load_dataset(
            "internvl-sa-1b-caption",
            "single_zh",
            split="train",
            streaming=True,
            data_dir=str(data.captions),
            image_root=str(root),
        )
        return iter(stream.take(200))

    counts = {}

    def consume(layout: str, root: Path) -> None:
        counts[layout] = sum(1 for row in rows(root) if row["image"].size)

    sides = {
        "files": lambda: consume("files", data.files),
        "plain": lambda: consume("plain", data.plain),
        "gzip": lambda: consume("gzip", data.gzip),
    }
    times = medians(sides, rounds)
    targets = {"files": "", "plain": "at least 0.95", "gzip": "at least 0.6"}
    for layout, seconds in times.items():
        ratio = f"{times['files'] / seconds:.2f} of extracted"
        table.row(f"from {layout}", f"{counts[layout] / seconds:.1f} rows/s", ratio, targets[layout])


def parse_size(text: str) -> int:
    units = {"GB": 10**9, "MB": 10**6, "KB": 10**3}
    for unit, factor in units.items():
        if text.upper().endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default="2GB", help="bytes of images and masks (default 2GB)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds whose median counts (default 3)")
    parser.add_argument(
        "--reads", type=int, default=200, help="random images read a round (default 200), others each round"
    )
    parser.add_argument("--data", type=Path, help="folder to make the archives in and keep them; else a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LLAVA_ZH_CACHE"] = f"{scratch}/cache"
        data = Data(args.data or Path(scratch) / "data", args.size)
        total = data.gzip_tar.stat().st_size
        print(
            f"{len(data.crc)} images and masks: {data.tar.stat().st_size / 1e9:.2f} GB plain, {total / 1e9:.2f} GB gzip"
        )
        images = random.Random(0).sample(range(len(data.crc)), min(args.reads * args.rounds, len(data.crc)))
        table = Table()
        indexing(data, args.rounds, table)
        plain_reads(data, images, args.rounds, Path(scratch), table)
        gzip_reads(data, images, args.rounds, Path(scratch), table)
        image_feature(data, images[:60], table)
        sequential(data, args.rounds, table)
        memory(data, images, table)
        streams(data, args.rounds, table)
    return 1 if table.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
