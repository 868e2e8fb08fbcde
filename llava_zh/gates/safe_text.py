"""Text on its way out of the library: without secrets, and without characters that steer a terminal.

Errors, log records, reports and tables quote what datasets, archives, hubs and servers sent. Each of them passes
through :func:`safe`. Secrets are known by their values: whoever takes one in hands it to :func:`keep_secret`, and from
then on neither it nor a piece of it leaves, wherever in a text it stands.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from ..forks import Lock

HIDDEN = "[secret]"
LEFT_OUT = "[text that held a secret]"
# Secrets that clients read by themselves.
_VARIABLES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN", "MODELSCOPE_SDK_TOKEN", "OPENAI_API_KEY",
    "LLAVA_ZH_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
)  # fmt: skip
# A shorter one would be found in every other word.
_SHORTEST = 4
# A piece of this length gives a long secret away, as where a text was cut in its middle.
_PIECE = 8
_PIECES_FROM = 16

# Escapes of JSON and Python, with any number of backslashes, and how often a text may have been escaped.
_ESCAPE = re.compile(r"(?<!\\)\\++(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2}))")
_ROUNDS = 4
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")

_secrets: dict[str, None] = {}
_telling: list[str] = []
_signs: list[str] = []
_lock = Lock()

#: Within the brackets of a pattern: C0 but for newline and tab, DEL and C1 (an escape sequence needs one of them), and
#: embeddings, overrides and isolates, which turn the direction of the text around them. No text has a use for them.
CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
# Besides them: weaker marks of direction, line separators, tag characters and half surrogate pairs, which no encoding
# can write.
_STEERING = re.compile(rf"[{CONTROLS}\u061c\u200e\u200f\u2028\u2029\ufeff" + r"\ud800-\udfff\U000e0000-\U000e007f]")


def keep_secret(secret: object) -> None:
    """Let `secret` (a token, a key, a password; anything but text is none) never appear in a text that leaves."""
    if not isinstance(secret, str) or len(secret) < _SHORTEST:
        return
    forms = (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1])
    with _lock:
        _secrets.update(dict.fromkeys(form for form in forms if len(form) >= _SHORTEST))
        _telling[:] = filter(_tells, _secrets)
        # Sixteen characters of a secret hold one of these whole.
        signs = (secret[at : at + _PIECE] for secret in _telling for at in range(0, len(secret) - 7, _PIECE))
        _signs[:] = dict.fromkeys(signs)


def public_name(url: str, *, user: bool = False, query: bool = False) -> str:
    """`url` fit for a message: without a user, a password and the query, which may be a signature.

    Args:
        user, query: Keep them, where they are part of the place and no secret.
    """
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return url
    place, mark, asked = rest.partition("?")
    host, slash, path = place.partition("/")
    host = host if user else host.rpartition("@")[2]
    return f"{scheme}://{host}{slash}{path}{mark + asked if query else ''}"


def keep_url_secrets(url: object) -> None:
    """:func:`keep_secret` for the password in a URL and for the values of its query, which may be a signature."""
    if not isinstance(url, str) or "://" not in url:
        return
    for part in url.split("::"):
        try:
            split = urlsplit(part)
            password = split.password
        except ValueError:
            continue
        if password:
            keep_secret(password)
            keep_secret(unquote(password))
        for _, value in parse_qsl(split.query):
            if len(value) >= _PIECES_FROM:
                keep_secret(value)


def keep_environment_secrets() -> None:
    """:func:`keep_secret` for the tokens and keys of the environment as it is now; :func:`redacted` looks each time."""
    for name in _VARIABLES:
        keep_secret(os.environ.get(name))


def redacted(text: str) -> str:
    """`text` with every secret, and every longer piece of a long one, written as ``[secret]``.

    A text that holds a telling secret in another spelling (base64, hex, escaped for HTML, JSON or a URL, in other
    cases, with signs between its letters) is left out as a whole, since where it ends cannot be told.
    """
    with _lock:
        known = list(_secrets)
    known += [value for name in _VARIABLES if len(value := os.environ.get(name, "")) >= _SHORTEST]
    known.sort(key=len, reverse=True)
    for secret in known:
        text = text.replace(secret, HIDDEN)
    if any(_spelled_in(text, secret) for secret in known if _tells(secret)):
        return LEFT_OUT
    return _without_pieces(text, [secret for secret in known if len(secret) >= _PIECES_FROM])


@lru_cache(maxsize=256)
def _spellings(secret: str) -> tuple[str, ...]:
    """What of `secret` is looked for in the letters and digits of a text: itself, in hex, and in base64.

    In base64 the characters depend on where among three bytes the secret begins; those at the edges, which depend on
    its neighbours too, are left out.
    """
    data = secret.encode("utf-8", "surrogatepass")
    forms = [secret, data.hex()]
    for before in range(3):
        coded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        forms.append(coded[(0, 2, 3)[before] : len(coded) - (1 if (before + len(data)) % 3 else 0)])
    return tuple(folded for form in forms if len(folded := _folded(form)) >= _PIECE)


def _spelled_in(text: str, secret: str) -> bool:
    return any(form in folded for folded in _readings(text) for form in _spellings(secret))


@lru_cache(maxsize=8)
def _readings(text: str) -> tuple[str, ...]:
    """The letters and digits of `text` as it stands, and after each of a few rounds of unescaping."""
    found = {_folded(text): None}
    for _ in range(_ROUNDS):
        # A backslash before a letter may be half of an escape that was escaped itself.
        plain = unquote(html.unescape(_ESCAPE.sub(_unescaped, text)), errors="replace")
        if plain == text:
            break
        text = plain
        found[_folded(text)] = None
    return tuple(found)


def _unescaped(match: re.Match[str]) -> str:
    code = int(match[1] or match[2] or match[3], 16)
    return chr(code) if code <= 0x10FFFF else ""


def _folded(text: str) -> str:
    """The letters and digits of `text` in one case, full-width forms as what they stand for."""
    return _SEPARATORS.sub("", text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()


def _without_pieces(text: str, secrets: list[str]) -> str:
    # Every piece holds five characters that begin at a fourth one of its secret; almost all texts hold none of these.
    if not any(secret[at : at + 5] in text for secret in secrets for at in range(0, len(secret) - 4, 4)):
        return text
    pieces = {secret[at : at + _PIECE] for secret in secrets for at in range(len(secret) - _PIECE + 1)}
    kept, at, start = [], 0, 0
    while start <= len(text) - _PIECE:
        if text[start : start + _PIECE] not in pieces:
            start += 1
            continue
        end = start + _PIECE
        while end < len(text) and text[end - _PIECE + 1 : end + 1] in pieces:
            end += 1
        kept += [text[at:start], HIDDEN]
        at = start = end
    return "".join([*kept, text[at:]])


def printable(text: str) -> str:
    """`text` with what steers a terminal written out (``\\x1b``, ``\\u202e``); newlines and tabs stay."""
    return _STEERING.sub(_escaped, text)


def cut(text: str, length: int) -> str:
    """The first `length` characters of `text`, redacted before it is cut: no half of a secret is left at its end."""
    window = text[: length + 4096]
    shown = redacted(window)
    if len(window) < len(text):
        shown = shown[:-_PIECES_FROM]  # where a shorter secret may itself have been cut
    return shown if len(shown) <= length and len(window) == len(text) else shown[:length] + "…"


def holds_secret(text: str) -> bool:
    """Whether a secret, or sixteen characters of a longer one, stand in a text that is data and must not be altered.

    Less strict than :func:`redacted`, since keys such as ``EMPTY`` or ``password`` are words as well: a shorter secret
    counts if it has eight characters, letters and digits among them. Quick, for every answer of a model.
    """
    return any(sign in text for sign in _signs) and any(
        secret[at : at + _PIECES_FROM] in text for secret in _telling for at in range(max(len(secret) - 15, 1))
    )


def _tells(secret: str) -> bool:
    mixed = any(map(str.isdigit, secret)) and any(map(str.isalpha, secret))
    return len(secret) >= _PIECES_FROM or (len(secret) >= _PIECE and mixed)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def safe(text: str) -> str:
    """`text` as it may leave: redacted and printable."""
    return printable(redacted(text))


def json_text(value: object, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """`value` as JSON that may leave: its strings redacted, and what steers a terminal as JSON's own escapes.

    Args:
        ascii_only: Escape all that is not ASCII, for a stream that cannot write it.
    """
    text = json.dumps(_redacted_within(value), indent=indent, ensure_ascii=ascii_only)
    # json itself escapes what is below a space; the line breaks that are left are those of the indent.
    return _STEERING.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _redacted_within(value: object) -> object:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {_redacted_within(key): _redacted_within(inner) for key, inner in value.items()}
    return [_redacted_within(inner) for inner in value] if isinstance(value, list | tuple) else value


def one_line(text: str) -> str:
    """:func:`safe`, on one line: for a name from outside within a line or a cell of our own."""
    return safe(text).replace("\n", "\\n").replace("\t", " ")


def get_logger(name: str) -> logging.Logger:
    """The logger called `name`, whose records leave as :func:`safe` text."""
    logger = logging.getLogger(name)
    if not any(isinstance(kept, _Safe) for kept in logger.filters):
        logger.addFilter(_Safe())
    return logger


class _Safe(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = safe(record.getMessage()), None
        return True
