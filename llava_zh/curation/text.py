"""What is measured of a text: its language, its overlapping windows, and how much of it repeats."""

from __future__ import annotations

import re
from collections import Counter

_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_LATIN = "A-Za-z\u00c0-\u024f"
_han = re.compile(f"[{_HAN}]+")
_latin = re.compile(f"[{_LATIN}]+")
_other = re.compile(rf"[^\W\d_{_HAN}{_LATIN}]+")
_word = re.compile(r"\w+")
_not_word = re.compile(r"[\W_]+")

#: Tokens a window spans: Chinese text has no spaces, so its tokens are characters; elsewhere they are words.
WINDOW = {"zh": 5, "en": 3}


def detect_language(text: str) -> str | None:
    """``"zh"``, ``"en"``, ``"other"``, or ``None`` for a text without letters, by the script of most of it.

    A Chinese character counts as much as a word in Latin letters, so an English sign quoted in a Chinese caption does
    not change its language. Languages in Latin letters are not told apart; kana, hangul or Cyrillic make ``"other"``.
    """
    if text.isascii():
        return "en" if _latin.search(text) else None
    han = sum(map(len, _han.findall(text)))
    latin = len(_latin.findall(text))
    other = sum(map(len, _other.findall(text)))
    if other > max(han, latin):
        return "other"
    return ("zh" if han > latin else "en") if han or latin else None


def windows(text: str, language: str | None) -> list[str]:
    """Overlapping windows of :data:`WINDOW` tokens, in order, in lower case and without punctuation.

    A text shorter than one window is one window.
    """
    if language != "en":
        characters = _not_word.sub("", text.lower())
        span = WINDOW["zh"]
        return [characters[start : start + span] for start in range(max(1, len(characters) - span + 1))]
    words = _word.findall(text.lower())
    if len(words) < WINDOW["en"]:
        return [" ".join(words)]
    return list(map(" ".join, zip(words, words[1:], words[2:], strict=False)))


# A loop is a phrase repeated so many times on end, over so many tokens; laughter and "very, very" are shorter.
_LOOP_TIMES = 5
_LOOP_TOKENS = 20


def find_repetition(grams: list[str], language: str | None, max_share: float) -> str | None:
    """What repeats in a text, given its :func:`windows`, or ``None``.

    Either a loop (one phrase at least 5 times on end, over at least 20 tokens), or a share of windows above
    `max_share` that were there before.
    """
    repeated = len(grams) - len(set(grams))
    span = WINDOW["en" if language == "en" else "zh"]
    # The windows that the shortest loop repeats: all but those of its first period of 4 tokens.
    if repeated >= _LOOP_TOKENS - span + 1 - _LOOP_TOKENS // _LOOP_TIMES and (loop := _find_loop(grams, span)):
        return loop
    if len(grams) >= _LOOP_TOKENS and repeated > max_share * len(grams):
        return f"{repeated / len(grams):.0%} of it repeats, more than {max_share:.0%}"
    return None


def _find_loop(grams: list[str], span: int) -> str | None:
    for period in _likely_periods(grams):
        run = start = 0
        for index, (earlier, gram) in enumerate(zip(grams, grams[period:], strict=False)):
            run = run + 1 if earlier == gram else 0
            start = index if run == 1 else start
            tokens = run + period + span - 1
            if run and tokens >= max(_LOOP_TOKENS, _LOOP_TIMES * period):
                return f"{_LOOP_TIMES} times or more on end, from {grams[start]!r}"
    return None


def _likely_periods(grams: list[str]) -> list[int]:
    """The most frequent distances from a window to the two before it that are the same."""
    seen: dict[str, tuple[int, int]] = {}
    distances: Counter[int] = Counter()
    for index, gram in enumerate(grams):
        last, before = seen.get(gram, (-1, -1))
        if last >= 0:
            distances[index - last] += 1
        if before >= 0:
            distances[index - before] += 1
        seen[gram] = index, last
    return [period for period, _ in distances.most_common(8)]
