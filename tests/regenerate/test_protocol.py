"""Responses told apart: answers, faults that may pass, and faults that will not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from llava_zh.regenerate.faults import Refused, Transient, Unserved
from llava_zh.regenerate.images import Picture
from llava_zh.regenerate.protocol import Body, excerpt, fault_of_status, read_answer, user_message
from llava_zh.storage.retries import backoff


def completion(content: Any = "好。", finish_reason: Any = "stop", **more: Any) -> bytes:
    choice = {
        "message": {"role": "assistant", "content": content, "reasoning_content": None},
        "finish_reason": finish_reason,
    }
    return json.dumps({"id": "1", "choices": [choice], **more}).encode()


def test_an_answer_comes_with_its_tokens_or_zero() -> None:
    answer = read_answer(completion(usage={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}))
    assert (answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("好。", "stop", 7, 2)
    assert read_answer(completion(usage=None)).completion_tokens == 0


@pytest.mark.parametrize("tokens", ["-1", "0.5", "NaN", "Infinity", "1e400", "9" * 5000, '"7"', "null", "[[]]", "true"])
def test_a_number_of_tokens_that_cannot_be_is_none_and_the_answer_stays(tokens: str) -> None:
    body = completion(usage={"prompt_tokens": "TOKENS", "completion_tokens": 2.0}).replace(b'"TOKENS"', tokens.encode())
    answer = read_answer(body)
    assert answer.text == "好。"
    assert (answer.prompt_tokens, answer.completion_tokens) in ((0, 2), (0, 0), (1, 2))
    for usage in ('"x"', "5", "[]", '{"prompt_tokens": ' + "[" * 500 + "]" * 500 + "}"):
        assert read_answer(completion(usage="USAGE").replace(b'"USAGE"', usage.encode())).text == "好。"


def test_the_text_parts_of_an_answer_in_parts_are_its_text() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "想"}]},
        {"type": "text", "text": "一只"},
        "猫",
        {"text": "。"},
    ]
    assert read_answer(completion(parts)).text == "一只猫。"
    assert (
        read_answer(completion([{"type": "output_text", "text": "好。"}, {"type": "image_url", "text": "x"}])).text
        == "好。"
    )
    with pytest.raises(Unserved, match="said nothing"):
        read_answer(completion([{"type": "thinking", "thinking": "想"}]))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (completion(finish_reason="length"), "finish_reason length"),
        (completion(finish_reason="满" * 99), "finish_reason (another)"),
        (completion(finish_reason=None), "finish_reason missing"),
        (completion(content=" \n"), "empty answer"),
        (completion(content=None), "empty answer"),
        (b"x" * ((4 << 20) + 1), "answer too long"),
    ],
)
def test_an_answer_that_is_none_is_never_success(body: bytes, reason: str) -> None:
    with pytest.raises(Unserved) as caught:
        read_answer(body)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"<html>502</html>", Transient, "not JSON"),
        (b'{"choices": []}', Transient, "no choices"),
        (b'{"choices": 5}', Transient, "no completion"),
        (b'{"x": ' + b"[" * 100_000, Transient, "nested too deep"),
        (completion(5), Transient, "no completion"),
        (b'{"error": {"message": "slow down", "code": "429"}}', Transient, "HTTP 429"),
        (b'{"choices": [{"message": {"content": "\xff"}, "finish_reason": "stop"}]}', Transient, "invalid UTF-8"),
        (b'{"error": {"message": "busy"}}', Transient, "error in a 200"),
        (b'{"error": "busy"}', Transient, "error in a 200"),
        (b'{"error": {"message": "bad image", "code": 400}}', Refused, "HTTP 400"),
        (b'{"error": {"message": "overloaded", "code": 503}}', Transient, "HTTP 503"),
    ],
)
def test_a_200_that_is_no_completion_is_a_fault(body: bytes, kind: type[Transient | Refused], reason: str) -> None:
    with pytest.raises(kind) as caught:
        read_answer(body)
    assert caught.value.reason == reason


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_these_statuses_may_pass(status: int) -> None:
    fault = fault_of_status(status, b"", None)
    assert isinstance(fault, Transient)
    assert fault.blames_row == (status not in (429, 503))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 422])
def test_these_statuses_will_not_pass(status: int) -> None:
    assert isinstance(fault_of_status(status, b"", None), Refused)


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    waits = [
        vars(fault_of_status(429, b"", text)).get("retry_after") for text in ("7", "0.5", soon, "-3", "1e9", "later")
    ]
    assert waits[:2] == [7.0, 0.5]
    assert 25 < waits[2] <= 30
    assert waits[3:] == [0.0, 600.0, None]


ODD_DATES = ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 1 Jan 99999 0:0:0 GMT", "Mon, 01 Jan 0001 0:0:0 +9999"]


@pytest.mark.parametrize(
    "text", ["nan", "-nan", "inf", "-inf", "9" * 5000, "1e999", "", " ", "x" * 8000, "\x00", "٣", *ODD_DATES]
)
def test_no_retry_after_makes_a_run_wait_longer_than_ten_minutes(text: str) -> None:
    wait = vars(fault_of_status(429, b"", text))["retry_after"]
    assert wait is None or 0 <= wait <= 600
    assert 0 <= backoff(1, wait) <= 661


def test_what_a_server_says_is_read_out_of_its_escapes_and_cut() -> None:
    assert excerpt(b'{"error": "\\u6ee1 \\ud83d\\ude00"}') == '{"error": "满 😀"}'
    assert excerpt(b"\\ud83d") == "\ufffd"
    assert len(excerpt("满".encode() * 1_000_000)) == 301
    assert excerpt(b"  \n ") == "(nothing)"


def test_backoff_is_full_jitter_that_grows_and_never_undercuts_retry_after() -> None:
    for attempt in (1, 4, 50):
        waits = [backoff(attempt, None) for _ in range(500)]
        cap = min(60.0, 0.5 * 2 ** (attempt - 1))
        assert 0 <= min(waits) < 0.1 * cap
        assert 0.9 * cap < max(waits) <= cap
    assert all(5 <= backoff(attempt, 5.0) <= 11 for attempt in range(1, 30))


def test_pictures_stand_where_their_markers_are_or_first() -> None:
    pictures = [Picture(b"data:", b"a"), Picture(b"data:", b"b")]
    for text, kinds in (
        ("比较<image>和<image>。", ["text", "image_url", "text", "image_url", "text"]),
        ("比较。", ["image_url", "image_url", "text"]),
    ):
        body = Body("m", [user_message(text, pictures)], {})
        size, pieces = body.size, body.take()
        assert (len(b"".join(pieces)), body.take()) == (size, [])
        message = json.loads(b"".join(pieces))["messages"][0]
        assert [part["type"] for part in message["content"]] == kinds
        urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
        assert urls == ["data:a", "data:b"]
