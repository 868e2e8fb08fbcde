"""What a model server may answer to do harm: broken HTTP, bombs, and the secrets it was sent, in every place.

Each fault is a function of the request's head and of the caption, and gives the bytes to send; `model_server.py` has
them beside its ordinary faults. After most the connection is closed.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

Fault = Callable[[bytes, str], bytes]


def secrets_of(head: bytes) -> str:
    """What a server was sent that is secret: the credentials, and the query of the request."""
    found = [
        line.split(b" ", 2)[-1].decode() for line in head.split(b"\r\n") if line.lower().startswith(b"authorization:")
    ]
    query = head.split(b" ", 2)[1].partition(b"?")[2].decode()
    return " ".join([*found, query]) or "none"


def answer(body: bytes | str | dict[str, Any], status: str = "200 OK", *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("utf-8", "surrogateescape") + data


def completion(content: Any, finish_reason: Any = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    usage = {"prompt_tokens": 1024, "completion_tokens": 20}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "1", "model": "tiny-vlm", "choices": [choice], "usage": usage} | more


def _raw(text: str) -> Callable[[bytes, str], bytes]:
    """The text as it stands, with the secrets where it says so."""
    return lambda head, caption: text.replace("\n", "\r\n").replace("SECRET", secrets_of(head)).encode()


def _echo(place: Callable[[str, str], bytes]) -> Fault:
    return lambda head, caption: place(secrets_of(head), caption)


def _escaped(text: str) -> bytes:
    return "".join(f"\\u{ord(character):04x}" for character in text).encode()


@cache
def _zeros() -> bytes:
    return gzip.compress(bytes(192 << 20), 1)


def _bomb(head: bytes, caption: str) -> bytes:
    return answer(_zeros(), "200 OK", "Content-Encoding: gzip")


def _zip(head: bytes, caption: str) -> bytes:
    body = json.dumps(completion(caption)).encode()
    return answer(gzip.compress(body), "200 OK", "Content-Encoding: gzip")


def _usage(text: str) -> Fault:
    body = json.dumps(completion("CAPTION")).replace('"prompt_tokens": 1024', f'"prompt_tokens": {text}')
    return lambda head, caption: answer(body.replace("CAPTION", caption))


#: After these a row comes out as it should.
HARMLESS: dict[str, Fault] = {
    "gzip": _zip,
    "deflate": lambda head, caption: answer(
        zlib.compress(json.dumps(completion(caption)).encode()), "200 OK", "Content-Encoding: deflate"
    ),
    "parts": lambda head, caption: answer(
        completion([{"type": "thinking", "thinking": []}, *({"type": "text", "text": piece} for piece in caption)])
    ),
    "reasoned": lambda head, caption: answer(completion(f"<think>\n先看左边。\n</think>\n\n{caption}")),
    "reasoning_apart": lambda head, caption: answer(
        completion(caption, message={"reasoning_content": "<|im_end|>", "reasoning": "想", "refusal": None})
    ),
    "usage_nan": _usage("NaN"),
    "usage_negative": _usage("-5"),
    "usage_long": _usage("9" * 5000),
    "usage_fraction": _usage("0.5"),
    "early_hints": lambda head, caption: b"HTTP/1.1 103 Hints\r\nA: x\r\n\r\n" * 100 + answer(completion(caption)),
    "echo_model": _echo(lambda said, caption: answer(completion(caption, model=said, id=said))),
    "echo_headers": _echo(
        lambda said, caption: answer(completion(caption), "200 OK", f"X-Key: {said}", f"Set-Cookie: a={said}; Path=/")
    ),
}  # fmt: skip

#: After these it is given up, or asked again.
HARMFUL: dict[str, Fault] = {
    "garbage": _raw("SECRET \x00\x1b]0;x\x07 SECRET\n\n"),
    "bad_status": _raw("HTTP/1.1 SECRET\n\n"),
    "bad_version": _raw("HTTP/9.SECRET 200 OK\n\n"),
    "bad_header": _raw("HTTP/1.1 200 OK\nSECRET\n\n"),
    "bad_header_name": _raw("HTTP/1.1 200 OK\nSECRET SECRET: x\nContent-Length: 1\n\nx"),
    "bad_chunk": _raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nSECRET\n"),
    "bad_chunk_end": _raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1\nxSECRET\n"),
    "bad_length": _raw("HTTP/1.1 200 OK\nContent-Length: SECRET\n\nx"),
    "long_length": _raw("HTTP/1.1 200 OK\nContent-Length: " + "9" * 5000 + "\n\nx"),
    "negative_length": _raw("HTTP/1.1 200 OK\nContent-Length: -5\n\nx"),
    "two_lengths": _raw("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 6\nX: SECRET\n\n123456"),
    "long_header": _raw("HTTP/1.1 200 OK\nX-Long: " + "SECRET " * 3000 + "\n\n"),
    "many_headers": _raw("HTTP/1.1 200 OK\n" + "X-Many: SECRET\n" * 3000 + "\n"),
    "bad_type": _raw("HTTP/1.1 200 OK\nConnection: close\nContent-Type: SECRET\x1b[31m\nContent-Length: 1\n\nx"),
    "bad_encoding": _raw("HTTP/1.1 200 OK\nConnection: close\nContent-Encoding: SECRET\nContent-Length: 1\n\nx"),
    "brotli": _raw("HTTP/1.1 200 OK\nConnection: close\nContent-Encoding: br\nContent-Length: 1\n\nx"),
    "gzip_cut": lambda head, caption: answer(gzip.compress(bytes(99))[:-9], "200 OK", "Content-Encoding: gzip"),
    "bomb": _bomb,
    "endless": lambda head, caption: b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (6 << 20),
    "endless_chunks": lambda head, caption: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 100,
    "zero_width": lambda head, caption: answer(completion("\u200b\u200d\ufe0f")),
    "escape": lambda head, caption: answer(completion(f"{caption}\x1b[31m")),
    "deep": lambda head, caption: answer(b'{"x":' + b"[" * 300_000),
    "deep_error": lambda head, caption: answer(b'{"error":' + b'{"message":' * 100_000 + b"1" + b"}" * 100_001),
    "echo_text": _echo(lambda said, caption: answer(said)),
    "echo_caption": _echo(lambda said, caption: answer(completion(f"{caption}{said}"))),
    "echo_thought": _echo(lambda said, caption: answer(completion(f"<think>{said}</think>{caption}<|im_end|>{said}"))),
    "echo_finish": _echo(lambda said, caption: answer(completion(caption, said))),
    "echo_cut_off": _echo(lambda said, caption: answer(completion(said * 9, "length"))),
    "echo_refusal": _echo(lambda said, caption: answer(completion(None, message={"refusal": said * 9}))),
    "echo_error": _echo(lambda said, caption: answer({"error": {"message": said * 999, "code": said}})),
    "echo_error_text": _echo(lambda said, caption: answer({"error": said})),
    "echo_error_list": _echo(lambda said, caption: answer({"error": [{said: said}]})),
    "echo_400": _echo(lambda said, caption: answer({"error": {"message": said}}, "400 Bad")),
    "echo_500": _echo(lambda said, caption: answer(said * 99, f"500 {said}")),
    "echo_redirect": _echo(lambda said, caption: answer(said, "302 Found", f"Location: http://127.0.0.1:9/{said}")),
    "echo_wrong": _echo(lambda said, caption: answer({"choices": said})),
    "half_at_300": _echo(lambda said, caption: answer("x" * 280 + said, "422 Bad")),
    "half_at_200": _echo(lambda said, caption: f"HTTP/1.1 200 OK\r\n{'x' * 160}{said}\r\n\r\n".encode()),
    "half_at_20000": _echo(lambda said, caption: answer(completion("长" * 19_980 + said, "length"))),
    "half_after_space": _echo(lambda said, caption: answer(" " * 4380 + said, "422 Bad")),
    "escaped": _echo(lambda said, caption: answer(b'{"error": {"x": "' + _escaped(said) + b'"}}')),
    "huge_error": lambda head, caption: answer({"error": {"message": "满" * 300_000}}, "422 Bad"),
    "huge_finish": lambda head, caption: answer(completion(caption, "满" * 600_000)),
    "special": lambda head, caption: answer(completion(f"{caption}<|im_end|>")),
    "special_internlm": lambda head, caption: answer(completion(f"{caption}[UNUSED_TOKEN_145]")),
    "endless_thought": lambda head, caption: answer(completion(f"<think>{caption}")),
    "only_thought": lambda head, caption: answer(completion(None, message={"reasoning_content": "想" * 50})),
    "number": lambda head, caption: answer(completion(5)),
}  # fmt: skip
HOSTILE = HARMLESS | HARMFUL
