"""Text on a terminal: wide characters, wrapping, tables, and nothing that steers the terminal.

All that the commands print goes through :func:`say`, :func:`say_json` and :func:`tell`, so that whatever a dataset, an
archive or a server sent is shown as text. A name from outside within a line or a cell of ours goes through
:func:`one_line` besides.
"""

from __future__ import annotations

import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence

from ..gates import sizes
from ..gates.safe_text import json_text, printable, safe
from ..gates.safe_text import one_line as one_line

# Closing punctuation is not put at the start of a line, as Chinese typesetting has it: it hangs at the end of the last.
_NOT_FIRST = frozenset("，。、；：？！）》」』】〉”’…,.;:?!)]}%")
# What is not split: a run without spaces of narrow characters; each wide character is a piece of its own.
_PIECE = re.compile(r" +|[^ ⺀-￯\U0001f000-\U0003ffff]+|.")

size = sizes.show


def say(content: object = "") -> None:
    """Print what a command is asked for, on standard output."""
    sys.stdout.write(safe(str(content)) + "\n")


def say_json(value: object, indent: int | None = None) -> None:
    """Print `value` as JSON on standard output; valid on every terminal."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    sys.stdout.write(json_text(value, indent=indent, ascii_only=not encoding.startswith("utf")) + "\n")


def tell(message: object) -> None:
    """Print a message beside the data, on standard error."""
    sys.stderr.write(safe(str(message)) + "\n")


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
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            " " * (widths[i] - width(cell)) + cell if i in right else cell + " " * (widths[i] - width(cell))
            for i, cell in enumerate(row)
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
