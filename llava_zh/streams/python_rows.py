"""Python rows from Arrow tables, some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

# Rows that are made at once. All of a table at once are slower: a few take the memory of those before. A resumed stream
# has to make the whole batch again.
ROWS_AT_ONCE = 64


def python_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of `table`, as `to_pylist` makes them; `datasets` makes ten at a time, each value by itself."""
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()
