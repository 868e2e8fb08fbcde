"""Byte ranges over real connections: cut, slow to answer, refused, and from servers that ignore what was asked."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hub_server import HubServer, VirtualFile
from hunting import hunt
from hypothesis import example, given
from hypothesis import strategies as st

from llava_zh.errors import HubError, RangeNotSupported
from llava_zh.storage import http

REPO = "owner/name"
DATA = bytes(i * 7 % 251 for i in range(1_000_000))
LARGE = VirtualFile(64 << 20, lambda offset, length: bytes(length))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    # Pauses between attempts double; the tests need not wait for all of them.
    monkeypatch.setattr(http, "ATTEMPTS", 3)
    with HubServer({REPO: {"data.bin": DATA, "large.bin": LARGE}}) as server:
        yield server


def read(hub: HubServer, start: int, length: int, *, file: str = "data.bin", token: str | None = None) -> bytes:
    url = f"{hub.url}/datasets/{REPO}/resolve/main/{file}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return b"".join(http.read_range(url, lambda: headers, start, length, what=file, hint="Do this."))


def ranges(hub: HubServer) -> list[str]:
    return [request.range or "" for request in hub.requests if request.host == "cdn"]


@pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 1_000_000), (999_999, 1), (12_345, 600_000), (5, 0)])
def test_a_range_is_read_to_the_byte(hub: HubServer, start: int, length: int) -> None:
    assert read(hub, start, length) == DATA[start : start + length]
    assert hub.bytes_sent == length


@pytest.mark.parametrize("cut", [1, 100_000, 599_999])
def test_a_cut_connection_is_continued_from_the_byte_reached(hub: HubServer, cut: int) -> None:
    hub.add_fault("GET cdn", cut_after=cut)
    assert read(hub, 1000, 600_000) == DATA[1000:601_000]
    assert ranges(hub) == ["bytes=1000-600999", f"bytes={1000 + cut}-600999"]


def test_a_connection_that_is_cut_again_and_again_gets_there_as_long_as_it_gains_ground(hub: HubServer) -> None:
    hub.add_fault("GET cdn", cut_after=200_000, times=None)
    assert read(hub, 0, 1_000_000) == DATA
    assert len(ranges(hub)) == 5


def test_a_body_shorter_than_asked_is_continued(hub: HubServer) -> None:
    hub.add_fault("GET cdn", short_by=10)
    assert read(hub, 0, 500_000) == DATA[:500_000]
    assert ranges(hub)[-1] == "bytes=499990-499999"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("host", ["hub", "cdn"])
def test_a_busy_server_is_asked_again(hub: HubServer, status: int, host: str) -> None:
    fault = hub.add_fault(f"GET {host}", status=status)
    assert read(hub, 10, 20) == DATA[10:30]
    assert fault.used == 1


def test_retry_after_is_kept_to(hub: HubServer) -> None:
    hub.add_fault("GET hub", status=429, headers={"Retry-After": "1"})
    start = time.monotonic()
    assert read(hub, 0, 5) == DATA[:5]
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("value", ["-3", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_is_no_pause_is_ignored(hub: HubServer, value: str) -> None:
    hub.add_fault("GET hub", status=503, headers={"Retry-After": value})
    assert read(hub, 0, 5) == DATA[:5]


def test_a_server_that_stays_busy_is_given_up(hub: HubServer) -> None:
    fault = hub.add_fault("GET hub", status=503, times=None)
    with pytest.raises(HubError, match=r"data.bin: gave up at byte 10 of 30 after 3 attempts: status 503\. Do this\."):
        read(hub, 10, 20)
    assert fault.used == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "401 Unauthorized: a token is missing or not accepted"),
        (403, "403 Forbidden: the token has no access"),
        (404, "404 Not Found: no such repository, revision or file"),
        (416, "the file is shorter than its listing says"),
        (418, "status 418"),
    ],
)
def test_a_refusal_is_told_of_at_once_and_without_the_token(hub: HubServer, status: int, message: str) -> None:
    fault = hub.add_fault("GET hub", status=status, times=None)
    with pytest.raises(HubError) as caught:
        read(hub, 0, 5, token="hf_secret")
    assert message in str(caught.value)
    assert "Do this." in str(caught.value)
    assert "hf_secret" not in repr(caught.value)
    assert fault.used == 1
    assert isinstance(caught.value, OSError)


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub: HubServer) -> None:
    hub.require_token = "hf_secret"
    assert read(hub, 0, 5, token="hf_secret") == DATA[:5]
    assert {request.host: request.had_authorization for request in hub.requests} == {"hub": True, "cdn": False}


def test_a_small_file_from_a_server_that_ignores_range_is_cut_here(hub: HubServer) -> None:
    hub.add_fault("GET cdn", ignore_range=True, times=None)
    assert read(hub, 500_000, 1000) == DATA[500_000:501_000]


def test_a_large_file_from_a_server_that_ignores_range_is_refused(hub: HubServer) -> None:
    hub.add_fault("GET cdn", ignore_range=True, times=None)
    with pytest.raises(
        RangeNotSupported, match=r"large.bin: the server ignores Range and sends all 67108864 bytes.*data_dir="
    ):
        read(hub, 1 << 20, 1000, file="large.bin")
    assert hub.bytes_sent < 8 << 20


def test_the_start_of_a_file_is_read_even_where_range_is_ignored(hub: HubServer) -> None:
    hub.add_fault("GET cdn", ignore_range=True, times=None)
    assert read(hub, 0, 1000, file="large.bin") == bytes(1000)
    assert hub.bytes_sent < 8 << 20


def test_nothing_more_is_fetched_than_what_was_consumed(hub: HubServer) -> None:
    url = f"{hub.url}/datasets/{REPO}/resolve/main/large.bin"
    pieces = http.read_range(url, dict, 0, LARGE.size, what="large.bin", hint="")
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert hub.bytes_sent < 8 << 20


def test_an_unreachable_server_is_told_of(hub: HubServer) -> None:
    hub.close()
    with pytest.raises(
        HubError, match=r"data.bin: gave up at byte 0 of 5 after 3 attempts: ConnectionError\. Do this\."
    ):
        read(hub, 0, 5)


@pytest.mark.parametrize("url", ["no url", "ftp://127.0.0.1/x", "http://"])
def test_an_address_that_cannot_be_asked_is_told_of_at_once(url: str) -> None:
    def no_headers() -> dict[str, Any]:
        return {}

    with pytest.raises(HubError, match=r"x: the request cannot be made \((Missing|Invalid)\w+\)\. Do this\."):
        list(http.read_range(url, no_headers, 0, 5, what="x", hint="Do this."))


def raw_server(answer: bytes) -> tuple[str, threading.Thread]:
    """A server that gives `answer` to each of a few connections, whatever is asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def serve() -> None:
        with listener, contextlib.suppress(OSError):
            for _ in range(4):
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    connection.recv(65536)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/file", thread


