"""Passwords, keys and tokens of roots, kept apart from the URLs that rows, caches and messages show.

A row holds ``https://host/sa1b``, never ``https://user:password@host/sa1b``. What opens it comes from here: this
process was given the root with its secrets (an argument), a worker process was sent them by pickle, or ``SA1B_ROOT``
holds them. A process that has none of these opens the root as fsspec's own configuration says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from llava_zh.forks import Lock
from llava_zh.gates.safe_text import keep_secret, keep_url_secrets, public_name

#: The environment variable that says where SA-1B is.
ROOT_VARIABLE = "SA1B_ROOT"

# In these the user is part of the place, and no secret unless a password is with it.
_USER_IS_A_PLACE = ("ssh", "sftp", "ftp", "hdfs", "webhdfs", "smb")
_KEY_AND_SECRET = ("s3", "s3a")

_known: dict[str, tuple[str, dict[str, Any]]] = {}
_lock = Lock()


def public(root: str) -> str:
    """`root` without user, password and query (which may be a signature); one that has none is given back as it is."""
    scheme, _, rest = root.partition("://")
    user = rest.partition("/")[0].rpartition("@")[0]
    place = scheme in _USER_IS_A_PLACE and ":" not in user
    return public_name(root, user=place, query=not scheme.startswith("http"))


def remember(root: str, options: Mapping[str, Any] | None = None) -> str:
    """Keep what opens `root`: the secrets in its URL, and fsspec's `options` for it. Gives its public form."""
    shown = public(root)
    if shown != root or options:
        keep_url_secrets(root)
        for value in (options or {}).values():
            keep_secret(value)
        with _lock:
            known = _known.get(shown, (shown, {}))
            _known[shown] = (root if shown != root else known[0], {**known[1], **(options or {})})
    return shown


def resolve(root: str, options: Mapping[str, Any], protocol: str = "") -> tuple[str, dict[str, Any]]:
    """The URL and fsspec's options that open `root`, a public form or not; `options` that are given come first.

    fsspec takes the scheme, and for some the host, off the hops of a chained URL; `protocol` puts them back.
    """
    shown = root
    if "://" not in root and protocol:
        port = f":{options['port']}" if options.get("port") else ""
        place = f"{options['host']}{port}/{root.lstrip('/')}" if options.get("host") else root
        shown = f"{protocol}://{place}"
    known = _known.get(shown) or _from_environment(shown)
    url, kept = known if known is not None else (root, {})
    given = {name: value for name, value in options.items() if value is not None}
    if url.partition("://")[0] in _KEY_AND_SECRET and "@" in url:
        split = urlsplit(url)
        if split.username:
            kept = {"key": unquote(split.username), "secret": unquote(split.password or ""), **kept}
        url = public(url)
    return url, {**options, **kept, **given}


def _from_environment(root: str) -> tuple[str, dict[str, Any]] | None:
    for given in os.environ.get(ROOT_VARIABLE, "").split(","):
        given = given.strip().rstrip("/")
        if given != root and public(given) == root:
            keep_url_secrets(given)
            return given, {}
    return None


class Access:
    """The secrets of some roots, on their way to worker processes: pickled, but never shown, compared or hashed."""

    def __init__(self, roots: Mapping[str, tuple[str, dict[str, Any]]] | None = None) -> None:
        self._roots = dict(roots or {})
        for shown, (root, options) in self._roots.items():
            assert public(root) == shown
            remember(root, options)

    @classmethod
    def of(cls, *roots: str, token: Any = None) -> Access:
        """What opens `roots`; `token` is for those on the Hugging Face hub."""
        kept: dict[str, tuple[str, dict[str, Any]]] = {}
        for root in roots:
            options = {"token": token} if token is not None and root.startswith("hf://") else {}
            if options or public(root) != root:
                kept[public(root)] = (root, options)
        return cls(kept)

    def __or__(self, other: Access) -> Access:
        return Access(self._roots | other._roots)

    def __bool__(self) -> bool:
        return bool(self._roots)

    def __reduce__(self) -> tuple[Any, ...]:
        return Access, (self._roots,)

    def __repr__(self) -> str:
        return "Access()"
