"""The OpenAI chat protocol: from messages to the bytes of a request, and from a response to an answer or a fault."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from llava_zh.errors import ServerError
from llava_zh.gates import limits
from llava_zh.gates.model_text import says_nothing
from llava_zh.gates.safe_text import cut, holds_secret
from llava_zh.regenerate.faults import Refused, Transient, Unserved
from llava_zh.regenerate.images import Picture
from llava_zh.storage.retries import asked_pause

#: Of an answer that is none, so many characters are kept to be looked at.
KEPT_ANSWER = 20_000
#: Seconds that a server may ask to be left alone.
LONGEST_PAUSE = 600.0
#: More tokens than any request has; a larger number is not believed.
MOST_TOKENS = 100_000_000
#: Why models end. Others, which a server may invent for every request, are counted together.
_ENDINGS = ("length", "content_filter", "tool_calls", "function_call", "abort", "error", "missing")

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


_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")


# -- responses ---------------------------------------------------------------------------------------------


_NULL = msgspec.Raw(b"null")


class _Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part | str] | None = None
    refusal: msgspec.Raw = _NULL
    reasoning: msgspec.Raw = _NULL
    reasoning_content: msgspec.Raw = _NULL


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    # Read by itself, since it is no reason to refuse an answer.
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


class _Usage(msgspec.Struct):
    prompt_tokens: Any = 0
    completion_tokens: Any = 0


class _Error(msgspec.Struct):
    message: msgspec.Raw = _NULL
    code: msgspec.Raw = _NULL


_decode = msgspec.json.Decoder(_Completion).decode
_decode_usage = msgspec.json.Decoder(_Usage).decode


def read_answer(body: bytes, limit: int | None = None) -> Answer:
    """The answer in the body of a 200 response, of at most `limit` bytes (by default `gates.limits.ANSWER`).

    Raises:
        Transient, Refused: The body is no completion, or holds an error in place of one.
        Unserved: The model stopped for another reason than being done, said nothing, or repeats a secret.
    """
    if len(body) > (limit or limits.ANSWER.value):
        raise Unserved(
            f"The server's answer is too long: {limits.ANSWER.exceeded()}",
            reason="answer too long",
            answer=excerpt(body, 2000),
        )
    completion = _completion(body)
    if completion.error != _NULL:
        raise _error_body(bytes(completion.error))
    if not completion.choices:
        raise Transient(f"The server answered 200 without choices: {excerpt(body)}", reason="no choices")
    choice = completion.choices[0]
    text, finish_reason = _text_of(choice.message.content), choice.finish_reason or "missing"
    if finish_reason != "stop":
        shown = finish_reason if finish_reason in _ENDINGS else excerpt(finish_reason, 60)
        message = f"The model ended with finish_reason {shown!r}, not 'stop', after {len(text)} characters."
        hint = " Raise max_tokens." if finish_reason == "length" else ""
        counted = finish_reason if finish_reason in _ENDINGS else "(another)"
        raise Unserved(message + hint, reason=f"finish_reason {counted}", answer=cut(text, KEPT_ANSWER))
    if says_nothing(text):
        raise _nothing_said(choice.message, text)
    if holds_secret(text):
        raise Unserved(
            "The answer repeats a secret (an API key, a token or a password) and is not kept. A model does not know "
            "it: look at what the server is.",
            reason="answer repeats a secret",
            answer=cut(text, KEPT_ANSWER),
        )
    return Answer(text, finish_reason, *_tokens(completion.usage))


def _completion(body: bytes) -> _Completion:
    try:
        completion = _decode(body)
        body.decode("utf-8")  # msgspec looks only at the fields above
        return completion
    except UnicodeDecodeError as error:
        reason, said = "invalid UTF-8", f"invalid UTF-8 at byte {error.start}"
    except RecursionError:
        reason, said = "nested too deep", f"JSON nested too deep: {excerpt(body)}"
    except msgspec.ValidationError:
        reason, said = "no completion", f"200 with JSON that is no chat completion: {excerpt(body)}"
    except msgspec.DecodeError as error:
        if (mended := _without_constants(body)) is not None:
            return _completion(mended)
        reason = "invalid UTF-8" if "utf-8" in str(error).lower() else "not JSON"
        said = f"200 with no chat completion: {excerpt(body)}"
    raise Transient(f"The server answered {said}", reason=reason)


def _without_constants(body: bytes) -> bytes | None:
    """JSON with null in place of ``NaN`` and ``Infinity``, which Python's servers write; None if that is not all."""
    if b"NaN" not in body and b"Infinity" not in body:
        return None
    met: list[str] = []
    try:
        value = json.loads(body, parse_constant=met.append)
        return json.dumps(value).encode() if met else None
    except (ValueError, RecursionError):
        return None


