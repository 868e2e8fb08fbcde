"""Conversations as the text that a chat template makes of them, and where in it the answers are.

A template that has ``{% generation %}`` marks says itself what it wants learned. Of any other, an answer is what
changes when the answer is changed: the conversation is rendered a second time with a text of our own in its place, and
what both texts have in common before and after is not the answer. So it does not matter whether the same words stand
in a question too, whether the template strips or moves them, or what it writes around them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BadArgument
from .conversations import Conversation, text_of

# As `transformers` recognises the marks (utils/chat_template_utils.py, render_jinja_template).
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Characters that no script uses; one that a conversation does not have surrounds our texts.
_PRIVATE = "\ue000\uf8ff\ue5a5"

Span = tuple[int, int]


@dataclass(frozen=True)
class Answer:
    """An answer in the text of a conversation.

    Attributes:
        turn: The number of its turn.
        start: Its first character.
        own: Where the token that ends it begins, if it has one, else the same as `end`.
        end: Up to where it is learned.
    """

    turn: int
    start: int
    own: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """The text of a conversation, and the answers in it that are learned."""

    text: str
    answers: list[Answer]


class Template:
    """The chat template of a processor.

    Attributes:
        marked: Whether it marks what is to be learned.
        control: Tokens that it and the processor give a meaning to, and that rows must therefore not have in texts.
    """

    def __init__(self, processor: Any, arguments: Mapping[str, Any]) -> None:
        self._tokenizer = processor.tokenizer
        found = getattr(processor, "chat_template", None) or getattr(self._tokenizer, "chat_template", None)
        if isinstance(found, Mapping):
            found = found.get("default")
        if not isinstance(found, str):
            raise BadArgument(f"processor: {type(processor).__name__} has no chat template, so no row can be rendered.")
        self._source = found
        self._arguments = {**self._tokenizer.special_tokens_map, **arguments}
        self.marked = _MARKS.search(found) is not None
        added = self._tokenizer.added_tokens_decoder.values()
        self._special = [token.content for token in added if token.special]
        vocabulary = self._tokenizer.get_vocab()
        own = {str(value) for name, value in vars(processor).items() if name.endswith("_token") and value is not None}
        own |= {str(value) for value in self._tokenizer.special_tokens_map.values() if isinstance(value, str)}
        written = {token for token in self._special if token in found}
        self.control = sorted(written | {token for token in own if token in vocabulary}, key=len, reverse=True)
        self._end = re.compile(_any(self._special))
        self._known_cue: str | None = None

    def render(self, conversation: Conversation) -> Rendered:
        """The text of a conversation with the places of its answers.

        Raises:
            BadArgument: The template refuses it, leaves an answer out, or marks nothing of it as to be learned.
        """
        if self.marked:
            text, marks = self._text(conversation, conversation.turns, marks=True)
            return Rendered(text, self._marked(conversation, text, marks))
        text, _ = self._text(conversation, conversation.turns)
        spans = self._all_at_once(conversation, text) or self._one_by_one(conversation, text)
        cue = self._cue(conversation)
        answers = []
        for turn, span in zip(conversation.answers, spans, strict=True):
            start, own = _with_space(text, span, cue)
            answers.append(Answer(turn, start, own, self._end_after(text, own)))
        return Rendered(text, answers)

    def pictures_in(self, text: str, answer: Answer, placeholder: str) -> list[Span]:
        """Where the pictures of an answer are: each placeholder with the tokens that the template writes around it."""
        written = f"{_any(self.control)}*"
        around = re.compile(written + re.escape(placeholder) + written)
        return [found.span() for found in around.finditer(text, answer.start, answer.own)]

    def _marked(self, conversation: Conversation, text: str, marks: Sequence[Span]) -> list[Answer]:
        """What the template marks, and nothing else, with the token that ends each answer."""
        if not marks:
            raise BadArgument(
                f"{conversation.name}: the chat template marks answers by {{% generation %}}, and none of this row, so "
                "nothing of it would be learned. See that it marks turns whose content is a list of parts."
            )
        others = self._marks_of_others(conversation, text, marks)
        answers = []
        for number, (start, end) in enumerate(marks):
            turn, inside = others[number]
            own = end
            if inside is not None and text[start:end].rstrip().endswith(inside):
                own = text.rindex(inside, start, end)  # a template may have marked the newline after it too
            else:
                end = self._end_after(text, end)
            answers.append(Answer(turn, start, own, end))
        return answers

    def _marks_of_others(
        self, conversation: Conversation, text: str, marks: Sequence[Span]
    ) -> list[tuple[int, str | None]]:
        """Of each mark the turn that is in it, and the special token that the template writes at its end.

        An answer may itself end in a special token, or in a picture, and a template may mark some answers alone. What
        is the template's own is then seen in the marks of other answers in their places.
        """
        ends = [self._last_token(text[start:end]) for start, end in marks]
        given = [conversation.turns[number] for number in conversation.answers]
        own = {self._last_token(text_of(turn)) for turn in given} - {None}
        pictures = any(part["type"] == "image" for turn in given for part in turn["content"])
        if len(marks) == len(given) and not pictures and own.isdisjoint(ends):
            return list(zip(conversation.answers, ends, strict=True))
        stands, turns = self._with_stand_ins(conversation, conversation.answers)
        other, found = self._text(conversation, turns, marks=True)
        if len(found) != len(marks):  # by what an answer says: nothing is known of the turns but their order
            return [(conversation.answers[-1], end) for end in ends]
        written = [other[start:end] for start, end in found]
        turn, seen = conversation.answers[0], []
        for piece in written:
            turn = max((number for number, stand in stands.items() if stand in piece), default=turn)
            seen.append((turn, self._last_token(piece)))
        return seen

    def _last_token(self, text: str) -> str | None:
        """The special token that a text ends in, white space aside."""
        stripped = text.rstrip()
        return next((token for token in self._special if stripped.endswith(token)), None)

    def _cue(self, conversation: Conversation) -> str:
        """What the template writes for the model to go on after, such as ``Assistant:``; found out once.

        A question of our own is asked first, so that it does not depend on the rows. A template that refuses it is
        asked with the turns of this row, and of the next ones if it refuses those as well.
        """
        if self._known_cue is None:
            question = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
            before_answers = (conversation.turns[:number] for number in conversation.answers if number)
            for turns in (question, *before_answers):
                try:
                    before, _ = self._text(conversation, turns)
                    asked, _ = self._text(conversation, turns, add_generation_prompt=True)
                except BadArgument:  # a template that takes no question alone says nothing of it
                    continue
                self._known_cue = asked.removeprefix(before) if asked.startswith(before) else ""
                break
        return self._known_cue or ""

    def _text(
        self, conversation: Conversation, turns: Sequence[Mapping[str, Any]], marks: bool = False, **arguments: Any
    ) -> tuple[str, list[Span]]:
        from jinja2 import TemplateError
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template
        try:
            texts, found = render(
                conversations=[list(turns)],
                chat_template=self._source,
                return_assistant_tokens_mask=marks,
                **self._arguments,
                **arguments,
            )
        except (TemplateError, LookupError, TypeError) as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise BadArgument(
                f"{conversation.name}: the chat template refuses its turns ({roles}): {error}. "
                "Some templates take no system turn, or want the user to begin."
            ) from error
        return texts[0], _joined(found[0]) if marks else []

    def _all_at_once(self, conversation: Conversation, text: str) -> list[Span] | None:
        """Where the answers are if the template writes each as it is, which nearly all do."""
        stands, turns = self._with_stand_ins(conversation, conversation.answers)
        rest, _ = self._text(conversation, turns)
        pieces, spans = [], []
        at = 0
        for number, stand in stands.items():
            before, found, rest = rest.partition(stand)
            if not found:
                return None
            answer = text_of(conversation.turns[number])
            pieces += [before, answer]
            at += len(before)
            spans.append((at, at + len(answer)))
            at += len(answer)
        return spans if text == "".join([*pieces, rest]) else None

    def _one_by_one(self, conversation: Conversation, text: str) -> list[Span]:
        """Where each answer is: what is not the same with another one in its place."""
        spans = []
        for number in conversation.answers:
            stands, turns = self._with_stand_ins(conversation, [number])
            other, _ = self._text(conversation, turns)
            before, found, after = other.partition(stands[number])
            if not found:
                raise BadArgument(f"{conversation.name}: the chat template leaves out turn {number}, an answer.")
            start = _in_common(before, text)
            same = _in_common(after[::-1], text[start:][::-1])
            spans.append((start, len(text) - same))
        return spans

    def _with_stand_ins(
        self, conversation: Conversation, numbers: Sequence[int]
    ) -> tuple[dict[int, str], list[dict[str, Any]]]:
        """The turns with a text of our own in place of some answers."""
        everything = "".join(map(text_of, conversation.turns))
        edge = next((character for character in _PRIVATE if character not in everything), None)
        if edge is None:
            raise BadArgument(f"{conversation.name}: expected text, found the private characters U+E000 and U+F8FF.")
        stands = {number: f"{edge}{number}{edge}" for number in numbers}
        turns = [
            {**turn, "content": [{"type": "text", "text": stands[i]}]} if i in stands else turn
            for i, turn in enumerate(conversation.turns)
        ]
        return stands, turns

    def _end_after(self, text: str, end: int) -> int:
        """Where the special token stops that the template writes at `end`, and by which an answer ends."""
        found = self._end.match(text, end)
        eos = self._tokenizer.eos_token
        if found is None:
            return text.index(eos, end) + len(eos) if eos and text[end:].lstrip().startswith(eos) else end
        # What every text starts with opens a turn and ends none, but where one token is for both.
        return end if text.startswith(found[0]) and found[0] != eos else found.end()


def _any(tokens: Sequence[str]) -> str:
    """A pattern for any one of these tokens; for none, one that nothing matches."""
    return f"(?:{'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True)))})" if tokens else "(?!)"


def _with_space(text: str, span: Span, cue: str) -> Span:
    """A span with the space between the cue and the answer: the model is asked without it, so it has to write it."""
    start, end = span
    at = len(text[:start].rstrip())
    return (at, end) if cue and cue == cue.rstrip() and text.endswith(cue, 0, at) else span


def _in_common(one: str, other: str) -> int:
    """How many characters two texts start with alike."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _joined(spans: Sequence[Sequence[int]]) -> list[Span]:
    """Spans with those that touch made one: a template may mark each part of an answer."""
    found: list[Span] = []
    for start, end in spans:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def shifts(name: str, text: str, expanded: str, placeholder: str | None) -> list[tuple[int, int]]:
    """From which character of `text` on its characters are found how many further on in `expanded`.

    A processor has put many tokens in place of each placeholder. What stands between two placeholders it has left as it
    was, and is looked for from left to right; the last of it ends both texts.

    Raises:
        BadArgument: The processor changes the text otherwise, so that no answer can be found in what it makes.
    """
    segments = text.split(placeholder) if placeholder else [text]
    found: list[tuple[int, int]] = []
    at = cursor = 0
    for number, segment in enumerate(segments):
        if number == len(segments) - 1:
            place = len(expanded) - len(segment) if expanded.endswith(segment) else -1
        else:
            place = expanded.find(segment, cursor)
        if place < cursor:
            raise BadArgument(f"{name}: the processor changes the text of the conversation, so its answers are lost.")
        found.append((at, place - at))
        cursor = place + len(segment)
        at += len(segment) + len(placeholder or "")
    return found
