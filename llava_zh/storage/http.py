"""Read byte ranges of a file over HTTP, to the last byte, through cut connections and busy servers."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests
import urllib3

from ..errors import HubError, LlavaZhError, RangeNotSupported
from .retries import BUSY, asked_pause, backoff

PIECE = 256 << 10
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
# Failures in a row without one byte gained before giving up; a byte gained starts the count anew.
ATTEMPTS = 6
# A server that ignores Range sends the whole file. Up to this size that costs less than it would to complain.
WHOLE_FILE = 16 << 20
# Seconds that a server which asks for a pause is left alone at most.
LONGEST_PAUSE = 60.0
_BROKEN = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,  # what breaks off inside a body
)

Headers = Callable[[], Mapping[str, str]]


def read_range(
    url: str, headers: Headers, start: int, length: int, *, what: str, hint: str, size: int | None = None
) -> Iterator[bytes]:
    """Bytes `start` to ``start + length`` of the file at `url`, in pieces.

    A connection that breaks is opened again from the byte reached; a busy server (408, 429, 5xx) is asked again
    after the pause it names in ``Retry-After`` and a random one that doubles.

    Args:
        headers: Gives the request's headers, credentials included; called for each request and never logged.
        what: Name of the file for messages.
        hint: What to do about a refusal, for messages.
        size: Bytes of the whole file as it was listed; an answer that names another is an error, for what is read by
            the listing would be less than the file, or of another one.

    Raises:
        HubError: The server refused, is unreachable, or went on failing.
        RangeNotSupported: The server answers with the whole of a large file.
    """
    at, end, tries = start, start + length, _Tries(what, hint)
    while at < end:
        before = at
        with tries.one(), _asked(url, headers, at, end - 1) as response:
            for piece in _body(response, at, end, size, what, hint):
                at += len(piece)
                yield piece
        if at < end:
            tries.wait(f" at byte {at} of {end}", gained=at > before)


def size_and_stamp(url: str, headers: Headers, *, what: str, hint: str) -> tuple[int, str]:
    """Bytes of the file at `url`, by asking for the first of them (links may be signed for GET alone); what tells
    this content from others, as the server says it, or nothing.

    Raises:
        HubError: The server refused, is unreachable, went on failing, or does not say.
    """
    tries = _Tries(what, "Is the network there?")
    while True:
        with tries.one(), _asked(url, headers, 0, 0) as response:
            if response.status_code not in (200, 206):
                raise refused(response.status_code, what, hint)
            size = _told_size(response)
            if size is None:
                raise HubError(f"{what}: the server does not say how large the file is.")
            return size, (response.headers.get("ETag") or response.headers.get("Last-Modified") or "")[:200]
        tries.wait()


def asked_once(
    url: str, headers: Mapping[str, str] | None = None, *, byte: int | None = None, seconds: float
) -> tuple[int, float]:
    """The status of one answer and the seconds it took, without a second try: for a person who waits to be told.

    Args:
        byte: Ask for this byte of a file; without it, for the head alone.
        seconds: How long to wait.

    Raises:
        HubError: There is no answer.
    """
    if byte is None:
        method, more = "HEAD", {}
    else:
        method, more = "GET", {"Range": f"bytes={byte}-{byte}", "Accept-Encoding": "identity"}
    request = {**(headers or {}), **more}
    try:
        with _session(os.getpid()).request(
            method, url, headers=request, timeout=seconds, stream=True, allow_redirects=byte is not None
        ) as response:
            return response.status_code, response.elapsed.total_seconds()
    except (requests.RequestException, ValueError, OSError) as error:
        raise HubError(f"unreachable ({type(error).__name__})") from None


class _Busy(Exception):
    """The server asks to be asked again."""


class _Tries:
    """Requests for one file, of which some fail: why the last one did, and the wait before the next."""

    def __init__(self, what: str, hint: str) -> None:
        self._what, self._hint = what, hint
        self._failures = 0
        self._problem, self._asked = "", None  # type: tuple[str, float | None]

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Within it, a request: a fault that may pass ends the block and is remembered, any other is raised."""
        self._problem, self._asked = "the connection closes early", None
        try:
            yield
        except _Busy as busy:
            status, header = busy.args
            self._problem, self._asked = f"status {status}", asked_pause(header, LONGEST_PAUSE)
        except _BROKEN as error:
            self._problem = type(error).__name__
        except (requests.RequestException, ValueError, OSError) as error:
            # No URL, too many redirects, a redirect or a header that nothing can be made of. The error's own text
            # holds the request, credentials included.
            if isinstance(error, LlavaZhError):
                raise
            name = type(error).__name__
            raise HubError(f"{self._what}: the request cannot be made ({name}). {self._hint}") from None

    def wait(self, where: str = "", *, gained: bool = False) -> None:
        """Sleep before the next request, or raise HubError where there were enough; a byte gained begins anew."""
        self._failures = 1 if gained else self._failures + 1
        if self._failures >= ATTEMPTS:
            raise HubError(f"{self._what}: gave up{where} after {ATTEMPTS} attempts: {self._problem}. {self._hint}")
        time.sleep(backoff(self._failures, self._asked))


