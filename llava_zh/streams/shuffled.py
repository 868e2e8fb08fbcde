"""`datasets`' kind of streams whose random order can be found again: one shuffled, and several mixed.

They are the inside of what :func:`llava_zh.shuffled` and :func:`llava_zh.mix` return, an ordinary
``datasets.IterableDataset``, which divides them over nodes and workers and saves and loads their states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Features
from datasets.iterable_dataset import _BaseExamplesIterable

from ..errors import BadArgument
from . import epochs as parts
from . import insides  # noqa: F401 (a worker that is spawned needs what it does to the class of streams)
from .epochs import Division, Plan, Step

# Rows that are made Python objects at a time: enough to be quick, few enough for rows that hold whole pictures.
ROWS, ROWS_BYTES = 1000, 8 << 20
# Bytes a row from which on rows are taken one by one, without a copy of the window in one piece.
HEAVY = 64 << 10


def _draw(generator: np.random.Generator) -> int:
    # From a copy: `datasets` 3 and 4 give the same generator at every call and mean it to stay as it is.
    return int(deepcopy(generator).integers(0, 1 << 62))


class ShuffledShards(_BaseExamplesIterable):  # type: ignore[misc]
    """The rows of `source` in the order of `plan`.

    Args:
        source: A stream of `plan.num_shards` shards.
        left: The parts to divide, as :func:`.epochs.parts_text` writes them; all of the plan's when None.
        division: Which of them this node and worker have.
    """

    def __init__(self, source: Any, plan: Plan, left: str | None = None, division: Division = ()) -> None:
        super().__init__()
        self.source, self.plan, self.left, self.division = source, plan, left, division
        self._sleep_on_threads_shutdown = False

    @property
    def is_typed(self) -> bool:
        return bool(self.source.is_typed)

    @property
    def features(self) -> Features | None:
        return self.source.features

    @property
    def num_shards(self) -> int:
        # Of the whole plan, even when less is left: nodes divide the rest as they divided all.
        return len(parts.divide(range(self.plan.num_parts), self.division))

    def _fresh_state(self) -> dict[str, Any]:
        return {
            "type": type(self).__name__,
            "source": self.plan.identity,
            "order": self.plan.order,
            "turn": 0,
            "left": self.left,
            "division": parts.division_text(self.division),
            "part": 0,
            "row": 0,
        }

    def _init_state_dict(self) -> dict[str, Any]:
        self._state_dict = self._fresh_state()
        return self._state_dict

    def begin_again(self) -> None:
        """Set the state to the start of another time through all parts, in another order."""
        self._state_dict = self._state_dict or self._fresh_state()
        self._state_dict |= {"turn": self._state_dict["turn"] + 1, "left": None, "part": 0, "row": 0}

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        state = self._state_dict or self._init_state_dict()
        parts.check_same(state, self.plan)
        parts.check_division(state, self.division)
        state["division"] = parts.division_text(self.division)
        order, turn = state["order"], state["turn"]
        mine = parts.divide(parts.parts_of(state, self.plan), self.division)
        number, window = -1, _Window(self.source, self.plan.num_shards, [])
        for part in mine[state["part"] :]:
            if part.number // self.plan.stripes != number:
                number = part.number // self.plan.stripes
                del window  # at most one in memory
                window = _Window(self.source, self.plan.num_shards, self.plan.shards_of(number, order, turn))
            rows = self.plan.rows_of(part, window.lengths, order, turn)[state["row"] :]
            for row in window.take(rows):
                state["row"] += 1
                yield (part.number, state["row"]), row
            state["part"] += 1
            state["row"] = 0

    def shuffle_data_sources(self, generator: np.random.Generator) -> ShuffledShards:
        """The stream of another epoch; `datasets` draws a `generator` for each."""
        plan = self.plan.at_epoch(_draw(generator))
        # A stream that continues an epoch is shuffled for that epoch again, and has the rest of it still.
        left = self.left if plan.order == self.plan.order else None
        return ShuffledShards(self.source, plan, left, self.division)

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> ShuffledShards:
        if num_shards > self.num_shards:
            raise BadArgument(
                f"{num_shards} nodes or workers have only {self.num_shards} parts of {self.plan.name} to share; "
                f"shuffle it with parts={self.plan.num_parts * -(-num_shards // max(self.num_shards, 1))} or more."
            )
        division = self.division if num_shards == 1 else (*self.division, Step(index, num_shards))
        return ShuffledShards(self.source, self.plan, self.left, division)

    def reshard_data_sources(self) -> ShuffledShards:
        return self


class _Window:
    """The rows of some shards, in memory: an Arrow table, or Python rows of a stream that has no tables."""

    def __init__(self, source: Any, num_shards: int, shards: Sequence[int]) -> None:
        self.lengths: dict[int, int] = {}
        tables: list[pa.Table] = []
        self._rows: list[dict[str, Any]] = []
        for shard in shards:
            one = source.shard_data_sources(num_shards, shard, contiguous=True)
            if one.iter_arrow is None:
                before = len(self._rows)
                self._rows += [row for _, row in one]
                self.lengths[shard] = len(self._rows) - before
            else:
                new = [table for _, table in one.iter_arrow()]
                self.lengths[shard] = sum(map(len, new))
                tables += new
        self._table = pa.concat_tables(tables) if tables else None
        self._heavy = self._table is not None and self._table.nbytes > HEAVY * max(len(self._table), 1)
        if self._table is not None and not self._heavy:
            # Taking rows out of many chunks would join all of them at every call.
            self._table = self._table.combine_chunks()

    def take(self, indices: parts.Indices) -> Iterator[dict[str, Any]]:
        """The rows at `indices`."""
        if self._table is None:
            for index in indices:
                yield dict(self._rows[index])
            return
        if self._heavy:  # a copy of all would double what is held
            for index in indices:
                yield from self._table.slice(int(index), 1).to_pylist()
            return
        step = max(min(ROWS, ROWS_BYTES * len(self._table) // max(self._table.nbytes, 1)), 1)
        for at in range(0, len(indices), step):
            yield from self._table.take(pa.array(indices[at : at + step])).to_pylist()


class MixedStreams(_BaseExamplesIterable):  # type: ignore[misc]
    """Rows of several shuffled streams, each row's source drawn with `weights`."""

    def __init__(
        self, streams: Sequence[ShuffledShards], weights: Sequence[float], seed: int, stopping_strategy: str
    ) -> None:
        super().__init__()
        self.streams, self.weights = list(streams), list(weights)
        self.seed, self.stopping_strategy = seed, stopping_strategy
        self._sleep_on_threads_shutdown = False
        self._drawn = -1, np.empty(0)  # a block of random numbers, and which

    @property
    def is_typed(self) -> bool:
        return all(stream.is_typed for stream in self.streams)

    @property
    def features(self) -> Features | None:
        features = self.streams[0].features
        return features if all(stream.features == features for stream in self.streams) else None

    @property
    def num_shards(self) -> int:
        return min(stream.num_shards for stream in self.streams)

    def _init_state_dict(self) -> dict[str, Any]:
        self._state_dict = {
            "type": type(self).__name__,
            "drawn": 0,
            "ended": [False] * len(self.streams),
            "streams": [stream._init_state_dict() for stream in self.streams],
        }
        return self._state_dict

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        state: dict[str, Any] = self._state_dict or self._init_state_dict()
        once = self.stopping_strategy == "all_exhausted_without_replacement"
        weights = np.array(self.weights, dtype=float)
        weights[[once and ended for ended in state["ended"]]] = 0
        iterators = [iter(stream) for stream in self.streams]
        while weights.any() and not self._is_over(state["ended"]):
            i = self._draw(state["drawn"], weights)
            state["drawn"] += 1
            row = next(iterators[i], None)
            if row is None:
                state["ended"][i] = True
                if self._is_over(state["ended"]):
                    return
                if not once:
                    self.streams[i].begin_again()
                    state["streams"][i] = self.streams[i]._state_dict
                    iterators[i] = iter(self.streams[i])
                    row = next(iterators[i], None)
            if row is None:
                weights[i] = 0  # nothing more, or nothing at all for this worker
            else:
                yield (i, row[0]), row[1]

    def _is_over(self, ended: Sequence[bool]) -> bool:
        if self.stopping_strategy == "never":
            return False
        return any(ended) if self.stopping_strategy == "first_exhausted" else all(ended)

    def _draw(self, number: int, weights: np.ndarray[Any, np.dtype[np.float64]]) -> int:
        """The stream that the `number`-th row of this node and worker comes from."""
        block, at = divmod(number, parts.DRAWS)
        if self._drawn[0] != block:
            self._drawn = block, parts.sources(self.seed, self.streams[0].division, block)
        edges = np.cumsum(weights)
        return int(np.searchsorted(edges, self._drawn[1][at] * edges[-1], side="right"))

    def shuffle_data_sources(self, generator: np.random.Generator) -> MixedStreams:
        draw = _draw(generator)
        seeds = [np.random.default_rng([draw, i]) for i in range(len(self.streams))]
        streams = [stream.shuffle_data_sources(rng) for stream, rng in zip(self.streams, seeds, strict=True)]
        seed = int(np.random.default_rng([self.seed, draw]).integers(0, 1 << 62))
        return MixedStreams(streams, self.weights, seed, self.stopping_strategy)

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> MixedStreams:
        streams = [stream.shard_data_sources(num_shards, index, contiguous) for stream in self.streams]
        return MixedStreams(streams, self.weights, self.seed, self.stopping_strategy)

    def reshard_data_sources(self) -> MixedStreams:
        return self
