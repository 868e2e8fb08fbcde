"""Appended lines are there whole or not at all, whatever a crash leaves behind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_zh.errors import OutputError
from llava_zh.storage.lines import AppendFile, read_lines, write_lines

RECORDS = [{"position": number, "text": "图" * number} for number in range(20)]
LINES = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in RECORDS]


def reopened(content: bytes) -> list[bytes]:
    """The lines found in a file of `content`, which afterwards takes another and holds nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(content)
        found: list[bytes] = []
        log = AppendFile(path, found.append)
        log.append(b'{"new":1}\n')
        log.flush()
        log.sync()
        log.close()
        assert list(read_lines(path)) == [*found, b'{"new":1}\n']
        return found


@given(cut=st.integers(0, len(b"".join(LINES))))
def test_a_cut_at_any_byte_keeps_every_line_before_it(cut: int) -> None:
    content = b"".join(LINES)[:cut]
    assert reopened(content) == LINES[: content.count(b"\n")]


@given(start=st.integers(0, len(b"".join(LINES)) - 1), length=st.integers(1, 200))
def test_a_block_of_zeros_costs_only_the_lines_it_touches(start: int, length: int) -> None:
    content = bytearray(b"".join(LINES))
    length = min(length, len(content) - start)
    content[start : start + length] = bytes(length)
    kept = reopened(bytes(content))
    assert set(kept) <= set(LINES)
    touched = sum(1 for line in LINES if line not in bytes(content))
    assert len(kept) >= len(LINES) - touched - 1  # the line after a zeroed newline hangs on to the one before


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    write_lines(path, LINES[:3])

    def broken() -> object:
        yield LINES[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"data.jsonl: cannot be written: No space left on device"):
        write_lines(path, broken())  # type: ignore[arg-type]
    assert list(read_lines(path)) == LINES[:3]
