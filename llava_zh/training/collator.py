"""From rows to a batch: see :class:`Collator`."""

from __future__ import annotations

import bisect
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..errors import BadArgument, BadImage, BadRow, ImageNotFound, LlavaZhError, MissingExtra, NothingLeft
from ..gates.counts import counted
from ..gates.safe_text import get_logger
from .arguments import check
from .conversations import Conversation, conversation_of
from .rendering import Rendered, Span, Template, shifts

log = get_logger("llava_zh.torch")

IGNORED = -100  # the label that torch's cross_entropy leaves out
# What is wrong with a row, and not with how the collator is used.
_OF_A_ROW = (BadRow, BadArgument, BadImage, ImageNotFound)
# What processors and their tokenizers raise of what they cannot take.
_REFUSALS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, OSError, RuntimeError)


@dataclass
class Summary:
    """What a collator has done since it was made; in a DataLoader with workers each worker has its own.

    Attributes:
        rows: Rows that were given.
        left_out: Rows left out because they do not fit, or because something is wrong with them.
        cut_turns: Turns left out at the end of rows that were too long.
        cut_answers: Rows whose only answer was cut short.
        cut_tokens: Tokens that were cut.
        neutralised: Control tokens found in the texts of rows, and broken up.
    """

    rows: int = 0
    left_out: int = 0
    cut_turns: int = 0
    cut_answers: int = 0
    cut_tokens: int = 0
    neutralised: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in asdict(self).items())


