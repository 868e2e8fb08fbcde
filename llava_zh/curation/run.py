"""The curation of a dataset, a run or any rows."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from llava_zh.catalog.request import Request
from llava_zh.curation import kept_file
from llava_zh.curation.checks import LEAKS, Checks
from llava_zh.curation.page import page
from llava_zh.curation.passes import Facts, Length, Verdict, judge, split_rows
from llava_zh.curation.report import CurationReport, advice_on
from llava_zh.curation.source import Row, Source, open_rows
from llava_zh.errors import BadArgument, RunConflict
from llava_zh.storage.durable import check_kind, explained, open_regular
from llava_zh.storage.held import held
from llava_zh.storage.lines import write_lines


def curate(
    path: Source,
    name: str | None = None,
    *,
    output_dir: str | Path | None = None,
    dry_run: bool = False,
    length: Length = None,
    length_quantiles: tuple[float, float] | None = (0.001, 0.999),
    exact_duplicates: bool = True,
    near_duplicates: float | None = 0.8,
    max_repetition: float | None = 0.4,
    single_paragraph: bool | None = None,
    language: str | None = None,
    leaks: Sequence[str] = (),
    limit: int | None = None,
    overwrite: bool = False,
    **load_options: Any,
) -> CurationReport:
    """Drop the rows that are not worth training on, each with its reasons, and keep the others as published.

    What is judged of a row is its text: the gpt turns. A row is dropped for any of: turns that do not alternate human
    and gpt (after a system turn, if any); a gpt turn without text; several lines where one paragraph is asked; a
    phrase that betrays the prompt; a refusal (:mod:`llava_zh.gates.refusals`); reasoning or special tokens of a model;
    another language than the row's; repetition; a length outside the bounds; a text equal, but for white space, to that
    of an earlier row; a text nearly that of an earlier row. The last two are looked for among the rows that nothing
    else is wrong with, so that every cluster keeps its earliest sound row.

    Written are ``data/000000.jsonl`` (kept rows, in their order, as published), ``dropped.jsonl`` (the others, without
    pictures, with ``row``, their position from 0, ``reasons`` and, for a duplicate, the kept row that it ``repeats``),
    ``report.json`` and ``report.html``. Where pictures are embedded in
    the rows, the kept rows are ``data/000000.parquet`` in place of JSON Lines, with the same pictures. Each file
    appears once it is whole. The files of rows are the same for the same input. Meanwhile the folder needs room for the
    rows twice and 300 bytes a row. ``report.html`` is for reading: the lengths and where the limits cut, how many rows
    were dropped for which reason, examples of each, and duplicates beside the rows that they repeat. It is one file
    that loads nothing and runs nothing.

    A dry run gives the same report and writes no rows: nothing at all without `output_dir`, and the two reports with
    one. Its work is in the system's folder for temporary files, which needs room for the rows once.

    Args:
        path: A dataset's name, or the path of a file, a folder or a run, as for :func:`llava_zh.load_dataset`; or rows,
            mappings with ``image``, ``conversations`` and, where known, ``config``, ``language``, ``task``. The same
            rows have the same verdicts whichever way they come.
        name: Configuration of the dataset.
        output_dir: Folder to write to, new or empty; a dry run does without. It may hold the reports of a dry run.
        dry_run: Judge the rows and report, and write none.
        length: Lowest and highest number of characters of the text (``None``: open), or those for each language.
        length_quantiles: Shares of the rows of each language and llava task, between which the length must be.
        exact_duplicates: Whether to drop rows with the text of an earlier row.
        near_duplicates: Jaccard similarity, above 0 and at most 1, from which texts are near-duplicates, estimated by
            MinHash of windows of five characters in Chinese and three words elsewhere; ``None`` does not look. A text
            shorter than a window is one window, and so near only to one with the same letters. Texts that differ in a
            number, its sign or point, an operator, a symbol or an emoji are never near-duplicates, however long.
        max_repetition: Largest share of those windows that may repeat earlier ones of the same text; ``None`` looks
            for no repetition. A phrase five times on end over twenty tokens is always too much.
        single_paragraph: Whether one paragraph was asked; by default as the row's human turn, prompt or config says.
        language: ``"zh"`` or ``"en"``, the language of all rows; by default what each row or its prompt says.
        leaks: Further phrases that betray the prompt; case does not matter.
        limit: Look at so many rows at most; ``None`` for all.
        overwrite: Replace an earlier curation in `output_dir`.
        load_options: What else :func:`llava_zh.load_dataset` takes to choose rows, with the same meaning: ``data_dir``,
            ``data_files``, ``source``, ``revision``, ``token``, ``image_root``, ``archives``, ``bad_images``,
            ``on_bad_row``, ``on_missing_image``.

    Returns:
        The report.

    Raises:
        BadArgument: A bound, share, threshold or phrase that cannot be; no `output_dir`, or one within the folder that
            the rows are read from.
        BadRow, DataFileNotFound, HubError: The rows cannot be read.
        RunConflict: `output_dir` holds something already.
        OutputError: The folder cannot be written.
    """
    parameters: dict[str, Any] = {
        "path": str(path) if isinstance(path, str | Path) else "rows",
        "name": name,
        "length": length,
        "length_quantiles": length_quantiles,
        "exact_duplicates": exact_duplicates,
        "near_duplicates": near_duplicates,
        "max_repetition": max_repetition,
        "single_paragraph": single_paragraph,
        "language": language,
        "leaks": leaks if isinstance(leaks, str) else list(leaks),
        "limit": limit,
    }
    _check(parameters, output_dir, dry_run)
    given = {option: value for option, value in load_options.items() if option != "cache_dir" and value is not None}
    asked = Request.of(path if isinstance(path, str | os.PathLike) else "rows", name, given, "curate")
    report = CurationReport(parameters | asked.to_dict(), dry_run=dry_run)
    opened = open_rows(path, asked, load_options.get("cache_dir"))
    known, report.dataset, report.config = opened.known, opened.dataset, opened.config
    if opened.place is not None:
        report.parameters["place"] = opened.place
    _check_apart(output_dir, opened.folder)
    checks = Checks(
        language=language,
        single_paragraph=single_paragraph,
        max_repetition=max_repetition,
        leaks=tuple(dict.fromkeys((*LEAKS, *known.leaks, *(phrase.lower() for phrase in leaks)))),
        near_duplicates=near_duplicates is not None,
        known=known,
    )
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = None if output_dir is None else stack.enter_context(_Folder(Path(output_dir), overwrite, dry_run))
        kept = None if dry_run else folder
        work = stack.enter_context(_temporary()) if kept is None else kept.work
        _judge_all(
            itertools.islice(opened.rows, limit), checks, parameters, report, work, None if kept is None else kept.path
        )
        report.seconds = round(time.monotonic() - started, 3)
        if folder is not None:
            _write_reports(folder.path, report)
    return report


def _judge_all(
    rows: Iterator[Row],
    checks: Checks,
    parameters: Mapping[str, Any],
    report: CurationReport,
    work: Path,
    output: Path | None,
) -> None:
    """Judge all rows and report, with what is needed meanwhile in `work`; write them to `output` where there is one."""
    length, shares = parameters["length"], parameters["length_quantiles"]
    facts = Facts(work, checks, parameters["near_duplicates"], with_pictures=output is not None)
    with contextlib.closing(facts):
        facts.read(rows)
        verdict = Verdict(facts, length, shares, parameters["exact_duplicates"])
        if output is None:
            judge(facts, verdict, report)
        else:
            split_rows(output, facts, verdict, report)
        report.advice += advice_on(verdict.too_small(shares, length), report.lengths, shares)


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    """A folder for the work of a dry run."""
    parent = Path(tempfile.gettempdir())
    with explained(parent):
        folder = Path(tempfile.mkdtemp(prefix="llava-zh-curate-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_reports(folder: Path, report: CurationReport) -> None:
    written = report.to_dict()
    write_lines(folder / "report.json", [msgspec.json.format(msgspec.json.encode(written)), b"\n"])
    write_lines(folder / "report.html", [page(written).encode("utf-8", "replace")])


def _check(parameters: Mapping[str, Any], output_dir: str | Path | None, dry_run: bool) -> None:
    if output_dir is None and not dry_run:
        raise BadArgument("output_dir: name a folder to write to, new or empty; or give dry_run, which does without.")
    if output_dir is not None and not str(output_dir):
        raise BadArgument("output_dir is empty: name a folder, new or empty.")
    length = parameters["length"]
    by_language = length if isinstance(length, Mapping) else {} if length is None else {"zh": length}
    for language, bounds in by_language.items():
        _check_language("length", language)
        _check_bounds(bounds)
    shares = parameters["length_quantiles"]
    if shares is not None and not (_is_pair(shares) and 0 <= shares[0] < shares[1] <= 1):
        raise BadArgument(f"length_quantiles must be two rising shares between 0 and 1, or None, found {shares!r}.")
    for field in ("near_duplicates", "max_repetition"):
        value = parameters[field]
        if value is not None and not 0 < value <= 1:
            raise BadArgument(f"{field} must be above 0 and at most 1, or None, found {value}.")
    if parameters["language"] is not None:
        _check_language("language", parameters["language"])
    if parameters["limit"] is not None and parameters["limit"] < 0:
        raise BadArgument(f"limit must be a number of rows from 0 up, or None for all, found {parameters['limit']}.")
    leaks = parameters["leaks"]
    if isinstance(leaks, str) or not all(isinstance(phrase, str) and phrase.strip() for phrase in leaks):
        raise BadArgument(f"leaks must be a list of phrases, none of them empty, found {leaks!r}.")


def _check_apart(output_dir: str | Path | None, source: Path | None) -> None:
    """Refuse to write into the folder that is read: what is kept there would be rows of it the next time."""
    if output_dir is None or source is None:
        return
    output, read = Path(output_dir).resolve(), source.resolve()
    if output.is_relative_to(read):
        within = "is" if output == read else "is inside"
        raise BadArgument(
            f"output_dir: {output_dir} {within} the folder that the rows are read from, {source}, and what is written "
            "there would be read as rows of it the next time. Name a folder outside it."
        )


def _check_language(field: str, language: object) -> None:
    if language not in ("zh", "en"):
        raise BadArgument(f"{field}: the language must be zh or en, found {language!r}.")


def _check_bounds(bounds: Any) -> None:
    if not _is_pair(bounds):
        raise BadArgument(f"length must be the lowest and the highest number of characters, found {bounds!r}.")
    low, high = bounds
    if any(bound is not None and bound < 0 for bound in bounds):
        raise BadArgument(f"length: a text has 0 characters or more, found {bounds!r}.")
    if low is not None and high is not None and low > high:
        raise BadArgument(f"length: the lowest, {low}, is above the highest, {high}.")


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2


# What a curation writes, the folder first.
_WRITTEN = ("data", "dropped.jsonl", "report.json", "report.html")


class _Folder:
    """The output folder, with a place for work that is gone at the end."""

    def __init__(self, path: Path, overwrite: bool, dry_run: bool) -> None:
        self.path = path
        self._dry_run = dry_run
        self.work = path / ".curating"
        self._overwrite = overwrite
        self._held = contextlib.ExitStack()

    def __enter__(self) -> _Folder:
        lock = self.path / ".curating.lock"
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            busy = f"{self.path} is in use by another curation. Wait for it or end it."
            self._held.enter_context(held(lock, lambda: busy))
        try:
            self._claim()
        except BaseException:
            self._held.close()
            lock.unlink(missing_ok=True)  # the folder is someone else's
            raise
        return self

    def _claim(self) -> None:
        with explained(self.path):
            check_kind(self.work, folder=True)
            for name in _WRITTEN:
                check_kind(self.path / name, folder=name == "data")
            there = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith(".curating"))
            ours = self._holds_ours(there)
            reports_alone = ours and not {"data", "dropped.jsonl"} & set(there)
            may = reports_alone if self._dry_run else ours
            if there and not (may and (self._overwrite or (reports_alone and self._holds_dry_run()))):
                advice = "overwrite=True replaces it" if may else "Choose a new or empty output_dir"
                raise RunConflict(f"{self.path} holds something already: {', '.join(there[:5])}. {advice}.")
            shutil.rmtree(self.work, ignore_errors=True)  # what a killed curation left
            self.work.mkdir()

    def _holds_ours(self, there: Sequence[str]) -> bool:
        """Whether nothing is there that a curation does not write."""
        data = self.path / "data"
        files = {entry.name.removesuffix(".tmp") for entry in data.iterdir()} if data.is_dir() else set()
        written = {name.removesuffix(".tmp") for name in there}
        return written <= set(_WRITTEN) and files <= {kept_file.LINES, kept_file.PARQUET}

    def _holds_dry_run(self) -> bool:
        """Whether the report that is there is a dry run's, which any later run may replace."""
        try:
            with os.fdopen(open_regular(self.path / "report.json", os.O_RDONLY), "rb") as file:
                said = msgspec.json.decode(file.read())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return isinstance(said, dict) and said.get("dry_run") is True

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self._held.close()
