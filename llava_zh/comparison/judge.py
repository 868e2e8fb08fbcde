"""A model asked about pairs, blind and in both orders, by the ledger of regeneration: no answer is lost, none repeated.

A question is a row of a run of its own, in the folder ``judge``: one pair in one order. Which of the two texts is old
is not told. The pairs are drawn once, and written to ``judge/journal/pairs.jsonl``, so that a run that has grown since
does not change what is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from llava_zh.catalog.prompts import Prompt
from llava_zh.comparison.pairs import Pair
from llava_zh.comparison.places import Places
from llava_zh.comparison.questions import PROMPTS, question
from llava_zh.comparison.verdicts import Shown, Verdict, tally
from llava_zh.curation.text import detect_language
from llava_zh.errors import BadAnswer, BadArgument, OutputError
from llava_zh.regenerate.dialogue import Turns
from llava_zh.regenerate.entry import Servers, carry_out
from llava_zh.regenerate.finished import open_finished
from llava_zh.regenerate.parsing import parse_answer
from llava_zh.regenerate.report import Report
from llava_zh.regenerate.run import Settings, check_counts
from llava_zh.regenerate.source import Source
from llava_zh.storage.lines import is_whole, read_lines, write_lines

_ORDERS: tuple[Shown, Shown] = ("old", "new")
_UNIT_ROWS = 10_000


@dataclass(frozen=True)
class Judge:
    """A vision-language model that says which of two texts fits a picture better.

    Args:
        base_url: Root of an OpenAI-compatible API such as ``http://127.0.0.1:8000/v1``, or several of them.
        model: Name the servers know the model by.
        limit: Pairs it is asked about, drawn by the seed, each in both orders. A later call may raise it.
        concurrency: Requests in flight at once, over all servers.
        parameters: Passed on in every request, such as ``{"temperature": 0}``.
        api_key: Bearer token; by default the environment variable ``LLAVA_ZH_API_KEY``.
        max_pixels: Downscale larger images to so many pixels before sending; by default the original bytes are sent.
        timeout: Seconds a request may take.
        max_retries: Transient faults of one question before it is given up.
        answer_attempts: Answers that may be empty, cut off or unreadable before a question is given up.
        retry_failed: Ask again what earlier sessions gave up.
    """

    base_url: str | Sequence[str]
    model: str
    limit: int = 200
    concurrency: int = 16
    parameters: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    max_pixels: int | None = None
    timeout: float = 600.0
    max_retries: int = 8
    answer_attempts: int = 3
    retry_failed: bool = False

    def __post_init__(self) -> None:
        check_counts(
            limit=self.limit, concurrency=self.concurrency, max_pixels=self.max_pixels,
            answer_attempts=self.answer_attempts,
        )  # fmt: skip
        if not self.base_url or not self.model:
            raise BadArgument("A judge needs base_url, where its server listens, and model, its name there.")


class Asked(msgspec.Struct, frozen=True):
    """A pair as the judge is asked about it: what is kept in ``pairs.jsonl``."""

    key: str
    id: Any
    images: list[str]
    old: list[tuple[str, str]]
    new: list[tuple[str, str]]
    prompt: str | None = None
    language: str | None = None

    @classmethod
    def of(cls, pair: Pair) -> Asked:
        made = pair.new.fields.get("regenerated")
        prompt = made.get("prompt") if isinstance(made, Mapping) else None
        language = detect_language(pair.new.said) or detect_language(pair.old.said)
        return cls(pair.key, pair.id, pair.images, pair.old.turns, pair.new.turns, prompt, language)

    def shown(self, first: Shown) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        return (self.old, self.new) if first == "old" else (self.new, self.old)


_decode_asked = msgspec.json.Decoder(Asked).decode
_encode = msgspec.json.Encoder().encode
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def ask_judge(
    judge: Judge, pairs: Sequence[Pair], folder: Path, identity: Mapping[str, Any], places: Places, progress: bool
) -> dict[str, Any]:
    """Have the judge answer what it has not yet answered; the figures of all its answers.

    Args:
        pairs: The pairs that are drawn now, in the order of the draw.
        folder: Where its answers are kept.
        identity: What must be the same for the answers to belong together.
        places: Where the pictures are.

    Raises:
        ImageNotFound, RootNotFound, BadArgument: The pictures cannot be had; said before any request.
        ServerError, RunConflict, OutputError: As for :func:`llava_zh.regenerate.regenerate`.
    """
    questions = _Questions(folder, dict(identity), [Asked.of(pair) for pair in pairs], judge.limit)
    opened = places.located([asked.images for asked in questions.pairs])
    questions.images = opened.images
    limit = 2 * len(questions.pairs)
    source = Source(
        questions, "judge", None, {"dataset": "judge", "config": None, **identity}, limit, image_base=opened.base
    )
    settings = Settings(
        model=judge.model, parameters=dict(judge.parameters), limit=limit, max_pixels=judge.max_pixels,
        send_paths=False, seed=0, concurrency=judge.concurrency, max_retries=judge.max_retries,
        answer_attempts=judge.answer_attempts,
    )  # fmt: skip
    servers = Servers(judge.base_url, api_key=judge.api_key, timeout=judge.timeout)
    report = carry_out(
        source, _Asking(), folder, settings, servers, unit_rows=_UNIT_ROWS, retry_failed=judge.retry_failed,
        progress=progress, what="Judging",
    )  # fmt: skip
    return _figures(judge, folder, questions.pairs, report, opened.missing)


def _figures(judge: Judge, folder: Path, pairs: Sequence[Asked], report: Report, missing: int) -> dict[str, Any]:
    wanted = {asked.key for asked in pairs}
    return {
        "model": judge.model,
        "asked_for": len(pairs),
        **tally((key, verdict) for key, verdict in _answers(folder) if key in wanted),
        "failed": report.failed,
        "failed_file": str(folder / "failed.jsonl"),
        "images_missing": missing,
        "folder": str(folder),
    }


def _answers(folder: Path) -> Iterator[tuple[str, Verdict]]:
    """The answers in a judge's folder, each with the key of its pair."""
    run = open_finished(folder)
    for place, line in run.lines() if run is not None else ():
        try:
            row = msgspec.json.decode(line)
            yield row["pair"], _verdict(row["conversations"][-1]["value"], row["first"])
        except (*_FAULTS, KeyError, IndexError, TypeError, BadAnswer) as error:
            raise OutputError(f"{place}: no answer of a judge ({error}). Put it back, or use another folder.") from None