HEADERS = st.sampled_from(
    ["Content-Length", "Content-Range", "Retry-After", "Content-Encoding", "Transfer-Encoding", "Location", "ETag"]
)
VALUES = st.sampled_from(
    [
        "nan",
        "inf",
        "-1",
        "abc",
        "9" * 5000,
        "1e309",
        "gzip",
        "chunked",
        "bytes 0-4/5",
        "bytes 0-4",
        "bytes */x",
        "//",
        "",
    ]
    + ["0x10", "bytes " + "9" * 5000 + "-", "http://[", "http://127.0.0.1:1/x", "\x00", "ſ", "1, 2", "identity"]
) | st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=20)


@hunt(25)
@given(
    st.sampled_from([200, 206, 301, 302, 404, 416, 429, 503, 999]),
    st.lists(st.tuples(HEADERS, VALUES), max_size=4),
    st.binary(max_size=40) | st.just(gzip.compress(bytes(1 << 22))),
)
@example(429, [("Retry-After", "nan")], b"")
@example(200, [("Content-Length", "abc")], b"12345")
@example(200, [("Content-Length", "9" * 5000)], b"12345")
@example(206, [("Content-Range", "bytes " + "9" * 5000 + "-")], b"12345")
@example(206, [("Content-Range", "bytes 0-4/5"), ("Content-Encoding", "gzip")], gzip.compress(bytes(1 << 22)))
def test_whatever_a_server_answers_gives_the_bytes_or_an_error_of_ours(
    status: int, headers: list[tuple[str, str]], body: bytes
) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    url, _ = raw_server(f"HTTP/1.1 {status} X\r\n{head}Connection: close\r\n\r\n".encode("latin-1", "replace") + body)
    with mock.patch.object(http, "ATTEMPTS", 2), mock.patch.object(http, "LONGEST_PAUSE", 0.01):
        try:
            got = b"".join(http.read_range(url, dict, 0, 5, what="x", hint="Do this."))
        except HubError as error:
            assert str(error).startswith("x: ")
        else:
            assert len(got) == 5
