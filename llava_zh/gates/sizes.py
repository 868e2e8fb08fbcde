"""Numbers of bytes as people write them: read from text, and shown."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_UNITS = " kmgt"


def parse(size: int | str) -> int | None:
    """The number of bytes in a number, or in text such as ``"32MB"`` (10^6) or ``"32MiB"`` (2^20).

    A part of a byte counts as a whole one. None for what is no size; 0 is one.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        return size if size >= 0 else None
    match = _SIZE.fullmatch(str(size))
    if match is None:
        return None
    unit: int = (1024 if match[3] else 1000) ** _UNITS.index(match[2].lower() or " ")
    return math.ceil(Fraction(match[1]) * unit)


def show(count: float) -> str:
    """A number of bytes in units of a thousand: ``"11.4 GB"``."""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if count < 999.5:
            break
        count, unit = count / 1000, larger
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
