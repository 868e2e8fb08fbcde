"""From files to pixels: rows a second, images decoded and at most 448 pixels long, against loaders fed by conversion.

    pip install "llava-zh[torch]" webdataset mosaicml-streaming megatron-energon
    python benchmarks/end_to_end.py                                # 400 MB of JPEGs of 2250 x 1500, 3 rounds, 2 workers
    python benchmarks/end_to_end.py --peers-python ENV/bin/python  # the peers from an environment of their own

llava-zh reads SA-1B as published: JSON Lines, and images out of gzip archives wherever they lie, which none of the
others can. They read the same samples in their own formats (plain tars, MDS), written beforehand: `convert` is what
that takes, `index` what indexing the gzip archive takes, once each. Every side gives numpy arrays of the same size:
llava-zh by `decode_images`, the others by their own decoder and Pillow's bicubic resize. The last side, webdataset with
undecoded bytes and `llava_zh.decode_image`, tells how much of the difference is reading and how much is decoding.

Rates count from the first row on; the time until it comes (imports, workers) and the processor time of all processes
are columns of their own. Figures are medians of the rounds, in which all take turns, each in a process of its own;
files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIDE = 448


def small(image: Any) -> Any:
    """A Pillow image as an array of at most 448 pixels a side."""
    import numpy as np

    scale = SIDE / max(image.size)
    size = tuple(max(round(side * scale), 1) for side in image.size)
    return np.array(image.convert("RGB").resize(size, 3))  # 3 is bicubic


def _same(row: Any) -> Any:
    return row  # the loaders would make tensors of arrays


# -- the sides: each yields (text, array) for every row --------------------------------------------------------


def llava_zh(root: Path, workers: int) -> Iterator[tuple[str, Any]]:
    """The published files."""
    import numpy as np
    from torch.utils.data import DataLoader

    from llava_zh import decode_images, load_dataset

    stream = load_dataset(
        "internvl-sa-1b-caption",
        "single_zh",
        split="train",
        streaming=True,
        data_dir=root / "captions",
        image_root=root / "gzip",
        num_shards=8,
    )
    rows = decode_images(stream, max_side=SIDE)
    for row in DataLoader(rows, num_workers=workers, batch_size=None, collate_fn=_array_row):
        yield row["conversations"][-1]["value"], np.asarray(row["image"])


def _array_row(row: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    return {**row, "image": np.asarray(row["image"])}


def webdataset(root: Path, workers: int) -> Iterator[tuple[str, Any]]:
    """Plain tars of JPEG and JSON, by webdataset's own Pillow decoder."""
    import webdataset as wds

    shards = sorted(map(str, (root / "tars" / "data").glob("*.tar")))
    rows = wds.WebDataset(shards, shardshuffle=False).decode("pilrgb").map(_web_row)
    yield from wds.WebLoader(rows, num_workers=workers, batch_size=None, collate_fn=_same)


def _web_row(sample: dict[str, Any]) -> tuple[str, Any]:
    return sample["json"]["conversations"][-1]["value"], small(sample["jpg"])


def webdataset_scaled(root: Path, workers: int) -> Iterator[tuple[str, Any]]:
    """Plain tars of JPEG and JSON, undecoded, by `llava_zh.decode_image`."""
    import webdataset as wds

    shards = sorted(map(str, (root / "tars" / "data").glob("*.tar")))
    rows = wds.WebDataset(shards, shardshuffle=False).map(_scaled_row)
    yield from wds.WebLoader(rows, num_workers=workers, batch_size=None, collate_fn=_same)


def _scaled_row(sample: dict[str, Any]) -> tuple[str, Any]:
    from llava_zh.images.decode import decode_image

    text = json.loads(sample["json"])["conversations"][-1]["value"]
    return text, decode_image(sample["jpg"], max_side=SIDE, as_array=True)


def mosaicml_streaming(root: Path, workers: int) -> Iterator[tuple[str, Any]]:
    """MDS shards with the column type `jpeg`."""
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    class Rows(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Any:
            row = super().__getitem__(at)
            return row["text"], small(row["image"])

    rows = Rows(local=str(root / "mds"), batch_size=1, shuffle=False)
    yield from DataLoader(rows, num_workers=workers, batch_size=None, collate_fn=_same)


def megatron_energon(root: Path, workers: int) -> Iterator[tuple[str, Any]]:
    """Prepared plain tars, by Energon's Pillow decoder."""
    from megatron.energon import DefaultTaskEncoder, SampleDecoder, WorkerConfig, get_savable_loader, get_train_dataset

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc]
        decoder = SampleDecoder(image_decode="pilrgb")

        def encode_sample(self, sample: Any) -> Any:
            sample.image = small(sample.image)
            return sample

    dataset = get_train_dataset(
        str(root / "energon"),
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        task_encoder=Encoder(),
        repeat=False,
    )
    for sample in get_savable_loader(dataset):
        yield sample.caption, sample.image


SIDES: dict[str, Callable[[Path, int], Iterator[tuple[str, Any]]]] = {
    "llava_zh": llava_zh,
    "webdataset": webdataset,
    "mosaicml_streaming": mosaicml_streaming,
    "megatron_energon": megatron_energon,
    "webdataset_scaled": webdataset_scaled,
}


# -- their own formats -----------------------------------------------------------------------------------------


def convert_llava_zh(root: Path) -> None:
    """Nothing to convert: the archives are indexed, which loading would do by itself."""
    import fsspec

    fsspec.filesystem("sa1b", fo=str(root / "gzip")).build_index()


def convert_webdataset(root: Path) -> None:
    """By `llava_zh.export`, to eight tars."""
    from llava_zh import export

    export(
        "internvl-sa-1b-caption",
        "single_zh",
        to="webdataset",
        output_dir=root / "tars",
        data_dir=root / "captions",
        image_root=root / "gzip",
        num_shards=8,
        num_proc=2,
    )


