"""Rows to curate: of a dataset, of files on disk, or of any iterable, each with its published line and its pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llava_zh.curation.expected import Expected, expected
from llava_zh.errors import BadArgument, BadFile, BadRow
from llava_zh.images.names import image_label
from llava_zh.rows import records
from llava_zh.rows.columns import ALIASES, REGENERATED, ROUNDS, USUAL, no_image
from llava_zh.rows.given import GivenImages, given_images
from llava_zh.rows.records import MARK, Expect, Place

if TYPE_CHECKING:
    from llava_zh.catalog.request import Request
    from llava_zh.files.data_files import DataFile
    from llava_zh.streams.builder import PublishedBuilder
    from llava_zh.streams.left_out import Tally

Source = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


class Row(NamedTuple):
    """A row, its (role, text) turns, and the line it is published as.

    `pictures` are the bytes of its embedded images, None for one that is only named; None for a row without any.
    """

    fields: Mapping[str, Any]
    turns: list[tuple[str, str]]
    line: bytes
    pictures: list[bytes | None] | None = None


class Opened(NamedTuple):
    """Rows, what is expected of them, and where they are from.

    `dataset` and `config` are the names of what they are of, where these have one; `place` is where they and their
    pictures lie on this machine; `folder` is the folder whose path was given in place of a name.
    """

    rows: Iterator[Row]
    known: Expected
    dataset: str | None = None
    config: str | None = None
    place: dict[str, Any] | None = None
    folder: Path | None = None


def open_rows(path: Source, request: Request, cache_dir: Any = None) -> Opened:
    """The rows of `path`; see :func:`llava_zh.curation.run.curate`.

    Args:
        request: What is asked of them. Its path is that of a dataset given by name or path.
        cache_dir: As for :func:`llava_zh.load_dataset_builder`.

    Raises:
        BadRow: A row that :func:`llava_zh.load_dataset` would not take either; says which, and what is wrong with it.
        BadArgument: Options that have no meaning for these rows.
        UnknownName, DataFileNotFound: There are no such rows, and the other errors of loading.
    """
    given = request.given()
    if not isinstance(path, str | os.PathLike):
        if given:
            raise BadArgument("name and the options of load_dataset apply to a dataset, not to rows that are given.")
        return Opened((_of_mapping(row, Place("rows", row=position)) for position, row in enumerate(path)), expected())
    if given & {"row_format", "options"}:
        raise BadArgument("row_format: rows are curated as published. Load what is kept in the form you want.")
    if cuts := sorted(given & {"chunk_size", "num_shards"}):
        raise BadArgument(f"{cuts[0]}: rows are curated in their order, in no shards. Leave it out.")
    return _opened(request, cache_dir)


def _opened(request: Request, cache_dir: Any) -> Opened:
    from llava_zh.catalog import paths, registry
    from llava_zh.load import builder_for, place_of
    from llava_zh.rows.formats import RowOptions

    try:
        facts, placed = paths.placed(request)
    except BadRow:
        if request.on_bad_row != "skip":
            raise
        return _all_bad(request)
    # What a run says of its rows tells which prompt they answer.
    builder = builder_for(facts, replace(placed, options=RowOptions(regenerated=True)), cache_dir)
    known = expected(builder.FACTS, builder.config_facts)
    if request.given() & _CHOOSING or builder.config_facts.task is not None:
        rows = _chosen(builder, request.path)
    else:
        # Which images a row of a path has is known when its configuration is.
        by_path = placed.data_dir is not None and request.data_dir is None and request.name is None
        expect = replace(builder.expect, facts=False, images="many" if by_path else builder.config_facts.images)
        rows = _as_published(builder, expect)
    named = registry.named(facts.name) is not None
    folder = None if request.data_dir is not None or placed.data_files is not None else placed.data_dir
    return Opened(
        rows,
        known,
        dataset=facts.name if named else None,
        config=builder.config.name if named else None,
        place=place_of(builder, request.image_root),
        folder=None if folder is None else Path(folder),
    )


# -- a dataset, by its name or path ------------------------------------------------------------------------

# What chooses rows by their images; all others are read as they are in the files.
_CHOOSING = frozenset({"archives", "bad_images", "on_missing_image", "rows"})


def _chosen(builder: PublishedBuilder, path: str) -> Iterator[Row]:
    """The rows that are asked for, made anew of what loading has."""
    empty = True
    for position, row in enumerate(builder.rows_as_published()):
        empty = False
        turns = [(turn["from"], turn["value"]) for turn in row["conversations"]]
        how = row.pop(REGENERATED, None)
        fields = row if how is None else {**row, REGENERATED: {k: v for k, v in how.items() if v is not None}}
        yield _with_images(Place(path, row=position), fields, given_images(row), turns)
    if empty:
        raise builder.nothing_left()


def _as_published(builder: PublishedBuilder, expect: Expect) -> Iterator[Row]:
    tally = builder.tally()
    empty = True
    for file in builder.config.files:
        try:
            for row in _rows_of_file(file, tally, expect, builder.token):
                empty = False
                yield row
        except BadFile as error:
            tally.damage(error)
    tally.report()
    if empty:
        raise builder.nothing_left()


def _all_bad(request: Request) -> Opened:
    """The rows of files of which none is near the start that is good, where bad rows are left out."""
    from llava_zh.files.data_files import local_files
    from llava_zh.streams.left_out import Tally

    path = Path(request.path).expanduser()
    files = local_files(str(path), None) if path.is_dir() else local_files(None, [str(path.absolute())])

    def rows() -> Iterator[Row]:
        tally = Tally(request.path, request.on_bad_row)
        for file in files:
            yield from _rows_of_file(file, tally, Expect(images="many"), None)
        tally.report()

    return Opened(rows(), expected(), folder=path if path.is_dir() else None)


def _rows_of_file(file: DataFile, tally: Tally, expect: Expect, token: Any) -> Iterator[Row]:
    from llava_zh.files import readers

    for (place, record, line), turns in readers.checked_records(file, expect, token):
        try:
            if turns is not None and line is not None and not isinstance(record, BadRow):
                yield Row(record, [(turn["from"], turn["value"]) for turn in turns], line + b"\n")
            else:
                yield _of_record(place, record, line, expect)
        except BadRow as error:
            tally.bad_row(error)


def _of_record(place: Place, record: Mapping[str, Any] | BadRow, line: bytes | None, expect: Expect) -> Row:
    if isinstance(record, BadRow):
        raise record
    checked = records.annotation(place, record, expect)
    turns = [(turn["from"], turn["value"]) for turn in checked["conversations"]]
    if line is not None:
        return Row(record, turns, line + b"\n")
    key, images = expect.columns.get(record, "image")
    if USUAL.get(record, "conversations")[1] is None:  # a caption, say, in a column that nothing else knows
        of_text = {expect.columns.get(record, field)[0] for field in ROUNDS}
        record = {name: value for name, value in record.items() if name not in of_text}
        record["conversations"] = checked["conversations"]
    if key not in ALIASES["image"]:
        record = {name: value for name, value in record.items() if name != key}
        key = "image"
    if not checked["images"]:
        return _published(place, record, None, None, turns, [])
    names = checked["images"] if isinstance(images, list) else checked["images"][0]
    return _published(place, record, key, names, turns, checked["bytes"])


# -- rows given --------------------------------------------------------------------------------------------


def _of_mapping(fields: Mapping[str, Any], place: Place) -> Row:
    if not isinstance(fields, Mapping):
        raise records.bad_row(place, "row", "a mapping", type(fields).__name__)
    return _with_images(place, fields, given_images(fields), _turns(place, fields))


def _with_images(place: Place, fields: Mapping[str, Any], given: GivenImages, turns: list[tuple[str, str]]) -> Row:
    if no_image(fields.get(given.field)) and not any(MARK in text for _, text in turns):
        return _text_only(place, fields, given, turns)
    names = [None if image is None else image_label(image) for image in given.images]
    pictures = [_embedded(image) for image in given.images]
    if not names or any(name is None and data is None for name, data in zip(names, pictures, strict=True)):
        wanted = "an image's path or its bytes (of a dataset, take .decode(False))"
        raise records.bad_row(place, given.field, wanted, fields.get(given.field))
    return _published(place, fields, given.field, names if given.listed else names[0], turns, pictures)


def _text_only(place: Place, fields: Mapping[str, Any], given: GivenImages, turns: list[tuple[str, str]]) -> Row:
    """A row without an image, as mixed sets have them: there is nothing but its text to be judged."""
    return _published(place, fields, given.field if given.listed else None, [], turns, [])


def _embedded(image: Any) -> bytes | None:
    data = image.get("bytes") if isinstance(image, Mapping) else image
    return bytes(data) if isinstance(data, bytes | bytearray | memoryview) else None


def _published(
    place: Place,
    fields: Mapping[str, Any],
    key: str | None,
    names: str | list[str | None] | None,
    turns: list[tuple[str, str]],
    pictures: list[bytes | None],
) -> Row:
    """The row with its images as names under `key` in the line and, where they are embedded, as bytes beside it."""
    published = {field: value for field, value in fields.items() if value is not None}
    if key is not None:
        published[key] = names
    try:
        line = msgspec.json.encode(published) + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise records.bad_row(place, "row", "values that JSON can hold", str(error)) from None
    return Row(fields, turns, line, pictures if any(data is not None for data in pictures) else None)


def _turns(place: Place, fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(turn["from"], turn["value"]) for turn in records.turns_of(place, fields)]
