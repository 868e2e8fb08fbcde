"""From a model's answer to the turns of a row, or a :class:`~llava_zh.errors.BadAnswer` that says why not.

A turn is ``{"from": "human" | "gpt", "value": str}``, without an ``<image>`` marker: placing the marker is the run's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from llava_zh.catalog.prompts import Prompt
from llava_zh.errors import BadAnswer
from llava_zh.gates.model_text import controls, says_nothing, special_tokens, without_reasoning

#: The llava prompt asks for at most so many rounds of question and answer.
MAX_ROUNDS = 5
#: Longer than any answer worth keeping (8,192 tokens are some 40,000 characters); a runaway or a wrong endpoint.
MAX_CHARS = 100_000

# What a turn may be labelled with, and what an error calls it.
_LABELS = {
    "conversation": {"human": "用户|User", "gpt": "{ai}(?:助手|Assistant)"},
    "qa": {"human": "问题|Question", "gpt": "回答|答案|Answer"},
}
# What stands before an assistant's label. Within a line, "AI" apart from the label is the end of what was said before
# (用户：什么是AI 助手：…), unless a sentence ended before it.
_AI_AT_LINE_START = r"(?:视觉)?(?:AI[ \t]?)?"
_AI_ANYWHERE = r"(?:视觉)?(?:AI)?(?:(?:(?<=[\n。？！?!…]AI)|(?<=[\n。？！?!…][ \t]AI))[ \t])?"
_NAMES = {"conversation": {"human": "用户", "gpt": "助手"}, "qa": {"human": "问题", "gpt": "回答"}}

# A label, its colon (full or half width) and the Markdown around both: a heading before, bold or italics that close
# before the colon, after it, or with the text (``**用户：什么？**``). Repeats are possessive and runs are entered at
# their start only, here and below: a runaway answer of one repeated character must not take quadratic time.
_MARKER = (
    r"(?:#{{1,6}}[ \t]*+)?(?:(?P<open>\*{{1,3}}|_{{1,3}})[ \t]*+)?(?:{labels})[ \t]*+"
    r"(?(open)(?:(?P=open)[ \t]*+[:：]|[:：][ \t]*+(?P=open)|(?P<bare>[:：]))|[:：])"
)


@dataclass(frozen=True)
class _Markers:
    """How the turns of one kind of answer are found."""

    at_line_start: re.Pattern[str]
    anywhere: re.Pattern[str]
    # The prompts write the line break between turns as a literal \n\n, and some answers copy it.
    literal_break: re.Pattern[str]

    @classmethod
    def of(cls, human: str, gpt: str) -> _Markers:
        labels = f"(?P<human>{human})|(?P<gpt>{gpt})"
        line_start = _MARKER.format(labels=labels.format(ai=_AI_AT_LINE_START))
        anywhere = _MARKER.format(labels=labels.format(ai=_AI_ANYWHERE))
        return cls(
            re.compile(r"^[ \t]*+" + line_start, re.MULTILINE | re.IGNORECASE),
            re.compile(r"(?<![A-Za-z])" + anywhere, re.IGNORECASE),
            re.compile(rf"(?<!\\n)(?:\\n)++[ \t]*+(?={line_start})", re.IGNORECASE),
        )


_MARKERS = {kind: _Markers.of(**labels) for kind, labels in _LABELS.items()}
_LITERAL_END = re.compile(r"\\n\\n\s*\Z")
# Lines that dress an answer up and say nothing: a rule, a code fence, the number of a round.
_DRESSING = re.compile(
    r"-{3,}|\*{3,}|_{3,}|`{3,}\w*"
    r"|[#*\s]*+(?:第\s?[0-9一二三四五]\s?[轮组](?:对话)?|Round\s?[0-9])[:：*\s]*",
    re.IGNORECASE,
)
_STRUCTURE = re.compile(r"^[ \t]*(?:#{1,6}[ \t]|[-*+•][ \t]|\d{1,2}[.、)）]|\||`{3})", re.MULTILINE)
_WIDE = "\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef“”‘’…—"
_BREAK_BY_WIDE = re.compile(rf"(?<=[{_WIDE}])\n|\n(?=[{_WIDE}])")


def parse_answer(text: str, prompt: Prompt) -> list[dict[str, str]]:
    """The turns in a model's answer to `prompt`, in order.

    - ``conversation``: alternating human and gpt turns, 1 to :data:`MAX_ROUNDS` rounds, cut at ``用户：`` and
      ``助手：`` or ``User:`` and ``Assistant:``, with either colon, any spacing, on lines of their own or running on,
      and with Markdown bold or headings around the labels. A text may itself hold several paragraphs.
    - ``qa``: one human and one gpt turn, cut at ``问题：`` and ``回答：`` or ``Question:`` and ``Answer:``.
    - ``caption`` and ``original``: one gpt turn. If the prompt asks for a single paragraph, line breaks become a space
      (nothing beside Chinese); Markdown headings, lists and tables do not make a paragraph and are refused.

    Rules, code fences, round numbers around turns and one introductory line that ends in a colon are left out, as is
    the model's reasoning; everything else the model said is in the turns.

    Raises:
        BadAnswer: The answer has another form, its reasoning never ends, it says nothing, or a special token of the
            model's or a control character is left in it; ``expected`` and ``found`` are attributes, and ``reason``
            where the form is not what is wrong.
    """
    _check_text(text)
    said = without_reasoning(text)
    if said is None:
        _refuse("a text after the reasoning", f"reasoning without an end in {_excerpt(text)}", "reasoning never ends")
    if says_nothing(said):
        _refuse("a text after the reasoning", f"nothing after {_excerpt(text[-60:])}", "empty answer")
    if found := controls(said):  # before line breaks are looked for, some of which are such characters
        _refuse("text without control characters", ", ".join(found[:5]), "control character")
    turns = _turns(said, prompt)
    for number, turn in enumerate(turns, start=1):
        if says_nothing(turn["value"]):
            _refuse("a text in every turn", f"no visible character in turn {number}", "empty answer")
        if tokens := special_tokens(turn["value"]):
            _refuse("text without special tokens", f"{', '.join(map(repr, tokens[:5]))}", "special token")
    return turns


def _turns(text: str, prompt: Prompt) -> list[dict[str, str]]:
    if prompt.kind in _MARKERS:
        return _parse_rounds(text, prompt.kind)
    value = _strip_dressing(text)
    if not value:
        _refuse("a text", "an empty answer")
    if "<image>" in value:
        _refuse("text without an image marker", f"<image> in {_excerpt(value)}")
    if prompt.kind == "caption" and prompt.single_paragraph:
        value = _one_paragraph(value)
    return [{"from": "gpt", "value": value}]


def _check_text(text: str) -> None:
    if says_nothing(text):
        _refuse("a text", "an empty answer", "empty answer")
    if len(text) > MAX_CHARS:
        _refuse(f"at most {MAX_CHARS:,} characters", f"{len(text):,}, which begin {_excerpt(text)}")
    if "\0" in text:
        _refuse("text", f"a NUL character at position {text.index(chr(0))}", "control character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        _refuse("Unicode text", f"half a surrogate pair at position {error.start}")


def _parse_rounds(text: str, kind: str) -> list[dict[str, str]]:
    """The turns between the markers; those at line starts count first, since a text may quote ``用户：`` within."""
    patterns = _MARKERS[kind]
    text = _LITERAL_END.sub("", patterns.literal_break.sub("\n\n", text))
    markers = list(patterns.at_line_start.finditer(text))
    if not _alternate(markers):
        anywhere = list(patterns.anywhere.finditer(text))
        markers = anywhere if _alternate(anywhere) else markers
    names = _NAMES[kind]
    rounds = MAX_ROUNDS if kind == "conversation" else 1
    expected = f"{names['human']}：…{names['gpt']}：…, {'1 to 5 rounds' if rounds > 1 else 'once'}"
    if not markers:
        _refuse(expected, f"neither label in {_excerpt(text)}")
    if not _alternate(markers):
        _refuse(expected, "the labels " + " ".join(names[_role(marker)] for marker in markers[:12]))
    if len(markers) > 2 * rounds:
        _refuse(expected, f"{len(markers) // 2} rounds")
    introduction = _strip_dressing(text[: markers[0].start()])
    if "\n" in introduction or (introduction and introduction.rstrip("*_ ")[-1] not in ":："):
        _refuse(expected, f"text before the first label: {_excerpt(introduction)}")
    ends = [marker.start() for marker in markers[1:]] + [len(text)]
    turns = [
        {"from": _role(marker), "value": _value(marker, text[marker.end() : end])}
        for marker, end in zip(markers, ends, strict=True)
    ]
    for number, turn in enumerate(turns, start=1):
        if not turn["value"]:
            _refuse(expected, f"nothing after label {number} ({names[turn['from']]})")
        if "<image>" in turn["value"]:
            _refuse("turns without an image marker", f"<image> in turn {number}: {_excerpt(turn['value'])}")
    return turns


def _role(marker: re.Match[str]) -> str:
    return "human" if marker["human"] else "gpt"


def _alternate(markers: list[re.Match[str]]) -> bool:
    """Whether the markers are whole rounds: human, gpt, human, gpt, …"""
    roles = [_role(marker) for marker in markers]
    return bool(roles) and roles == ["human", "gpt"] * (len(roles) // 2)


def _value(marker: re.Match[str], text: str) -> str:
    """A turn's text; Markdown emphasis that opened before the label and not closed with it is the text's."""
    value = _strip_dressing(text)
    if marker["human"] and value.startswith("<image>"):
        value = value.removeprefix("<image>").strip()
    if marker["bare"]:
        emphasis = marker["open"]
        whole = value.endswith(emphasis) and emphasis not in value.removesuffix(emphasis)
        value = value.removesuffix(emphasis).rstrip() if whole else emphasis + value
    return value


def _strip_dressing(text: str) -> str:
    """`text` without white space and dressing lines at either end."""
    lines = text.strip().split("\n")
    first, last = 0, len(lines)
    while first < last and _is_dressing(lines[first]):
        first += 1
    while last > first and _is_dressing(lines[last - 1]):
        last -= 1
    return "\n".join(lines[first:last]).strip()


def _is_dressing(line: str) -> bool:
    line = line.strip()
    return not line or _DRESSING.fullmatch(line) is not None


def _one_paragraph(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and (structure := _STRUCTURE.search(text)):
        _refuse("one paragraph", f"Markdown structure: {_excerpt(text[structure.start() :])}")
    return _BREAK_BY_WIDE.sub("", "\n".join(lines)).replace("\n", " ")


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _refuse(expected: str, found: str, reason: str | None = None) -> NoReturn:
    details = {"expected": expected, "found": found} | ({"reason": reason} if reason else {})
    raise BadAnswer(f"Answer expected to be {expected}; found {found}.", **details)
