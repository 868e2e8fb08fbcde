"""The one law of what is JSON, for lines, elements of arrays, members of archives and JSON text inside rows.

JSON is what RFC 8259 says, and the numbers ``NaN``, ``Infinity`` and ``-Infinity`` besides, which Python and trainers
write. It is in UTF-8, may open with a byte order mark, holds no half surrogate pair, and is nested no deeper than
:data:`llava_zh.gates.limits.DEPTH`. Whatever reads rows faster than this must give the same, or leave the row to it.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import numpy as np

from .limits import DEPTH
from .magic import BOM as BOM

# Possessive, so that no length of text makes the expression take memory or look twice.
# A text with its quotes; one that is cut off goes on to the end, which may be right behind a backslash.
TEXT = rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
_texts = re.compile(TEXT, re.DOTALL)
_texts_and_constants = re.compile(TEXT + rb"|-?Infinity|NaN", re.DOTALL)
# Which way each byte leads: into an object or array, out of one, or neither.
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]], _STEPS[[ord("]"), ord("}")]] = 1, -1


class NotJson(ValueError):
    """Why a text is no JSON."""


def decode(text: bytes) -> Any:
    """The value that `text` is.

    Raises:
        NotJson: It is none, is nested too deep, or holds a number that no float or integer of Python can.
    """
    text = text.removeprefix(BOM)
    if text.count(b"[") + text.count(b"{") > DEPTH.value and (deep := depth(text)) > DEPTH.value:
        raise NotJson(DEPTH.exceeded(deep))
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        if b"NaN" not in text and b"Infinity" not in text:
            raise NotJson(str(error)) from None
    try:
        # All but the constants has to be JSON; then Python's decoder, which is laxer elsewhere, gives their values.
        msgspec.json.decode(_texts_and_constants.sub(_null_for_constant, text))
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from None


def _null_for_constant(match: re.Match[bytes]) -> bytes:
    return match[0] if match[0].startswith(b'"') else b"null"


def depth(text: bytes) -> int:
    """How deep objects and arrays are nested in `text`, at most; brackets within texts do not count."""
    bare = np.frombuffer(_texts.sub(b"", text), np.uint8)
    level = deepest = 0
    for at in range(0, len(bare), 1 << 20):
        levels = np.cumsum(_STEPS[bare[at : at + (1 << 20)]], dtype=np.int64)
        deepest = max(deepest, level + int(levels.max()))
        level += int(levels[-1])
    return deepest