class _Recorder:
    """A tokenizer that keeps what it was given: the text with all image tokens in it, and where its tokens are."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.texts: list[str] = []
        self.offsets: Any = None
        self.names: list[str] = []

    def __call__(self, text: Any, *args: Any, **options: Any) -> Any:
        encoded = self._tokenizer(text, *args, **{**options, "return_offsets_mapping": True})
        self.texts = [text] if isinstance(text, str) else list(text)
        self.offsets = np.asarray(encoded.pop("offset_mapping"))
        self.names = list(encoded)
        return encoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@dataclass(frozen=True)
class _Learned:
    """What is learned of a row: which of its tokens, and of each answer its turn and where its tokens end."""

    tokens: Any
    turns: list[int]
    ends: list[int]


_Given = tuple[Conversation, Rendered]


@dataclass(frozen=True)
class _Cut:
    """What is left of a row: its tokens and turns, how much was cut, and whether pictures went too."""

    tokens: int
    turns: int
    cut_tokens: int = 0
    cut_turns: int = 0
    cut_answers: int = 0
    pictures_too: bool = False  # so the processor has to be asked again


class Collator:
    """A batch for training from rows, for ``DataLoader(collate_fn=…)`` and ``Trainer(data_collator=…)``.

    Rows are of any row format, plain or with pictures inside their parts; pictures decoded, or undecoded ones that can
    be opened. The processor gets all rows at once. What comes back is a dict of tensors: `input_ids` and
    `attention_mask` (rows × tokens, padded on the right), `labels`, and what the processor gives for its model:
    `pixel_values`, `image_grid_thw`, `image_sizes`, `mm_token_type_ids`, … A batch of text alone has no
    `pixel_values`.

    `labels` are -100 everywhere but in the assistant's answers and in the token that ends each (``<|im_end|>``,
    ``<end_of_utterance>``, ``</s>``), so that the model learns to stop. Nothing after that is learned, nothing that
    stands for a picture and nothing that the template writes before an answer. A template that marks answers by
    ``{% generation %}`` is taken at its word: an answer without marks is not learned, and of a marked one the token
    that ends it is learned too.

    Tokens that steer the model, in the text of a row (``<|im_end|>``, ``<|image_pad|>``, in some models ``<image>``),
    are broken up by a space after their first character, and counted.

    Args:
        processor: A processor of `transformers` with a chat template and a fast tokenizer.
        max_length: Tokens a row may have. From a longer one whole turns are left out at the end, so that an answer is
            last; if there is but one answer, its end is cut, and no end token is learned. Image tokens are never cut.
        on_too_long: What becomes of a row whose images and first question leave no room for an answer: ``"raise"`` or
            ``"skip"``.
        on_bad_row: What becomes of a row that is none, or whose picture cannot be opened or is refused by the
            processor: ``"raise"`` or ``"skip"``. Rows left out for either reason are counted as `left_out`.
        pad_to_multiple_of: The number of tokens is rounded up to a multiple of this.
        template_arguments: Further variables of the chat template (``{"enable_thinking": False}``).
        processor_arguments: Further arguments of the processor (``{"max_pixels": 401408}``).

    Attributes:
        summary: What was done, a :class:`Summary`.

    Raises:
        MissingExtra: torch or transformers is not installed.
        BadArgument: An argument or a row cannot work; a row is too long.
        BadRow: Something in a row is no conversation.
        NothingLeft: There are no rows, or all rows of a batch were left out.
        RootNotFound, BadImage, ImageNotFound: A picture cannot be had.
    """

    def __init__(
        self,
        processor: Any,
        *,
        max_length: int | None = None,
        on_too_long: str = "raise",
        on_bad_row: str = "raise",
        pad_to_multiple_of: int | None = None,
        template_arguments: Mapping[str, Any] | None = None,
        processor_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        require()
        check(
            numbers={"max_length": max_length, "pad_to_multiple_of": pad_to_multiple_of},
            choices={"on_too_long": on_too_long, "on_bad_row": on_bad_row},
            template_arguments=template_arguments,
            processor_arguments=processor_arguments,
        )
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None or not getattr(tokenizer, "is_fast", False):
            raise BadArgument(
                f"processor: expected a processor with a fast tokenizer, found {type(processor).__name__}. "
                "transformers.AutoProcessor.from_pretrained(model) gives one."
            )
        self.processor = processor
        self.max_length = max_length
        self.on_too_long = on_too_long
        self.on_bad_row = on_bad_row
        self.pad_to_multiple_of = pad_to_multiple_of
        self.processor_arguments = dict(processor_arguments or {})
        self.summary = Summary()
        self._last_reason = ""  # why a row was left out
        self._template = Template(processor, template_arguments or {})
        self._pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        tokens = [token for token in self._placeholders() if token in tokenizer.get_vocab()]
        self._image_ids = tokenizer.convert_tokens_to_ids(tokens)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of `rows`."""
        if not len(rows):
            raise NothingLeft("rows: expected at least one row to make a batch of, found an empty list.", rows=0)
        self._count(rows=len(rows))
        given = self._each([partial(self._given, row, number) for number, row in enumerate(rows)])
        while given:
            given, batch, of_tokens, learned = self._good(given)
            if not given:
                break
            lengths = batch["attention_mask"].sum(1).tolist()
            cuts = [
                self._cut(conversation, ids[:length], one)
                for (conversation, _), ids, length, one in zip(given, batch["input_ids"], lengths, learned, strict=True)
            ]
            whole = [cut for cut in cuts if cut is not None and not cut.pictures_too]
            if len(whole) == len(cuts):
                self._count_cuts(whole)
                return self._padded(batch, of_tokens, learned, whole)
            kept = [(one, cut) for one, cut in zip(given, cuts, strict=True) if cut is not None]
            self._count_cuts([cut for _, cut in kept if cut.pictures_too])
            given = self._each([partial(self._shortened, one, cut) for one, cut in kept])
        raise NothingLeft(
            f"None of the {counted(len(rows), 'rows')} of a batch is left, with max_length={self.max_length}, "
            f"on_too_long={self.on_too_long!r} and on_bad_row={self.on_bad_row!r}. Raise max_length, make batches "
            "larger, or pictures smaller (llava_zh.decode_images). The last one left out: " + self._last_reason,
            rows=len(rows),
        )

    def _given(self, row: Mapping[str, Any], number: int) -> _Given:
        conversation = conversation_of(row, self._template.control, number)
        rendered = self._template.render(conversation)
        self._count(neutralised=conversation.neutralised)
        return conversation, rendered

    def _shortened(self, one: _Given, cut: _Cut) -> _Given:
        """A row without the turns whose pictures are cut."""
        if not cut.pictures_too:
            return one
        conversation = one[0].first(cut.turns)
        return conversation, self._template.render(conversation)

    def _each(self, makers: Sequence[Callable[[], _Given]]) -> list[_Given]:
        """What each of `makers` makes, less the rows that are left out because something is wrong with them."""
        made = []
        for make in makers:
            try:
                made.append(make())
            except _OF_A_ROW as error:
                self._bad(error)
        return made

    def _bad(self, error: LlavaZhError) -> None:
        if self.on_bad_row == "raise":
            raise error
        self._left_out(str(error))

    def _left_out(self, reason: str) -> None:
        self._last_reason = reason
        self._count(left_out=1)

    def _good(self, given: list[_Given]) -> tuple[list[_Given], dict[str, Any], list[str], list[_Learned]]:
        """The rows that the processor takes, and what it makes of them."""
        try:
            return given, *self._processed(given)
        except _REFUSALS as refused:
            error: Exception = refused
        good = self._each([partial(self._alone, one) for one in given])
        if len(good) == len(given):  # nothing is wrong with any of them
            if isinstance(error, LlavaZhError):
                raise error
            raise BadArgument(
                f"processor: {type(self.processor).__name__} refuses {counted(len(given), 'rows')} at once, though it "
                f"takes each alone: {_first_line(error)} See processor_arguments."
            ) from error
        return self._good(good) if good else ([], {}, [], [])

    def _alone(self, one: _Given) -> _Given:
        """A row that the processor takes by itself."""
        try:
            self._processed([one])
        except LlavaZhError:
            raise
        except _REFUSALS as error:
            conversation = one[0]
            sizes = ", ".join(f"{picture.width}×{picture.height}" for picture in conversation.pictures)
            kind: Any = BadImage if conversation.pictures else BadArgument
            raise kind(
                f"{conversation.name}: the processor refuses it{sizes and f' with its pictures of {sizes} pixels'}: "
                f"{_first_line(error)} Leave such rows out by on_bad_row='skip', or see processor_arguments."
            ) from error
        return one

    def _placeholders(self) -> list[str]:
        """What templates write for a picture: `boi_token` where the processor puts more than image tokens there."""
        found = [getattr(self.processor, name, None) for name in ("image_token", "boi_token")]
        return [str(token) for token in found if token]

    def _processed(self, given: Sequence[_Given]) -> tuple[dict[str, Any], list[str], list[_Learned]]:
        """What the processor makes of all rows, which of it has a value a token, and what is learned of each row."""
        processor, recorder = copy.copy(self.processor), _Recorder(self.processor.tokenizer)
        processor.tokenizer = recorder
        texts = [rendered.text for _, rendered in given]
        pictures = [conversation.pictures for conversation, _ in given]
        placeholders = [self._placeholder(conversation, rendered.text) for conversation, rendered in given]
        options: dict[str, Any] = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
        bos = self.processor.tokenizer.bos_token
        if bos is not None and texts[0].startswith(bos):  # as ProcessorMixin.apply_chat_template does
            options["add_special_tokens"] = False
        if any(pictures):
            options["images"] = self._images(pictures)
        batch = dict(processor(text=texts, **{**options, **self.processor_arguments}))
        if len(recorder.texts) != len(texts):
            raise BadArgument(f"processor: {type(self.processor).__name__} does not give its texts to its tokenizer.")
        of_tokens = [name for name in batch if name in recorder.names or name == "mm_token_type_ids"]
        learned = [
            self._learned(*one, placeholder, recorder.texts[number], recorder.offsets[number])
            for number, (one, placeholder) in enumerate(zip(given, placeholders, strict=True))
        ]
        return batch, of_tokens, learned

    def _learned(
        self, conversation: Conversation, rendered: Rendered, placeholder: str | None, expanded: str, offsets: Any
    ) -> _Learned:
        """What is learned of a row: its answers, but nothing that stands for a picture."""
        text = rendered.text
        moved = shifts(conversation.name, text, expanded, placeholder)
        starts = [start for start, _ in moved]
        learned, turns, ends = np.zeros(len(offsets), bool), [], []
        for answer in rendered.answers:
            tokens = _tokens(offsets, [_moved(at, starts, moved) for at in (answer.start, answer.end)])
            learned[slice(*tokens)] = True
            for picture in self._template.pictures_in(text, answer, placeholder) if placeholder else ():
                learned[slice(*_tokens(offsets, [_moved(at, starts, moved) for at in picture]))] = False
            if learned[slice(*tokens)].any():
                turns.append(answer.turn)
                ends.append(tokens[1])
        if not ends:
            raise BadArgument(
                f"{conversation.name}: nothing of it would be learned, as its answers are empty and the chat template "
                "writes no token that ends them. Leave such rows out by on_bad_row='skip'."
            )
        return _Learned(learned, turns, ends)

    def _images(self, pictures: list[list[Any]]) -> Any:
        """Pictures as processors take them for texts of which some may have none."""
        # Idefics and SmolVLM count them row by row; LLaVA-OneVision cannot have a row without in the list.
        if hasattr(self.processor, "fake_image_token") or all(pictures):
            return pictures
        return [some for some in pictures if some]

    def _placeholder(self, conversation: Conversation, text: str) -> str | None:
        """What stands for a picture in `text`, as often as there are pictures."""
        pictures = len(conversation.pictures)
        counts = {token: text.count(token) for token in self._placeholders()}
        if not pictures:
            return None
        for token, count in counts.items():
            if count == pictures:
                return token
        raise BadArgument(
            f"{conversation.name}: expected an image token for each of {pictures} pictures in what the chat template "
            f"writes, found {counts}."
        )

    def _cut(self, conversation: Conversation, ids: Any, learned: _Learned) -> _Cut | None:
        """What `max_length` leaves of a row with these tokens; None for nothing."""
        length, turns = len(ids), len(conversation.turns)
        if self.max_length is None or length <= self.max_length:
            return _Cut(length, turns)
        last = max((n for n, end in enumerate(learned.ends) if end <= self.max_length), default=None)
        left = learned.turns[last or 0] + 1
        tokens = self.max_length if last is None else learned.ends[last]
        pictures = [place for token in self._image_ids for place in (ids == token).nonzero().flatten().tolist()]
        cut = _Cut(tokens, left, length - tokens, turns - left, cut_answers=int(last is None))
        if max(pictures, default=-1) >= tokens and left < turns:
            return replace(cut, cut_answers=0, pictures_too=True)
        if last is None and (not learned.tokens[:tokens].any() or max(pictures, default=-1) >= tokens):
            self._too_long(conversation, length, len(pictures))
            return None
        return cut

    def _too_long(self, conversation: Conversation, length: int, pictures: int) -> None:
        reason = (
            f"{conversation.name}: of its {length:,} tokens {pictures:,} are of images, and max_length="
            f"{self.max_length} leaves no room for an answer after them. Raise max_length, make pictures smaller "
            "(llava_zh.decode_images), or leave such rows out by on_too_long='skip'."
        )
        if self.on_too_long == "raise":
            raise BadArgument(reason)
        self._left_out(reason)

    def _padded(
        self,
        batch: dict[str, Any],
        of_tokens: Sequence[str],
        learned: Sequence[_Learned],
        cuts: Sequence[_Cut],
    ) -> dict[str, Any]:
        """The batch with its labels, cut and padded in what has a value a token."""
        import torch

        ids = batch["input_ids"]
        labels = torch.where(torch.from_numpy(np.stack([one.tokens for one in learned])), ids, IGNORED)
        for token in self._image_ids:
            labels[ids == token] = IGNORED
        longest = max(cut.tokens for cut in cuts)
        if self.pad_to_multiple_of:
            longest += -longest % self.pad_to_multiple_of
        for name, values in [*((name, batch[name]) for name in of_tokens), ("labels", labels)]:
            fill = {"input_ids": self._pad, "labels": IGNORED}.get(name, 0)
            padded = values.new_full((len(values), longest), fill)
            for row, cut in enumerate(cuts):
                padded[row, : cut.tokens] = values[row, : cut.tokens]
            batch[name] = padded
        return batch

    def _count_cuts(self, cuts: Sequence[_Cut]) -> None:
        for name in ("cut_tokens", "cut_turns", "cut_answers"):
            self._count(**{name: sum(getattr(cut, name) for cut in cuts)})

    def _count(self, **counts: int) -> None:
        """Add to the summary, and say it whenever a count of what was done to rows has a digit more."""
        for name, count in counts.items():
            before = getattr(self.summary, name)
            setattr(self.summary, name, before + count)
            if count and name != "rows" and (not before or len(str(before + count)) > len(str(before))):
                reason = f" The last one left out: {self._last_reason}" if name == "left_out" else ""
                log.warning("Rows for training, so far: %s.%s", self.summary, reason)


def require() -> None:
    """Raise MissingExtra if torch or transformers is not installed."""
    from importlib.util import find_spec

    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtra.of(package, "torch", "llava_zh.torch")


def _first_line(error: Exception) -> str:
    """What an error says, without the processor that some print with it."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _moved(at: int, starts: Sequence[int], moved: Sequence[tuple[int, int]]) -> int:
    """A place in the text of a conversation, in the text that was tokenised."""
    return at + moved[bisect.bisect_right(starts, at) - 1][1]


def _tokens(offsets: Any, span: Sequence[int]) -> Span:
    """The tokens that have a character of `span`."""
    start, end = span
    found = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)
