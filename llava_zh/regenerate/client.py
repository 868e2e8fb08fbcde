"""Requests to one or several OpenAI-compatible servers: least loaded first, sick ones rested and probed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any

import msgspec

from llava_zh.errors import BadArgument, LlavaZhError, ServerError
from llava_zh.gates import limits
from llava_zh.regenerate.faults import Refused, Transient
from llava_zh.regenerate.protocol import Answer, Body, excerpt, fault_of_status, read_answer
from llava_zh.regenerate.wire import Address, Reply, address_of, checked_key, read_reply, what_went_wrong

#: So many faults one after the other, with no answer between, and an endpoint is rested.
SICK_AFTER = 3
#: The first rest and the longest, in seconds; each probe that fails doubles the rest.
FIRST_REST, LONGEST_REST = 1.0, 60.0


class Endpoint:
    """One server and how it fares."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.shown = address.shown  # what messages and files may hold
        self.in_flight = 0
        self.faults_in_a_row = 0
        self.resting = False
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
        key = checked_key(api_key)
        self.endpoints = [Endpoint(address_of(url, key)) for url in dict.fromkeys(urls)]
        self.model = model
        self._limit = limits.ANSWER.value
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
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            # Bodies are decompressed here, within bounds, should a server compress what it was asked not to.
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            auto_decompress=False,
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
        address = endpoint.address
        url = self._health_url or address.url("/models")
        where = self._health_url or f"{address.shown}/models"
        patience = min(self._timeout, 30.0)
        try:
            async with asyncio.timeout(patience):
                reply = await self._exchange(endpoint, "GET", url, {})
        except TimeoutError:
            reply = None
        except Transient as fault:
            raise ServerError(
                f"Nothing usable answers at {where}: {fault} Start the server, or correct base_url."
            ) from None
        if reply is None:
            raise ServerError(f"{where} did not answer within {patience:.0f} s. Is the server still loading the model?")
        if reply.status in (401, 403):
            given = "was refused" if address.authorization else "is missing"
            raise ServerError(f"{where} answered {reply.status}: the API key {given}. Set api_key or LLAVA_ZH_API_KEY.")
        if self._health_url is not None:
            if reply.status != 200:
                raise ServerError(f"{where} answered {reply.status}: {excerpt(reply.body)}")
            return
        models = _model_names(reply.body) if reply.status == 200 else None
        if models is None:
            raise ServerError(
                f"{where} is not an OpenAI-compatible API: expected a JSON list of models, found {reply.status} "
                f"{excerpt(reply.content_type or 'without a content type', 60)}: {excerpt(reply.body)}. "
                "base_url is the part before /chat/completions and mostly ends in /v1."
            )
        if models and self.model not in models:
            raise ServerError(f"{endpoint.shown} does not serve the model {self.model!r}; it serves {_listed(models)}.")

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
            answer = read_answer(await self._post(endpoint, body, on_sent), self._limit)
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
        url = endpoint.address.url("/chat/completions")
        reply = None
        try:
            async with asyncio.timeout(self._timeout) as scope:
                self._scopes[scope] = time.monotonic()
                try:
                    reply = await self._exchange(endpoint, "POST", url, length, self._payload(pieces()))
                finally:
                    del self._scopes[scope]
        except TimeoutError:
            pass
        if reply is None:
            raise Transient(f"{endpoint.shown} gave no answer in time.", reason="timeout")
        if reply.status != 200:
            raise fault_of_status(reply.status, reply.body, reply.retry_after)
        return reply.body

    async def _exchange(
        self, endpoint: Endpoint, method: str, url: str, headers: dict[str, str], data: Any = None
    ) -> Reply:
        """Send one request and take the reply, within bounds.

        Raises:
            Transient: There is no whole reply.
        """
        address = endpoint.address
        if address.authorization is not None:
            headers["Authorization"] = address.authorization
        try:
            async with self._session.request(
                method,
                url,
                data=data,
                headers=headers,
                proxy=address.proxy,
                allow_redirects=False,  # the key is for this server
            ) as response:
                return await read_reply(response, self._limit)
        except LlavaZhError:
            raise
        except Exception as error:
            # What a server sends can make the library beneath raise much. Its error holds the request with the key:
            # it goes no further, neither as cause nor as context.
            fault = Transient(f"{endpoint.shown}: {what_went_wrong(error, address)}.", reason=type(error).__name__)
        raise fault

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


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


def _model_names(body: bytes) -> list[str] | None:
    """Names in the answer of ``/models``; None if it is no such answer."""
    try:
        return [model.id for model in msgspec.json.decode(body, type=_Models).data]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _listed(models: Sequence[str]) -> str:
    return ", ".join(repr(excerpt(model, 100)) for model in models[:20]) + (
        f" and {len(models) - 20} more" if models[20:] else ""
    )
