"""Text on a terminal: wide characters, wrapping, tables, and nothing that steers the terminal.

All that the commands print goes through :func:`say`, :func:`say_json`, :func:`tell` and their like, so that whatever a
dataset, an archive or a server sent is shown as text. A name from outside within a line or a cell of ours goes through
:func:`one_line` besides. Colours are put around what has been made safe, and only here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from ..gates import sizes
from ..gates.safe_text import json_text, printable, safe
from ..gates.safe_text import one_line as one_line

# Closing punctuation is not put at the start of a line, as Chinese typesetting has it: it hangs at the end of the last.
_NOT_FIRST = frozenset("，。、；：？！）》」』】〉”’…,.;:?!)]}%")
# What is not split: a run without spaces of narrow characters; each wide character is a piece of its own.
_PIECE = re.compile(r" +|[^ ⺀-￯\U0001f000-\U0003ffff]+|.")

size = sizes.show

# Select Graphic Rendition, ECMA-48 8.3.117.
_STYLES = {"bold": "1", "red": "31", "green": "32", "yellow": "33"}
# How the words for a state are shown, wherever a column says them.
_OF_STATES = {"ok": "green", "missing": "yellow", "differs": "yellow", "failed": "red"} | dict.fromkeys(
    ("NOT OK", "NOT FETCHED", "NOT REPACKED", "CANNOT BE READ"), "red"
)


def coloured(stream: TextIO) -> bool:
    """Whether colours are shown: on a terminal that has them, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _painted(content: str, style: str | None, stream: TextIO) -> str:
    """`content`, which is safe, in a colour or bold where `stream` shows such; the blanks around it stay plain."""
    inner = content.strip(" ")
    if style is None or not inner or not coloured(stream):
        return content
    return content.replace(inner, f"\x1b[{_STYLES[style]}m{inner}\x1b[0m", 1)


def say(content: object = "") -> None:
    """Print what a command is asked for, on standard output."""
    sys.stdout.write(safe(str(content)) + "\n")


def say_typed(content: object) -> None:
    """:func:`say` what the library says, which speaks of arguments, in the command's options."""
    sys.stdout.write(typed(content) + "\n")


def say_heading(content: object) -> None:
    """:func:`say` a heading."""
    sys.stdout.write(_painted(safe(str(content)), "bold", sys.stdout) + "\n")


def say_state(state: str, content: str, at: int) -> None:
    """:func:`say` one line about something after the word for its state, which takes `at` columns."""
    line = safe(content)
    sys.stdout.write(f"  {_painted(f'{state:{at}}', _OF_STATES.get(state), sys.stdout)}  {line}\n")


def say_table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "") -> None:
    """:func:`say` a :func:`table`: its headings bold, a cell that is the word for a state in its colour."""
    for number, cells in enumerate(_laid_out(rows, right)):
        styles = ["bold" if number == 0 else _OF_STATES.get(cell.strip()) for cell in cells]
        line = "  ".join(_painted(cell, style, sys.stdout) for cell, style in zip(cells, styles, strict=True))
        sys.stdout.write((indent + line).rstrip() + "\n")


def say_json(value: object, indent: int | None = None) -> None:
    """Print `value` as JSON on standard output; valid on every terminal."""
    sys.stdout.write(_json(value, indent) + "\n")


def say_records(records: Iterable[Mapping[str, Any]], *, lines: bool) -> None:
    """Print `records` as they come, as JSON Lines or as one JSON array."""
    if lines:
        for record in records:
            sys.stdout.write(_json(record) + "\n")
        return
    before = "["
    for record in records:
        sys.stdout.write(f"{before}\n{_json(record)}")
        before = ","
    sys.stdout.write("[]\n" if before == "[" else "\n]\n")


def _json(value: object, indent: int | None = None) -> str:
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return json_text(value, indent=indent, ascii_only=not encoding.startswith("utf"))


def tell(message: object) -> None:
    """Print a message beside the data, on standard error."""
    sys.stderr.write(typed(message) + "\n")


def tell_error(message: object, who: str = "llava-zh:") -> None:
    """:func:`tell` of what ends the command; `who` stands before it."""
    sys.stderr.write(f"{_painted(safe(who), 'red', sys.stderr)} {typed(message)}\n")


@contextlib.contextmanager
def in_words(typed: Callable[[str], str]) -> Iterator[None]:
    """Put what is told within through `typed`, the warnings of the library included, which are told as well.

    The library speaks of arguments, and the command line has options.
    """
    global _typed
    before, _typed = _typed, typed
    handler, logger = _Told(), logging.getLogger("llava_zh")
    logger.addHandler(handler)
    try:
        yield
    finally:
        _typed = before
        logger.removeHandler(handler)


_typed: Callable[[str], str] = str


def typed(message: object) -> str:
    """What the library says, safe to print and in the command's options."""
    return safe(_typed(str(message)))


class _Told(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(self.format(record))


def columns(at_most: int = 100) -> int:
    """Columns of the terminal, or as many as read well."""
    return max(40, min(shutil.get_terminal_size((at_most, 24)).columns, at_most))


def width(text: str) -> int:
    """Columns that `text` takes: wide characters two, combining marks none."""
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else 0 if unicodedata.combining(character) else 1
        for character in text
    )


def wrap(text: str, at_most: int) -> Iterator[str]:
    """The lines of `text`, each broken where it grows wider than `at_most` columns."""
    for line in printable(text).split("\n"):
        current, used = "", 0
        for piece in _pieces(line, at_most):
            taken = width(piece)
            hangs = used <= at_most and _NOT_FIRST.issuperset(piece)
            if used + taken > at_most and not hangs:
                if current.strip():
                    yield current.rstrip()
                piece = piece.lstrip(" ")
                current, used = piece, width(piece)
            else:
                current, used = current + piece, used + taken
        yield current.rstrip()


def _pieces(line: str, at_most: int) -> Iterator[str]:
    """What a line may be broken between; a word wider than a line is cut."""
    for piece in _PIECE.findall(line):
        yield from (piece[at : at + at_most] for at in range(0, len(piece), at_most))


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "") -> str:
    """`rows` in aligned columns, those numbered in `right` to the right; the last column is not padded."""
    return "\n".join((indent + "  ".join(cells)).rstrip() for cells in _laid_out(rows, right))


def _laid_out(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[list[str]]:
    """The cells of a table, made safe and padded to the widths of their columns."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        [
            " " * (widths[i] - width(cell)) + cell if i in right else cell + " " * (widths[i] - width(cell))
            for i, cell in enumerate(row)
        ]
        for row in rows
    ]
