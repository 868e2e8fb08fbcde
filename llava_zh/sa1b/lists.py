"""The small text files around SA-1B: links to its archives, their MD5 sums, lists of images."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator

from llava_zh.errors import BadFile, DataFileNotFound, LlavaZhError
from llava_zh.gates import limits
from llava_zh.sa1b.urls import SHARD_NAME, archive_stem

Path = str | os.PathLike[str]

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MD5 = re.compile(r"[0-9a-fA-F]{32}")


def read_links(path: Path) -> dict[str, str]:
    """The URL of each file, from the list that SA-1B's download page gives: of archives and of what else it names.

    A line is ``file_name<TAB>cdn_link``; spaces do as well as a tab, the header line may be missing, and the lines may
    be in any order. No message shows a URL, since the signature in it gives access.

    Raises: DataFileNotFound; BadFile, which names the line.
    """
    links: dict[str, str] = {}
    for number, line in _lines(path):
        fields = line.split()
        if not links and fields[:2] == ["file_name", "cdn_link"]:
            continue
        where = f"{os.fspath(path)}, line {number}"
        if len(fields) != 2 or not fields[1].lower().startswith(("http://", "https://")):
            first = "a link" if "://" in fields[0] else repr(fields[0][:40])
            raise BadFile(
                f"{where}: expected a file name, a tab and a link that starts with https://, found {len(fields)} "
                f"field{'s' * (len(fields) != 1)}, the first {first}. Get the list anew from SA-1B's download page."
            )
        name, url = fields
        if not _FILE_NAME.fullmatch(name):
            raise BadFile(f"{where}: {name[:80]!r} is no name of a file such as sa_000000.tar.")
        if links.setdefault(name, url) != url:
            raise BadFile(f"{where}: a second, different link for {name}. Keep the newer one.")
    if not links:
        raise BadFile(f"{os.fspath(path)} holds no link: expected lines of a file name, a tab and a link.")
    return links


def is_archive(name: str) -> bool:
    """Whether a file of the list of links is one of SA-1B's numbered archives."""
    return SHARD_NAME.fullmatch(archive_stem(name) or "") is not None


def read_checklist(path: Path) -> dict[str, str]:
    """The MD5 of each archive file, as 32 hex digits, from ``checklist.chk`` (lines as ``md5sum`` writes them).

    Raises: DataFileNotFound; BadFile, which names the line.
    """
    sums: dict[str, str] = {}
    for number, line in _lines(path):
        fields = line.replace("=", " ").replace("(", " ").replace(")", " ").split()  # BSD: MD5 (name) = sum
        digests = [field for field in fields if _MD5.fullmatch(field)]
        names = [field.lstrip("*").rpartition("/")[2] for field in fields if field not in digests and field != "MD5"]
        if len(digests) != 1 or len(names) != 1:
            raise BadFile(
                f"{os.fspath(path)}, line {number}: expected an MD5 sum of 32 hex digits and a file name, "
                f"found {line[:80]!r}."
            )
        sums[names[0]] = digests[0].lower()
    if not sums:
        raise BadFile(f"{os.fspath(path)} holds no MD5 sum: expected lines such as '<32 hex digits>  sa_000000.tar'.")
    return sums


def read_image_list(path: Path) -> list[str]:
    """The image paths in a text file, one a line; what follows a tab is a remark, and ``#`` starts a comment line.

    Raises: DataFileNotFound; BadFile when it is no UTF-8 text.
    """
    return [line.split("\t")[0].rstrip() for _, line in _lines(path) if not line.startswith("#")]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, without surrounding blanks, with their numbers from 1."""
    shown, longest, left = os.fspath(path), limits.LINE.value, limits.LIST.value
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number in itertools.count(1):
                line = file.readline(longest + 1)
                left -= len(line)
                if not line:
                    break
                if len(line) > longest:
                    raise BadFile(f"{shown}, line {number}: {limits.LINE.exceeded()}")
                if left < 0:
                    raise BadFile(f"{shown}: {limits.LIST.exceeded()}")
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError:
        raise BadFile(f"{shown} is no text file in UTF-8.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, LlavaZhError):
            raise
        raise DataFileNotFound(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
