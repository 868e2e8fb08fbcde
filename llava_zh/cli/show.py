"""``llava-zh show``: the first rows of a configuration, streamed."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import text
from .commands import Subparsers, new_parser
from .options import add_dataset, add_json, add_load_options, load_keywords

if TYPE_CHECKING:
    from ..streams.builder import PublishedBuilder

_EXAMPLE = """\
  llava-zh show internvl-sa-1b-caption single_zh -n 5
  llava-zh show llava-instruct-zh-600k conversation --jsonl --row-format messages
  llava-zh show curated/dropped.jsonl            # each with why `llava-zh curate` has dropped it
  llava-zh show internvl-sa-1b-caption multi_zh -n 2 --data-dir llava-zh-demo/internvl --image-root llava-zh-demo/sa1b
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "show",
        help="print the first rows of a configuration",
        description=(
            "Streams the first rows of a configuration and prints them: text, and the size of each image that can be "
            "opened. From a hub, hardly more is read than these rows take."
        ),
        example=_EXAMPLE,
    )
    add_dataset(parser)
    parser.add_argument("-n", type=_count, default=5, metavar="N", dest="count", help="number of rows (default: 5)")
    add_json(parser, "rows, an image as its URL or path,", records=True)
    add_load_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from .. import load_dataset_builder

    builder = load_dataset_builder(args.path, args.name, **load_keywords(args))
    opens = builder.config.images.decode
    rows = builder.as_streaming_dataset(split="train").decode(False)
    first = zip(
        itertools.islice(rows, args.count), itertools.chain(_why_dropped(builder), itertools.repeat({})), strict=False
    )
    if args.json or args.jsonl:
        text.say_records(({**_jsonable(row), **dropped} for row, dropped in first), lines=args.jsonl)
        return 0
    for number, (row, dropped) in enumerate(first):
        head, *lines = _described(dropped.get("row", number), row, opens, text.columns())
        text.say_heading(head)
        text.say("\n".join([*lines, *_reasons(dropped, text.columns())]) + "\n")
    if not opens:
        also = ", or set SA1B_ROOT" if builder.FACTS.in_sa1b else ""
        text.tell(f"The images were not opened: give --image-root{also}.")
    return 0


def _why_dropped(builder: PublishedBuilder) -> Iterator[dict[str, Any]]:
    """What curation says of each row of its ``dropped.jsonl``; nothing of other rows, nor where some are left out."""
    from ..files import readers

    request, files = builder.config.request, builder.config.files
    in_order = not request.selection() and request.on_bad_row == "raise" and builder.config_facts.task is None
    if in_order and files and all(file.name.rpartition("/")[2] == "dropped.jsonl" for file in files):
        for file in files:
            for _, record, _ in readers.raw_records(file):
                if isinstance(record, Mapping):
                    yield {name: record[name] for name in ("row", "reasons", "repeats") if name in record}


def _reasons(dropped: Mapping[str, Any], columns: int) -> Iterator[str]:
    """The lines that say why a row was dropped, and which one it repeats."""
    reasons, other = dropped.get("reasons"), dropped.get("repeats")
    for reason in reasons if isinstance(reasons, list) else []:
        yield from _labelled("dropped", str(reason), columns)
    if isinstance(other, Mapping):
        about = [f"row {other.get('row')}"] + [f"id {other['id']}"] * (other.get("id") is not None)
        image = other.get("image")
        about += [str(name) for name in (image if isinstance(image, list) else [image]) if name is not None]
        yield from _labelled("repeats", text.one_line(" · ".join(about)), columns)
        yield from _labelled("", str(other.get("text", "")), columns)


def _count(given: str) -> int:
    if not given.isdigit() or not int(given):
        raise argparse.ArgumentTypeError(f"expected a number of rows from 1 up, found {given!r}")
    return int(given)


def _is_image(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"bytes", "path"}


def _jsonable(value: Any) -> Any:
    """A column's value with each image as its URL or path; the bytes of embedded ones are left out."""
    if _is_image(value):
        return value["path"]
    if isinstance(value, Mapping):
        return {key: _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_jsonable(inner) for inner in value]
    return value


def _described(number: int, row: Mapping[str, Any], opens: bool, columns: int) -> Iterator[str]:
    """The lines that show one row: its number and id, its images, its turns."""
    about = [f"row {number}"] if row.get("id") is None else [f"row {number}", f"id {row['id']}"]
    about += dict.fromkeys(str(row[name]) for name in ("config", "language", "task") if row.get(name) is not None)
    head = f"── {text.one_line(' · '.join(about))} "
    yield head + "─" * max(0, columns - text.width(head))
    for image in images_of(row):
        yield from _labelled("image", _image(image, opens), columns)
    for turn in row.get("conversations") or row.get("messages") or []:
        yield from _labelled(str(turn.get("from") or turn.get("role")), _said(turn), columns)


def images_of(row: Mapping[str, Any]) -> Iterator[Any]:
    """Every image of a row, whichever column its row format has it in."""
    for value in row.values():
        for item in value if isinstance(value, list) else [value]:
            if _is_image(item):
                yield item


def _image(image: Mapping[str, Any], opens: bool) -> str:
    """Where an image is, and its size in pixels or why it cannot be opened."""
    where = image["path"] or "embedded"
    if not opens and image["bytes"] is None:
        return str(where)
    try:
        return f"{where} ({image_size(image)})"
    except Exception as error:  # whatever a file, an archive, a server or Pillow comes up with
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"{where} (cannot be opened: {reason})"


def image_size(image: Mapping[str, Any]) -> str:
    from ..gates import pictures
    from ..images.reading import read_bytes

    data = image["bytes"] if image["bytes"] is not None else read_bytes(image["path"])
    found = pictures.header(data, "")
    return f"{found.width}×{found.height}"


def _said(turn: Mapping[str, Any]) -> str:
    """The text of a turn; content in parts is put together, images as ``<image>``."""
    content = turn.get("value", turn.get("content"))
    if isinstance(content, list):
        return "\n".join(part.get("text") or f"<{part.get('type')}>" for part in content)
    return "" if content is None else str(content)


def _labelled(label: str, content: str, columns: int) -> Iterator[str]:
    """Wrapped lines, `label` before the first and the others indented as far."""
    indent = max(9, len(label) + 1)
    for line in text.wrap(content, columns - indent):
        yield f"{label:{indent}}{line}".rstrip()
        label = ""
