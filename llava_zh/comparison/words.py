"""The words that texts gained and lost, in memory that does not grow with the texts.

English is cut into words. Chinese has no spaces; its words are counted as pairs of characters that follow each other
(character bigrams), which are most of its words and need no dictionary. Pairs with a character that only holds
sentences together (的, 是, 在, …) are left out, and so are English function words.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from llava_zh.curation.text import HAN

#: Different words that are counted at most; some 150 bytes each.
MOST_WORDS = 300_000

_han = re.compile(f"[{HAN}]+")
_english = re.compile(r"[a-z\u00e0-\u024f]+(?:['’-][a-z\u00e0-\u024f]+)*")
_HOLDING = frozenset(
    "的了是在有和与及或而也都还就这那其之为以于对从到被把将得着过很更最不没一个些们它他她我你您中上下里并等可能"
)
_FUNCTION = frozenset(
    "a an the and or but of in on at to from by with for as is are was were be been being it its this that these those "
    "there here which who whom whose what where when while his her their them they he she we you i my your our not no "
    "into onto over under than then so such also can could may might will would has have had do does did one".split()
)


def words_of(text: str) -> set[str]:
    """The words of a text, each once: English ones in lower case, Chinese ones as pairs of characters."""
    text = text.lower()
    found = {word for word in _english.findall(text) if len(word) > 1 and word not in _FUNCTION}
    for run in _han.findall(text):
        found.update(pair for pair in map("".join, pairwise(run)) if _HOLDING.isdisjoint(pair))
    return found


class Words:
    """In how many old and new texts each word is.

    At most `most` words are kept. Where there would be more, the rarest are forgotten (lossy counting), and
    :attr:`short_by` says by how much a count may be too low since then; 0 while nothing was forgotten.
    """

    def __init__(self, most: int = MOST_WORDS) -> None:
        self._most = most
        self._counts: dict[str, list[int]] = {}
        self.short_by = 0

    def add(self, old: str, new: str) -> None:
        """Count the words of a pair of texts."""
        for side, text in enumerate((old, new)):
            for word in words_of(text):
                counts = self._counts.get(word)
                if counts is None:
                    counts = self._counts[word] = [0, 0]
                counts[side] += 1
        if len(self._counts) > self._most:
            self._forget()

    def _forget(self) -> None:
        """Leave the more frequent half."""
        totals = sorted(map(sum, self._counts.values()))
        floor = totals[len(totals) // 2]
        self.short_by += floor
        self._counts = {word: counts for word, counts in self._counts.items() if sum(counts) > floor}

    def changed(self, number: int) -> dict[str, Any]:
        """The words that most more and most fewer texts have, with the numbers of old and new texts that have them."""
        order = sorted(self._counts.items(), key=lambda each: (each[1][0] - each[1][1], each[0]))
        gained = [(word, old, new) for word, (old, new) in order[:number] if new > old]
        lost = [(word, old, new) for word, (old, new) in order[::-1][:number] if old > new]
        names = ("word", "old", "new")
        return {
            "gained": [dict(zip(names, each, strict=True)) for each in gained],
            "lost": [dict(zip(names, each, strict=True)) for each in lost],
            "short_by": self.short_by,
        }