def _text_of(content: str | list[_Part | str] | None) -> str:
    """The text of a message, given as such or in parts, of which some may be thoughts or pictures."""
    if not isinstance(content, list):
        return content or ""
    texts = (part if isinstance(part, str) else part.text for part in content if _is_text(part))
    return "".join(text for text in texts if text)


def _is_text(part: _Part | str) -> bool:
    return isinstance(part, str) or part.type in ("text", "output_text")


def _nothing_said(message: _Message, text: str) -> Unserved:
    if (refusal := _said(bytes(message.refusal))) not in ("", "null"):
        return Unserved(f"The model refused: {excerpt(refusal)}", reason="refused by the model", answer=text)
    reasoned = any(_said(bytes(said)) not in ("", "null") for said in (message.reasoning, message.reasoning_content))
    hint = " It only reasoned: raise max_tokens, or turn its reasoning off." if reasoned else ""
    return Unserved(f"The model ended with 'stop' and said nothing.{hint}", reason="empty answer", answer=text)


def _tokens(usage: msgspec.Raw) -> tuple[int, int]:
    """Tokens of the prompt and of the answer; 0 where the server gives none, or a number that cannot be."""
    if usage == _NULL:
        return 0, 0
    try:
        found = _decode_usage(usage)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return 0, 0
    return _count(found.prompt_tokens), _count(found.completion_tokens)


def _count(value: Any) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and 0 <= value <= MOST_TOKENS else 0


def _error_body(error: bytes) -> ServerError:
    """The fault in ``{"error": …}`` sent with status 200; a numeric code is read as the status it should have been."""
    try:
        fields = msgspec.json.decode(error, type=_Error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = _Error(msgspec.Raw(error))
    said = _said(bytes(fields.message))
    if re.fullmatch(rb'"?[45]\d\d"?', code := bytes(fields.code)):
        return fault_of_status(int(code.strip(b'"')), said.encode("utf-8", "replace"), None)
    return Transient(f"The server answered 200 with an error: {excerpt(said)}", reason="error in a 200")


def _said(raw: bytes) -> str:
    """A JSON string's text, or any other JSON as it stands."""
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw.decode("utf-8", "replace")


def fault_of_status(status: int, body: bytes, retry_after: str | None) -> ServerError:
    """The fault that a response with `status` other than 200 stands for."""
    text = f"The server answered {status}: {excerpt(body)}"
    if status in (408, 409, 425, 429) or status >= 500:
        blames_row = status not in (429, 503)
        wait = asked_pause(retry_after, LONGEST_PAUSE)
        return Transient(text, reason=f"HTTP {status}", retry_after=wait, blames_row=blames_row)
    return Refused(text, reason=f"HTTP {status}", status=status)


def excerpt(said: bytes | str, length: int = 300) -> str:
    """The start of what a server said, on one line and without secrets, which are taken out before it is cut."""
    # Enough for more characters than `cut` looks at, of up to 24 bytes, so that it sees that it has not all of them.
    window = 6 * (length + 5000)
    text = said[:window] if isinstance(said, str) else said[: 4 * window].decode("utf-8", "replace")
    # Escaped it would be hard to read, and a secret would not be known.
    text = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(cut(text.strip(), length).split()) or "(nothing)"
