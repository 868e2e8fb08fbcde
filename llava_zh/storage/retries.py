"""How long to wait before a server is asked again: one policy for files from hubs and for answers of models.

A loop that asks again is written where it is needed: one continues a file at a byte and counts anew with each byte
gained, another puts a row back into a queue. Retry libraries call a function once more, which neither of them is.
"""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: Statuses of a server that may answer if it is asked again.
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


def asked_pause(header: str | None, most: float) -> float | None:
    """The wait that a ``Retry-After`` header asks for (RFC 9110, 10.2.3: seconds or an HTTP date); None without one.

    Args:
        header: Its text, whatever it is.
        most: Seconds that are waited at most.
    """
    if header is None or len(header) > 40:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), most)


def backoff(attempt: int, asked: float | None, *, base: float = 0.5, cap: float = 60.0) -> float:
    """Seconds to wait before `attempt` (1 is the first retry): full jitter, on top of what the server `asked` for."""
    jitter = random.uniform(0.0, min(cap, base * 2.0 ** min(attempt - 1, 20)))
    return jitter if asked is None else asked + min(jitter, 1.0 + asked)
