"""Rows to curate: of a dataset, of JSON Lines on disk, or of any iterable, each with its published line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from llava_zh.errors import BadArgument, BadRow, DataFileNotFound
from llava_zh.regenerate.images import image_name

Source = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


class Row(NamedTuple):
    """A row, its (role, text) turns, and the line it is published as."""

    fields: Mapping[str, Any]
    turns: list[tuple[str, str]]
    line: bytes


def open_rows(path: Source, name: str | None, load_options: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of `path`; see :func:`llava_zh.curation.run.curate`.

    Raises:
        BadRow: A row that is not in published form; says which, and what is wrong with it.
        DataFileNotFound: A folder that holds no JSON Lines.
    """
    if isinstance(path, str | os.PathLike):
        files = _json_lines(Path(path))
        if files is not None:
            if name is not None or any(value is not None for value in load_options.values()):
                raise BadArgument(f"{path} is read as it is on disk: leave name and the options out.")
            return _rows_of_files(files)
        rows = _dataset(os.fspath(path), name, load_options)
    else:
        if name is not None or any(value is not None for value in load_options.values()):
            raise BadArgument("name and the options of load_dataset apply to a dataset's name, not to rows.")
        rows = path
    return (_checked(row, f"row {position}") for position, row in enumerate(rows))


def _json_lines(path: Path) -> list[Path] | None:
    """The JSON Lines files that `path` means; None if it is not on disk."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        return None
    files = sorted(path.glob("data/*.jsonl")) or sorted(path.glob("*.jsonl"))
    if not files:
        raise DataFileNotFound(
            f"Neither {path} nor its folder data holds *.jsonl. Give a run's folder or a JSON Lines file."
        )
    return files


def _dataset(path: str, name: str | None, options: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    from llava_zh.images import UnresolvedImages
    from llava_zh.load import load_dataset_builder

    builder = load_dataset_builder(path, name, **options)
    # Pixels are never looked at, so rows keep their images' published paths, whatever place for them is configured.
    builder.config.images = UnresolvedImages()
    return builder.as_streaming_dataset(split="train").decode(False)  # type: ignore[no-any-return]


def _rows_of_files(files: Iterable[Path]) -> Iterator[Row]:
    for path in files:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _read(line, f"{path}, line {number}")


def _read(line: bytes, where: str) -> Row:
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(where, "line", "one JSON object", f"{line[:60]!r} ({error})") from None
    return Row(fields, _turns(fields, where), line.rstrip(b"\r\n") + b"\n")


def _checked(fields: Mapping[str, Any], where: str) -> Row:
    if not isinstance(fields, Mapping):
        raise _bad(where, "row", "a mapping", type(fields).__name__)
    turns = _turns(fields, where)
    published = {field: value for field, value in fields.items() if value is not None}
    published["image"] = _image(fields, where)
    try:
        return Row(fields, turns, msgspec.json.encode(published) + b"\n")
    except (TypeError, UnicodeEncodeError) as error:
        raise _bad(where, "row", "values that JSON can hold", str(error)) from None


def _turns(fields: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    turns = fields.get("conversations")
    if not isinstance(turns, list | tuple):
        raise _bad(where, "conversations", "a list of turns", _shown(turns))
    return [_turn(turn, f"{where}: conversations[{index}]") for index, turn in enumerate(turns)]


def _turn(turn: Any, where: str) -> tuple[str, str]:
    if isinstance(turn, Mapping):
        # Some published turns name their text `text`.
        role, text = turn.get("from"), turn.get("value", turn.get("text"))
        if isinstance(role, str) and isinstance(text, str):
            return role, text
    raise _bad(where, "turn", "{'from': text, 'value': text}", _shown(turn))


def _image(fields: Mapping[str, Any], where: str) -> str | list[str]:
    image = fields.get("image")
    images = image if isinstance(image, list | tuple) else [image]
    names = [name for item in images if item is not None and (name := image_name(item))]
    if not names or len(names) < len(images):
        raise _bad(where, "image", "an image with a path, since rows are published without pixels", _shown(image))
    return names if images is image else names[0]


def _shown(value: Any) -> str:
    shown = "nothing" if value is None else repr(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}…"


def _bad(where: str, field: str, expected: str, found: str) -> BadRow:
    return BadRow(f"{where}: {field}: expected {expected}, found {found}.", field=field, expected=expected, found=found)
