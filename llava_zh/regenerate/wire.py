"""One exchange with a model server: where it goes, with which secret, and how much of what comes back is taken."""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

from llava_zh.errors import BadArgument
from llava_zh.gates.magic import GZIP
from llava_zh.gates.safe_text import keep_environment_secrets, keep_secret, keep_url_secrets, public_name
from llava_zh.regenerate.faults import Transient
from llava_zh.regenerate.protocol import excerpt

if TYPE_CHECKING:
    import aiohttp


@dataclass(frozen=True)
class Address:
    """A server's API.

    Attributes:
        shown: Its root as messages and files may have it: without user, password and query.
        authorization: The header that it is sent, and nobody else.
        proxy: The proxy that the environment names for it; aiohttp itself would look it up in a thread every time.
    """

    shown: str
    query: str = field(repr=False)
    authorization: str | None = field(repr=False)
    proxy: str | None = field(repr=False)

    def url(self, path: str) -> str:
        """The URL of a method, such as ``/models``; the query of the root, such as a version, stays."""
        return f"{self.shown}{path}" + (f"?{self.query}" if self.query else "")


def address_of(base_url: str, api_key: str) -> Address:
    """The address that a `base_url` names, of a server that `api_key` is for.

    Raises:
        BadArgument: It is no HTTP URL, or names a user and password beside an API key.
    """
    for userinfo in _userinfos(base_url):
        keep_secret(userinfo.partition(":")[2])
    keep_url_secrets(base_url)
    try:
        parts = urlsplit(base_url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        user, password = parts.username, parts.password
    except ValueError:
        known = None
    if not known or any(character <= " " for character in base_url):
        # What does not parse is cut at the last @, wherever it stands: a password may hold slashes.
        shown = base_url.rpartition("@")[2].partition("?")[0]
        raise BadArgument(f"base_url must be an http(s) URL such as http://127.0.0.1:8000/v1; found {shown!r}.")
    authorization = f"Bearer {api_key}" if api_key else None
    if user or password:
        if api_key:
            raise BadArgument(
                "base_url holds a user and password, and there is an API key (api_key or LLAVA_ZH_API_KEY); a request "
                "can carry only one of the two. Leave one out."
            )
        basic = base64.b64encode(f"{unquote(user or '')}:{unquote(password or '')}".encode()).decode()
        keep_secret(basic)
        authorization = f"Basic {basic}"
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return Address(
        public_name(urlunsplit((parts.scheme, parts.netloc, path, "", ""))),
        parts.query,
        authorization,
        _proxy(parts.hostname or "", parts.scheme),
    )


def _userinfos(url: str) -> Iterator[str]:
    """What may be a user and password in `url`, also where it does not parse as a URL because of them."""
    _, _, rest = url.partition("://")
    if "@" in rest:
        yield rest.rpartition("@")[0]
        yield rest.partition("@")[0]


def _proxy(host: str, scheme: str) -> str | None:
    proxy = None if proxy_bypass(host) else getproxies().get(scheme)
    if proxy:
        keep_url_secrets(proxy)
    return proxy


def checked_key(api_key: str | None) -> str:
    """The API key, from the argument or else the environment; empty if there is none. From now on it is a secret.

    Raises:
        BadArgument: No header can carry it.
    """
    keep_environment_secrets()
    key = (api_key or os.environ.get("LLAVA_ZH_API_KEY") or "").strip()
    keep_secret(key)
    if not (key.isascii() and key.isprintable()):
        at = next(at for at, character in enumerate(key) if not (character.isascii() and character.isprintable()))
        raise BadArgument(f"The API key holds a character, at position {at}, that no HTTP header can carry.")
    return key


# -- what comes back ---------------------------------------------------------------------------------------


class Reply(msgspec.Struct, frozen=True):
    """What a server answered, its body no longer than the limit and a byte."""

    status: int
    body: bytes
    retry_after: str | None
    content_type: str


async def read_reply(response: aiohttp.ClientResponse, limit: int) -> Reply:
    """The reply in `response`, its body as it was before it was compressed, up to the first byte too many.

    Raises:
        Transient: The body of a 200 is compressed in a way that was not asked for, or damaged.
    """
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            response.close()
            break
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    headers = response.headers
    encoding = headers.get("Content-Encoding")
    if encoding and size <= limit:
        try:
            body = decompressed(body, encoding, limit)
        except Transient:
            if response.status == 200:
                raise
            body = b""  # the status says enough
    return Reply(response.status, body, headers.get("Retry-After"), headers.get("Content-Type", ""))


# Gzip may be several members one after the other (RFC 1952, 2.2), as of a proxy that flushes. No server writes more.
_MEMBERS = 64


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """`body` without its content encoding, as far as `limit` and a byte.

    Requests ask for none; gzip and deflate are taken nevertheless, since some proxies compress whatever is asked.

    Raises:
        Transient: The encoding is another one, or the body is damaged.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        raise Transient(
            f"The server answered in the content encoding {excerpt(encoding, 40)!r}, though none was asked for.",
            reason="content encoding",
        )
    for window in (47, -15):  # gzip or zlib by their headers; what some call deflate has none
        try:
            found = _inflated(body, window, limit)
        except zlib.error:
            continue
        if found is not None:
            return found
        break
    raise Transient(f"The server's {name} answer is cut or damaged.", reason="content encoding")


def _inflated(body: bytes, window: int, limit: int) -> bytes | None:
    """`body` inflated as far as `limit` and a byte; None if it is cut, or something stands after its end."""
    found, rest = b"", body
    for _ in range(_MEMBERS):
        inflate = zlib.decompressobj(window)
        found += inflate.decompress(rest, limit + 1 - len(found))
        if len(found) > limit:
            return found
        rest = inflate.unused_data
        if not inflate.eof or (rest and not rest.startswith(GZIP)):
            return None
        if not rest:
            return found
    return None


def what_went_wrong(error: Exception, address: Address) -> str:
    """What an error of the client library says, without the request that it holds and the URL that it quotes."""
    said = getattr(error, "message", None) or ("" if hasattr(error, "request_info") else str(error))
    if address.query:
        said = str(said).replace(f"?{address.query}", "")
    return f"{type(error).__name__}: {excerpt(str(said), 200)}" if said else type(error).__name__
