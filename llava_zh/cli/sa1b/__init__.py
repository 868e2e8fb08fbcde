"""``llava-zh sa1b``: look at SA-1B as it lies on disk, index, verify, repack and download its archives."""

from __future__ import annotations

import importlib

from ..commands import Subparsers, add_commands, new_parser

# Module names; each adds its commands, in the order `llava-zh sa1b --help` lists them.
_MODULES = ("status", "index", "look", "verify", "repack", "download")


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "sa1b",
        help="SA-1B's archives: what is there, index, locate, verify, repack, download",
        description=(
            "Tools for SA-1B as it lies on disk or in a bucket: gzip tars, plain tars, zips, extracted folders, mixed "
            "in any way. The pixels are under SA-1B's research licence; nothing here passes them on."
        ),
        example="  llava-zh sa1b status --image-root /data/sa1b\n  llava-zh sa1b COMMAND --help",
    )
    commands = add_commands(parser)
    for name in _MODULES:
        importlib.import_module(f"{__name__}.{name}").add_parser(commands)
