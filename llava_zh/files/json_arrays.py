"""Files that are one JSON array of records, of any size, or lines under the name ``.json``.

An array is read in blocks. A block is cut behind its last whole element: a cut is right if what is before it is a JSON
array by itself, for a text or an object that is cut through is none, so the parser says where elements end. Where an
element is no JSON, or is longer than a block, signs are looked at one by one, from block to block, and the others are
read.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pyarrow as pa

from ..errors import BadFile, BadRow
from ..gates.json_values import BOM
from ..gates.limits import LINE
from ..rows import records
from ..rows.records import Expect, Place
from . import jsonl
from .data_files import DataFile
from .hub import read
from .kinds import HEAD, check_head

# Bytes of an array that are cut into elements at once, and the elements that make a table.
BLOCK = 4 << 20
TABLE = 1 << 20
# Places before which an element may end, the last first, that are tried; and the white space that may be there.
_TRIES, _GAP = 40, 4096
_SPACE = b" \t\r\n"
# Bytes of a file that are asked for first to see what it is; more where they are all white space.
_START = 64 << 10
# How the first element of a block opens, which others do as well.
_opening = re.compile(rb"\s*(\{\s*\"[^\"\\]{0,99}\")")
# Whole texts, in which brackets and commas mean nothing; the brackets and commas; and the quote of a text cut off.
_tokens = re.compile(rb'"(?:[^"\\]++|\\.)*+"|([\[\]{},"])', re.DOTALL)
_inner = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_array = msgspec.json.Decoder(list[msgspec.Raw])
_lines_to_spaces = bytes.maketrans(b"\r\n", b"  ")


def is_array(file: DataFile, token: Any) -> bool:
    """Whether the file is an array, or else has a record a line.

    Raises:
        BadFile: It starts as something that is no JSON.
    """
    at, size = 0, _START
    while True:
        piece = b"".join(read(file, at, min(file.size - at, size), token))
        if at == 0:
            check_head(file.label, piece[:HEAD])
        bare = (piece if at else piece.removeprefix(BOM)).lstrip(_SPACE)
        at += len(piece)
        if bare or at >= file.size:
            return bare.startswith(b"[")
        size = BLOCK


def rows(file: DataFile, token: Any) -> Iterator[Any]:
    """The records of a file, an array or lines, or what is wrong with them.

    Raises:
        BadFile: When all records that are there were given: the array is cut short, or there is something after it.
    """
    if not is_array(file, token):
        yield from _on_lines(file, token)
        return
    count = 0
    for elements in cut(file.label, read(file, 0, file.size, token), BLOCK):
        for element in elements:
            yield _record(Place(file.label, row=count), element)
            count += 1


def _on_lines(file: DataFile, token: Any) -> Iterator[Any]:
    whole = jsonl.Range(0, file.size)
    for offset, block in jsonl.blocks(read(file, 0, file.size, token), whole):
        if isinstance(block, jsonl.TooLong):
            yield jsonl.too_long(Place(file.label, byte=offset))
        else:
            yield from (jsonl.decode_line(Place(file.label, byte=at), line) for at, line in jsonl.lines(offset, block))


def parts(file: DataFile, token: Any) -> Iterator[tuple[int, list[Element]]]:
    """The elements of an array, some megabyte at a time, with the number of the first.

    Raises:
        BadFile: As :func:`rows`.
    """
    count = 0
    for elements in cut(file.label, read(file, 0, file.size, token), BLOCK):
        begin, size = 0, 0
        for i, element in enumerate(elements):
            size += 0 if element is None else len(element)
            if size >= TABLE:
                yield count + begin, elements[begin : i + 1]
                begin, size = i + 1, 0
        if begin < len(elements):
            yield count + begin, elements[begin:]
        count += len(elements)


def cut(label: str, pieces: Iterable[bytes], block: int) -> Iterator[list[Element]]:
    """The elements of the array that `pieces` are, as many at a time as about `block` bytes have.

    Raises:
        BadFile: As :func:`rows`.
    """
    return _Array(label, pieces, block).parts()


# An element as it is written; None for one that is longer than any may be.
Element = bytes | msgspec.Raw | None


def parse(label: str, first: int, elements: list[Element], expect: Expect, on_bad: Any, on_columns: Any) -> pa.Table:
    """Elements of an array as annotations; `first` is the number of the first of them."""
    if None not in elements:
        block = b"\n".join(elements)  # type: ignore[arg-type] # a Raw is its bytes
        if block.count(b"\n") >= len(elements):
            # In what the parser took for JSON a line break is white space; a text has none but as an escape.
            whole = [bytes(one) for one in elements if isinstance(one, msgspec.Raw)]
            block = b"\n".join(one.translate(_lines_to_spaces).strip() for one in whole)
        annotations = jsonl.columns(block, expect, on_columns)
        if annotations is not None and len(annotations) == len(elements):
            return annotations
    return records.from_rows(_told(label, first, elements, on_columns), expect, on_bad)


def _told(label: str, first: int, elements: list[Element], on_columns: Any) -> Iterator[tuple[Place, Any]]:
    for i, element in enumerate(elements):
        place = Place(label, row=first + i)
        row = _record(place, element)
        if not isinstance(row, BadRow):
            on_columns(row)
        yield place, row


def _record(place: Place, element: Element) -> Any:
    return jsonl.too_long(place) if element is None else jsonl.decode_line(place, bytes(element))


def first_element(file: DataFile, token: Any) -> Iterator[Any]:
    """The first element of a JSON array, if the file is one and its start holds it: the whole may be gigabytes."""
    start = b"".join(read(file, 0, min(file.size, jsonl.FIRST_BLOCK), token))
    check_head(file.label, start[:HEAD])
    text = start.removeprefix(BOM).decode("utf-8", errors="ignore").lstrip()
    if text.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            yield json.JSONDecoder().raw_decode(text[1:].lstrip())[0]


class _Array:
    """An array under way: `text` is what was read and is not given yet, from the start of an element on."""

    def __init__(self, label: str, pieces: Iterable[bytes], block: int) -> None:
        self.label, self.pieces, self.block = label, iter(pieces), block
        self.text, self.at, self.count = b"", 0, 0  # `at` is the place of `text` in the file, `count` of those given
        self.more = True
        self._anew()

    def _anew(self) -> None:
        # What is known of the first element of `text`: so much of it was looked through, that ends so deep and within a
        # text or not; and whether it is longer than any may be, so that `text` has only its end.
        self.seen, self.level, self.within, self.long = 0, 1, False, False

    def parts(self) -> Iterator[list[Element]]:
        """Elements, as many as a block has."""
        while self.more and b"[" not in self.text:
            self._drop(len(self.text))  # white space and a byte order mark
            self._read(1)
        self._drop(self.text.find(b"[") + 1)
        ended, problem = False, ""
        while not (ended or problem):
            # What is left of an element grows by as much again, so that a long one is not copied many times.
            self._read(max(self.block, len(self.text)))
            elements, ended = self._quickly() if not self.long else ([], False)
            if not elements and not ended:
                elements, ended, problem = self._carefully()
            self.count += len(elements)
            if elements:
                yield elements
        while not problem and (self.text or self.more):
            if self.text.strip(_SPACE + b"\0"):
                problem = f"something follows its end at byte {self.at}. Is the file complete?"
            self.text = b""
            self._read(self.block)
        if problem:
            raise BadFile(f"{self.label}: not a JSON array of records: {problem}")

    def _read(self, size: int) -> None:
        """Have `size` more bytes of `text` at least, or all that there are."""
        parts = [self.text]
        while size > 0 and self.more:
            piece = next(self.pieces, None)
            self.more = piece is not None
            if piece is not None:
                parts.append(piece)
                size -= len(piece)
        self.text = b"".join(parts)

    def _drop(self, end: int) -> None:
        self.at += end
        self.text = self.text[end:]
        self.seen = max(self.seen - end, 0)

    def _quickly(self) -> tuple[list[Element], bool]:
        """The whole elements, and whether the array ends with them; none where one of them may be no JSON."""
        if not self.more:
            with contextlib.suppress(msgspec.DecodeError, RecursionError):
                elements: list[Element] = list(_array.decode(b"[" + self.text))
                self._drop(len(self.text))
                return elements, True
            return [], False
        opening = _opening.match(self.text)
        end = len(self.text)
        for _ in range(_TRIES if opening else 0):
            end = self.text.rfind(opening[1] if opening else b"", 0, end)
            before = self.text[max(end - _GAP, 0) : max(end, 0)].rstrip(_SPACE)
            if end <= 0:
                break
            if not before.endswith(b",") or not before[:-1].rstrip(_SPACE).endswith(b"}"):
                continue
            comma = self.text.rfind(b",", 0, end)
            with contextlib.suppress(msgspec.DecodeError, RecursionError):
                elements = list(_array.decode(b"[%b]" % self.text[:comma]))
                self._drop(comma + 1)
                self._anew()
                return elements, False
        return [], False

    def _carefully(self) -> tuple[list[Element], bool, str]:
        """The whole elements, JSON or not: what is between commas and outside of brackets.

        Also whether the array ends with them, and what is wrong after them.
        """
        elements: list[Element] = []
        begin = 0
        for position, sign in self._ends():
            element = self.text[begin:position].strip(_SPACE)
            if self.long or element:
                elements.append(element if not self.long and len(element) <= LINE.value else None)
            elif sign == b"," or self.count + len(elements):
                return elements, False, f"a comma too many at byte {self.at + position}."
            if sign == b"}":
                return elements, False, f"}} where ] is due at byte {self.at + position}."
            begin, self.long = position + 1, False
            if sign == b"]":
                self._drop(begin)
                return elements, True, ""
        if not self.more:
            problem = self._cut_short(len(elements))
            return elements + [None] * self.long, False, problem
        if begin:
            self._drop(begin)
            self._anew()
            return elements, False, ""
        if not self.long:
            self._drop(len(self.text) - len(self.text.lstrip(_SPACE)))
            self.long = len(self.text) > LINE.value
        if self.long:
            self._drop(self.seen)
        return elements, False, ""

    def _ends(self) -> Iterator[tuple[int, bytes]]:
        """Where elements end in what is new of `text`, and the sign behind each, comma or bracket."""
        level = self.level
        while self.seen < len(self.text):
            if self.within:
                inner = _inner.match(self.text, self.seen)
                self.seen = inner.end() if inner else self.seen
                if self.text[self.seen : self.seen + 1] != b'"':
                    break  # at the end, or before a backslash that is the last byte
                self.seen, self.within = self.seen + 1, False
            for token in _tokens.finditer(self.text, self.seen):
                sign = token[1]
                if sign is None:
                    continue
                if sign == b",":
                    if level == 1:
                        yield token.start(), sign
                elif sign in b"[{":
                    level += 1
                elif sign in b"]}":
                    level -= 1
                    if level == 0:
                        yield token.start(), sign
                else:
                    self.seen, self.within = token.end(), True
                    break
            else:
                self.seen = len(self.text)
        self.level = level

    def _cut_short(self, more: int) -> str:
        return f"it ends within record {self.count + more}. Is the file complete?"
