"""What a judge's answers come to: wins and ties of pairs that were answered in both orders, with intervals.

A pair is won where both orders name the same text; all else is a tie, whether both say so or the orders disagree. A
text says something that is not there where both answers say that it does. Intervals are Wilson's score intervals of
95 % (Wilson, *Probable inference, the law of succession, and statistical inference*, JASA 22, 1927).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

Shown = Literal["old", "new"]
_Z = 1.959963984540054  # of 95 %


class Verdict(NamedTuple):
    """One answer: `better` is ``old``, ``new`` or ``tie``; `old` and `new` tell whether each says what is not there."""

    first: Shown
    better: str
    old: bool
    new: bool


def wilson(count: int, of: int) -> dict[str, Any]:
    """A rate with its interval of 95 %."""
    if not of:
        return {"count": count, "of": of, "rate": None, "low": None, "high": None}
    share, scale = count / of, 1 + _Z**2 / of
    middle = (share + _Z**2 / (2 * of)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / of + _Z**2 / (4 * of**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"count": count, "of": of, "rate": round(share, 4), "low": round(low, 4), "high": round(high, 4)}


def tally(answers: Iterable[tuple[str, Verdict]]) -> dict[str, Any]:
    """The figures of a judge's answers, each with the key of its pair."""
    by_pair: dict[str, dict[Shown, Verdict]] = {}
    for key, verdict in answers:
        by_pair.setdefault(key, {})[verdict.first] = verdict
    both = [(orders["old"], orders["new"]) for orders in by_pair.values() if len(orders) == 2]
    better = Counter(one.better if one.better == other.better else "tie" for one, other in both)
    chosen = [verdict for pair in both for verdict in pair if verdict.better != "tie"]
    return {
        "pairs": len(both),
        "answered_in_one_order": len(by_pair) - len(both),
        "better": {
            **{side: wilson(better[side], len(both)) for side in ("new", "old", "tie")},
            "decided": wilson(better["new"], better["new"] + better["old"]),
        },
        "not_there": {side: _not_there(both, side) for side in ("old", "new")},
        "position": {
            "disagree": wilson(sum(one.better != other.better for one, other in both), len(both)),
            "first": wilson(sum(verdict.better == verdict.first for verdict in chosen), len(chosen)),
        },
        "interval": "Wilson, 95 %",
    }


def _not_there(both: list[tuple[Verdict, Verdict]], side: Shown) -> Mapping[str, Any]:
    said = [(getattr(one, side), getattr(other, side)) for one, other in both]
    return {**wilson(sum(map(all, said)), len(said)), "in_one_order": sum(one != other for one, other in said)}
