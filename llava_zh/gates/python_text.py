"""Values written as Python shows them, ``{'a': 'b'}``, which some publish where JSON is due."""

from __future__ import annotations

import ast
from typing import Any

from .limits import DEPTH, LINE


def decode(text: str) -> Any:
    """The value that `text` is, of texts, numbers, lists and objects; None for any other text.

    Python's own parser is asked, which runs nothing. It can end the process on brackets nested some thousands deep,
    so that such a text is none.
    """
    if len(text) > LINE.value or _openings(text) > 8 * min(DEPTH.value, DEPTH.default):
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _openings(text: str) -> int:
    """How many brackets and signs open a level, at most; those within texts count as well."""
    return sum(text.count(sign) for sign in "([{-+~")
