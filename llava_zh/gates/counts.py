"""Numbers of things as they are said: ``1 bad row left out``, ``77,000 rows``."""

from __future__ import annotations

import re

_PLURAL = re.compile(r"\b([a-z]+?)(ies|s)\b(?<!ss)")


def counted(number: int, things: str) -> str:
    """`number` and what there are so many of; of one, the first word of `things` in the plural loses its ending."""
    if number == 1:
        things = _PLURAL.sub(lambda match: match[1] + ("y" if match[2] == "ies" else ""), things, count=1)
    return f"{number:,} {things}"
