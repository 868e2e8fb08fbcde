"""What a published file is, beside what the catalogue says of it: its first rows and its last, read as ranges."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import LlavaZhError
from ...gates.counts import counted
from .. import text
from ..show import image_size, images_of
from .findings import Finding, Findings, first_line

if TYPE_CHECKING:
    from ...catalog.facts import ConfigFacts
    from ...streams.builder import PublishedBuilder

# Bytes of a piece: some hundreds of captions. Of a format that cannot be cut so, the reader's own piece.
PIECE = 256_000
# Rows of a piece that are looked at; of a larger piece no number of rows is estimated.
ROWS = 2_000
# Published sizes are rounded to three digits, and numbers of rows to two; rows are of unlike lengths besides.
_SIZE_WITHIN, _ROWS_WITHIN = 0.01, 0.25
_SA1B = re.compile(r"sa1b://sa_\d{6}/sa_\d+\.jpg(::.*)?")


def findings(path: str, name: str | None, given: Mapping[str, Any]) -> Findings:
    """What is found of a dataset's configuration, read as `given` to loading says."""
    from ... import load_dataset_builder

    try:
        builder = load_dataset_builder(path, name, **given)
    except LlavaZhError as error:
        yield Finding("failed", "files", str(error))
        return
    yield Finding("ok", "files", builder.config.found)
    facts = builder.config_facts
    yield from _size(builder, facts)
    if not {"chunk_size", "num_shards"} & given.keys():
        builder = builder.asking(chunk_size=PIECE)
    try:
        pieces = _pieces(builder)
    except LlavaZhError as error:
        yield Finding("failed", "rows", str(error))
        return
    rows = [row for piece in pieces for row in piece]
    if not rows:
        yield Finding("failed", "rows", "none at the beginning and at the end")
        return
    where = (
        "all, in one piece"
        if len(pieces) == 1
        else f"{len(pieces[0])} from the beginning, {len(pieces[-1])} from the end"
    )
    yield Finding("ok", "rows read", where)
    yield _count(builder, facts, pieces)
    yield from _columns(builder, rows)
    yield _images(builder, facts, rows)
    yield _opened(builder, rows)
    yield _turns(rows)
    if facts.language is not None:
        yield _language(facts.language, rows)


def _size(builder: PublishedBuilder, facts: ConfigFacts) -> Findings:
    found = sum(file.size for file in builder.config.files)
    if facts.size is None:
        return
    detail = f"{text.size(found)}, the catalogue says {text.size(facts.size)}"
    yield Finding("ok" if abs(found - facts.size) <= facts.size * _SIZE_WITHIN else "differs", "size", detail)


def _pieces(builder: PublishedBuilder) -> list[list[dict[str, Any]]]:
    """The rows of the first piece and of the last that has any; of a file in one piece, the first rows alone."""
    stream = builder.as_streaming_dataset(split="train").decode(False)
    number = stream.num_shards
    first = list(itertools.islice(stream.shard(number, 0), ROWS))
    for index in range(number - 1, max(number - 4, 0), -1):
        # The last piece of a file has no row where a long one before it reaches into it.
        if last := list(itertools.islice(stream.shard(number, index), ROWS)):
            return [first, last]
    return [first]


def _count(builder: PublishedBuilder, facts: ConfigFacts, pieces: Sequence[Sequence[Any]]) -> Finding:
    """How many rows there are, by how many the pieces have."""
    if facts.task is not None or builder.config.request.selection():
        return Finding("", "number of rows", "not estimated, for only some of those in the files are taken")
    if max(map(len, pieces)) == ROWS:
        return Finding("", "number of rows", f"not estimated: the file cannot be cut, and has {ROWS:,} or more")
    shards = builder.shards()
    if len(shards) == 1:
        found, about = len(pieces[0]), ""
    elif shards[0].end > len(shards) and not shards[0].file.name.endswith(".parquet"):  # they count bytes
        read = [shards[0], *shards[-1:]]
        share = sum(file.size for file in builder.config.files) / sum(shard.end - shard.start for shard in read)
        found, about = round(sum(map(len, pieces)) * share), "about "
    else:
        found, about = len(pieces[0]) * (len(shards) - 1) + len(pieces[-1]), "about "
    if facts.rows is None:
        return Finding("", "number of rows", f"{about}{found:,}; the catalogue says none")
    holds = abs(found - facts.rows) <= facts.rows * _ROWS_WITHIN
    return Finding(
        "ok" if holds else "differs", "number of rows", f"{about}{found:,}, the catalogue says {facts.rows:,}"
    )


