"""What we expect of each private name of `datasets` that we use: a version that changes one fails here, by its name."""

from __future__ import annotations

import copy
import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, IterableDataset, Value
from datasets.builder import ArrowBasedBuilder
from datasets.distributed import split_dataset_by_node
from datasets.iterable_dataset import ArrowExamplesIterable, _BaseExamplesIterable
from datasets.streaming import extend_module_for_streaming
from datasets.utils import info_utils, sharding

import llava_zh
from llava_zh import load_dataset_builder
from llava_zh.demo import DemoPaths
from llava_zh.streams import insides

FEATURES = Features({"n": Value("int64")})
# Of datasets.Dataset, IterableDataset, their examples iterables, and infos; `self._state_dict` is one of ours as well.
PRIVATE = {"_distributed", "_ex_iterable", "_formatting", "_indices", "_to_yaml_dict", "_token_per_repo_id"}


def tables(shards: list[int]) -> Iterator[tuple[Any, pa.Table]]:
    """Two tables of two rows a shard."""
    for shard in shards:
        for table in range(2):
            yield (shard, table), pa.table({"n": [10 * shard + 2 * table + i for i in range(2)]})


def examples() -> ArrowExamplesIterable:
    return ArrowExamplesIterable(tables, {"shards": [0, 1, 2]})


