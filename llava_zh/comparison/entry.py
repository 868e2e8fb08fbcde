"""A comparison as one call."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec

from llava_zh.comparison.folder import JUDGE, PAIRS, REPORT, check_outside, claimed, folder_of
from llava_zh.comparison.judge import Judge, ask_judge
from llava_zh.comparison.measures import ALWAYS_TOLD, Draw, Measures, spread
from llava_zh.comparison.pairs import Given, Opened, Pair, check_given, compared
from llava_zh.comparison.places import Places
from llava_zh.comparison.result import Comparison
from llava_zh.errors import BadArgument, known_name
from llava_zh.gates.counts import counted
from llava_zh.storage.durable import explained
from llava_zh.storage.lines import write_lines
from llava_zh.storage.progress import Progress

#: Words of each kind that a report holds.
_WORDS = 30


def compare(
    run: Given,
    other: Given | None = None,
    *,
    judge: Judge | None = None,
    image_root: Any = None,
    sample: int = 20,
    seed: int = 0,
    language: str | None = None,
    on_bad_row: str = "raise",
    output_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Comparison:
    """Put old texts beside new ones: lengths, faults, languages, words, samples, and what a judge says of them.

    The text of a row is what the model says in it: the gpt turns. Rows are read one by one, and what is kept of them
    does not grow with their number. A run that still goes is read as far as it has come.

    Args:
        run: The output folder of :func:`llava_zh.regenerate.regenerate`, whose rows hold the texts that they replaced;
            a folder or file of such rows, as ``curate`` leaves them; or rows.
        other: The old rows, where `run` does not hold them: a folder or file, matched with `run` by image, and within
            an image by question, by task, then in order. Meanwhile both lie in the folder for temporary files.
        judge: A model to be asked which text fits the picture better, and whether each says something that is not
            there. Stopped at any moment, the same call goes on.
        image_root: Where the pictures are, for the judge; as for :func:`llava_zh.load_dataset`.
        sample: Pairs that the result shows, drawn by the seed.
        seed: Of the draws: those shown, and those that the judge is asked about.
        language: ``"zh"`` or ``"en"``, the language of all new texts; by default what each row's prompt or the
            configuration says.
        on_bad_row: ``"raise"`` an error, or ``"skip"`` it.
        output_dir: Folder for ``report.json``, ``pairs.jsonl`` (the sample) and the judge's answers (``judge``). With a
            judge ``compare`` in the folder of the run by default, else nothing is written. Apart from that it lies
            outside of what is compared, and holds nothing that no comparison wrote.
        progress: Whether to show a line of progress.

    Returns:
        What was found.

    Raises:
        DataFileNotFound: There is no such place, no finished row, no older text, or no image that both sides have.
        BadRow: A row that is none, with where it is.
        BadArgument: An argument that cannot work.
        ImageNotFound, RootNotFound: The judge's pictures are not there.
        RunConflict: `output_dir` is inside of what is compared, or holds something else; or as for
            :func:`llava_zh.regenerate.regenerate`.
        ServerError, OutputError: As for :func:`llava_zh.regenerate.regenerate`.
    """
    _check(run, other, sample, language, on_bad_row, judge)
    new, old = compared(run), None if other is None else compared(other)
    folder = folder_of(output_dir, new, old) if judge is not None or output_dir is not None else None
    with contextlib.ExitStack() as stack:
        if folder is not None:
            for side in filter(None, (new, old)):
                check_outside(folder, side)
            stack.enter_context(claimed(folder))
        pairs = Opened(new, old, on_bad_row, progress)
        measures = Measures(pairs.known_of_old, pairs.known, language)
        samples, drawn = Draw(sample, seed), Draw(judge.limit if judge is not None else 0, seed)
        nameless = 0
        with Progress("Comparing", unit="rows", show=progress) as bar:
            for pair in pairs:
                measures.add(pair)
                samples.offer(pair)
                if pair.images and all(pair.images):  # a judge looks at pictures, by their names
                    drawn.offer(pair)
                elif pair.images:
                    nameless += 1
                bar.add(1)
        if not measures.rows:
            raise pairs.nothing()
        parameters: dict[str, Any] = {
            "run": pairs.name,
            "other": pairs.other,
            "sample": sample,
            "seed": seed,
            "language": language,
        }
        said = None
        if judge is not None and folder is not None:
            places = Places(pairs.run, image_root)
            said = ask_judge(judge, drawn.pairs, folder / JUDGE, {**pairs.identity, "seed": seed}, places, progress)
            parameters |= {"judge": judge.model, "limit": judge.limit}
        result = _result(pairs, measures, samples.pairs, parameters, said)
        if said is not None and nameless:
            result.notes.append(f"{counted(nameless, 'pairs')} with a picture without a name: no judge was asked")
        if folder is not None:
            write(result, folder)
    return result


def write(result: Comparison, folder: Path) -> None:
    """Put a comparison into ``report.json`` and its sampled pairs into ``pairs.jsonl`` of `folder`, which is there."""
    write_lines(folder / PAIRS, (msgspec.json.encode(pair) + b"\n" for pair in result.samples))
    write_report(result, folder / REPORT)


def write_report(result: Comparison, path: Path) -> None:
    """Put a comparison into a file, as one JSON document."""
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, [msgspec.json.format(msgspec.json.encode(result.to_dict())), b"\n"])


def _check(
    run: Given, other: Given | None, sample: int, language: str | None, on_bad_row: str, judge: Judge | None
) -> None:
    check_given(run, other)
    known_name("on_bad_row", on_bad_row, ("raise", "skip"))
    if language is not None and language not in ("zh", "en"):
        raise BadArgument(f"language must be zh or en, found {language!r}.")
    if not isinstance(sample, int) or sample < 0:
        raise BadArgument(f"sample must be a number of pairs from 0 up, found {sample!r}.")
    if judge is not None and not isinstance(judge, Judge):
        raise BadArgument(f"judge must be a llava_zh.comparison.Judge, found {type(judge).__name__}.")


def _result(
    pairs: Opened, measures: Measures, samples: list[Pair], parameters: dict[str, Any], judge: dict[str, Any] | None
) -> Comparison:
    old, new = measures.old, measures.new
    lengths = {"old": spread(old.lengths), "new": spread(new.lengths)}
    mean = lengths["old"]["mean"]
    reasons = list(ALWAYS_TOLD) + sorted((old.reasons | new.reasons).keys() - set(ALWAYS_TOLD))
    languages = sorted(old.languages | new.languages)
    return Comparison(
        run=pairs.name,
        other=pairs.other,
        rows=measures.rows,
        without_previous=pairs.without_previous,
        unmatched={"old": pairs.left.old, "new": pairs.left.new},
        unchanged={"count": measures.unchanged, "share": round(measures.unchanged / measures.rows, 4)},
        characters={
            **lengths,
            "difference": spread(measures.differences),
            "ratio": spread(measures.ratios, 0.01),
            "ratio_of_means": round(lengths["new"]["mean"] / mean, 4) if mean else None,
        },
        findings={reason: {"old": old.reasons[reason], "new": new.reasons[reason]} for reason in reasons},
        languages={name: {"old": old.languages[name], "new": new.languages[name]} for name in languages},
        words=measures.words.changed(_WORDS),
        samples=[_shown(pair) for pair in samples],
        parameters=parameters,
        judge=judge,
        notes=list(_notes(pairs, measures, judge)),
    )


def _shown(pair: Pair) -> dict[str, Any]:
    return {"id": pair.id, "images": pair.images, "old": pair.old.said, "new": pair.new.said, "key": pair.key}


def _notes(pairs: Opened, measures: Measures, judge: dict[str, Any] | None) -> list[str]:
    notes = []
    if pairs.run is not None and pairs.run.owner is not None:
        notes.append(
            f"the run has not ended: it still goes, or was killed ({pairs.run.owner}); compared is what it had finished"
        )
    elif pairs.run is not None and pairs.run.unfinished:
        notes.append("the run was stopped before its end; compared is what it had finished")
    if pairs.without_previous:
        notes.append(f"{counted(pairs.without_previous, 'rows')} without an older text left out")
    for side, count in (("old", pairs.left.old), ("new", pairs.left.new)):
        if count:
            notes.append(f"{counted(count, f'{side} rows')} with no match on the other side left out")
    if measures.words.short_by:
        notes.append(f"numbers of words may be too low by up to {measures.words.short_by:,}: rare words were forgotten")
    if judge is not None and judge["images_missing"]:
        notes.append(f"{counted(judge['images_missing'], 'pictures')} of the judge's pairs not found")
    return notes
