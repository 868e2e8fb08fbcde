"""What is measured of pairs of texts: counts whose size does not depend on how many pairs there are."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Mapping

from llava_zh.comparison.pairs import Pair, Text
from llava_zh.comparison.words import Words
from llava_zh.curation.checks import LEAKS, Checks
from llava_zh.curation.expected import Expected
from llava_zh.curation.text import detect_language

#: Reasons of :mod:`llava_zh.curation.checks` that are told even where no text has them.
ALWAYS_TOLD = ("repetition", "leak", "refusal", "language")
#: Ratios of lengths are counted in hundredths, and up to this one.
MOST_RATIO = 1000


class Side:
    """The old or the new texts."""

    def __init__(self, known: Expected, language: str | None) -> None:
        leaks = tuple(dict.fromkeys((*LEAKS, *known.leaks)))
        self._checks = Checks(language=language, leaks=leaks, near_duplicates=False, known=known)
        self.lengths: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter(dict.fromkeys(ALWAYS_TOLD, 0))
        self.languages: Counter[str] = Counter()

    def add(self, text: Text, said: str) -> None:
        self.lengths[len(said)] += 1
        self.languages[detect_language(said) or "none"] += 1
        finding = self._checks.look_at(text.fields, text.turns)
        self.reasons.update({defect.partition(":")[0] for defect in finding.defects})


class Measures:
    """The measures of all pairs; :meth:`add` them one by one."""

    def __init__(self, old: Expected, new: Expected, language: str | None) -> None:
        self.old, self.new = Side(old, None), Side(new, language)
        self.words = Words()
        self.differences: Counter[int] = Counter()
        self.ratios: Counter[int] = Counter()
        self.rows = self.unchanged = 0

    def add(self, pair: Pair) -> None:
        old, new = pair.old.said, pair.new.said
        self.rows += 1
        self.old.add(pair.old, old)
        self.new.add(pair.new, new)
        self.differences[len(new) - len(old)] += 1
        if old:
            self.ratios[min(round(100 * len(new) / len(old)), 100 * MOST_RATIO)] += 1
        if old == new:
            self.unchanged += 1
        self.words.add(old, new)


def spread(counts: Mapping[int, int], unit: float = 1) -> dict[str, float]:
    """Mean and quantiles of values that are counted, each times `unit`; empty of none."""
    total = sum(counts.values())
    if not total:
        return {}
    values = sorted(counts)
    shares = {"min": 0.0, "p5": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}
    found = {"mean": round(unit * sum(value * count for value, count in counts.items()) / total, 2)}
    below, at = counts[values[0]], 0
    for name, share in shares.items():
        while below < max(1, share * total):
            at += 1
            below += counts[values[at]]
        found[name] = round(values[at] * unit, 2)
    return found


class Draw:
    """So many pairs drawn by a seed: those whose keys have the lowest hashes, in whatever order they come."""

    def __init__(self, number: int, seed: int) -> None:
        self._number, self._seed = number, seed
        self._heap: list[tuple[int, int, Pair]] = []
        self._count = 0

    def offer(self, pair: Pair) -> None:
        digest = hashlib.blake2b(f"{self._seed}\0{pair.key}".encode(errors="replace"), digest_size=8).digest()
        self._count += 1
        entry = (-int.from_bytes(digest, "big"), -self._count, pair)
        if len(self._heap) < self._number:
            heapq.heappush(self._heap, entry)
        elif self._number and entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    @property
    def pairs(self) -> list[Pair]:
        """The pairs, lowest hash first. A larger draw by the same seed begins with the same pairs."""
        return [pair for _, _, pair in sorted(self._heap, reverse=True)]