class _Questions:
    """The questions in order, each pair's two one after the other; read again for every session of the run.

    Attributes:
        pairs: Those of earlier sessions first, then as many of the newly drawn as are wanted.
        images: What opens the images of each pair.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], drawn: Sequence[Asked], wanted: int) -> None:
        self._path = folder / "journal" / "pairs.jsonl"
        self._head = _encode({"pairs": identity}) + b"\n"
        self._kept = self._read()
        every = {asked.key: asked for asked in (*self._kept, *drawn)}
        every |= {asked.key: asked for asked in self._kept}
        self.pairs = list(every.values())[:wanted]
        self._all = self.pairs if len(self.pairs) > len(self._kept) else self._kept
        self.images: list[list[str]] = []

    def _read(self) -> list[Asked]:
        """The pairs of earlier sessions; none where these had other settings: then nothing was finished by them."""
        lines = read_lines(self._path)
        if next(lines, b"") != self._head:
            return []
        kept = []
        for number, line in enumerate(lines, start=2):
            try:
                kept.append(_decode_asked(line))
            except _FAULTS as error:
                raise OutputError(
                    f"{self._path}, line {number}: no pair ({error}). It says what the judge is asked. Put it back "
                    "from a copy, or use another folder."
                ) from None
            if not is_whole(line):
                raise OutputError(f"{self._path}, line {number} is cut off. Use another folder.")
        return kept

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # The run holds its folder by now, and has made sure that the settings are those of what is finished in it.
        if len(self._all) != len(self._kept) or not self._path.exists():
            write_lines(self._path, [self._head, *(_encode(asked) + b"\n" for asked in self._all)])
            self._kept = self._all
        for asked, images in zip(self.pairs, self.images, strict=True):
            for first in _ORDERS:
                image: Any = images if len(images) > 1 else images[0]
                row = {} if asked.id is None else {"id": asked.id}
                yield {**row, "image": image, "pair": asked.key, "first": first, "about": {"asked": asked}}


class _Asking:
    """What a judge is asked about a row, and how its answer is read."""

    prompts: Sequence[Prompt] = tuple(PROMPTS.values())

    def of(self, row: Mapping[str, Any], images: Sequence[str]) -> Prompt:
        asked: Asked = row["about"]["asked"]
        return question(*asked.shown(row["first"]), language=asked.language, prompt=asked.prompt, images=len(images))

    def read(self, text: str, prompt: Prompt) -> Turns:
        value = read_verdict(parse_answer(text, prompt)[0]["value"])
        return [{"from": "gpt", "value": msgspec.json.encode(value).decode()}]


# -- answers -----------------------------------------------------------------------------------------------

_BETTER = {
    "a": "A", "b": "B", "tie": "tie", "equal": "tie", "same": "tie", "both": "tie", "neither": "tie", "none": "tie",
    "平局": "tie", "平": "tie", "相同": "tie", "一样": "tie", "描述a": "A", "描述b": "B", "对话a": "A", "对话b": "B",
}  # fmt: skip
_YES = {True: True, False: False, "true": True, "false": False, "yes": True, "no": False, "是": True, "否": False}
_REASON = 500


def read_verdict(text: str) -> dict[str, Any]:
    """What an answer says: ``better`` (A, B or tie), ``A_not_there`` and ``B_not_there``, and its reason.

    The answer is one JSON object, which may have words around it.

    Raises:
        BadAnswer: It is none, or lacks one of the three.
    """
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        said = msgspec.json.decode(found[0]) if found else None
    except _FAULTS:
        said = None
    if not isinstance(said, dict):
        _refuse("one JSON object", text)
    said = {str(name).lower(): value.strip() if isinstance(value, str) else value for name, value in said.items()}
    better = _BETTER.get(str(said.get("better")).lower())
    if better is None:
        _refuse('"better" to be "A", "B" or "tie"', str(said.get("better")))
    verdict: dict[str, Any] = {"better": better}
    for side in ("A", "B"):
        value = said.get(f"{side.lower()}_not_there")
        known = _YES.get(value.lower() if isinstance(value, str) else value) if isinstance(value, str | bool) else None
        if known is None:
            _refuse(f'"{side}_not_there" to be true or false', repr(value))
        verdict[f"{side}_not_there"] = known
    reason = said.get("reason")
    return {**verdict, "reason": reason[:_REASON]} if isinstance(reason, str) else verdict


def _refuse(expected: str, found: str) -> NoReturn:
    shown = found if len(found) <= 60 else found[:60] + "…"
    raise BadAnswer(
        f"Answer expected to be {expected}; found {shown!r}.", expected=expected, found=shown, reason="no verdict"
    )


def _verdict(kept: str, first: Shown) -> Verdict:
    said = read_verdict(kept)
    second: Shown = "new" if first == "old" else "old"
    names = {"A": first, "B": second, "tie": "tie"}
    not_there = {first: said["A_not_there"], second: said["B_not_there"]}
    return Verdict(first, names[said["better"]], not_there["old"], not_there["new"])
