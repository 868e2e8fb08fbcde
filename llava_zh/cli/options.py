"""Arguments that several commands share: a dataset, and how it is loaded. Their names are those of `load_dataset`."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ..files.hub import SOURCES
from ..sa1b.urls import SHARD_NAME

_KEYWORDS = (
    "data_dir",
    "data_files",
    "source",
    "revision",
    "image_root",
    "row_format",
    "archives",
    "bad_images",
    "on_bad_row",
    "on_missing_image",
    "chunk_size",
    "num_shards",
)


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments NAME (as ``args.path``) and CONFIG (as ``args.name``, None when not given)."""
    parser.add_argument("path", metavar="NAME", help="a dataset's name or its id on a hub (see `llava-zh list`)")
    parser.add_argument("name", metavar="CONFIG", nargs="?", help="a configuration of it")


def add_source(parser: Any) -> None:
    """Add --source and --revision."""
    parser.add_argument("--source", choices=SOURCES, help="the hub (default: LLAVA_ZH_SOURCE if set, else huggingface)")
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit (default: the one this version is made for)"
    )


def add_load_options(parser: argparse.ArgumentParser, row_format: bool = True, null_images: bool = True) -> None:
    """Add every option of :func:`llava_zh.load_dataset` that says which rows there are and what they look like.

    Args:
        row_format: Whether to add --row-format.
        null_images: Whether --on-missing-image takes ``null``.
    """
    where = parser.add_argument_group("where the rows and images are")
    where.add_argument("--data-dir", metavar="DIR", help="folder with the published files; no hub is asked")
    where.add_argument("--data-files", nargs="+", metavar="FILE", help="files or patterns, relative to --data-dir")
    add_source(where)
    where.add_argument(
        "--image-root", metavar="ROOT", help="folder or URL of SA-1B, several with commas (default: SA1B_ROOT)"
    )
    which = parser.add_argument_group("which rows, and in which form" if row_format else "which rows")
    if row_format:
        which.add_argument("--row-format", metavar="FORMAT", help="llava (default), sharegpt, messages or parts")
    which.add_argument(
        "--archives",
        type=archive_list,
        metavar="LIST",
        help="only rows with images in these SA-1B archives: 0-44, 3,5,sa_000007, or available",
    )
    which.add_argument(
        "--bad-images", metavar="FILE", help="leave out rows with these images (from `llava-zh sa1b verify`)"
    )
    which.add_argument("--on-bad-row", choices=("raise", "skip"), help="stop at a broken row (default) or leave it out")
    which.add_argument(
        "--on-missing-image",
        choices=("raise", "skip", "null") if null_images else ("raise", "skip"),
        help="an image that is not there: fail when it is opened (default), leave the row out"
        + (", or null" if null_images else ""),
    )
    shards = parser.add_argument_group("shards").add_mutually_exclusive_group()
    shards.add_argument("--chunk-size", metavar="BYTES", help="bytes a shard, such as 8MB (default: 32MB)")
    shards.add_argument("--num-shards", type=int, metavar="N", help="exactly this many shards")


def load_keywords(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords of :func:`llava_zh.load_dataset` for the options that were given; the others keep its defaults."""
    given = {keyword: getattr(args, keyword, None) for keyword in _KEYWORDS}
    return {keyword: value for keyword, value in given.items() if value is not None}


def archive_list(text: str) -> str | list[int | str]:
    """``"0-44,60,sa_000099"`` as numbers and names; ``"available"`` as it is."""
    if text == "available":
        return text
    archives: list[int | str] = []
    for part in text.split(","):
        if span := re.fullmatch(r"([0-9]{1,6})-([0-9]{1,6})", part):
            archives += range(int(span[1]), int(span[2]) + 1)
        elif part.isascii() and part.isdigit() and len(part) <= 6:
            archives.append(int(part))
        elif SHARD_NAME.fullmatch(part):
            archives.append(part)
        else:
            raise argparse.ArgumentTypeError(f"expected 0-44, 3,5,sa_000007 or available, found {part!r}")
    return archives
