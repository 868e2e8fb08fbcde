"""``llava-zh sa1b locate``, ``ls`` and ``cat``: where an image lies, what is there, the bytes themselves."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from ...errors import BadArgument, ImageNotFound
from .. import text
from ..commands import Subparsers, new_parser
from ..options import add_json
from .common import add_root, filesystem


def add_parser(subparsers: Subparsers) -> None:
    """Add the commands."""
    locate = new_parser(
        subparsers,
        "locate",
        "which archive an image is in, and where in it",
        "Prints where each image or mask file lies: its archive, member, offset and size. The offset counts bytes of "
        "the tar stream, after decompression in a gzip tar.",
        "  llava-zh sa1b locate 1 sa_000000/sa_2.jpg sa_3.json --image-root /data/sa1b\n",
    )
    locate.add_argument(
        "images", nargs="+", metavar="ID", help="an id, a file name, or a path such as sa_000000/sa_1.jpg"
    )
    add_root(locate)
    add_json(locate, "places", records=True)
    locate.set_defaults(run=run_locate)

    ls = new_parser(
        subparsers,
        "ls",
        "list archives, or what is in one",
        "Lists the archives of a root as folders, or the images and masks in one of them.",
        "  llava-zh sa1b ls --image-root /data/sa1b\n  llava-zh sa1b ls sa_000000 -l --image-root /data/sa1b\n",
    )
    ls.add_argument(
        "path", nargs="?", default="", metavar="PATH", help="an archive, or a path in it (default: the root)"
    )
    add_root(ls)
    ls.add_argument("-l", "--long", action="store_true", help="sizes in bytes too")
    add_json(ls, "entries", records=True)
    ls.set_defaults(run=run_ls)

    cat = new_parser(
        subparsers,
        "cat",
        "write an image or a mask file to standard output, or to a file",
        "Copies the bytes of one image or mask file, unchanged, straight out of its archive.",
        "  llava-zh sa1b cat sa_000000/sa_1.jpg --output sa_1.jpg --image-root /data/sa1b\n",
    )
    cat.add_argument("path", metavar="PATH", help="an id, a file name, or a path such as sa_000000/sa_1.jpg")
    cat.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: standard output)")
    add_root(cat)
    cat.set_defaults(run=run_cat)


def run_locate(args: argparse.Namespace) -> int:
    """Run ``locate``; returns the exit status, 1 if an image is nowhere."""
    from ...sa1b.tools.status import locate

    fs = filesystem(args)
    found, missing = [], []
    for image in args.images:
        try:
            found.append(locate(fs, image))
        except ImageNotFound as error:
            missing.append(str(error))
    if args.json or args.jsonl:
        text.say_records(map(asdict, found), lines=args.jsonl)
    elif found:
        rows = [("IMAGE", "LAYOUT", "MEMBER", "OFFSET", "SIZE", "FILE")]
        for one in found:
            offset = "" if one.offset is None else f"{one.offset}"
            rows.append((one.path, one.kind, one.member or "", offset, f"{one.size}", one.file))
        text.say_table(rows, right=(3, 4))
    for message in missing:
        text.tell(f"llava-zh: {message}")
    return 1 if missing else 0


def run_ls(args: argparse.Namespace) -> int:
    """Run ``ls``; returns the exit status."""
    entries = filesystem(args).ls(args.path, detail=True)
    if args.json or args.jsonl:
        shown = ({name: entry[name] for name in ("name", "type", "size")} for entry in entries)
        text.say_records(shown, lines=args.jsonl)
        return 0
    for entry in entries:
        name = text.one_line(entry["name"]) + ("/" if entry["type"] == "directory" else "")
        text.say(f"{entry['size']:>12} {name}" if args.long else name)
    return 0


def run_cat(args: argparse.Namespace) -> int:
    """Run ``cat``; returns the exit status."""
    from ...sa1b.tools.status import locate
    from ...storage.atomic import write_atomically
    from ...storage.durable import explained

    if args.output is None and sys.stdout.isatty():
        raise BadArgument("An image is no text for a terminal: give --output FILE, or pipe it on.")
    fs = filesystem(args)
    data = fs.cat_file(locate(fs, args.path).path)
    if args.output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    with explained(args.output):
        write_atomically(args.output, data)
    return 0
