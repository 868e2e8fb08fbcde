"""Which files are in folders of images: each folder is listed once, and again only when it has changed.

The listings of a process are kept together, up to a number of names, so that every block of rows finds them.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ImageNotFound
from ..forks import Lock
from ..gates.links import followed, lead_out
from ..sa1b.access import resolve
from ..sa1b.remote import explained

#: File names kept, over all folders.
MOST_NAMES = 2_000_000
#: Seconds that the listing of a remote folder is believed.
REMOTE_AGE = 300.0


def names_below(base: str, *, follow: bool) -> Iterator[str]:
    """The files in and below `base`, looked at anew; folders that are links only where `follow`, each folder once."""
    if "://" in base:
        import fsspec

        url, options = resolve(base, {})
        fs, path = fsspec.core.url_to_fs(url, **options)
        fs.invalidate_cache(path)
        yield from fs.find(path)
        return
    seen = set()
    for folder, folders, files in os.walk(base, followlinks=follow or followed()):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in files:
            yield f"{folder}/{name}"


@dataclass
class Listed:
    """The entries of one folder; `links` are those that are symbolic links, `version` changes when the folder does."""

    names: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    version: float = -1.0
    out: bool = False  # whether a link on the way to it leads out of the data folder; then it is not looked into


_kept: OrderedDict[tuple[str, str, str | None], Listed] = OrderedDict()
_lock = Lock()


def forget(base: str) -> None:
    """List the folders below `base` anew."""
    with _lock:
        for key in [key for key in _kept if key[0] == base]:
            del _kept[key]


class Listings:
    """The folders below `base`, as they are now: made for a block of rows, for which each is looked at once.

    Symbolic links out of the folder `within`, where that is given, are not followed.
    """

    def __init__(self, base: str, within: str | None = None) -> None:
        self._base, self._local = base, "://" not in base
        self._within = within if self._local and not followed() else None
        self._seen: dict[str, Listed] = {}
        self._fs: Any = None
        self._path = base
        if not self._local:
            import fsspec

            url, options = resolve(base, {})
            self._fs, self._path = fsspec.core.url_to_fs(url, **options)

    def has(self, path: str) -> bool:
        """Whether there is something at `path`, relative to the base."""
        folder, _, name = path.rpartition("/")
        return name in self._listed(folder).names

    def leads_out(self, path: str) -> bool:
        """Whether a symbolic link on the way to `path` leads out of the data folder."""
        if self._within is None:
            return False
        folder, _, name = path.rpartition("/")
        listed = self._listed(folder)
        return listed.out or (name in listed.links and lead_out(self._within, self._full(path)))

    def _full(self, path: str) -> str:
        return f"{self._path.rstrip('/')}/{path}" if path else self._path

    def _listed(self, folder: str) -> Listed:
        listed = self._seen.get(folder)
        if listed is None:
            listed = self._seen[folder] = self._look(folder)
        return listed

    def _look(self, folder: str) -> Listed:
        key = (self._base, folder, self._within)
        version = self._version(folder)
        kept = _kept.get(key)
        if kept is not None and (kept.version == version if self._local else version - kept.version < REMOTE_AGE):
            return kept
        listed = self._list_local(folder) if self._local else self._list_remote(folder)
        listed.version = version
        with _lock:
            _kept[key] = listed
            _kept.move_to_end(key)
            while len(_kept) > 1 and sum(len(one.names) for one in _kept.values()) > MOST_NAMES:
                _kept.popitem(last=False)
        return listed

    def _version(self, folder: str) -> float:
        if not self._local:
            return time.monotonic()
        try:
            return os.stat(self._full(folder)).st_mtime_ns
        except (OSError, ValueError):
            return -1.0

    def _list_local(self, folder: str) -> Listed:
        if self._within is not None and lead_out(self._within, self._full(folder)):
            return Listed(out=True)
        names, links = [], []
        try:
            with os.scandir(self._full(folder)) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if entry.is_symlink():
                        links.append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            if len(folder.encode("utf-8", "surrogatepass")) < 255:
                raise
        return Listed(frozenset(names), frozenset(links))

    def _list_remote(self, folder: str) -> Listed:
        try:
            with explained(self._full(folder)):
                entries = self._fs.ls(self._full(folder), detail=False)
        except ImageNotFound:
            return Listed()
        return Listed(frozenset(entry.rstrip("/").rpartition("/")[2] for entry in entries))
