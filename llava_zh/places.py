"""The one gate between a name from outside and a place on this machine.

Hub listings, archive members, manifests and links files name files. Whatever reads or writes a file by such a name
asks :func:`inside` for the path.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from .errors import UnsafeName

_DRIVE = re.compile(r"^[A-Za-z]:|:[:/]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Names that Windows gives to devices, in any folder and with any ending.
_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)


def checked_name(name: str, whose: str = "") -> str:
    """`name`, a relative path with ``/`` that stays below the folder it is looked up in.

    Args:
        whose: Who gave the name, for the message (``"modelscope:owner/name"``).

    Raises:
        UnsafeName: It is empty, absolute, holds a drive, a scheme, a backslash, a control character, or goes through
            ``..``.
    """
    parts = name.split("/")
    problem = (
        "is empty" if not name or not any(part not in ("", ".") for part in parts)
        else "is absolute" if name.startswith(("/", "\\"))
        else "holds a control character" if _CONTROL.search(name)
        else "holds a drive or a scheme" if _DRIVE.search(name)
        else "holds a backslash" if "\\" in name
        else "leads out through '..'" if ".." in parts
        else "is no UTF-8" if not _encodable(name)
        else "is a device of Windows" if os.name == "nt" and any(map(_DEVICE.match, parts))
        else ""
    )  # fmt: skip
    if problem:
        by = f"{whose}: " if whose else ""
        raise UnsafeName(
            f"{by}the name {name[:200]!r} {problem}, so it can choose a place outside its folder. Nothing was read or "
            "written by it.",
            name=name,
        )
    return str(PurePosixPath(name))


def inside(folder: str | os.PathLike[str], name: str, whose: str = "") -> Path:
    """The path of `name` below `folder`, absolute; links on the way to it lead nowhere else.

    A name that was given by the user himself, as an argument, needs no such check.

    Raises:
        UnsafeName: See :func:`checked_name`; or a symbolic link leads out of `folder`.
    """
    base = Path(os.path.abspath(folder))  # noqa: PTH100 (links are followed below, not here)
    path = base / checked_name(name, whose)
    if not within(base, path):
        raise UnsafeName(
            f"{whose or base}: {name[:200]!r} leads out of {base} through a symbolic link, to "
            f"{os.path.realpath(path)}. Put the file itself there, or name the folder that it is in.",
            name=name,
        )
    return path


def within(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> bool:
    """Whether `path`, all links followed, is below `folder`, all links followed."""
    real, base = os.path.realpath(path), os.path.realpath(folder)
    return real == base or real.startswith(base.rstrip(os.sep) + os.sep)


def is_device(step: str) -> bool:
    """Whether Windows takes this step of a path for a device, whatever its ending."""
    return _DEVICE.match(step) is not None


def _encodable(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