@contextlib.contextmanager
def _asked(url: str, headers: Headers, first: int, last: int) -> Iterator[requests.Response]:
    request = {**headers(), "Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    with _session(os.getpid()).get(url, headers=request, stream=True, timeout=timeout) as response:
        if response.status_code in BUSY:
            raise _Busy(response.status_code, response.headers.get("Retry-After"))
        yield response


def _body(response: requests.Response, at: int, end: int, listed: int | None, what: str, hint: str) -> Iterator[bytes]:
    """The wanted bytes out of one answer."""
    skip = 0
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if response.status_code in (200, 206) and encoding not in ("", "identity"):
        raise HubError(f"{what}: asked for the bytes as they are, the server sent them as {encoding[:40]!r}. {hint}")
    if response.status_code == 200:
        size = _told_size(response) or 0
        _check_size(size or None, listed, what)
        if at > 0 and not 0 < size <= WHOLE_FILE:
            raise RangeNotSupported(
                f"{what}: the server ignores Range and sends all {size or 'unknown'} bytes, so a shard cannot be read "
                "on its own. Fetch the file once with `llava-zh download` and load it with data_dir=."
            )
        skip = at
    elif response.status_code == 206:
        begin = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
        if begin is None or int(begin[1]) != at:
            found = response.headers.get("Content-Range", "")[:80]
            raise HubError(f"{what}: asked for bytes from {at} on, the server sent Content-Range {found!r}. {hint}")
        _check_size(_told_size(response), listed, what)
    else:
        raise refused(response.status_code, what, hint)
    left = end - at
    for piece in _arriving(response):
        if skip >= len(piece):
            skip -= len(piece)
            continue
        wanted = piece[skip : skip + left]
        skip, left = 0, left - len(wanted)
        yield wanted
        if not left:
            return


def _told_size(response: requests.Response) -> int | None:
    """Bytes of the whole file, as the answer says."""
    if response.status_code == 206:
        return _whole_number(response.headers.get("Content-Range", "").rpartition("/")[2])
    return _whole_number(response.headers.get("Content-Length"))


def _check_size(found: int | None, listed: int | None, what: str) -> None:
    if found is not None and listed is not None and found != listed:
        raise HubError(
            f"{what}: the server has {found:,} bytes of it, {listed:,} were listed. It has changed since, or the "
            "listing is wrong. Run the command again, or pass the revision= that you mean."
        )


def _arriving(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives: `iter_content` waits for whole pieces, and drops what it holds on a broken connection."""
    read = getattr(response.raw, "read1", response.raw.read)  # urllib3 1 has no read1, and needs none
    while piece := read(PIECE, decode_content=False):
        yield piece


def refused(status: int, what: str, hint: str) -> HubError:
    """The error for a refusal with this HTTP status."""
    meaning = {
        401: "401 Unauthorized: a token is missing or not accepted",
        403: "403 Forbidden: the token has no access, or the dataset's terms have not been agreed to on its page",
        404: "404 Not Found: no such repository, revision or file",
        416: "416 Range Not Satisfiable: the file is shorter than its listing says; it may have changed on the hub",
        429: "429 Too Many Requests",
    }.get(status, f"status {status}")
    return HubError(f"{what}: {meaning}. {hint}", status=status)


def _whole_number(value: str | None) -> int | None:
    """A header's number; None for anything that is none, or has more digits than any size."""
    return int(value) if value is not None and re.fullmatch(r"[0-9]{1,18}", value.strip()) else None


@functools.lru_cache(maxsize=2)
def _session(pid: int) -> Any:
    # One a process: connections shared over a fork would mix up two processes' answers.
    return requests.Session()