def _columns(builder: PublishedBuilder, rows: Sequence[Mapping[str, Any]]) -> Findings:
    held = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    yield Finding("ok", "columns", ", ".join(held))
    if lacking := [column for column in rows[0] if column not in held]:
        yield Finding("differs", "columns", f"without a value in any row read: {', '.join(lacking)}")


def _images(builder: PublishedBuilder, facts: ConfigFacts, rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Whether rows have as many images as they should, called as they should be."""
    images = [image for row in rows for image in images_of(row)]
    without = sum(not any(images_of(row)) for row in rows)
    told = f", none in {without} of {counted(len(rows), 'rows')}" if without else ""
    if not images:
        return Finding("differs", "image paths", f"no row has an image{told}")
    example = images[0]["path"] or "embedded in the row"
    if builder.FACTS.in_sa1b:
        odd = next((image["path"] for image in images if not _SA1B.fullmatch(image["path"] or "")), None)
        if odd is not None:
            return Finding("differs", "image paths", f"{odd} is not of the form sa_000000/sa_1.jpg{told}")
    return Finding("ok", "image paths", f"{facts.images} a row, as {example}{told}")


def _opened(builder: PublishedBuilder, rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Whether the first image and the last can be opened, where it is known where they are."""
    images = [image for row in rows for image in images_of(row)]
    if not images or not builder.config.images.decode:
        return Finding("", "images", "not opened", "give --image-root to open the first and the last")
    sizes = []
    for image in (images[0], images[-1]):
        try:
            sizes.append(image_size(image))
        except Exception as error:  # whatever a file, an archive, a server or Pillow comes up with
            return Finding("failed", "images", first_line(error))
    return Finding("ok", "images", f"the first ({sizes[0]}) and the last ({sizes[1]}) open")


def _turns(rows: Sequence[Mapping[str, Any]]) -> Finding:
    wrong = [f"row {row.get('id')}: {problem}" for row in rows for problem in _wrong_turns(row)]
    if wrong:
        return Finding("differs", "turns", f"in {len(wrong)} of {counted(len(rows), 'rows')}, first {wrong[0]}")
    counts = [len(row["conversations"]) for row in rows]
    return Finding(
        "ok", "turns", f"human and gpt by turns, {min(counts)} to {max(counts)} a row, an <image> for each image"
    )


def _wrong_turns(row: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a row's conversation: the first thing, if any."""
    from ...curation.checks import turns_defects
    from ...rows.records import MARK

    turns = [(turn["from"], turn["value"]) for turn in row["conversations"]]
    images = len(list(images_of(row)))
    marks = sum(said.count(MARK) for role, said in turns if role == "human")
    if (defect := next(turns_defects(turns), None)) is not None:
        yield defect
    elif marks != images:
        yield f"{marks} times <image> for {counted(images, 'images')}"


def _language(language: str, rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Whether answers are in the language that is stated, as far as their characters tell."""
    from ...curation.text import detect_language

    answers = [turn["value"] for row in rows for turn in row["conversations"] if turn["from"] == "gpt"]
    fits = sum(detect_language(answer) in (language, None) for answer in answers)
    detail = f"{language}, as {fits:,} of {counted(len(answers), 'answers')} are by their characters"
    return Finding("ok" if fits >= 0.95 * len(answers) else "differs", "language", detail)
