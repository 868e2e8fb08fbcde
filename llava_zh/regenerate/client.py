"""Requests to one or several OpenAI-compatible servers: least loaded first, sick ones rested and probed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from llava_zh.errors import BadArgument, ServerError
from llava_zh.regenerate.faults import Refused, Transient
from llava_zh.regenerate.protocol import MAX_RESPONSE_BYTES, Answer, Body, excerpt, fault_of_status, read_answer

if TYPE_CHECKING:
    import aiohttp

#: So many faults one after the other, with no answer between, and an endpoint is rested.
SICK_AFTER = 3
#: The first rest and the longest, in seconds; each probe that fails doubles the rest.
FIRST_REST, LONGEST_REST = 1.0, 60.0


class Endpoint:
    """One server and how it fares."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.proxy = _proxy(url)
        self.shown = _without_secrets(url)  # what messages and files may hold
        self.in_flight = 0
        self.faults_in_a_row = 0
        self.resting = False
        self.ill_since = 0.0
        self.unusable: ServerError | None = None

    @property
    def available(self) -> bool:
        return not self.resting and self.unusable is None


class Client:
    """An asynchronous client, used as a context manager; every method belongs to the event loop that entered it.

    Args:
        base_urls: Roots of the APIs, such as ``http://127.0.0.1:8000/v1`` (a URL without a path gets ``/v1``).
        model: Name the servers know the model by.
        api_key: Sent as a bearer token; by default ``LLAVA_ZH_API_KEY``, else none.
        timeout: Seconds a request may take.
        patience: Seconds without any usable server after which :meth:`ask` gives up.
        health_url: Answers 200 when the server is well; by default its list of models is asked for, and read.
        on_event: Called with a line about a server that falls ill, recovers or is lost.
    """

    def __init__(
        self,
        base_urls: str | Sequence[str],
        model: str,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        patience: float = 1800.0,
        health_url: str | None = None,
        on_event: Callable[[str], None] = lambda line: None,
    ) -> None:
        urls = [base_urls] if isinstance(base_urls, str) else list(base_urls)
        if not urls:
            raise BadArgument("base_url is empty; give at least one, such as http://127.0.0.1:8000/v1.")
        self.endpoints = [Endpoint(_checked(url)) for url in dict.fromkeys(urls)]
        self.model = model
        self._api_key = api_key or os.environ.get("LLAVA_ZH_API_KEY") or ""
        self._timeout = timeout
        self._patience = patience
        self._health_url = health_url
        self._on_event = on_event
        self.slowest_answer = 0.0  # seconds
        self._scopes: dict[asyncio.Timeout, float] = {}
        self._probes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Client:
        import aiohttp

        self._changed = asyncio.Event()
        self._payload = aiohttp.AsyncIterablePayload
        self._errors = (aiohttp.ClientError, OSError)
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),  # asyncio.timeout below, which the watchdog can move
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for probe in self._probes:
            probe.cancel()
        await self._session.close()

    # -- before the run ------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Make sure that every server is there, speaks the protocol, takes the key and serves the model.

        Raises:
            ServerError: Says which of these is not so, and which models there are.
        """
        await asyncio.gather(*(self._check(endpoint) for endpoint in self.endpoints))

    async def _check(self, endpoint: Endpoint) -> None:
        where = self._health_url or f"{endpoint.shown}/models"
        try:
            async with asyncio.timeout(min(self._timeout, 30.0)):
                status, body, content_type = await self._get(endpoint, self._health_url or f"{endpoint.url}/models")
        except TimeoutError:
            raise ServerError(f"{where} did not answer within 30 s. Is the server still loading the model?") from None
        except self._errors as error:
            raise ServerError(
                f"Nothing usable answers at {where}: {error}. Start the server, or correct base_url."
            ) from None
        if status in (401, 403):
            given = "was refused" if self._api_key else "is missing"
            raise ServerError(f"{where} answered {status}: the API key {given}. Set api_key or LLAVA_ZH_API_KEY.")
        if self._health_url is not None:
            if status != 200:
                raise ServerError(f"{where} answered {status}: {self._safe(excerpt(body))}")
            return
        models = _model_names(body) if status == 200 else None
        if models is None:
            raise ServerError(
                f"{where} is not an OpenAI-compatible API: expected a JSON list of models, found {status} "
                f"{content_type or 'without a content type'}: {self._safe(excerpt(body))}. "
                "base_url is the part before /chat/completions and mostly ends in /v1."
            )
        if models and self.model not in models:
            raise ServerError(f"{endpoint.shown} does not serve the model {self.model!r}; it serves {_listed(models)}.")

    async def _get(self, endpoint: Endpoint, url: str) -> tuple[int, bytes, str]:
        async with self._session.get(url, proxy=endpoint.proxy, allow_redirects=False) as response:
            return response.status, await _read(response), response.content_type

    # -- one request ---------------------------------------------------------------------------------------

    async def ask(self, body: Body, on_sent: Callable[[], None] = lambda: None) -> Answer:
        """Send one chat request to the least loaded server; `on_sent` is called once the body has left.

        Raises:
            Transient: Worth another try.
            Refused: This request will never be accepted.
            Unserved: The model gave no whole answer.
            ServerError: No server can be used any more.
        """
        endpoint = await self._pick()
        endpoint.in_flight += 1
        started = time.monotonic()
        try:
            answer = read_answer(await self._post(endpoint, body, on_sent))
        except Transient as fault:
            self._fault(endpoint, fault)
            raise
        except Refused as fault:
            if fault.status in (401, 403, 404):
                await self._doubt(endpoint, fault)
            raise
        finally:
            endpoint.in_flight -= 1
        self.slowest_answer = max(self.slowest_answer, time.monotonic() - started)
        endpoint.faults_in_a_row = 0
        return answer

    async def _post(self, endpoint: Endpoint, body: Body, on_sent: Callable[[], None]) -> bytes:
        async def pieces() -> AsyncIterator[bytes]:
            # A generator lets go of the body when it has left; aiohttp would keep bytes until the answer is there.
            for piece in body.take():
                yield piece
            on_sent()

        length = {"Content-Length": str(body.size)}
        try:
            async with asyncio.timeout(self._timeout) as scope:
                self._scopes[scope] = time.monotonic()
                try:
                    async with self._session.post(
                        f"{endpoint.url}/chat/completions",
                        data=self._payload(pieces()),
                        headers=length,
                        proxy=endpoint.proxy,
                        allow_redirects=False,  # the key is for this server
                    ) as response:
                        answer = await _read(response)
                finally:
                    del self._scopes[scope]
        except TimeoutError:
            raise Transient(f"{endpoint.shown} gave no answer in time.", reason="timeout") from None
        except self._errors as error:
            raise Transient(f"{endpoint.shown}: {error!r}", reason=type(error).__name__) from None
        if response.status != 200:
            raise self._redacted(fault_of_status(response.status, answer, response.headers.get("Retry-After")))
        return answer

    def resend_hung(self, older_than: float) -> int:
        """Let every request older than so many seconds time out now; how many there were."""
        now = time.monotonic()
        hung = [scope for scope, start in self._scopes.items() if now - start > older_than and not scope.expired()]
        for scope in hung:
            scope.reschedule(asyncio.get_running_loop().time())
        return len(hung)

    # -- health --------------------------------------------------------------------------------------------

    async def _pick(self) -> Endpoint:
        waiting_since = time.monotonic()
        while True:
            usable = [endpoint for endpoint in self.endpoints if endpoint.available]
            if usable:
                return min(usable, key=lambda endpoint: endpoint.in_flight)
            lost = [endpoint.unusable for endpoint in self.endpoints]
            if all(lost):
                raise ServerError(str(lost[0]))
            left = self._patience - (time.monotonic() - waiting_since)
            if left <= 0:
                shown = ", ".join(endpoint.shown for endpoint in self.endpoints)
                raise ServerError(f"No server could be used for {self._patience:.0f} s: {shown}.")
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _fault(self, endpoint: Endpoint, fault: Transient) -> None:
        endpoint.faults_in_a_row += 1
        if endpoint.faults_in_a_row < SICK_AFTER:
            return
        fault.blames_row = False
        if not endpoint.resting and endpoint.unusable is None:
            endpoint.resting = True
            rest = max(fault.retry_after or 0.0, FIRST_REST)
            self._on_event(f"{endpoint.shown} is rested after {SICK_AFTER} faults in a row, the last: {fault.reason}")
            probe = asyncio.get_running_loop().create_task(self._probe(endpoint, rest))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)

    async def _probe(self, endpoint: Endpoint, rest: float) -> None:
        """Leave the endpoint alone for `rest` seconds, then ask until it answers."""
        while True:
            await asyncio.sleep(rest)
            try:
                await self._check(endpoint)
            except ServerError:
                rest = min(2 * rest, LONGEST_REST)
                continue
            endpoint.resting = False
            endpoint.faults_in_a_row = SICK_AFTER - 1  # one more fault and it rests again
            self._on_event(f"{endpoint.shown} answers again")
            self._changed.set()
            return

    async def _doubt(self, endpoint: Endpoint, fault: Refused) -> None:
        """After 401, 403 or 404: is it this row, or is the server no longer ours to ask?"""
        try:
            await self._check(endpoint)
        except ServerError as error:
            endpoint.unusable = error
            self._on_event(f"{endpoint.shown} is no longer used: {error}")
            self._changed.set()
            raise Transient(str(fault), reason=fault.reason, blames_row=False) from None

    def _redacted(self, fault: ServerError) -> ServerError:
        fault.args = (self._safe(str(fault)),)
        return fault

    def _safe(self, text: str) -> str:
        """`text` of a server without the key, which some servers repeat."""
        return text.replace(self._api_key, "***") if self._api_key else text


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to the first byte too many."""
    if (response.content_length or 0) <= MAX_RESPONSE_BYTES and response.content_length is not None:
        return await response.read()
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > MAX_RESPONSE_BYTES:
            response.close()
            break
    return b"".join(pieces)


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadArgument(
            f"base_url must be an http(s) URL such as http://127.0.0.1:8000/v1; found {_without_secrets(url)!r}."
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return urlunsplit(parts._replace(path=path))


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for `url`; aiohttp itself would look it up in a thread at every request."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _model_names(body: bytes) -> list[str] | None:
    """Names in the answer of ``/models``; None if it is no such answer."""
    import json

    try:
        data: Any = json.loads(body)
    except ValueError:
        return None
    listed = data.get("data") if isinstance(data, Mapping) else None
    if not isinstance(listed, list):
        return None
    return [str(model["id"]) for model in listed if isinstance(model, Mapping) and "id" in model]


def _listed(models: Sequence[str]) -> str:
    return ", ".join(repr(model) for model in models[:20]) + (f" and {len(models) - 20} more" if models[20:] else "")
