"""Rows to curate: of a dataset, of files on disk, or of any iterable, each with its published line and its pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llava_zh.errors import BadArgument, BadFile, BadRow, DataFileNotFound
from llava_zh.files import jsonl
from llava_zh.images.names import image_label
from llava_zh.rows import records
from llava_zh.rows.columns import USUAL, Columns, no_image
from llava_zh.rows.given import GivenImages, given_images
from llava_zh.rows.records import Expect, Place

if TYPE_CHECKING:
    from llava_zh.catalog.request import Request
    from llava_zh.files.data_files import DataFile
    from llava_zh.streams.builder import PublishedBuilder
    from llava_zh.streams.left_out import Tally

# The text of a sample may be a member that ends in .txt, as captions are published.
_IN_TARS = Columns.of({"caption": ("txt",)})

Source = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


class Row(NamedTuple):
    """A row, its (role, text) turns, and the line it is published as.

    `pictures` are the bytes of its embedded images, None for one that is only named; None for a row without any.
    """

    fields: Mapping[str, Any]
    turns: list[tuple[str, str]]
    line: bytes
    pictures: list[bytes | None] | None = None


def open_rows(path: Source, request: Request, cache_dir: Any = None) -> Iterator[Row]:
    """The rows of `path`; see :func:`llava_zh.curation.run.curate`.

    Args:
        request: What is asked of them. Its path is that of a dataset given by name.
        cache_dir: As for :func:`llava_zh.load_dataset_builder`.

    Raises:
        BadRow: A row that :func:`llava_zh.load_dataset` would not take either; says which, and what is wrong with it.
        DataFileNotFound: A folder without a file of rows.
        BadArgument: Options that have no meaning for these rows.
    """
    given = request.given()
    if not isinstance(path, str | os.PathLike):
        if given:
            raise BadArgument("name and the options of load_dataset apply to a dataset's name, not to rows.")
        return (_of_mapping(row, Place("rows", row=position)) for position, row in enumerate(path))
    files = _on_disk(Path(path))
    if files is None:
        return _rows_of_dataset(request, cache_dir)
    if given - {"on_bad_row"}:
        raise BadArgument(
            f"{path} is read as it is on disk, where only on_bad_row applies. To choose rows of it, give the dataset's "
            "name, and this folder as data_dir=."
        )
    return _rows_of_files(files, str(path), request.on_bad_row)


# -- a dataset ---------------------------------------------------------------------------------------------


def _rows_of_dataset(request: Request, cache_dir: Any) -> Iterator[Row]:
    from llava_zh.load import builder_of

    if request.given() & {"row_format", "options"}:
        raise BadArgument("row_format: rows are curated as published. Load what is kept in the form you want.")
    builder = builder_of(request, cache_dir)
    return _loaded(builder, request.path)


def _loaded(builder: PublishedBuilder, path: str) -> Iterator[Row]:
    empty = True
    for position, row in enumerate(builder.rows_as_published()):
        empty = False
        turns = [(turn["from"], turn["value"]) for turn in row["conversations"]]
        yield _with_images(Place(path, row=position), row, given_images(row), turns)
    if empty:
        raise builder.nothing_left()


# -- rows given --------------------------------------------------------------------------------------------


def _of_mapping(fields: Mapping[str, Any], place: Place) -> Row:
    if not isinstance(fields, Mapping):
        raise records.bad_row(place, "row", "a mapping", type(fields).__name__)
    return _with_images(place, fields, given_images(fields), _turns(place, fields))


def _with_images(place: Place, fields: Mapping[str, Any], given: GivenImages, turns: list[tuple[str, str]]) -> Row:
    if no_image(fields.get(given.field)) and not any(records.MARK in text for _, text in turns):
        return _text_only(place, fields, given, turns)
    names = [None if image is None else image_label(image) for image in given.images]
    pictures = [_embedded(image) for image in given.images]
    if not names or any(name is None and data is None for name, data in zip(names, pictures, strict=True)):
        wanted = "an image's path or its bytes (of a dataset, take .decode(False))"
        raise records.bad_row(place, given.field, wanted, fields.get(given.field))
    return _published(place, fields, given.field, names if given.listed else names[0], turns, pictures)


def _text_only(place: Place, fields: Mapping[str, Any], given: GivenImages, turns: list[tuple[str, str]]) -> Row:
    """A row without an image, as mixed sets have them: there is nothing but its text to be judged."""
    return _published(place, fields, given.field, [] if given.listed else None, turns, [])


def _embedded(image: Any) -> bytes | None:
    data = image.get("bytes") if isinstance(image, Mapping) else image
    return bytes(data) if isinstance(data, bytes | bytearray | memoryview) else None


def _published(
    place: Place,
    fields: Mapping[str, Any],
    key: str,
    names: str | list[str | None] | None,
    turns: list[tuple[str, str]],
    pictures: list[bytes | None],
) -> Row:
    """The row with its images as names in the line and, where they are embedded, as bytes beside it."""
    published = {field: value for field, value in fields.items() if value is not None}
    published[key] = names
    if names is None and not pictures:
        del published[key]
    try:
        line = msgspec.json.encode(published) + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise records.bad_row(place, "row", "values that JSON can hold", str(error)) from None
    return Row(fields, turns, line, pictures if any(data is not None for data in pictures) else None)


def _turns(place: Place, fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(turn["from"], turn["value"]) for turn in records.turns_of(place, fields)]


# -- files on disk -----------------------------------------------------------------------------------------


def _on_disk(path: Path) -> list[DataFile] | None:
    """The files of rows that `path` means: it, or those in its folder ``data``, or in it; None for a dataset."""
    from llava_zh.catalog import row_files
    from llava_zh.files.data_files import local_files

    if path.suffix == ".py":
        return None
    if path.is_file():
        return local_files(None, [str(path.absolute())])
    if not path.is_dir():
        return None
    files = row_files.rows_in(local_files(str(path), None))
    if not files:
        raise DataFileNotFound(
            f"Neither {path} nor its folder data holds a file of rows (.jsonl, .json, .parquet, plain or compressed, "
            "or a WebDataset .tar). Give a run's folder, or such a file."
        )
    return files


def _rows_of_files(files: Iterable[DataFile], name: str, on_bad_row: str) -> Iterator[Row]:
    from llava_zh.streams.left_out import Tally

    tally = Tally(name, on_bad_row)
    for file in files:
        try:
            yield from _rows_of_file(file, tally)
        except BadFile as error:
            tally.damage(error)
    tally.report()


def _rows_of_file(file: DataFile, tally: Tally) -> Iterator[Row]:
    from llava_zh.files import readers

    # The configuration is not known, so a row may have any number of images, and in a tar its text as a member.
    expect = Expect(images="many", columns=_IN_TARS if readers.kind_of(file.name) == "tar" else USUAL, text_only=True)
    for (place, record, line), turns in readers.checked_records(file, expect):
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
    if expect.columns is _IN_TARS and "txt" in record:
        said = {} if expect.columns.get(record, "conversations")[1] else {"conversations": checked["conversations"]}
        record = {name: value for name, value in record.items() if name != "txt"} | said
    given = given_images(record)
    if not checked["images"]:
        return _text_only(place, record, given, turns)
    key = given.field
    names = checked["images"] if isinstance(record[key], list) else checked["images"][0]
    return _published(place, record, key, names, turns, checked["bytes"])


def said(line: bytes) -> str:
    """What the gpt turns of a published line say, for an excerpt."""
    place = Place("line", row=0)
    row = jsonl.decode_line(place, line)
    if isinstance(row, BadRow):
        return ""
    return "\n".join(text.strip() for role, text in _turns(place, row) if role == "gpt")
