"""A model server out to do harm: no secret gets out, nothing comes in without bounds, and only our errors arise."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import pickle
import subprocess
import sys
import time
import traceback
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_model import HARMFUL, HARMLESS, HOSTILE, answer, completion
from hunting import hunt
from hypothesis import example, given
from hypothesis import strategies as st
from model_server import CAPTION, FAULTS, ModelServer

from llava_zh.demo import DemoPaths
from llava_zh.errors import BadAnswer, BadArgument, LlavaZhError, ServerError
from llava_zh.regenerate import Captioner, regenerate, wire
from llava_zh.regenerate.client import Client
from llava_zh.regenerate.faults import Transient
from llava_zh.regenerate.protocol import Body

from .conftest import lines_of, output_of

Rows = Any
KEYS = {
    "argument": "sk-Qm4vXw81TzLc0Bn5RyKd7Pf2Hs9Ju3Ga6Ei",
    "environment": "sk-eV7nWq2Zt5Ycb9Rm1Xd4Lk8Jh3Gf6Sp0Ao",
    "password": "Pw3xK8vB1nM6qZ4tR9",
    "query": "Sg5hT2jY7uI0oP3aS8dF",
    "token": "hf_Tk9aB2cD4eF6gH8iJ1kL3mN5oP7qR",
}
# Left out: the row comes back until a time is over, or the answer is a caption nevertheless.
OTHERS = set(FAULTS) - {"hang", "slow", "429", "503", "error200", "unparsable"}


def pieces_of(secret: str) -> list[bytes]:
    """Pieces that would give a secret away, as it stands and within basic authorization."""
    basic = base64.b64encode(f"user:{secret}".encode()).decode().rstrip("=")[8:]
    return [form[at : at + 8].encode() for form in (secret, basic) for at in range(len(form) - 7)]


def told(error: BaseException | None) -> Iterator[str]:
    """All that can be got out of an error: text, details, what led to it, what a traceback and a pickle hold."""
    if error is None:
        return
    yield from (str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error)))
    yield pickle.dumps(error).decode("latin-1")
    yield from told(error.__cause__)
    yield from told(error.__context__)


def address(server: ModelServer, style: str) -> dict[str, Any]:
    """How a client is told of its secret."""
    host = server.url.removeprefix("http://")
    match style:
        case "argument":
            return {"base_url": server.url, "api_key": KEYS["argument"]}
        case "password":
            return {"base_url": f"http://user:{KEYS['password']}@{host}"}
        case "query":
            return {"base_url": f"http://{host}?Signature={KEYS['query']}"}
    return {"base_url": server.url}


@pytest.fixture(params=["argument", "environment", "password", "query"])
def style(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "environment":
        monkeypatch.setenv("LLAVA_ZH_API_KEY", KEYS["environment"])
    monkeypatch.setenv("HF_TOKEN", KEYS["token"])
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", KEYS["token"])
    return str(request.param)


def test_no_fault_of_a_server_makes_a_secret_leave_in_a_run(
    style: str, server: ModelServer, tmp_path: Path, make_rows: Rows, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    faults = [*HOSTILE, *sorted(OTHERS)]
    server.script = [outcome for fault in faults for outcome in (fault, "ok")]
    report = regenerate(
        make_rows(len(server.script)), "test_zh", output_dir=tmp_path, model="tiny-vlm", prompt="caption_zh",
        concurrency=1, max_retries=0, answer_attempts=1, timeout=5, **address(server, style),
    )  # fmt: skip
    assert server.outcomes.keys() == {*faults, "ok"}
    harmful = len(faults) - len(HARMLESS)
    assert (report.rows, sum(report.failed.values())) == (2 * len(faults) - harmful, harmful)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    printed = capfd.readouterr()
    seen = b"\n".join([*written, printed.out.encode(), printed.err.encode(), caplog.text.encode()])
    for name, secret in KEYS.items():
        assert not [piece for piece in pieces_of(secret) if piece in seen], name
    texts = [path.read_text("utf-8") for path in tmp_path.rglob("*") if path.suffix in (".json", ".jsonl", ".failed")]
    # By one sequence tqdm goes up a line, where there are several bars.
    assert "\x1b" not in "".join([*texts, printed.out, printed.err, caplog.text]).replace("\x1b[A", "")
    assert max(len(str(row["message"])) for row in lines_of(tmp_path / "failed.jsonl")) < 1000
    assert {row["conversations"][1]["value"] for row in output_of(tmp_path)} == {CAPTION}


@pytest.mark.parametrize("style", [pytest.param("argument", marks=pytest.mark.slow), "query"])
def test_no_error_that_a_server_causes_holds_a_secret(
    style: str, server: ModelServer, images: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    given = {"max_retries": 0, "answer_attempts": 1, **address(server, style)}
    errors: dict[str, BaseException] = {}

    async def ask() -> None:
        async with Captioner(model="tiny-vlm", **given) as captioner:
            for fault in HOSTILE:
                server.script = [fault]
                try:
                    assert await captioner.acaption(images[0]) == CAPTION
                except LlavaZhError as error:
                    errors[fault] = error
                server.script = ["ok"]
                await captioner.acaption(images[0])

    asyncio.run(ask(), debug=True)
    assert errors.keys() == HARMFUL.keys()
    for fault, error in errors.items():
        text = "\n".join([*told(error), caplog.text]).encode("utf-8", "surrogatepass")
        assert not [piece for secret in KEYS.values() for piece in pieces_of(secret) if piece in text], fault
        assert len(str(error)) < 1000


def test_a_server_that_does_harm_before_the_run_stops_it_and_learns_nothing_more(server: ModelServer) -> None:
    errors: dict[str, BaseException] = {}

    async def check() -> None:
        async with Client(server.url, "tiny-vlm", api_key=KEYS["argument"], timeout=5) as client:
            for server.sick in [*HARMFUL, "401", "disconnect"]:
                with pytest.raises(ServerError) as caught:
                    await client.check()
                errors[str(server.sick)] = caught.value

    asyncio.run(check())
    for fault, error in errors.items():
        text = "\n".join(told(error)).encode("utf-8", "surrogatepass")
        assert not [piece for piece in pieces_of(KEYS["argument"]) if piece in text], fault
        assert len(str(error)) < 2000


def test_a_secret_that_cannot_be_sent_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (
        f"http://u:{KEYS['password']}@[host/v1",
        f"http://u:{KEYS['password']}/x@h:99999/v1",
        f"ftp://u:{KEYS['password']}@h",
    ):
        with pytest.raises(BadArgument, match=r"base_url must be an http\(s\) URL") as caught:
            Client(url, "m")
        assert not [piece for piece in pieces_of(KEYS["password"]) if piece in "\n".join(told(caught.value)).encode()]
    for key in ("sk-abc\ndef", "sk-密钥"):
        with pytest.raises(BadArgument, match="character, at position") as caught:
            Client("http://127.0.0.1:1/v1", "m", api_key=key)
        assert key not in str(caught.value)
    with pytest.raises(BadArgument, match="only one of the two"):
        Client(f"http://u:{KEYS['password']}@127.0.0.1:1/v1", "m", api_key="sk-abc")
    monkeypatch.setenv("LLAVA_ZH_API_KEY", "sk-of-a-file\n")
    Client("http://127.0.0.1:1/v1", "m")


def test_a_password_and_a_query_of_the_root_reach_the_server(server: ModelServer, images: list[str]) -> None:
    server.keep_heads = True
    assert Captioner(model="tiny-vlm", **address(server, "password")).caption(images[0]) == CAPTION
    assert Captioner(model="tiny-vlm", **address(server, "query")).caption(images[0]) == CAPTION
    basic = base64.b64encode(f"user:{KEYS['password']}".encode())
    assert b"\r\nAuthorization: Basic " + basic + b"\r\n" in server.heads[0]
    assert server.heads[1].startswith(f"POST /v1/chat/completions?Signature={KEYS['query']} ".encode())
    assert b"Authorization" not in server.heads[1]


def test_a_redirect_is_not_followed_with_the_key(server: ModelServer, images: list[str]) -> None:
    with ModelServer() as other:
        server.script = ["moved"]
        server.moved_to = other.url
        with pytest.raises(ServerError, match="302"):
            Captioner(server.url, "tiny-vlm", api_key=KEYS["argument"]).caption(images[0])
        assert other.calls == 0


@pytest.mark.parametrize(
    "fault", ["bomb", "endless", "endless_chunks", "huge_error", "huge_finish", "deep", "deep_error"]
)
def test_what_comes_in_is_bounded_in_memory_and_time(fault: str, server: ModelServer, images: list[str]) -> None:
    sent = HOSTILE[fault](b"", "")  # the server is in this process: not to be counted

    async def ask() -> None:
        async with Client(server.url, "tiny-vlm", timeout=20) as client:
            await client.ask(Body("tiny-vlm", [{"role": "user", "content": "x"}], {}))

    server.script = [fault]
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(LlavaZhError):
            asyncio.run(ask())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (30 << 20) + 3 * len(sent)
    assert time.process_time() - started < 5


def test_an_answer_that_comes_drop_by_drop_is_over_when_the_time_is(server: ModelServer, images: list[str]) -> None:
    server.drip = True
    started = time.monotonic()
    with pytest.raises(Transient, match="no answer in time"):
        Captioner(server.url, "tiny-vlm", timeout=0.5, max_retries=0).caption(images[0])
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("special", "special token"),
        ("special_internlm", "special token"),
        ("endless_thought", "reasoning never ends"),
        ("only_thought", "empty answer"),
        ("echo_refusal", "refused by the model"),
        ("echo_caption", "answer repeats a secret"),
        ("huge_finish", "finish_reason (another)"),
        ("bomb", "answer too long"),
        ("zero_width", "empty answer"),
        ("escape", "control character"),
    ],
)
def test_an_answer_that_is_no_caption_is_asked_again_and_counted_by_its_reason(
    fault: str, reason: str, server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    server.script = [fault, "ok"]
    report = regenerate(
        make_rows(1), "test_zh", output_dir=tmp_path, model="tiny-vlm", base_url=server.url, api_key=KEYS["argument"],
        progress=False,
    )  # fmt: skip
    assert (report.rows, report.session["retries"]) == (1, {reason: 1})


def test_an_answer_in_several_gzip_members_is_whole_within_bounds() -> None:
    said = json.dumps(completion(CAPTION)).encode()
    halves = gzip.compress(said[:9]) + gzip.compress(said[9:])
    assert wire.decompressed(halves, "gzip", 10_000) == said
    assert len(wire.decompressed(gzip.compress(b"x" * 600) * 3, "gzip", 1000)) == 1001
    for body in (halves[:-1], halves + b"<html>", gzip.compress(b"") * 100_000):
        with pytest.raises(Transient, match="cut or damaged"):
            wire.decompressed(body, "gzip", 10_000)


# -- the hunt ----------------------------------------------------------------------------------------------

WHOLE = answer(completion(CAPTION, message={"reasoning_content": None}))
STATUSES = ("200 OK", "429 SECRET", "500 x", "302 Found", "101 x", "204 x", "418 SECRET", "999 x", "100 x")
NAMES = (
    "Content-Length",
    "Transfer-Encoding",
    "Content-Encoding",
    "Retry-After",
    "Content-Type",
    "Location",
    "Upgrade",
)
VALUES = (
    "chunked",
    "gzip",
    "deflate, gzip",
    "nan",
    "inf",
    "-1",
    "9" * 5000,
    "identity",
    "close",
    "é\x80",
    "SECRET",
    "",
)
FIELDS = ("choices", "message", "content", "error", "code", "usage", "finish_reason", "text", "refusal")
edits = st.lists(
    st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 40), st.binary(max_size=12) | st.just(b"SECRET")), max_size=4
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("SECRET")
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)
replies = st.one_of(
    edits.map(lambda made: _edited(WHOLE, made)),
    st.builds(
        lambda status, name, value, made: _edited(answer(completion(CAPTION), status, f"{name}: {value}"), made),
        st.sampled_from(STATUSES),
        st.sampled_from(NAMES),
        st.sampled_from(VALUES),
        edits,
    ),
    st.builds(lambda value, usage: answer(completion(value, usage=usage)), values, values),
    st.builds(lambda value, status: answer(json.dumps(value), status), values, st.sampled_from(STATUSES)),
)


def _edited(data: bytes, made: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, new in made:
        data = data[:at] + new + data[at + length :]
    return data


async def _served(reply: bytes) -> None:
    """Ask a server that sends `reply`, whatever is asked, once with a key."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply.replace(b"SECRET", KEYS["argument"].encode()))
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        async with Client(url, "tiny-vlm", api_key=KEYS["argument"], timeout=3) as client:
            await client.ask(Body("tiny-vlm", [{"role": "user", "content": "x"}], {}))
    finally:
        server.close()


