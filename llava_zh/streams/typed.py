"""A stream of Arrow tables that are known to have their final types already.

`datasets` looks at every row of a stream again to give it the types of its features, which takes ten times as long as
making the row. Tables made here have exactly these types, so the stream says so and the rows pass through as they
are. That is done only where no column has to be decoded: pictures are opened by `datasets` itself, after any
shuffle buffer and not before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Features
from datasets.iterable_dataset import ArrowExamplesIterable
from datasets.utils.sharding import _merge_gen_kwargs, _shuffle_gen_kwargs, _split_gen_kwargs
from packaging.version import Version

from ..gates.safe_text import get_logger
from . import insides  # noqa: F401 (a worker that is spawned needs what it does to the class of streams)
from .python_rows import python_rows

logger = get_logger(__name__)

# `IterableDataset.shuffle` of these versions gives the least of ten groups' shards as the number of all (datasets issue
# 8669): of 16 shards it makes one, and in silence only one worker of a DataLoader gets rows.
SHUFFLE_STARVES = Version("5.0.0") <= Version(datasets.__version__) < Version("5.1.0")

Tables = Callable[..., Iterator[tuple[Any, pa.Table]]]


class TypedArrowExamples(ArrowExamplesIterable):  # type: ignore[misc]
    """`datasets`' stream over a builder's tables, with `features` where rows need no decoding.

    Args:
        tables: The builder's tables of some shards.
        more: From one shard to several smaller ones, or None.
        on_end: Called when this process has gone through all of its shards once, or has stopped before.
    """

    def __init__(
        self,
        tables: Tables,
        kwargs: dict[str, Any],
        more: Callable[..., Iterator[dict[str, Any]]],
        features: Features,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(tables, kwargs)
        self.generate_more_kwargs_fn = more
        self._row_features = features
        self._on_end = on_end
        self._decodes = any(getattr(f, "decode", False) for f in _leaves(features))

    @property
    def features(self) -> Features | None:
        return None if self._decodes else self._row_features

    @property
    def iter_arrow(self) -> Tables:
        return self._whole_tables

    def __iter__(self) -> Iterator[Any]:
        """Rows, as `datasets` gives them."""
        try:
            for key, table in self._rest():
                for row in python_rows(table):
                    if self._state_dict:
                        self._state_dict["shard_example_idx"] += 1
                    yield key, row
        finally:
            self._on_end()

    def _whole_tables(self) -> Iterator[Any]:
        try:
            yield from super()._iter_arrow()
        finally:
            self._on_end()

    def _iter_arrow(self) -> Iterator[Any]:
        """Tables of one row. Whoever wants tables calls `iter_arrow`. Through this one `map` and `filter` read rows in
        `datasets` before version 5, and count a table as seen with its first row: a resume would lose the others."""
        try:
            for key, table in self._rest():
                for row in range(len(table)):
                    if self._state_dict:
                        self._state_dict["shard_example_idx"] += 1
                    yield key, table.slice(row, 1)
        finally:
            self._on_end()

    def _rest(self) -> Iterator[tuple[Any, pa.Table]]:
        """The tables that are left of the shards that are left, less the rows that `_state_dict` says were taken."""
        state = self._state_dict or {"shard_idx": 0, "shard_example_idx": 0}
        for shard in islice(self._shards(), state["shard_idx"], None):
            taken = state["shard_example_idx"]
            for key, table in self.generate_tables_fn(**shard):
                if taken < len(table):
                    yield key, table.slice(taken)
                taken = max(taken - len(table), 0)
            state |= {"shard_idx": state["shard_idx"] + 1, "shard_example_idx": 0}

    def _with(self, kwargs: dict[str, Any]) -> TypedArrowExamples:
        more = self.generate_more_kwargs_fn
        return TypedArrowExamples(self.generate_tables_fn, kwargs, more, self._row_features, self._on_end)

    def _shards(self) -> list[dict[str, Any]]:
        return list(_split_gen_kwargs(self.kwargs, max_num_jobs=self.num_shards))

    def shuffle_data_sources(self, generator: np.random.Generator) -> TypedArrowExamples:
        if SHUFFLE_STARVES and self.num_shards > 1:
            _tell_of_starving(self.num_shards)
        return self._with(_shuffle_gen_kwargs(deepcopy(generator), self.kwargs))

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> TypedArrowExamples:
        shards = self._shards()
        mine = self.split_shard_indices_by_worker(num_shards, index, contiguous=contiguous)
        return self._with(_merge_gen_kwargs([shards[i] for i in mine]))

    def reshard_data_sources(self) -> TypedArrowExamples:
        smaller = [piece for shard in self._shards() for piece in self.generate_more_kwargs_fn(**shard)]
        return self._with(_merge_gen_kwargs(smaller))


@functools.lru_cache(maxsize=1)  # once a process
def _tell_of_starving(num_shards: int) -> None:
    logger.warning(
        "datasets %s: shuffle() of a stream with %d shards leaves fewer of them, and workers of a DataLoader without "
        "rows in silence. Use llava_zh.shuffled(stream), shuffle(max_buffer_input_shards=1), or datasets 5.1 or later.",
        datasets.__version__, num_shards,
    )  # fmt: skip


def _leaves(feature: Any) -> Iterator[Any]:
    if isinstance(feature, dict):
        for value in feature.values():
            yield from _leaves(value)
    elif isinstance(feature, list):
        yield from _leaves(feature[0])
    elif hasattr(feature, "feature"):  # Sequence, List
        yield from _leaves(feature.feature)
    else:
        yield feature