def convert_mosaicml_streaming(root: Path) -> None:
    """From the tars to MDS, the JPEGs byte for byte."""
    import io

    import webdataset as wds
    from PIL import Image
    from streaming import MDSWriter
    from streaming.base.format.mds import encodings

    # Its encoder would compress an image that has no file a second time; it is given the bytes as they are.
    encodings.JPEG.encode = lambda self, image: image.fp.getvalue()
    shards = sorted(map(str, (root / "tars" / "data").glob("*.tar")))
    with MDSWriter(out=str(root / "mds"), columns={"text": "str", "image": "jpeg"}, size_limit="64mb") as writer:
        for sample in wds.WebDataset(shards, shardshuffle=False):
            text = json.loads(sample["json"])["conversations"][-1]["value"]
            writer.write({"text": text, "image": Image.open(io.BytesIO(sample["jpg"]))})


def convert_megatron_energon(root: Path) -> None:
    """`energon prepare` of a copy of the tars."""
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors import BaseWebdatasetFactory

    folder = root / "energon"
    shutil.copytree(root / "tars" / "data", folder)
    names = sorted(path.name for path in folder.glob("*.tar"))
    path = EPath(str(folder))
    BaseWebdatasetFactory.prepare_dataset(path, names, split_parts_ratio=[("train", 1.0)], shuffle_seed=None, workers=2)
    (folder / ".nv-meta" / "dataset.yaml").write_text(
        "sample_type:\n  __module__: megatron.energon\n  __class__: CaptioningSample\n"
        "field_map:\n  image: jpg\n  caption: json[conversations][1][value]\n"
    )


CONVERT = {
    "llava_zh": convert_llava_zh,
    "webdataset": convert_webdataset,
    "mosaicml_streaming": convert_mosaicml_streaming,
    "megatron_energon": convert_megatron_energon,
}


# -- measuring -------------------------------------------------------------------------------------------------


def read_all(side: str, root: Path, workers: int) -> dict[str, float]:
    """All rows of a side: their rate, and a mean of the pixels that tells whether they are the same."""
    start = first = time.perf_counter()
    rows, pixels = 0, 0.0
    for text, image in SIDES[side](root, workers):
        assert text
        if not rows:
            first = time.perf_counter()
        rows += 1
        pixels += float(image[::16, ::16].mean())
    rate = (rows - 1) / (time.perf_counter() - first)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(one.ru_utime + one.ru_stime for one in usage)
    return {
        "rate": rate,
        "first": first - start,
        "processor": processor / rows * 1e3,
        "rows": rows,
        "mean": pixels / rows,
    }


def child(python: str, work: str, side: str, root: Path, workers: int) -> dict[str, Any] | str:
    """One piece of work in a process of its own; the last line of what went wrong otherwise."""
    command = [python, __file__, "--run", work, side, str(root), str(workers)]
    here = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "LLAVA_ZH_CACHE": str(root / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run(work: str, side: str, root: Path, workers: int) -> None:
    """What a child process does."""
    start = time.perf_counter()
    if work == "convert":
        CONVERT[side](root)
        result: dict[str, float] = {"seconds": time.perf_counter() - start}
    else:
        result = read_all(side, root, workers)
    print(json.dumps(result), flush=True)
    os._exit(0)  # some of the libraries leave threads behind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="400MB", help="size of the archives (default: 400MB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dir", help="folder for the data, kept for another run (default: a temporary one)")
    parser.add_argument(
        "--peers-python", default=sys.executable, help="the Python that has the peers (default: this one)"
    )
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        work, side, root, workers = args.run
        run(work, side, Path(root), int(workers))
    from images import Data, parse_size

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(args.dir or temporary, "end_to_end")
        root.parent.mkdir(parents=True, exist_ok=True)
        Data(root, parse_size(args.size))
        python = {side: sys.executable if side == "llava_zh" else args.peers_python for side in SIDES}
        failed: dict[str, str] = {}
        for side in CONVERT:
            if (root / f"{side}.converted").exists():
                continue
            # The tars are an export of ours.
            result = child(sys.executable if side == "webdataset" else python[side], "convert", side, root, 0)
            if isinstance(result, str):
                failed[side] = result
                continue
            (root / f"{side}.converted").touch()
            print(f"{'index' if side == 'llava_zh' else 'convert':8} {side:20} {result['seconds']:6.1f} s", flush=True)
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(args.rounds):
            for side in SIDES:
                if side in failed:
                    continue
                result = child(python[side], "read", side, root, args.workers)
                if isinstance(result, str):
                    failed[side] = result
                else:
                    results[side].append(result)
    report(results, failed, args.workers)


def report(results: dict[str, list[dict[str, Any]]], failed: dict[str, str], workers: int) -> None:
    """Print the table."""

    def median(side: str, what: str) -> float:
        return statistics.median(run[what] for run in results[side])

    columns = "rows/s   llava_zh's share   CPU ms/row   first row   rows   mean pixel"
    print(f"\n{workers} workers, {os.cpu_count()} cores    {columns}")
    for side in SIDES:
        if side in failed:
            print(f"  {side:20} did not run: {failed[side][:90]}")
            continue
        share = f"{median('llava_zh', 'rate') / median(side, 'rate'):.2f}x" if results["llava_zh"] else ""
        print(
            f"  {side:20} {median(side, 'rate'):8.1f} {share:>18} {median(side, 'processor'):12.1f} "
            f"{median(side, 'first'):9.1f} s {median(side, 'rows'):6.0f} {median(side, 'mean'):12.2f}"
        )


if __name__ == "__main__":
    main()
