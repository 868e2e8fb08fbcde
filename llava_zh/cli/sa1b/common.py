"""What the ``llava-zh sa1b`` commands share: the root, the choice of archives, and how archives are called."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from .. import text
from ..options import archive_list

if TYPE_CHECKING:
    from ...sa1b.filesystem import Sa1bFileSystem

_SHOWN = 5


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add --image-root."""
    parser.add_argument(
        "--image-root", metavar="ROOT", help="folder or URL of SA-1B, several with commas (default: SA1B_ROOT)"
    )


def add_archives(parser: argparse.ArgumentParser, default: str = "all") -> None:
    """Add --archives."""
    parser.add_argument(
        "--archives", type=_archives, metavar="LIST", help=f"only these: 0-44, 3,5,sa_000007 (default: {default})"
    )


def add_num_proc(parser: argparse.ArgumentParser, what: str, default: int | None = None) -> None:
    """Add --num-proc."""
    shown = "one a core" if default is None else str(default)
    parser.add_argument("--num-proc", type=_count, default=default, metavar="N", help=f"{what} (default: {shown})")


def filesystem(args: argparse.Namespace) -> Sa1bFileSystem:
    """The ``sa1b://`` filesystem on --image-root. Raises: RootNotFound when there is none."""
    from ...sa1b import search_path
    from ...sa1b.filesystem import Sa1bFileSystem

    return Sa1bFileSystem(fo=search_path(args.image_root))


def tell_next(archives: Iterable[tuple[str, Collection[str]]]) -> None:
    """Say on stderr what mends archives, each given with the kinds of its problems; once for those that have the same.

    An archive that cannot be read at all has an error of its own, which says it.
    """
    from ...sa1b.advice import about

    alike: dict[str, tuple[list[str], Collection[str]]] = {}
    for name, problems in archives:
        alike.setdefault(about((), problems), ([], problems))[0].append(name)
    for names, problems in (group for advice, group in alike.items() if advice):
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
        text.tell(text.one_line(f"Next, for {shown}: {about(names, problems)}"))


def _archives(given: str) -> list[int | str]:
    archives = archive_list(given)
    if isinstance(archives, str):
        raise argparse.ArgumentTypeError(f"expected 0-44 or 3,5,sa_000007, found {given!r}")
    return archives


def _count(given: str) -> int:
    if not given.isdecimal() or not int(given):
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, found {given!r}")
    return int(given)
