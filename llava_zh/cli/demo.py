"""``llava-zh demo``: write the miniature, load every config of it both ways, and show what came out."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LlavaZhError
from ..gates.counts import counted
from . import text
from .commands import Subparsers, new_parser
from .options import add_json, add_output_dir

if TYPE_CHECKING:
    from ..demo import DemoPaths

INTERNVL, LLAVA = "internvl-sa-1b-caption", "llava-instruct-zh-600k"


@dataclass(frozen=True)
class Loaded:
    """One config of the miniature, loaded both ways. Times in seconds, `image_size` is width and height in pixels."""

    dataset: str
    config: str
    rows: int
    columns: dict[str, str]
    prepared_seconds: float
    streamed_seconds: float
    image_size: tuple[int, int]
    caption: str


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "demo",
        help="write a miniature of both datasets and load it; needs no network",
        description=(
            "Writes a miniature of both datasets in their published form: four JSON Lines files, a Parquet file, and "
            "SA-1B archives (gzip, as published) of drawn scenes whose captions describe them truly. Then loads "
            "every config prepared and streamed, opening each image. Nothing outside DIR is written."
        ),
        example="  llava-zh demo ./llava-zh-demo --rows 240",
    )
    add_output_dir(parser, "folder to write (default: ./llava-zh-demo)", default="llava-zh-demo")
    parser.add_argument(
        "--rows", type=int, default=240, metavar="N", help="rows of both datasets together (default: 240)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which scenes are drawn (default: 0)")
    add_json(parser, "folders and configurations")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from ..demo import write_demo

    text.tell(f"Writing {args.output_dir} …")
    paths = write_demo(args.output_dir, rows=args.rows, seed=args.seed)
    with _caches_in(paths.root / "cache"):
        loaded = list(_load_all(paths))
    if args.json:
        folders = {name: str(folder) for name, folder in asdict(paths).items()}
        text.say_json({"folders": folders, "configs": [asdict(one) for one in loaded]}, indent=2)
    else:
        text.say(_report(paths, loaded))
    return 0


@contextmanager
def _caches_in(folder: Path) -> Iterator[None]:
    """Keep the indexes of the archives in `folder` unless the caller has chosen a place for them."""
    if "LLAVA_ZH_CACHE" in os.environ:
        yield
        return
    os.environ["LLAVA_ZH_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["LLAVA_ZH_CACHE"]


def _load_all(paths: DemoPaths) -> Iterator[Loaded]:
    from .. import get_dataset_config_names

    for dataset, data_dir, image_root in ((INTERNVL, paths.internvl, str(paths.sa1b)), (LLAVA, paths.llava, None)):
        for config in get_dataset_config_names(dataset):
            text.tell(f"Loading {dataset} {config} …")
            yield _load(
                dataset, config, data_dir=str(data_dir), image_root=image_root, cache=paths.root / "cache" / "datasets"
            )


def _load(dataset: str, config: str, *, data_dir: str, image_root: str | None, cache: Path) -> Loaded:
    """Prepare a config and stream it, each row's images opened; the two must agree on the rows."""
    from .. import load_dataset

    load = partial(
        load_dataset, dataset, config, split="train", data_dir=data_dir, image_root=image_root, cache_dir=cache
    )
    start = time.perf_counter()
    prepared = load()
    prepared_seconds = time.perf_counter() - start
    start = time.perf_counter()
    streamed = sum(1 for _ in load(streaming=True))
    streamed_seconds = time.perf_counter() - start
    if streamed != len(prepared):
        raise LlavaZhError(
            f"{dataset} {config}: {counted(len(prepared), 'rows')} prepared, but {streamed} streamed from {data_dir}."
        )
    row = prepared[0]
    image = row["image"][0] if isinstance(row["image"], list) else row["image"]
    return Loaded(
        dataset,
        config,
        len(prepared),
        {name: _brief(feature) for name, feature in prepared.features.items()},
        prepared_seconds,
        streamed_seconds,
        image.size,
        row["conversations"][1]["value"],
    )


def _brief(feature: Any) -> str:
    """A column's type in a few words: ``"string"``, ``"Image"``, ``"list of Image"``, ``"list of {from, value}"``."""
    if isinstance(feature, dict):
        return f"{{{', '.join(feature)}}}"
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if inner is not None:
        return f"list of {_brief(inner)}"
    name = type(feature).__name__
    return str(feature.dtype) if name == "Value" else name


def _report(paths: DemoPaths, loaded: list[Loaded]) -> str:
    lines = [f"{'dataset':23} {'config':18} {'rows':>4}  {'prepared':>8}  {'streamed':>8}  first image, first answer"]
    for one in loaded:
        size = f"{one.image_size[0]}×{one.image_size[1]}"
        times = f"{one.prepared_seconds:6.2f} s  {one.streamed_seconds:6.2f} s"
        lines.append(f"{one.dataset:23} {one.config:18} {one.rows:4}  {times}  {size}  {_short(one.caption)}")
    lines += [
        "",
        "Streaming opened every image, those of SA-1B straight out of their gzip archives.",
        "(The first of each also counts what happens once: imports, and indexing the archives.)",
        "",
    ]
    configs: dict[str, list[str]] = {}
    for one in loaded:
        columns = ", ".join(f"{name}: {kind}" for name, kind in one.columns.items())
        configs.setdefault(columns, []).append(one.config)
    lines += [f"columns of {', '.join(names)}:\n  {columns}" for columns, names in configs.items()]
    data, llava, images = (shlex.quote(str(folder)) for folder in (paths.internvl, paths.llava, paths.sa1b))
    lines += [
        "",
        f"{INTERNVL:25} {paths.internvl}",
        f"{LLAVA:25} {paths.llava}",
        f"{'SA-1B archives':25} {paths.sa1b}",
        f"{'prepared rows, indexes':25} {paths.root / 'cache'}",
        "",
        "Go on with:",
        f"  import llava_zh; rows = llava_zh.load_dataset({INTERNVL!r}, 'single_zh', split='train', "
        f"data_dir={str(paths.internvl)!r}, image_root={str(paths.sa1b)!r})",
        f"  llava-zh show {INTERNVL} single_zh -n 5 --data-dir {data} --image-root {images}",
        f"  llava-zh show {LLAVA} conversation -n 5 --data-dir {llava}",
    ]
    return "\n".join(lines)


def _short(said: str, columns: int = 60) -> str:
    """The start of what is said, on one line of that many columns."""
    said = " ".join(said.split())
    fits = next((end for end in range(len(said)) if text.width(said[: end + 1]) > columns), None)
    return said if fits is None else f"{said[:fits]}…"