@hunt(80)
@given(replies)
@example(WHOLE)
@example(answer(completion(CAPTION), "429 x", "Retry-After: nan"))
def test_whatever_a_server_sends_ends_in_an_answer_or_one_of_our_errors(reply: bytes) -> None:
    started = time.process_time()
    try:
        asyncio.run(_served(reply))
    except (ServerError, BadAnswer) as error:
        text = "\n".join(told(error)).encode("utf-8", "surrogatepass")
        assert not [piece for piece in pieces_of(KEYS["argument"]) if piece in text]
        assert len(str(error)) < 1000
        wait = vars(error).get("retry_after")
        assert wait is None or 0 <= wait <= 600
    assert time.process_time() - started < 3


@pytest.mark.slow
@pytest.mark.parametrize("part", ["user:PASSWORD@127.0.0.1:9/root", "127.0.0.1:9/root?Signature=PASSWORD"])
def test_a_secret_of_the_image_root_is_in_nothing_that_a_command_writes(
    part: str, server: ModelServer, demo: DemoPaths, tmp_path: Path
) -> None:
    root = "http://" + part.replace("PASSWORD", KEYS["password"])
    command = [
        *(sys.executable, "-X", "dev", "-m", "llava_zh", "regenerate", "internvl-sa-1b-caption", "single_zh"),
        *("--data-dir", str(demo.internvl), "--output-dir", str(tmp_path), "--base-url", server.url, "--limit", "3"),
        *("--image-root", root, "--model", "tiny-vlm", "--max-retries", "0"),
    ]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode in (1, 3), done.stderr
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    seen = b"\n".join([*written, done.stdout, done.stderr])
    assert not [piece for piece in pieces_of(KEYS["password"]) if piece in seen], seen[-3000:]
    assert b"Traceback" not in seen
