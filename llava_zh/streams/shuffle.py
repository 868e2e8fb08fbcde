"""Shuffled and mixed streams that go on, after a crash, with exactly the rows they would have given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadArgument, UnknownName
from .epochs import Plan, find_states, parts_text, remaining

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from ..files.data_files import DataFile
    from .shuffled import ShuffledShards

StoppingStrategy = Literal["first_exhausted", "all_exhausted", "all_exhausted_without_replacement", "never"]
STOPPING_STRATEGIES = ("first_exhausted", "all_exhausted", "all_exhausted_without_replacement", "never")

WINDOW, WINDOW_BYTES = 4, 128 << 20
PARTS = 64


def shuffled(
    dataset: IterableDataset | Dataset,
    *,
    seed: int = 0,
    window: int | None = None,
    parts: int = PARTS,
    repeat: float = 1.0,
    continue_from: Sequence[Mapping[str, Any]] | None = None,
) -> IterableDataset:
    """`dataset` in a random order that a resumed run finds again, row by row.

    ``IterableDataset.shuffle`` loses its buffer on resume. Here whole shards are read in random order, `window` of
    them at a time, and all rows of a window are shuffled at once. The order follows from `seed` and the epoch alone,
    so a ``state_dict`` is a position, and resuming reads one window again: with 32 MB shards, 128 MB of text for about
    100,000 rows that are shuffled together, held in memory as Arrow by each worker. Pictures that rows name are opened
    afterwards; those that shards hold themselves (WebDataset tars, Parquet) are in the window with their bytes.

    The result is an ordinary ``IterableDataset``: divide it with ``datasets.split_dataset_by_node``, feed it to a
    ``DataLoader`` or a ``torchdata`` ``StatefulDataLoader``, call ``set_epoch`` for another order, ``map`` it.

    Args:
        dataset: A stream, or a prepared dataset, of one split.
        seed: Decides the order; a whole number, not negative.
        window: Shards that are shuffled together; more is closer to a full shuffle and takes more memory. By default
            4, fewer where shards are so large that 4 are over 128 MiB, at least 1.
        parts: At least so many parts are made for nodes and workers to share. A stream with fewer windows cuts their
            rows in stripes, and several workers then read the same window. The numbers of nodes that divide the number
            of parts (a power of two, where that of shards is) read nothing twice.
        repeat: How often a row comes in an epoch: 0.1 keeps a tenth of the rows, chosen at random one by one and the
            same in every epoch; 2.5 gives each row twice and half of them, chosen likewise, a third time.
        continue_from: The states of **all** nodes, saved at one moment by ``IterableDataset.state_dict()`` or
            ``StatefulDataLoader.state_dict()``, to go through the rest of their epoch with another number of nodes or
            workers. To resume with the same number, ``load_state_dict`` of each node's own state instead.

    Raises:
        BadArgument: An argument that cannot work, or states that do not belong together or to this dataset.
    """
    from .insides import examples_of, stream_of
    from .shuffled import ShuffledShards

    if seed < 0 or (window is not None and window < 1) or parts < 1 or not repeat > 0:
        raise BadArgument(
            f"seed={seed}, window={window}, parts={parts}, repeat={repeat}: "
            "expected seed >= 0, window >= 1, parts >= 1, repeat > 0."
        )
    stream = _stream(dataset, parts)
    examples = examples_of(stream)
    shards = examples.num_shards
    window = min(_window_of(examples) if window is None else window, shards)
    name = "/".join(filter(None, (stream.info.dataset_name, stream.info.config_name))) or "a stream"
    plan = Plan(name, shards, window, math.ceil(parts / math.ceil(shards / window)), repeat, seed, order=seed)
    if continue_from is None:
        return stream_of(ShuffledShards(examples, plan), stream, seed)
    found = _states(continue_from, ShuffledShards.__name__)
    order, left = remaining([state for _, state in found], plan)
    rest = ShuffledShards(examples, replace(plan, order=order), parts_text(left))
    return stream_of(rest, stream, seed, found[0][0])


def mix(
    datasets: Sequence[IterableDataset | Dataset],
    weights: Sequence[float] | None = None,
    *,
    seed: int = 0,
    stopping_strategy: StoppingStrategy = "all_exhausted",
    continue_from: Sequence[Mapping[str, Any]] | None = None,
) -> IterableDataset:
    """Rows of several datasets in one stream, the source of each drawn at random with `weights`.

    As ``datasets.interleave_datasets``, but what it gives resumes exactly from its ``state_dict``, a dataset that
    begins again does so in a new order, and every worker has its share of every dataset, however few shards that has.

    Args:
        datasets: Results of :func:`shuffled`, or anything that it takes (then shuffled with the defaults, and `seed`
            + 0, 1, …). All need the same columns: load them with one ``row_format``, ``"messages"`` or ``"parts"``.
        weights: Relative weights, one a dataset; equal when None.
        seed: Decides the sources drawn.
        stopping_strategy: ``"first_exhausted"`` ends with the first dataset that has no more rows, ``"all_exhausted"``
            when every dataset was gone through at least once (those that end earlier begin again),
            ``"all_exhausted_without_replacement"`` gives each row of each dataset once, ``"never"`` has no end. Each
            worker applies it to its share.
        continue_from: As for :func:`shuffled`; refused once a dataset has begun again.

    Raises:
        BadArgument: An argument that cannot work, or datasets with different columns.
        UnknownName: An unknown `stopping_strategy`.
    """
    from .insides import examples_of, stream_of
    from .shuffled import MixedStreams

    if stopping_strategy not in STOPPING_STRATEGIES:
        raise UnknownName.of("stopping_strategy", stopping_strategy, STOPPING_STRATEGIES)
    weights = [1.0] * len(datasets) if weights is None else list(weights)
    if (
        not datasets
        or len(weights) != len(datasets)
        or not all(0 < weight < math.inf for weight in weights)
        or seed < 0
    ):
        raise BadArgument(
            f"{len(datasets)} datasets with weights={weights}, seed={seed}: expected at least one dataset, "
            "one positive weight for each, and seed >= 0."
        )
    mixed = [one if _is_shuffled(one) else shuffled(one, seed=seed + number) for number, one in enumerate(datasets)]
    _check_columns(mixed)
    streams, epoch = [examples_of(one) for one in mixed], 0
    if continue_from is not None:
        found = _states(continue_from, MixedStreams.__name__)
        epoch = found[0][0]
        if any(len(state["streams"]) != len(streams) for _, state in found):
            raise BadArgument(f"continue_from: the states are of a mixture of other than {len(streams)} datasets.")
        streams = [_continued(stream, [state["streams"][i] for _, state in found]) for i, stream in enumerate(streams)]
    return stream_of(MixedStreams(streams, weights, seed, stopping_strategy), mixed[0], seed, epoch)


def _is_shuffled(dataset: Any) -> bool:
    """Whether `dataset` is a result of :func:`shuffled`."""
    import datasets

    from .insides import examples_of
    from .shuffled import ShuffledShards

    return isinstance(dataset, datasets.IterableDataset) and isinstance(examples_of(dataset), ShuffledShards)


def _window_of(source: Any) -> int:
    """How many shards of `source` make a window of at most :data:`WINDOW_BYTES`, by the sizes of their files."""
    from ..files.shards import Shard

    shards = [shard for shard in getattr(source, "kwargs", {}).get("shards", ()) if isinstance(shard, Shard)]
    wholes: Counter[DataFile] = Counter()
    for shard in shards:
        wholes[shard.file] += shard.end - shard.start
    largest = max((s.file.size * (s.end - s.start) // max(wholes[s.file], 1) for s in shards), default=0)
    return max(min(WINDOW, WINDOW_BYTES // max(largest, 1)), 1)


def _continued(stream: ShuffledShards, states: Sequence[Mapping[str, Any]]) -> ShuffledShards:
    order, left = remaining(states, stream.plan)
    return type(stream)(stream.source, replace(stream.plan, order=order), parts_text(left))


def _states(saved: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[int, dict[str, Any]]]:
    found = [item for state in saved for item in find_states(state, kind)]
    if not found:
        raise BadArgument(f"continue_from: no state of such a stream ({kind}) is in the {len(saved)} states given.")
    if len({epoch for epoch, _ in found}) > 1:
        raise BadArgument("continue_from: the states are of different epochs; pass those saved at one moment.")
    return found


def _stream(dataset: Any, parts: int) -> Any:
    """`dataset` as a stream that is not divided yet."""
    import datasets

    from .insides import examples_of, is_divided
    from .shuffled import MixedStreams, ShuffledShards

    if isinstance(dataset, datasets.Dataset):
        return dataset.to_iterable_dataset(num_shards=max(min(len(dataset), parts), 1))
    if not isinstance(dataset, datasets.IterableDataset):
        raise BadArgument(
            f'A dataset of one split is needed, not {type(dataset).__name__}; load it with split="train".'
        )
    if isinstance(examples_of(dataset), ShuffledShards | MixedStreams):
        raise BadArgument("The stream is shuffled or mixed already; use it as it is, or shuffle what it was made from.")
    if is_divided(dataset):
        raise BadArgument(
            "The stream is divided among nodes already; shuffle it first, then datasets.split_dataset_by_node."
        )
    return dataset


def _check_columns(streams: Sequence[Any]) -> None:
    """Raise unless all streams have the same features."""
    first = streams[0].features
    for number, stream in enumerate(streams[1:], 1):
        if first is None or stream.features == first:
            continue
        other = stream.features or {}
        differ = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        raise BadArgument(
            f"Datasets 0 and {number} differ in: {', '.join(differ)}. Load all with the same row_format "
            '("messages" or "parts"), and with image_root for all or for none.'
        )
