"""Files that are one JSON array of records, or lines under the name ``.json``."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from ..errors import BadFile
from ..gates.json_values import BOM, TEXT
from ..gates.limits import JSON_FILE
from ..rows.records import Place
from . import jsonl
from .data_files import DataFile
from .hub import read
from .kinds import HEAD, check_head

# Texts, in which brackets and commas mean nothing, and the brackets and commas.
_tokens = re.compile(TEXT + rb"|[\[\]{},]", re.DOTALL)


def rows(file: DataFile, token: Any) -> Iterator[Any]:
    """The records of a ``.json`` file, or what is wrong with them.

    Raises:
        BadFile: When all records that are there were given: the array is cut short, or there is something after it.
    """
    if file.size > JSON_FILE.value:
        raise BadFile(f"{file.label}: {JSON_FILE.exceeded(file.size)} Or write it as JSON Lines.")
    text = b"".join(read(file, 0, file.size, token))
    check_head(file.label, text[:HEAD])
    text = text.removeprefix(BOM)
    if not text[: 1 << 16].lstrip().startswith(b"["):
        for offset, line in jsonl.lines(0, text):
            yield jsonl.decode_line(Place(file.label, byte=offset), line)
        return
    try:
        elements: Iterator[Any] = iter(msgspec.json.decode(text, type=list[msgspec.Raw]))
    except (msgspec.DecodeError, RecursionError):
        elements = _elements(text, file.label)
    for i, element in enumerate(elements):
        yield jsonl.decode_line(Place(file.label, row=i), bytes(element))


def first_element(file: DataFile, token: Any) -> Iterator[Any]:
    """The first element of a JSON array, if the file is one and its start holds it: the whole may be gigabytes."""
    start = b"".join(read(file, 0, min(file.size, jsonl.FIRST_BLOCK), token))
    check_head(file.label, start[:HEAD])
    text = start.removeprefix(BOM).decode("utf-8", errors="ignore").lstrip()
    if text.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            yield json.JSONDecoder().raw_decode(text[1:].lstrip())[0]


def _elements(text: bytes, label: str) -> Iterator[bytes]:
    """The elements of an array in which not everything is JSON: what is between commas and outside of brackets.

    An element that is none is told of as such, and the others are read.
    """
    level, begin, count = 0, 0, 0
    for token in _tokens.finditer(text):
        kind = token[0]
        if kind in (b"[", b"{"):
            level += 1
            begin = token.end() if level == 1 else begin
        elif kind in (b"]", b"}"):
            level -= 1
        if level == (1 if kind == b"," else 0) and kind in (b",", b"]", b"}"):
            element = text[begin : token.start()].strip()
            if element:
                count += 1
                yield element
            elif kind == b"," or count:
                raise BadFile(f"{label}: not a JSON array of records: a comma too many at byte {token.start()}.")
            begin = token.end()
            if level == 0:
                break
    if level or text[begin:].strip(b" \t\r\n\0"):
        what = f"it ends within record {count}" if level else f"something follows its end at byte {begin}"
        raise BadFile(f"{label}: not a JSON array of records: {what}. Is the file complete?")
