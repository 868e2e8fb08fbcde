"""What is measured of a text: its language, its overlapping windows, and how much of it repeats."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_LATIN = "A-Za-z\u00c0-\u024f"
_han = re.compile(f"[{HAN}]+")
_latin = re.compile(f"[{_LATIN}]+")
_other = re.compile(rf"[^\W\d_{HAN}{_LATIN}]+")
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


# Full-width forms of ASCII stand for it.
_FOLD = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
# Marks of Markdown, which show no figure: emphasis, headings and items at the start of a line, code.
_MARKDOWN = re.compile(r"\*\*|`|^[ \t]*[#*+-]+[ \t]+(?!\d)", re.MULTILINE)
_NUMERALS = "〇零两二三四五六七八九十百千万亿"
# Words that are numbers, each as one sign of its own that no text has.
_NUMBER_WORDS = {
    word: chr(0xE000 + number)
    for number, word in enumerate(
        "two three four five six seven eight nine ten eleven twelve dozen half thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million "
        "zero".split()
    )
}
# Each begins with its letters, which is what makes the search quick.
_number_words = {word: re.compile(rf"{word}(?<!\w{word})(?!\w)") for word in _NUMBER_WORDS}
_has_latin = re.compile("[a-z]").search
# Punctuation that only divides a text; all else that is neither a letter nor a space is a sign or a symbol.
_DIVIDING = (
    r"!\"'(),.:;?\[\]{}_\-\u00a0\u00ab\u00ad\u00b7\u00bb\u200b\u200c\u200e-\u201f\u2022-\u2027\u2028-\u202f\u2039\u203a"
    r"\u205f-\u2060\u3000-\u3003\u3008-\u3011\u3014-\u301f\u30fb\ufe0e\ufe0f\ufe30-\ufe4f\ufeff"
    r"\uff01\uff02\uff07-\uff09\uff0c-\uff0e\uff1a\uff1b\uff1f\uff3b\uff3d\uff3f\uff5b\uff5d"
)
_FIGURE = re.compile(
    rf"\d+|[{_NUMERALS}]+|一(?=[{_NUMERALS}])|(?<=[{_NUMERALS}])一|负(?=[\d一{_NUMERALS}])"
    # A point within a number, a sign before one, feet and inches after one.
    r"|[.,:\u00b7\uff0c\uff0e\uff1a](?=\d)|[-\u2010-\u2015\uff0d](?=\s?\d)|(?<=\d)['\"\u2032\u2033]"
    r"|(?<=\s)[-\u2010-\u2015\uff0d](?=\s)"
    # Numbers that are no decimal digits: superscripts, fractions, Roman and circled numbers.
    r"|[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u218b\u2460-\u24ff\u2776-\u2793\u3220-\u3229\u3280-\u3289]"
    rf"|[^\w\s{_DIVIDING}]"
)


def _all_but(first: int, last: int, but: str) -> str:
    """A class of a regular expression's characters from `first` to `last` without those of `but`."""
    edges = [first, *(edge for code in sorted(map(ord, but)) for edge in (code - 1, code + 1)), last]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(edges[::2], edges[1::2], strict=True) if a <= b)


# Letters that are no part of a figure, and what divides them: nearly all of a text, and passed over at once.
_LETTERS = f"[a-z{_all_but(0x3400, 0x9FFF, '一负' + _NUMERALS.replace('〇', ''))}]+"
_plain = re.compile(f"{_LETTERS}(?:(?:[,.]? |[，。、]){_LETTERS})*")


def figures(text: str) -> int:
    """A number of 64 bits that differs, but for one chance in 2**64, where two texts say other figures.

    Figures are numbers (digits, Chinese numerals, number words of English), their signs and points, operators, symbols
    and emoji, in order. Of a text without letters and figures all is one, so that ``！！！`` is not ``？？？``.
    """
    text = text.lower()
    for word in _NUMBER_WORDS if _has_latin(text) else ():
        if word in text:
            text = _number_words[word].sub(_NUMBER_WORDS[word], text)
    text = _MARKDOWN.sub("", _plain.sub("a", text))
    found = _FIGURE.findall(text)
    if not found and not _word.search(text):
        found = text.split()
    told = "\0".join(found).translate(_FOLD)
    return int.from_bytes(hashlib.blake2b(told.encode("utf-8", "replace"), digest_size=8).digest())


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