class Numbers(ArrowBasedBuilder):  # type: ignore[misc]
    """A builder with every hook that ours overrides."""

    fail = False

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        self.streams = dl_manager.is_streaming
        if not self.streams:
            assert dl_manager.download_config.force_download in (True, False, None)
        return [datasets.SplitGenerator(name="train", gen_kwargs={"shards": [0, 1, 2]})]

    def _generate_tables(self, shards: list[int]) -> Iterator[tuple[Any, pa.Table]]:
        if self.fail:
            raise KeyError("the cause")
        yield from tables(shards)

    def _prepare_split(self, split_generator: Any, *args: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        super()._prepare_split(split_generator, *args, num_proc=num_proc, **kwargs)
        self.written_to = Path(self._output_dir)
        self.prepared = split_generator.split_info.num_examples

    def _prepare_split_single(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from super()._prepare_split_single(*args, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            assert isinstance(error.__cause__, KeyError)
            raise error.__cause__ from None

    def _get_examples_iterable_for_split(self, split_generator: Any) -> Any:
        return ArrowExamplesIterable(self._generate_tables, split_generator.gen_kwargs)


def test_a_builder_is_prepared_and_streamed_by_the_hooks_that_ours_overrides(tmp_path: Path) -> None:
    assert {name for name in dir(ArrowBasedBuilder) if name in vars(Numbers) and name.startswith("_")} >= {
        "_info",
        "_split_generators",
        "_generate_tables",
        "_prepare_split",
        "_prepare_split_single",
        "_get_examples_iterable_for_split",
    }
    builder = Numbers(cache_dir=str(tmp_path))
    builder.download_and_prepare()
    assert Path(builder._output_dir).is_dir() and builder.written_to.name.endswith(".incomplete")
    assert builder.prepared == len(builder.as_dataset(split="train")) == 12 and not builder.streams
    assert len(list(builder.as_streaming_dataset(split="train"))) == 12 and builder.streams
    failing = Numbers(cache_dir=str(tmp_path / "failing"))
    failing.fail = True
    with pytest.raises(KeyError, match="the cause"):
        failing.download_and_prepare()


def test_generate_more_gen_kwargs_makes_more_shards_where_datasets_reshards() -> None:
    if not hasattr(IterableDataset, "reshard"):
        pytest.skip("this version has no reshard()")
    assert "_generate_more_gen_kwargs" in inspect.getsource(ArrowBasedBuilder._get_examples_iterable_for_split)


def test_a_module_with_patched_for_streaming_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("a_builder_of_somebody")
    vars(module).update(open=open, _patched_for_streaming=True)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    extend_module_for_streaming(module.__name__)
    assert vars(module)["open"] is open


def test_no_lock_is_left_beside_the_installed_package(demo: DemoPaths) -> None:
    builder = load_dataset_builder("llava-instruct-zh-600k", data_dir=demo.llava)
    for module in (type(builder).__module__, "llava_zh.streams.builder"):
        beside = Path(f"{Path(sys.modules[module].__file__ or '').resolve().parents[1]}.lock")
        beside.unlink(missing_ok=True)
        assert len(load_dataset_builder("llava-instruct-zh-600k", data_dir=demo.llava).BUILDER_CONFIGS) == 4
        assert not beside.exists()


def test_gen_kwargs_are_split_merged_and_shuffled_by_their_lists() -> None:
    kwargs = {"shards": [1, 2, 3], "other": "x"}
    split = sharding._split_gen_kwargs(kwargs, max_num_jobs=3)
    assert list(split) == [{"shards": [n], "other": "x"} for n in (1, 2, 3)]
    assert sharding._merge_gen_kwargs(list(split)) == kwargs
    mixed = sharding._shuffle_gen_kwargs(np.random.default_rng(0), kwargs)
    assert sorted(mixed["shards"]) == [1, 2, 3] and mixed["other"] == "x" and kwargs["shards"] == [1, 2, 3]


def test_arrow_examples_have_their_function_kwargs_state_and_tables() -> None:
    one = examples()
    assert one.num_shards == 3 and one.kwargs == {"shards": [0, 1, 2]} and one.generate_tables_fn is tables
    assert one.split_shard_indices_by_worker(2, 1, contiguous=True) == [2]
    assert one.split_shard_indices_by_worker(2, 1, contiguous=False) == [1]
    assert one._state_dict is None
    one._init_state_dict()
    assert {"shard_idx": 0, "shard_example_idx": 0}.items() <= one._state_dict.items()
    assert [row["n"] for _, row in one][:3] == [0, 1, 2]
    assert [len(table) for _, table in one.iter_arrow()] == [] and one._state_dict["shard_idx"] == 3
    assert [len(table) for _, table in examples()._iter_arrow()] == [2] * 6


def test_base_examples_save_and_load_the_state_that_init_state_dict_makes() -> None:
    class Counting(_BaseExamplesIterable):  # type: ignore[misc]
        def _init_state_dict(self) -> dict[str, Any]:
            self._state_dict = {"row": 0, "left": None}
            return self._state_dict

        @property
        def num_shards(self) -> int:
            return 1

        def __iter__(self) -> Iterator[tuple[int, dict[str, int]]]:
            for n in range(self._state_dict["row"] if self._state_dict else 0, 5):
                if self._state_dict:
                    self._state_dict["row"] += 1
                yield n, {"n": n}

    stream = IterableDataset(Counting(), info=datasets.DatasetInfo(features=FEATURES))
    stream._ex_iterable._sleep_on_threads_shutdown = False
    rows = iter(stream)
    assert [next(rows)["n"], next(rows)["n"]] == [0, 1]
    state = copy.deepcopy(stream.state_dict())
    again = IterableDataset(Counting(), info=datasets.DatasetInfo(features=FEATURES))
    again._ex_iterable._sleep_on_threads_shutdown = False
    again.load_state_dict(state)
    assert [row["n"] for row in again] == [2, 3, 4]
    assert _BaseExamplesIterable.iter_arrow.fget is not None and not _BaseExamplesIterable.is_typed.fget(again)


def test_an_iterable_dataset_has_its_examples_its_division_its_format_and_its_tokens() -> None:
    stream = IterableDataset(examples(), info=datasets.DatasetInfo(features=FEATURES))
    assert isinstance(stream._ex_iterable, ArrowExamplesIterable)
    assert stream._distributed is None and stream._formatting is None and stream._token_per_repo_id == {}
    assert split_dataset_by_node(stream, rank=0, world_size=2)._distributed is not None
    assert stream.with_format("arrow")._formatting is not None
    parameters = inspect.signature(IterableDataset.__init__).parameters
    assert {"ex_iterable", "info", "split", "formatting", "token_per_repo_id"} <= parameters.keys()
    if "shuffling" in parameters:
        config = datasets.iterable_dataset.ShufflingConfig(np.random.default_rng(0), 0)
        assert IterableDataset(examples(), shuffling=config)._ex_iterable.num_shards == 3


def test_a_dataset_of_chosen_rows_has_its_indices() -> None:
    rows = Dataset.from_dict({"n": [1, 2, 3]})
    assert rows._indices is None
    chosen = rows.select([2, 0])
    assert Dataset(chosen.data, info=chosen.info, indices_table=chosen._indices)["n"][:] == [3, 1]


def test_an_info_gives_its_features_as_a_card_has_them() -> None:
    info = datasets.DatasetInfo(features=FEATURES)
    assert info._to_yaml_dict()["features"] == [{"name": "n", "dtype": "int64"}]


def test_is_small_dataset_takes_bytes_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "IN_MEMORY_MAX_SIZE", 100)
    assert info_utils.is_small_dataset(99) and not info_utils.is_small_dataset(100)
    assert not info_utils.is_small_dataset(None)


def test_only_streams_uses_private_names_of_datasets() -> None:
    package = Path(llava_zh.__file__).parent
    private = re.compile(rf"\.({'|'.join(PRIVATE)})\b|from datasets[\w.]* import [^\n]*\b_\w+")
    modules = {
        path: path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.parent.name != "streams"
    }
    assert {str(path): found[0] for path, text in modules.items() if (found := private.search(text))} == {}


def test_a_stream_that_has_not_begun_says_the_state_it_was_given() -> None:
    """With what `datasets` answers by itself, a DataLoader that is resumed takes its workers back to their start."""
    insides.keep_loaded_state()  # once more is no more than once
    stopped = IterableDataset(examples())
    iterator = iter(stopped)
    next(iterator)
    next(iterator)
    state = stopped.state_dict()
    resumed = split_dataset_by_node(IterableDataset(examples()), rank=0, world_size=1)
    fresh = resumed.state_dict()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state != fresh
    assert len(list(resumed)) == 12 - 2
