"""Every exception the library raises, in one tree.

A class inherits :class:`LlavaZhError` and the builtin a caller would have caught anyway, so both
``except LlavaZhError`` and ``except FileNotFoundError`` work. A message says what went wrong, where,
what was expected and found, and what to do next. Messages and details pass through `gates.safe_text.safe`:
they hold no token or key, and nothing that steers a terminal.

Each class takes the finished message as its only positional argument and its details as keywords, kept as
attributes: an exception raised in a worker process therefore survives pickling on its way to the parent.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from typing import Any, ClassVar

from .gates.safe_text import safe


class LlavaZhError(Exception):
    """Base of every exception raised on purpose by this library.

    One that is an OSError as well has the `errno` of its kind, for callers that look at it.
    """

    ERRNO: ClassVar[int] = errno.EIO

    def __init__(self, message: str = "", **details: object) -> None:
        super().__init__(safe(message))
        number = {"errno": self.ERRNO} if isinstance(self, OSError) else {}
        for name, value in (number | details).items():
            setattr(self, name, safe(value) if isinstance(value, str) else value)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.4) -> str:
    """``" Did you mean 'x'?"`` for the known name closest to `name`, or an empty string."""
    lowered = {candidate.lower(): candidate for candidate in known}
    if (chinese := name.lower().replace("cn", "zh")) in lowered:
        return f" Did you mean {lowered[chinese]!r}?"
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=cutoff)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""


# -- names and arguments -----------------------------------------------------------------------------------


class UnknownName(LlavaZhError, ValueError):
    """A dataset, config, split, source, row format or prompt that does not exist; names the nearest one."""

    @classmethod
    def of(cls, kind: str, name: object, known: Iterable[str]) -> UnknownName:
        """The error for `name`, which is not among the `known` names of this `kind` of thing."""
        known = list(known)
        return cls(f"Unknown {kind} {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}.")


def known_name(kind: str, given: Any, known: Iterable[str]) -> Any:
    """`given`, which is one of the `known` names of this `kind` of thing.

    Raises:
        UnknownName: It is none of them.
    """
    if given not in known:
        raise UnknownName.of(kind, given, known)
    return given


class BadArgument(LlavaZhError, ValueError):
    """An argument whose value cannot work, with the values that would."""


class UnknownArgument(LlavaZhError, TypeError):
    """An argument that a function does not have; names the nearest one."""

    @classmethod
    def of(cls, function: str, argument: str, known: Iterable[str]) -> UnknownArgument:
        """The error for `argument`, where `function` takes the `known` ones for loading."""
        return cls(f"{function} has no argument {argument!r}.{nearest(argument, known)}")


class UnsafeName(LlavaZhError, ValueError):
    """A name from outside (a listing, an archive, a manifest) that would choose a place on this machine."""

    name: str


class MissingExtra(LlavaZhError, ImportError):
    """An optional dependency is not installed; the message is the ``pip install`` line that brings it."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingExtra:
        """The error for `package`, which `purpose` needs and the extra called `extra` installs."""
        return cls(f'{purpose} needs {package}, which is not installed. Run: pip install "llava-zh[{extra}]"')


# -- published files and their rows ------------------------------------------------------------------------


class BadRow(LlavaZhError, ValueError):
    """A row that breaks the published format.

    Attributes:
        file: Name of the file; `byte` is the offset of the line in it (JSON Lines; `line` counts from 1 and is set
            when the error is raised for a file on disk), `row` the number of the row from 0 (other formats).
        field: The field, as a path such as ``conversations[1].value``.
        expected, found: What it should hold and what it does, shortened.
        hint: What to do about it, where there is more to say.
    """

    file: str
    byte: int | None
    row: int | None
    line: int | None
    field: str
    expected: str
    found: str
    hint: str


class NothingLeft(LlavaZhError, ValueError):
    """A selection (archives, bad or missing images, a task) that no row fits; says which filter left out how many.

    Attributes:
        rows: How many rows there were to choose from.
    """

    rows: int


class UnknownLayout(LlavaZhError, ValueError):
    """Files or columns that fit no layout known for the dataset; lists what was seen and looked for."""


class BadFile(LlavaZhError, ValueError):
    """A file that is not what its name says: empty, a Git LFS pointer, damaged compression, no Parquet."""


class DataFileNotFound(LlavaZhError, FileNotFoundError):
    """A published file that is not where it was looked for."""

    ERRNO = errno.ENOENT


class HubError(LlavaZhError, OSError):
    """A hub did not give what was asked: unreachable, offline, refused, missing, limited or broken."""


class RangeNotSupported(HubError):
    """A server answered a byte-range request with the whole file, so shards cannot be read from it."""


# -- SA-1B images and archives -----------------------------------------------------------------------------


class RootNotFound(LlavaZhError, FileNotFoundError):
    """No SA-1B root was given, or the one given does not exist or holds no SA-1B image."""

    ERRNO = errno.ENOENT


class ImageNotFound(LlavaZhError, FileNotFoundError):
    """An image that no archive or folder of the root holds."""

    ERRNO = errno.ENOENT


class BadImage(LlavaZhError, OSError):
    """An image that is there but cannot be read or decoded."""


class BadArchive(LlavaZhError, OSError):
    """An archive that is truncated, damaged, replaced or unsafe. Attributes: archive, member, offset."""


class NotPermitted(BadArchive, PermissionError):
    """An archive, or a folder that stands for one, that is there and that this user may not read."""

    ERRNO = errno.EACCES


class BadIndex(LlavaZhError, OSError):
    """A member index that is missing, stale or damaged and cannot be rebuilt here."""


class ReadOnlyFileSystemError(LlavaZhError, OSError):
    """An attempt to write through the read-only ``sa1b://`` filesystem."""

    ERRNO = errno.EROFS


class UnknownTime(LlavaZhError, NotImplementedError):
    """The time of a file of ``sa1b://`` that no one tells; fsspec's filesystems say so with NotImplementedError."""


# -- regeneration ------------------------------------------------------------------------------------------


class ServerError(LlavaZhError, OSError):
    """A model server that cannot be used: nothing listens, refused key, unknown model, no OpenAI API."""


class RunConflict(LlavaZhError, RuntimeError):
    """An output folder that belongs to another run, or that a living process is writing to."""


class OutputError(LlavaZhError, OSError):
    """The output folder cannot be written or read back: a full disk, no permission, a finished file gone."""


class BadAnswer(LlavaZhError, ValueError):
    """A model's answer that does not parse as its prompt asked."""
