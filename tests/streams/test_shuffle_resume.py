"""A shuffled stream that resumes: on one process, over nodes and workers, killed, and with another number of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import train_node
from datasets.distributed import split_dataset_by_node

from llava_zh import load_dataset
from llava_zh.errors import BadArgument
from llava_zh.streams.shuffle import shuffled

ROWS = 600
# Imported once by the process that nodes are forked from; the last is what torch imports late, in every worker.
PRELOADED = ["llava_zh.streams.builder", "torchdata.stateful_dataloader", "torch._meta_registrations"]

needs_loader = pytest.mark.skipif(find_spec("torchdata") is None, reason="the torch extra brings torchdata")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    train_node.write_rows(folder, ROWS)
    return folder


def ids(stream: Any, count: int | None = None) -> list[int]:
    return [int(row["id"]) for row in islice(stream, count)]


def everything(rows: int = ROWS) -> list[int]:
    return list(range(rows))


# -- one process -------------------------------------------------------------------------------------------


def test_an_epoch_has_every_row_once_in_an_order_that_the_seed_decides(rows: Path) -> None:
    first = ids(train_node.stream(rows))
    assert sorted(first) == everything()
    assert first == ids(train_node.stream(rows))
    assert first != ids(train_node.stream(rows, seed=4))


def test_rows_of_one_window_come_from_all_over_the_file(rows: Path) -> None:
    head = ids(train_node.stream(rows, window=8), ROWS // 8)
    neighbours = sum(abs(a - b) == 1 for a, b in pairwise(head))
    assert max(head) - min(head) > ROWS / 2
    assert neighbours < len(head) / 10


def test_epochs_differ_in_order_and_not_in_rows(rows: Path) -> None:
    stream = train_node.stream(rows)
    orders = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        orders.append(ids(stream))
    assert all(sorted(order) == everything() for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 75, 311, ROWS])
def test_a_state_goes_on_with_the_rows_that_would_have_come(rows: Path, epoch: int, taken: int) -> None:
    whole = train_node.stream(rows)
    whole.set_epoch(epoch)
    stopped = train_node.stream(rows)
    stopped.set_epoch(epoch)
    before = ids(stopped, taken)
    resumed = train_node.stream(rows)
    resumed.set_epoch(epoch)
    resumed.load_state_dict(stopped.state_dict())
    assert before + ids(resumed) == ids(whole)


def test_resuming_twice_goes_on_all_the_same(rows: Path) -> None:
    found, state = [], None
    for _ in range(7):
        stream = train_node.stream(rows)
        if state is not None:
            stream.load_state_dict(state)
        found += ids(stream, 41)
        state = stream.state_dict()
    assert found == ids(train_node.stream(rows), 7 * 41)


def test_a_mapped_stream_resumes(rows: Path) -> None:
    def number(row: dict[str, Any]) -> dict[str, int]:
        return {"number": int(row["id"])}

    whole = [row["number"] for row in train_node.stream(rows).map(number)]
    stopped = train_node.stream(rows).map(number)
    before = [row["number"] for row in islice(stopped, 100)]
    resumed = train_node.stream(rows).map(number)
    resumed.load_state_dict(stopped.state_dict())
    assert before + [row["number"] for row in resumed] == whole


def test_a_stream_without_arrow_tables_is_shuffled_too(rows: Path) -> None:
    plain = load_dataset(
        "internvl-sa-1b-caption", "single_en", data_dir=rows, split="train", streaming=True, num_shards=4
    )
    mapped = plain.map(lambda row: {"id": str(int(row["id"]) * 2)})
    found = ids(shuffled(mapped))
    assert sorted(found) == [2 * i for i in everything()]
    assert found != sorted(found)


def test_a_prepared_dataset_is_shuffled_too(rows: Path, tmp_path: Path) -> None:
    prepared = load_dataset("internvl-sa-1b-caption", "single_en", data_dir=rows, split="train", cache_dir=tmp_path)
    stream = shuffled(prepared)
    before = ids(stream, 99)
    resumed = shuffled(prepared)
    resumed.load_state_dict(stream.state_dict())
    assert sorted(before + ids(resumed)) == everything()


def test_pictures_are_opened_only_when_their_row_is_given(demo: Any) -> None:
    stream = load_dataset("llava-instruct-zh-600k", data_dir=demo.llava, split="train", streaming=True)
    before = [row["image"].size for row in shuffled(stream)]
    assert len(before) == 40 and all(min(size) > 100 for size in before)
    missing = load_dataset(
        "llava-instruct-zh-600k", data_dir=demo.llava, image_root=demo.sa1b, split="train", streaming=True
    )
    with pytest.raises(FileNotFoundError):
        next(iter(shuffled(missing)))


# -- repeat and subsample ----------------------------------------------------------------------------------


def test_a_fractional_repeat_gives_whole_copies_of_all_rows_and_one_more_of_some(rows: Path) -> None:
    counts = [0] * ROWS
    for i in ids(train_node.stream(rows, repeat=2.25)):
        counts[i] += 1
    assert set(counts) == {2, 3}
    assert 0.15 < counts.count(3) / ROWS < 0.35


def test_a_subsample_is_the_same_in_every_epoch_and_takes_rows_from_everywhere(rows: Path) -> None:
    stream = train_node.stream(rows, repeat=0.2)
    first = ids(stream)
    stream.set_epoch(1)
    second = ids(stream)
    assert sorted(first) == sorted(second) and first != second
    assert len(set(first)) == len(first) and 0.12 < len(first) / ROWS < 0.28
    for fifth in range(5):
        inside = [i for i in first if fifth * ROWS / 5 <= i < (fifth + 1) * ROWS / 5]
        assert 0.08 < len(inside) / (ROWS / 5) < 0.36


def test_over_many_seeds_every_row_is_as_likely_to_be_in_a_subsample(rows: Path) -> None:
    counts = [0] * ROWS
    for seed in range(60):
        for i in ids(train_node.stream(rows, num_shards=2, seed=seed, parts=1, repeat=0.25)):
            counts[i] += 1
    # Binomial: 60 draws at 0.25 have mean 15 and deviation 3.35; five deviations hold for 600 rows at once.
    assert all(0 <= count <= 32 for count in counts)
    assert abs(sum(counts) / (60 * ROWS) - 0.25) < 5 * (0.25 * 0.75 / (60 * ROWS)) ** 0.5
    # No place in the file is preferred.
    half = sum(counts[: ROWS // 2]) / sum(counts)
    assert abs(half - 0.5) < 5 * (0.25 / sum(counts)) ** 0.5


# -- nodes and workers -------------------------------------------------------------------------------------


@needs_loader
def test_two_nodes_with_two_workers_share_one_epoch_and_resume_with_the_same_batches(rows: Path) -> None:
    found: list[int] = []
    for rank in range(2):
        whole = list(train_node.loader(train_node.stream(rows), rank, 2, 2))
        stopped = train_node.loader(train_node.stream(rows), rank, 2, 2)
        before = list(islice(stopped, 13))
        resumed = train_node.loader(train_node.stream(rows), rank, 2, 2)
        resumed.load_state_dict(stopped.state_dict())
        assert before + list(resumed) == whole
        found += [int(i) for batch in whole for i in batch]
    assert sorted(found) == everything()


@needs_loader
def test_a_state_saved_before_some_workers_gave_a_batch_resumes(rows: Path) -> None:
    whole = list(train_node.loader(train_node.stream(rows), 0, 2, 2))
    stopped = train_node.loader(train_node.stream(rows), 0, 2, 2)
    before = list(islice(stopped, 1))
    resumed = train_node.loader(train_node.stream(rows), 0, 2, 2)
    resumed.load_state_dict(stopped.state_dict())
    assert before + list(resumed) == whole


@needs_loader
@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "in order"])
def test_a_run_that_is_resumed_and_stopped_again_at_once_loses_no_place(rows: Path, shuffle: bool) -> None:
    def loader() -> Any:
        stream = train_node.stream(rows) if shuffle else train_node.published(rows)
        return train_node.loader(stream, 0, 1, 2)

    whole, given, state = list(loader()), [], None
    for batches in (4, 1, 1, 2, len(whole)):  # one batch: the other worker has not given any since it was resumed
        resumed = loader()
        if state is not None:
            resumed.load_state_dict(state)
        given += islice(resumed, batches)
        state = resumed.state_dict()
    assert given == whole


@needs_loader
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(2, id="killed_twice"),
        pytest.param(10, marks=pytest.mark.slow, id="killed_ten_times"),
    ],
)
def test_nodes_killed_at_random_and_resumed_train_on_exactly_one_epoch(tmp_path: Path, kills: int) -> None:
    rows = 250 * (kills + 2)
    train_node.write_rows(tmp_path / "rows", rows)
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    for folder in (calm, stormy):
        folder.mkdir()
    _finish(_start(tmp_path / "rows", calm))
    chance = random.Random(kills)
    for _ in range(kills):
        nodes = _start(tmp_path / "rows", stormy)
        for rank in chance.sample(range(2), 2):
            _await_progress(stormy / f"node{rank}.pt", nodes[rank], saves=chance.randint(1, 4))
            time.sleep(chance.random() / 20)
            os.killpg(nodes[rank].pid, signal.SIGKILL)
        for node in nodes:
            node.join()
            assert node.exitcode == -signal.SIGKILL
    _finish(_start(tmp_path / "rows", stormy))
    trained = [json.loads((stormy / f"node{rank}.json").read_text()) for rank in range(2)]
    assert sorted(int(i) for node in trained for i in node) == everything(rows)
    assert trained == [json.loads((calm / f"node{rank}.json").read_text()) for rank in range(2)]


def _start(rows: Path, folder: Path) -> list[Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    arguments = [(train_node.stream, rows, folder, rank, 2, 2) for rank in range(2)]
    nodes = [context.Process(target=train_node.train, args=args) for args in arguments]
    for node in nodes:
        node.start()
    return nodes


def _await_progress(checkpoint: Path, node: Any, saves: int) -> None:
    """Wait until a node has saved at least so many checkpoints (or a few more: they are quicker than this looks)."""
    seen, last = 0, _saved_at(checkpoint)
    while seen < saves:
        assert node.is_alive(), f"a node ended with {node.exitcode} before it could be killed"
        time.sleep(0.002)
        if _saved_at(checkpoint) != last:
            seen, last = seen + 1, _saved_at(checkpoint)


def _saved_at(checkpoint: Path) -> int:
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


def _finish(nodes: list[Any]) -> None:
    for node in nodes:
        node.join(120)
        assert node.exitcode == 0


# -- another number of nodes or workers --------------------------------------------------------------------


@needs_loader
def test_an_epoch_goes_on_over_other_numbers_of_nodes_and_workers_without_loss_or_repetition(rows: Path) -> None:
    trained: list[int] = []
    states = None
    for nodes, workers, steps in [(2, 2, 9), (1, 3, 25), (4, 0, 5), (2, 1, None)]:
        loaders = [
            train_node.loader(train_node.stream(rows, continue_from=states), rank, nodes, workers)
            for rank in range(nodes)
        ]
        for each in loaders:
            trained += [int(i) for batch in islice(each, steps) for i in batch]
        states = [each.state_dict() for each in loaders]
    assert sorted(trained) == everything()


def test_a_divided_rest_resumes_from_its_own_states_alone(rows: Path) -> None:
    first = [split_dataset_by_node(train_node.stream(rows), rank=rank, world_size=2) for rank in range(2)]
    trained = [i for node in first for i in ids(node, 100)]
    states = [node.state_dict() for node in first]
    rest = [
        split_dataset_by_node(train_node.stream(rows, continue_from=states), rank=rank, world_size=4)
        for rank in range(4)
    ]
    trained += [i for node in rest for i in ids(node, 20)]
    for rank, node in enumerate(rest):
        resumed = split_dataset_by_node(train_node.stream(rows), rank=rank, world_size=4)
        resumed.load_state_dict(node.state_dict())
        trained += ids(resumed)
    assert sorted(trained) == everything()


def test_a_rest_belongs_to_its_epoch_and_the_next_epoch_is_whole(rows: Path) -> None:
    stopped = train_node.stream(rows)
    stopped.set_epoch(2)
    before = ids(stopped, 400)
    rest = train_node.stream(rows, continue_from=[stopped.state_dict()])
    assert rest.epoch == 2
    assert sorted(before + ids(rest)) == everything()
    rest.set_epoch(3)
    assert sorted(ids(rest)) == everything()


def test_a_state_of_another_number_of_nodes_is_refused_and_the_way_out_named(rows: Path) -> None:
    node = split_dataset_by_node(train_node.stream(rows), rank=0, world_size=2)
    ids(node, 10)
    other = split_dataset_by_node(train_node.stream(rows), rank=0, world_size=4)
    other.load_state_dict(node.state_dict())
    with pytest.raises(BadArgument, match=r"'0/2'.*this one is '0/4'.*continue_from="):
        next(iter(other))


def test_a_state_of_another_node_is_refused(rows: Path) -> None:
    nodes = [split_dataset_by_node(train_node.stream(rows), rank=rank, world_size=2) for rank in range(2)]
    ids(nodes[0], 10)
    nodes[1].load_state_dict(nodes[0].state_dict())
    with pytest.raises(BadArgument, match="each with its own state"):
        next(iter(nodes[1]))


def test_a_state_of_another_cut_of_the_file_is_refused(rows: Path) -> None:
    stopped = train_node.stream(rows)
    ids(stopped, 10)
    other = train_node.stream(rows, num_shards=16)
    other.load_state_dict(stopped.state_dict())
    with pytest.raises(BadArgument, match=r"32 shards(.|\n)*16 shards(.|\n)*num_shards"):
        next(iter(other))


def test_continuing_without_the_states_of_all_nodes_is_refused(rows: Path) -> None:
    nodes = [split_dataset_by_node(train_node.stream(rows), rank=rank, world_size=2) for rank in range(2)]
    for node in nodes:
        ids(node, 10)
    with pytest.raises(BadArgument, match=r"missing; given \(index/number\): 1/2"):
        train_node.stream(rows, continue_from=[nodes[1].state_dict()])


def test_continuing_with_one_state_twice_is_refused(rows: Path) -> None:
    nodes = [split_dataset_by_node(train_node.stream(rows), rank=rank, world_size=2) for rank in range(2)]
    for node in nodes:
        ids(node, 10)
    states = [node.state_dict() for node in nodes]
    with pytest.raises(BadArgument, match="given twice"):
        train_node.stream(rows, continue_from=[*states, states[0]])


def test_nodes_that_all_read_everything_resume_but_cannot_change_their_number(rows: Path) -> None:
    # 3 does not divide 64 parts, so `datasets` has every node read all rows and keep one in three.
    nodes = [split_dataset_by_node(train_node.stream(rows), rank=rank, world_size=3) for rank in range(3)]
    found = [i for node in nodes for i in ids(node, 50)]
    states = [node.state_dict() for node in nodes]
    with pytest.raises(BadArgument, match="every node reads all rows"):
        train_node.stream(rows, continue_from=states)
    for rank, state in enumerate(states):
        node = split_dataset_by_node(train_node.stream(rows), rank=rank, world_size=3)
        node.load_state_dict(state)
        found += ids(node)
    assert len(found) == len(set(found))


def test_parts_for_three_nodes_are_divided_among_them(rows: Path) -> None:
    nodes = [
        split_dataset_by_node(train_node.stream(rows, window=1, num_shards=6, parts=48), rank=r, world_size=3)
        for r in range(3)
    ]
    assert [node.num_shards for node in nodes] == [16, 16, 16]
    assert sorted(i for node in nodes for i in ids(node)) == everything()


# -- arguments ---------------------------------------------------------------------------------------------


@needs_loader
def test_more_workers_than_parts_are_refused(rows: Path) -> None:
    batches = train_node.loader(train_node.stream(rows, num_shards=2, parts=2), 0, 1, 3)
    with pytest.raises(BadArgument, match=r"3 nodes or workers have only 2 parts.*parts=4 or more"):
        list(batches)


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"window": 0}, {"parts": 0}, {"repeat": 0.0}, {"repeat": float("nan")}]
)
def test_arguments_that_cannot_work_are_refused(rows: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadArgument, match=next(iter(wrong))):
        train_node.stream(rows, **wrong)


def test_a_dict_of_splits_or_a_divided_stream_is_refused(rows: Path) -> None:
    splits = load_dataset("internvl-sa-1b-caption", "single_en", data_dir=rows, streaming=True)
    with pytest.raises(BadArgument, match='split="train"'):
        shuffled(splits)
    with pytest.raises(BadArgument, match="shuffle it first"):
        shuffled(split_dataset_by_node(splits["train"], rank=0, world_size=2))
