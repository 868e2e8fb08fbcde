"""A loopback OpenAI-compatible model server that injects faults on demand.

In a test: ``with ModelServer(script=["503", "ok"]) as server: ... server.url, server.calls``.
As a process of its own: ``python tests/model_server.py --latency 0.5``, which prints its URL on the first line; faults
and counters are then reached over HTTP (``GET /control`` and ``POST /control``), as :func:`control` does.

The server speaks HTTP/1.1 by hand, so that it can break the protocol where a real server would: a body cut in the
middle, a connection dropped before the answer, bytes that are no UTF-8.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hostile_model import HOSTILE

CAPTION = "图中是一片开阔的草地，远处有几棵树，天空晴朗，没有行人，整体画面安静而明亮。"
CONVERSATION = "用户：图里有什么？\n\n助手：一片草地。\n\n用户：有人吗？\n\n助手：没有人。"
QUESTION = "问题：为什么草地这么绿？\n\n回答：因为雨水充足，阳光也好。"

_STATUS = {"400", "401", "403", "404", "408", "413", "422", "429", "500", "502", "503"}
_ANSWERS = {"ok", "length", "empty", "null", "huge", "unparsable", "filtered"}
FAULTS = sorted((_STATUS | _ANSWERS | {"disconnect", "truncate", "hang", "html", "utf8", "error200", "slow"}) - {"ok"})


class Behaviour:
    """What the server answers, and what it has seen; everything but `seen_images` can be set over ``/control``."""

    def __init__(
        self,
        *,
        model: str = "tiny-vlm",
        script: Iterable[str] = (),
        faults: Mapping[str, float] | None = None,
        latency: float = 0.0,
        api_key: str | None = None,
        retry_after: str | None = None,
        answer: str | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.script = list(script)  # what the next chat requests get, in order; then `faults` apply
        self.faults = dict(faults or {})  # fault name → its share of the requests
        self.latency = latency
        self.api_key = api_key
        self.retry_after = retry_after
        self.answer = answer
        self.sick: str | None = None  # while set, every request, /models too, gets this fault
        self.drip = False
        self.moved_to = ""
        self.keep_heads = False
        self.heads: list[bytes] = []
        self.keep_requests = False
        self.count_images = False
        self.calls = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self.outcomes: Counter[str] = Counter()
        self.seen_images: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self._random = random.Random(seed)

    def choose(self) -> str:
        if self.sick:
            return self.sick
        if self.script:
            return self.script.pop(0)
        if self.faults:
            draw = self._random.random()
            for name, share in self.faults.items():
                draw -= share
                if draw < 0:
                    return name
        return "ok"

    def note(self, body: bytes) -> None:
        """Count one chat request, and remember what tests want to look at."""
        self.calls += 1
        if self.count_images:
            start = body.find(b";base64,") + len(b";base64,")
            self.seen_images[hashlib.md5(body[start : body.find(b'"', start)]).hexdigest()] += 1
        if self.keep_requests:
            self.requests.append(json.loads(body))

    def text(self, body: bytes) -> str:
        if self.answer is not None:
            return self.answer
        if "设计一个你和一个询问".encode() in body:
            return CONVERSATION
        if "设计一个关于这张照片的问题".encode() in body:
            return QUESTION
        return CAPTION

    def statistics(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "peak_in_flight": self.peak_in_flight,
            "outcomes": dict(self.outcomes),
            "seen_images": dict(self.seen_images),
        }


class _Connection(asyncio.Protocol):
    """One client connection: requests in, scripted answers out."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.buffer = bytearray()
        self.need: int | None = None  # bytes of headers and body of the request being read
        self.head = b""
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self.tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            if self.need is None:
                end = self.buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                self.head = bytes(self.buffer[:end])
                at = self.head.lower().find(b"content-length:")
                self.need = end + 4 + (int(self.head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)
            if len(self.buffer) < self.need:
                return
            body = bytes(memoryview(self.buffer)[len(self.head) + 4 : self.need])
            del self.buffer[: self.need]
            self.need = None
            self.serve(body)

    def serve(self, body: bytes) -> None:
        method, path = self.head.split(b" ", 2)[:2]
        target = path.decode().split("?")[0].rstrip("/")
        if target == "/v1/control":
            self.control(body)
        elif self.refused():
            self.reply(401, {"error": {"message": "Incorrect API key provided: " + self.key(), "code": 401}})
        elif self.behaviour.drip and method == b"POST":
            self.tasks.add(asyncio.get_running_loop().create_task(self.drop_by_drop()))
        elif target in ("/v1/models", "/health"):
            self.models()
        elif target == "/v1/chat/completions" and method == b"POST":
            self.chat(body)
        else:
            self.reply(404, b"<html>not found</html>", "text/html")

    def key(self) -> str:
        at = self.head.lower().find(b"authorization:")
        return self.head[at + 14 :].split(b"\r\n", 1)[0].decode().strip().removeprefix("Bearer ") if at >= 0 else ""

    def refused(self) -> bool:
        return self.behaviour.api_key is not None and self.key() != self.behaviour.api_key

    def control(self, body: bytes) -> None:
        for name, value in (json.loads(body) if body else {}).items():
            setattr(self.behaviour, name, value)
        self.reply(200, self.behaviour.statistics())

    def models(self) -> None:
        if self.behaviour.sick == "hang":
            return
        if self.behaviour.sick in HOSTILE:
            self.harm(self.behaviour.sick, CAPTION)
            return
        if self.behaviour.sick == "disconnect":
            self.transport.abort()
        elif self.behaviour.sick:
            self.reply(503, {"error": {"message": "loading", "code": 503}})
        else:
            self.reply(200, {"object": "list", "data": [{"id": self.behaviour.model, "object": "model"}]})

    def chat(self, body: bytes) -> None:
        behaviour = self.behaviour
        behaviour.note(body)
        if behaviour.keep_heads:
            behaviour.heads.append(self.head)
        outcome = behaviour.choose()
        behaviour.outcomes[outcome] += 1
        delay = behaviour.latency + (1.0 if outcome == "slow" else 0.0)
        if outcome == "hang":
            return
        if not delay:
            self.answer(outcome, body)
            return
        behaviour.in_flight += 1
        behaviour.peak_in_flight = max(behaviour.peak_in_flight, behaviour.in_flight)
        task = asyncio.get_running_loop().create_task(self.answer_later(outcome, behaviour.text(body), delay))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer_later(self, outcome: str, text: str, delay: float) -> None:
        try:
            await asyncio.sleep(delay)
            self.answer(outcome, text=text)
        finally:
            self.behaviour.in_flight -= 1

    def answer(self, outcome: str, body: bytes = b"", text: str | None = None) -> None:
        text = self.behaviour.text(body) if text is None else text
        if outcome in HOSTILE:
            self.harm(outcome, text)
        elif outcome in _STATUS:
            extra = {"Retry-After": self.behaviour.retry_after} if self.behaviour.retry_after else {}
            self.reply(int(outcome), {"error": {"message": f"injected {outcome}", "code": int(outcome)}}, extra=extra)
        elif outcome == "moved":
            self.reply(302, b"", extra={"Location": f"{self.behaviour.moved_to}/chat/completions"})
        elif outcome == "disconnect":
            self.transport.abort()
        elif outcome == "truncate":
            self.reply(200, self.completion(text, "stop"), cut=True)
        elif outcome == "html":
            self.reply(200, b"<html><body>502 Bad Gateway</body></html>", "text/html")
        elif outcome == "utf8":
            self.reply(200, self.completion("@", "stop").replace(b"@", b"\xff\xfe\xe5"))
        elif outcome == "error200":
            self.reply(200, {"error": {"message": "engine overloaded", "code": 503}})
        else:
            self.reply(200, self.completion(*self.content(outcome, text)))

    async def drop_by_drop(self) -> None:
        """An answer that never ends and never pauses."""
        self.transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not self.transport.is_closing():
            self.transport.write(b" ")
            await asyncio.sleep(0.02)

    def harm(self, outcome: str, text: str) -> None:
        self.transport.write(HOSTILE[outcome](self.head, text))
        self.transport.close()

    @staticmethod
    def content(outcome: str, text: str) -> tuple[str | None, str]:
        return {
            "length": (text[:10], "length"),
            "filtered": (text[:10], "content_filter"),
            "empty": ("", "stop"),
            "null": (None, "stop"),
            "huge": ("很长的回答。" * 240_000, "stop"),
            "unparsable": ("第一段没有格式。\n\n第二段也没有。", "stop"),
        }.get(outcome, (text, "stop"))

    def completion(self, text: str | None, finish_reason: str) -> bytes:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
        usage = {"prompt_tokens": 1024, "completion_tokens": len(text or ""), "total_tokens": 1024 + len(text or "")}
        answer = {"id": "chatcmpl-1", "object": "chat.completion", "model": self.behaviour.model, "choices": [choice]}
        return json.dumps(answer | {"created": 0, "usage": usage}, ensure_ascii=False).encode()

    def reply(
        self,
        status: int,
        body: bytes | Mapping[str, Any],
        content_type: str = "application/json",
        *,
        extra: Mapping[str, str] | None = None,
        cut: bool = False,
    ) -> None:
        if self.transport.is_closing():
            return
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        headers = {"Content-Type": content_type, "Content-Length": str(len(data)), **(extra or {})}
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (data[: len(data) // 2] if cut else data))
        if cut:
            self.transport.close()


class ModelServer(Behaviour):
    """The server in a thread of this process; a context manager. `url` ends in ``/v1``."""

    def __enter__(self) -> ModelServer:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        started.wait()
        return self

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", getattr(self, "port", 0))
        self.port: int = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        started.set()
        await self._stopped.wait()
        server.close()

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)


def control(url: str, **changes: object) -> dict[str, Any]:
    """Set attributes of the server at `url` (``…/v1``) and return its counters."""
    request = urllib.request.Request(f"{url}/control", data=json.dumps(changes).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as response:
        result: dict[str, Any] = json.load(response)
    return result


def _arguments() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-vlm")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--forever", action="store_true", help="do not end with standard input")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--faults", type=json.loads, default={}, help='shares of faults, as {"503": 0.01}')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count-images", action="store_true", help="count the requests of every image")
    return vars(parser.parse_args())


async def _main() -> None:
    arguments = _arguments()
    port, forever, count_images = (arguments.pop(name) for name in ("port", "forever", "count_images"))
    behaviour = Behaviour(**arguments)
    behaviour.count_images = count_images
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(behaviour), "127.0.0.1", port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    if forever:
        await asyncio.Event().wait()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends when whoever started it goes


if __name__ == "__main__":
    asyncio.run(_main())
