"""``llava-zh sa1b repack``: plain tars of the images, whole archives or a selection."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from ...gates.counts import counted
from .. import text
from ..commands import Subparsers, new_parser
from ..options import add_json, add_output_dir
from .common import add_archives, add_num_proc, add_root, filesystem

_EXAMPLE = """\
  llava-zh sa1b repack --image-root /data/sa1b --output-dir /nvme/sa1b
  llava-zh sa1b repack --image-root /data/sa1b --output-dir /nvme/zh --images-of internvl-sa-1b-caption single_zh
"""
_SHOWN = 5


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = new_parser(
        subparsers,
        "repack",
        "write plain tars of the images, which are read fastest",
        "Writes DIR/sa_000000.tar, a plain tar of the JPEGs, for each archive (gzip, zip or plain) or extracted "
        "folder. Each gets its name once it is complete, synced and read back; run again after a stop, those "
        "that are done are kept. Of a damaged archive all that is whole is taken, and what is not is named. Exits with "
        "1 if an archive or an image asked for is missing from the outcome.",
        _EXAMPLE,
    )
    add_root(parser)
    add_output_dir(parser, "folder for the plain tars", type=Path)
    add_archives(parser, "all, or those of the images chosen")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--images", type=Path, metavar="FILE", help="only the images in this list, a path a line")
    which.add_argument("--images-of", nargs=2, metavar=("NAME", "CONFIG"), help="only the images that its rows name")
    parser.add_argument("--data-dir", metavar="DIR", help="with --images-of: the published files; no hub is asked")
    parser.add_argument("--masks", action="store_true", help="keep the sa_<id>.json too")
    parser.add_argument("--salvage", action="store_true", help="exit with 0 though damaged images are left out")
    add_num_proc(parser, "archives at a time")
    add_json(parser, "what became of each archive")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from ...sa1b.tools.repack import Selection, repack

    fs = filesystem(args)
    images = None
    if args.images is not None:
        from ...sa1b.lists import read_image_list

        images = Selection(read_image_list(args.images))
    elif args.images_of is not None:
        from ... import load_dataset_builder

        text.tell(f"Reading the rows of {args.images_of[1]} …")
        images = Selection()
        for lists in load_dataset_builder(args.images_of[0], args.images_of[1], data_dir=args.data_dir).image_paths():
            images.add(lists.flatten())
    done = repack(
        fs,
        args.output_dir,
        archives=args.archives,
        images=images,
        masks=args.masks,
        num_proc=args.num_proc,
    )
    rows = [("ARCHIVE", "MEMBERS", "SIZE", "OUTCOME", "MISSING")]
    for one in done:
        what = "NOT REPACKED" if one.problem else "kept" if one.kept else "repacked"
        rows.append((one.name, f"{one.members:,}", text.size(one.bytes), what, str(len(one.missing) or "")))
    if args.json:
        text.say_json([asdict(one) for one in done], indent=1)
    else:
        text.say_table(rows, right=(1, 2, 4))
    for one in done:
        messages = [one.problem] if one.problem else []
        messages += [f"left out: {reason}" for reason in one.left_out[:_SHOWN]]
        if len(one.left_out) > _SHOWN:
            messages.append(f"left out: {len(one.left_out) - _SHOWN:,} more")
        messages += [f"asked for, but not there: {name}" for name in one.missing[:_SHOWN]]
        for message in messages:
            text.tell(text.one_line(f"{one.name}: {message}"))
    absent = images.archives() - {one.name for one in done} if images is not None and args.archives is None else set()
    if absent:
        text.tell(f"Images in {counted(len(absent), 'archives')} that are not there were not repacked.")
    text.tell("The pixels stay under SA-1B's research licence: do not pass them on.")
    lost = any(one.left_out for one in done) and not args.salvage
    return 1 if lost or any(one.problem or one.missing for one in done) else 0
