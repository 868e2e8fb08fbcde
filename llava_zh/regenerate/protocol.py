"""The OpenAI chat protocol: from messages to the bytes of a request, and from a response to an answer or a fault."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from llava_zh.errors import ServerError
from llava_zh.regenerate.faults import Refused, Transient, Unserved
from llava_zh.regenerate.images import Picture

#: A response longer than this is no caption: a runaway model, or not a model at all.
MAX_RESPONSE_BYTES = 1_000_000


#: Stands for a picture while the rest is encoded; random, so that no prompt or answer can hold it.
_PLACE = secrets.token_hex(16)


class Answer(msgspec.Struct, frozen=True):
    """What the model said."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


# -- requests ----------------------------------------------------------------------------------------------


def user_message(text: str, pictures: Sequence[Picture]) -> dict[str, Any]:
    """One human turn; `text` may hold an ``<image>`` marker a picture, else the pictures come first."""
    content: list[dict[str, Any]] = []
    pieces = text.split("<image>") if "<image>" in text else [""] * len(pictures) + [text]
    for number, piece in enumerate(pieces):
        if number:
            content.append({"type": "image_url", "image_url": {"url": pictures[number - 1]}})
        if piece.strip():
            content.append({"type": "text", "text": piece.strip("\n")})
    return {"role": "user", "content": content}


class Body:
    """The body of a chat request, in pieces that whoever sends it takes away: memory is what a run is short of.

    Pictures are spliced in between the pieces of JSON, so that their base64 text is neither copied nor looked at.
    """

    def __init__(self, model: str, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> None:
        pictures: list[Picture] = []

        def place(picture: Picture) -> str:
            pictures.append(picture)
            return _PLACE

        rest = msgspec.json.encode({"model": model, "messages": messages, **parameters}, enc_hook=place)
        self._pieces: list[bytes] = []
        for picture in pictures:
            before, rest = rest.split(_PLACE.encode(), 1)
            self._pieces += [before + picture.prefix, picture.data]
        self._pieces.append(rest)
        self.size = sum(map(len, self._pieces))

    def take(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces


# -- responses ---------------------------------------------------------------------------------------------


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Completion).decode


def read_answer(body: bytes) -> Answer:
    """The answer in the body of a 200 response.

    Raises:
        Transient, Refused: The body is no completion, or holds an error in place of one.
        Unserved: The model stopped for another reason than being done, or said nothing.
    """
    if len(body) > MAX_RESPONSE_BYTES:
        raise Unserved(
            f"The server answered with more than {MAX_RESPONSE_BYTES:,} bytes; a caption was expected.",
            reason="answer too long",
            answer=body[:2000].decode("utf-8", "replace"),
        )
    try:
        completion = _decode(body)
        body.decode("utf-8")  # msgspec looks only at the fields above
    except UnicodeDecodeError as error:
        raise Transient(f"The server answered with invalid UTF-8: {error}.", reason="invalid UTF-8") from None
    except msgspec.DecodeError as error:
        reason = "invalid UTF-8" if "utf-8" in str(error).lower() else "not JSON"
        raise Transient(f"The server answered 200 with no chat completion: {excerpt(body)}", reason=reason) from None
    if completion.error is not None:
        raise _error_body(completion.error)
    if not completion.choices:
        raise Transient(f"The server answered 200 without choices: {excerpt(body)}", reason="no choices")
    choice = completion.choices[0]
    text, finish_reason = choice.message.content or "", choice.finish_reason or "missing"
    if finish_reason != "stop":
        message = f"The model ended with finish_reason {finish_reason!r}, not 'stop', after {len(text)} characters."
        hint = " Raise max_tokens." if finish_reason == "length" else ""
        raise Unserved(message + hint, reason=f"finish_reason {finish_reason}", answer=text)
    if not text.strip():
        raise Unserved("The model ended with 'stop' and said nothing.", reason="empty answer", answer=text)
    usage = completion.usage or _Usage()
    return Answer(text, finish_reason, usage.prompt_tokens or 0, usage.completion_tokens or 0)


def _error_body(error: Any) -> ServerError:
    """The fault in ``{"error": …}`` sent with status 200; a numeric code is read as the status it should have been."""
    code = error.get("code") if isinstance(error, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    if isinstance(code, int) and 400 <= code < 600:
        return fault_of_status(code, str(message).encode(), None)
    return Transient(f"The server answered 200 with an error: {message}", reason="error in a 200")


def fault_of_status(status: int, body: bytes, retry_after: str | None) -> ServerError:
    """The fault that a response with `status` other than 200 stands for."""
    text = f"The server answered {status}: {excerpt(body)}"
    if status in (408, 409, 425, 429) or status >= 500:
        blames_row = status not in (429, 503)
        return Transient(text, reason=f"HTTP {status}", retry_after=_seconds(retry_after), blames_row=blames_row)
    return Refused(text, reason=f"HTTP {status}", status=status)


def excerpt(body: bytes) -> str:
    """The start of a response, on one line."""
    return " ".join(body[:300].decode("utf-8", "replace").split()) or "(nothing)"


def _seconds(retry_after: str | None) -> float | None:
    """The wait a ``Retry-After`` header asks for, in seconds; it holds seconds or an HTTP date (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), 600.0)


def backoff(attempt: int, retry_after: float | None, *, base: float = 0.5, cap: float = 60.0) -> float:
    """Seconds to wait before `attempt` (1 is the first retry): full jitter, on top of what the server asked for."""
    jitter = random.uniform(0.0, min(cap, base * 2.0 ** min(attempt - 1, 20)))
    return jitter if retry_after is None else retry_after + min(jitter, 1.0 + retry_after)
