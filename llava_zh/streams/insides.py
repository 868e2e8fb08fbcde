"""What `datasets` has no public name for, each behind a function.

These and the base classes of `builder`, `typed` and `shuffled` are all of its private names that the library uses.
`tests/streams/test_contract.py` says what we expect of each.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Features
from datasets.utils.info_utils import is_small_dataset


def examples_of(stream: datasets.IterableDataset) -> Any:
    """The examples iterable inside a stream: its shards, its state, and its rows with their keys."""
    return stream._ex_iterable


def is_divided(stream: datasets.IterableDataset) -> bool:
    """Whether `split_dataset_by_node` has given this stream one node's share."""
    return stream._distributed is not None


def stream_of(examples: Any, like: datasets.IterableDataset, seed: int, epoch: int = 0) -> datasets.IterableDataset:
    """A stream of the examples iterable `examples`, with the features and the format of `like`, in epoch `epoch`."""
    more: dict[str, Any] = {}
    # Until datasets 5 a new epoch is another order only for a stream that is marked as shuffled.
    if "shuffling" in inspect.signature(datasets.IterableDataset.__init__).parameters:
        more["shuffling"] = datasets.iterable_dataset.ShufflingConfig(np.random.default_rng(seed), seed)
    stream = datasets.IterableDataset(
        examples,
        info=like.info.copy(),
        split=like.split,
        formatting=like._formatting,
        token_per_repo_id=like._token_per_repo_id,
        **more,
    )
    if epoch:
        stream.set_epoch(epoch)
    return stream


def with_features(dataset: datasets.Dataset, features: Features) -> datasets.Dataset:
    """The same rows under `features` that store the same Arrow types.

    `Dataset.cast` would write all rows again where images are in lists.
    """
    info = dataset.info.copy()
    info.features = features
    result = datasets.Dataset(dataset.data, info=info, split=dataset.split, indices_table=dataset._indices)
    chosen = dataset.format
    result.set_format(
        chosen["type"],
        columns=chosen["columns"] if set(chosen["columns"]) != set(dataset.column_names) else None,
        output_all_columns=chosen["output_all_columns"],
        **chosen["format_kwargs"],
    )
    return result


def features_in_card(features: Features) -> Any:
    """`features` in the form that a dataset card has them in."""
    return datasets.DatasetInfo(features=features)._to_yaml_dict()["features"]


#: A cache that `datasets` neither makes nor locks when a builder is made; for one that prepares nothing.
NOWHERE = "memory://llava-zh"


def unwritable_cache(given: str | None) -> str:
    """Why prepared datasets cannot be kept in `given` or the default cache; an empty text where they can.

    `datasets` makes and locks it for every builder, so that one which only streams would fail for it too.
    """
    if given and "://" in given:
        return ""
    root = Path(given or datasets.config.HF_DATASETS_CACHE).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{root} cannot be made ({error.strerror})"
    return "" if os.access(root, os.W_OK | os.X_OK) else f"{root} cannot be written"


def leave_as_it_is(module: str) -> None:
    """Keep `datasets` from replacing `open`, `os.path.join` and more in a builder's module when it streams.

    We open files by `files.hub`; and `datasets` imports scipy to replace them.
    """
    vars(sys.modules[module])["_patched_for_streaming"] = True


def no_lock_beside(base: Any) -> None:
    """Have `datasets` 3 look for scripts beside the builders of others, and not beside ours.

    It holds a lock there, a file next to the installed package, which fails where that folder is not the user's.
    """
    extend = getattr(datasets.builder, "extend_dataset_builder_for_streaming", None)
    if extend is None or int(datasets.__version__.partition(".")[0]) > 3:
        return

    def extend_others(builder: datasets.DatasetBuilder) -> None:
        if not isinstance(builder, base):
            extend(builder)

    datasets.builder.extend_dataset_builder_for_streaming = extend_others


def keep_loaded_state() -> None:
    """Have a stream that was given a state, and has not begun yet, say that state and not the one of its beginning.

    A DataLoader asks its workers for their states as soon as they have loaded them. With what `datasets` (3.6 to 5.2)
    answers then, a state that is saved before every worker has given a batch sends the others back to their start.
    """
    load = datasets.IterableDataset.load_state_dict
    if getattr(load, "_keeps", False):
        return

    @functools.wraps(load)
    def load_and_keep(stream: datasets.IterableDataset, state_dict: dict[str, Any]) -> None:
        load(stream, state_dict)
        if state_dict.get("epoch") == stream.epoch:  # else it begins anew, whatever was loaded
            stream._state_dict = copy.deepcopy(state_dict)

    load_and_keep._keeps = True  # type: ignore[attr-defined]
    datasets.IterableDataset.load_state_dict = load_and_keep


keep_loaded_state()


def local_output(builder: datasets.DatasetBuilder) -> Path | None:
    """The folder on this machine that a builder writes what it prepares to, or None where it is elsewhere.

    While it prepares this is a folder that `datasets` renames in the end, if nothing fails.
    """
    folder = str(builder._output_dir)
    return None if "://" in folder else Path(folder)


def fits_in_memory(size: int | None) -> bool:
    """Whether a prepared dataset of so many bytes is read into memory, by `datasets`' own setting."""
    return bool(is_small_dataset(size))
