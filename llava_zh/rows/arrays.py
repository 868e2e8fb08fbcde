"""One array out of a column that came in chunks."""

from __future__ import annotations

import pyarrow as pa


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """All values of `column`, also where it has no chunk; a single chunk is given as it is, and not copied.

    `combine_chunks` is of no use here: pyarrow before 19 gives a chunked array back from a column that is empty or has
    several chunks.
    """
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
