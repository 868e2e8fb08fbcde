"""One array out of a column, however many chunks it has."""

from __future__ import annotations

import pyarrow as pa
import pytest

from llava_zh.exporters.selection import answer_lengths
from llava_zh.rows.arrays import one_array
from llava_zh.rows.records import ANNOTATIONS, empty


@pytest.mark.parametrize("chunks", [[], [[]], [[["a"], []]], [[["a"]], [], [["b", "c"], None]]])
def test_a_column_of_any_number_of_chunks_is_one_array(chunks: list[list[list[str] | None]]) -> None:
    kind = pa.list_(pa.string())
    column = pa.chunked_array(chunks, kind)
    found = one_array(column)
    assert isinstance(found, pa.Array)
    assert (found.type, found.to_pylist()) == (kind, column.to_pylist())


def test_a_table_without_rows_has_no_answers() -> None:
    assert answer_lengths(empty()).tolist() == []
    assert answer_lengths(pa.Table.from_batches([], ANNOTATIONS)).tolist() == []
