"""The one gate between a name from outside and a place on this machine.

Hub listings, archive members, manifests and links files name files. Whatever reads or writes a file by such a name
asks :func:`inside` for the path.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from ..errors import UnsafeName

# Each is an expression of Python's and of RE2, which looks at a column of names at once.
_ABSOLUTE = r"^[/\\]"
CONTROL = r"[\x00-\x1f\x7f]"
DRIVE = r"^[A-Za-z]:|:[:/]"
_BACKSLASH = r"\\"
_UPWARDS = r"(^|/)\.\.(/|$)"
_EMPTY = r"^(\.?/)*\.?$"
# Whatever text :func:`checked_name` refuses on every system matches this, and no other.
UNSAFE = "|".join((_ABSOLUTE, CONTROL, DRIVE, _BACKSLASH, _UPWARDS, _EMPTY))
#: Bytes of one step of a path, which is what file systems take, and of a whole name below its folder.
LONGEST_STEP, LONGEST_NAME = 255, 2048
# Names that Windows gives to devices, in any folder and with any ending.
_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)


def steps(path: str) -> list[str]:
    """The steps of a path with ``/``, without those that lead nowhere (empty ones and ``.``)."""
    return [step for step in path.split("/") if step not in ("", ".")]


def checked_name(name: str, whose: str = "") -> str:
    """`name`, a relative path with ``/`` that stays below the folder it is looked up in.

    Args:
        whose: Who gave the name, for the message (``"modelscope:owner/name"``).

    Raises:
        UnsafeName: It is empty, absolute, holds a drive, a scheme, a backslash, a control character, or goes through
            ``..``.
    """
    if problem := unsafe(name):
        by = f"{whose}: " if whose else ""
        raise UnsafeName(
            f"{by}the name {name[:200]!r} {problem}. Such a name can choose a place outside its folder; nothing was "
            "read or written by it.",
            name=name,
        )
    return str(PurePosixPath(name))


def unsafe(name: str) -> str:
    """Why `name` may choose a place outside its folder (``"is absolute"``), or ``""`` when it cannot."""
    return (
        "is empty" if re.search(_EMPTY, name)
        else "is absolute" if re.search(_ABSOLUTE, name)
        else "holds a control character" if re.search(CONTROL, name)
        else "holds a drive or a scheme" if re.search(DRIVE, name)
        else "holds a backslash" if re.search(_BACKSLASH, name)
        else "leads out through '..'" if re.search(_UPWARDS, name)
        else "is no UTF-8" if not _encodable(name)
        else "is a device of Windows" if os.name == "nt" and any(map(_DEVICE.match, name.split("/")))
        else ""
    )  # fmt: skip


def inside(folder: str | os.PathLike[str], name: str, whose: str = "") -> Path:
    """The path of `name` below `folder`, absolute; links on the way to it lead nowhere else.

    A name that was given by the user himself, as an argument, needs no such check.

    Raises:
        UnsafeName: See :func:`checked_name`; or a symbolic link leads out of `folder`.
    """
    base = Path(os.path.abspath(folder))  # noqa: PTH100 (links are followed below, not here)
    path = base / checked_name(name, whose)
    check_length(name, whose)
    if not within(base, path):
        raise UnsafeName(
            f"{whose or base}: {name[:200]!r} leads out of {base} through a symbolic link, to "
            f"{os.path.realpath(path)}. Put the file itself there, or name the folder that it is in.",
            name=name,
        )
    return path


def check_length(name: str, whose: str = "") -> None:
    """Raise UnsafeName for a `name` that is longer than file systems take: a step of it, or all of it."""
    if len(name.encode()) > LONGEST_NAME or any(len(step.encode()) > LONGEST_STEP for step in name.split("/")):
        raise UnsafeName(
            f"{whose}: the name {name[:80]!r}… is too long: a step of a path has at most {LONGEST_STEP} bytes "
            f"here, and all of it {LONGEST_NAME}. Nothing was read or written by it.",
            name=name,
        )


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
