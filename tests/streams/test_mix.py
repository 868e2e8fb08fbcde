"""Datasets and languages in one stream: by weight, once or for ever, the same after a crash, over nodes and workers."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from datasets.distributed import split_dataset_by_node

from llava_zh import load_dataset
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument, UnknownName
from llava_zh.streams.shuffle import mix, shuffled


def captions(demo: DemoPaths, config: str, **arguments: Any) -> Any:
    arguments = {"row_format": "messages", "num_shards": 4, **arguments}
    return load_dataset(
        "internvl-sa-1b-caption", config, data_dir=demo.internvl, split="train", streaming=True, **arguments
    )


def dialogues(demo: DemoPaths) -> Any:
    return load_dataset(
        "llava-instruct-zh-600k", data_dir=demo.llava, split="train", streaming=True, row_format="messages"
    )


def names(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{row['config']}/{row['language']}/{row['id']}" for row in rows]


def english_and_chinese(demo: DemoPaths, **arguments: Any) -> Any:
    return mix([captions(demo, "single_en"), captions(demo, "single_zh")], [3, 1], **arguments)


def test_rows_come_by_the_weights(demo: DemoPaths) -> None:
    stream = english_and_chinese(demo, stopping_strategy="never")
    counts = Counter(row["language"] for row in islice(stream, 2000))
    # Binomial: deviation 19.4 around 500; five of them.
    assert abs(counts["zh"] - 500) < 97 and sum(counts.values()) == 2000


def test_without_replacement_every_row_of_every_dataset_comes_once(demo: DemoPaths) -> None:
    found = names(english_and_chinese(demo, stopping_strategy="all_exhausted_without_replacement"))
    assert len(found) == len(set(found)) == 160
    # Chinese rows come all along, not only where English ones have ended.
    assert sum("/zh/" in name for name in found[:60]) >= 5


def test_first_exhausted_ends_with_the_first_dataset_that_ends(demo: DemoPaths) -> None:
    counts = Counter(row["language"] for row in english_and_chinese(demo, stopping_strategy="first_exhausted"))
    assert counts["en"] == 80 and counts["zh"] < 60


def test_all_exhausted_goes_on_until_each_dataset_was_gone_through(demo: DemoPaths) -> None:
    counts = Counter(names(mix([captions(demo, "single_en"), captions(demo, "multi_zh")], [1, 1])))
    assert sorted(count for name, count in counts.items() if name.startswith("single_en")) == [1] * 80
    assert sum(name.startswith("multi_zh") for name in counts) == 20
    assert min(count for name, count in counts.items() if name.startswith("multi_zh")) >= 2


def test_a_dataset_that_begins_again_comes_in_another_order(demo: DemoPaths) -> None:
    stream = mix([captions(demo, "multi_en"), captions(demo, "single_zh")], [1, 1], stopping_strategy="never")
    multi = [name for name in names(islice(stream, 300)) if name.startswith("multi_en")]
    assert len(multi) > 60
    turns = [multi[at : at + 20] for at in (0, 20, 40)]
    assert len({tuple(turn) for turn in turns}) == 3
    assert all(sorted(turn) == sorted(turns[0]) for turn in turns)


def test_the_seed_decides_the_order(demo: DemoPaths) -> None:
    first = names(english_and_chinese(demo))
    assert first == names(english_and_chinese(demo))
    assert first != names(english_and_chinese(demo, seed=1))


def test_epochs_differ(demo: DemoPaths) -> None:
    stream = english_and_chinese(demo, stopping_strategy="all_exhausted_without_replacement")
    first = names(stream)
    stream.set_epoch(1)
    second = names(stream)
    assert first != second and sorted(first) == sorted(second)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["all_exhausted", "all_exhausted_without_replacement", "first_exhausted"])
@pytest.mark.parametrize("taken", [0, 1, 57, 103])
@pytest.mark.parametrize("epoch", [0, 3])
def test_a_state_goes_on_with_the_rows_that_would_have_come(
    demo: DemoPaths, strategy: Any, taken: int, epoch: int
) -> None:
    streams = [english_and_chinese(demo, stopping_strategy=strategy) for _ in range(3)]
    for stream in streams:
        stream.set_epoch(epoch)
    whole, stopped, resumed = streams
    before = names(islice(stopped, taken))
    resumed.load_state_dict(stopped.state_dict())
    assert before + names(resumed) == names(whole)


def test_a_state_from_after_a_dataset_began_again_goes_on(demo: DemoPaths) -> None:
    def endless() -> Any:
        return mix([captions(demo, "multi_en"), captions(demo, "single_zh")], [4, 1], stopping_strategy="never")

    stopped = endless()
    before = names(islice(stopped, 95))  # multi_en has 20 rows
    resumed = endless()
    resumed.load_state_dict(stopped.state_dict())
    assert before + names(islice(resumed, 100)) == names(islice(endless(), 195))


def test_a_state_from_after_one_of_three_datasets_ended_goes_on(demo: DemoPaths) -> None:
    def three() -> Any:
        streams = [captions(demo, config) for config in ("single_en", "single_zh", "multi_zh")]
        return mix(streams, stopping_strategy="all_exhausted_without_replacement")

    whole = names(three())
    assert not any(name.startswith("multi_zh") for name in whole[120:])
    stopped = three()
    before = names(islice(stopped, 120))
    resumed = three()
    resumed.load_state_dict(stopped.state_dict())
    assert before + names(resumed) == whole


def test_both_datasets_and_their_pictures_mix(demo: DemoPaths, sa1b_folder: Path) -> None:
    stream = mix([captions(demo, "multi_zh", image_root=sa1b_folder), dialogues(demo)], [1, 2])
    rows = list(islice(stream, 20))
    assert {row["config"] for row in rows} == {"multi_zh", "default"}
    for row in rows:
        assert all(min(image.size) > 100 for image in row["images"])
        assert sum(message["content"].count("<image>") for message in row["messages"]) == len(row["images"])


@pytest.fixture(scope="module")
def sa1b_folder(demo: DemoPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature's SA-1B, extracted."""
    root = tmp_path_factory.mktemp("sa1b")
    for archive in demo.sa1b.glob("*.tar"):
        shutil.unpack_archive(archive, root / archive.stem, "tar")
    return root


def test_weights_of_repeated_and_subsampled_datasets_hold(demo: DemoPaths) -> None:
    small, large = shuffled(captions(demo, "single_zh"), repeat=0.25), shuffled(captions(demo, "single_en"), repeat=2)
    counts = Counter(
        row["language"] for row in mix([small, large], stopping_strategy="all_exhausted_without_replacement")
    )
    assert counts["en"] == 160 and 6 <= counts["zh"] <= 36


# -- nodes and workers -------------------------------------------------------------------------------------


def loader(stream: Any, rank: int, nodes: int, workers: int) -> Any:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="the torch extra brings torchdata")
    share = split_dataset_by_node(stream, rank=rank, world_size=nodes)
    return torchdata.StatefulDataLoader(share, batch_size=4, num_workers=workers, collate_fn=names)


def test_two_nodes_with_two_workers_give_every_row_once_and_resume_with_the_same_batches(demo: DemoPaths) -> None:
    def stream() -> Any:
        return english_and_chinese(demo, stopping_strategy="all_exhausted_without_replacement")

    found: list[str] = []
    for rank in range(2):
        whole = list(loader(stream(), rank, 2, 2))
        stopped = loader(stream(), rank, 2, 2)
        before = list(islice(stopped, 7))
        resumed = loader(stream(), rank, 2, 2)
        resumed.load_state_dict(stopped.state_dict())
        assert before + list(resumed) == whole
        found += [name for batch in whole for name in batch]
    assert len(found) == len(set(found)) == 160


def test_every_worker_has_its_share_of_a_dataset_with_a_single_shard(demo: DemoPaths) -> None:
    streams = [captions(demo, "single_en", num_shards=16), captions(demo, "multi_zh", num_shards=1)]
    mixed = mix(streams, stopping_strategy="all_exhausted_without_replacement")
    shares = [split_dataset_by_node(mixed, rank=rank, world_size=4) for rank in range(4)]
    assert [sum(name.startswith("multi_zh") for name in names(share)) for share in shares] == [5, 5, 5, 5]


def test_a_mixture_goes_on_over_other_numbers_of_nodes_without_loss_or_repetition(demo: DemoPaths) -> None:
    found: list[str] = []
    states = None
    for nodes, workers, steps in [(2, 2, 5), (4, 0, 4), (1, 2, None)]:
        stream = english_and_chinese(demo, stopping_strategy="all_exhausted_without_replacement", continue_from=states)
        loaders = [loader(stream, rank, nodes, workers) for rank in range(nodes)]
        for each in loaders:
            found += [name for batch in islice(each, steps) for name in batch]
        states = [each.state_dict() for each in loaders]
    assert len(found) == len(set(found)) == 160


def test_changing_the_world_of_a_mixture_that_has_begun_again_is_refused(demo: DemoPaths) -> None:
    stream = mix([captions(demo, "multi_en"), captions(demo, "single_zh")], [4, 1])
    names(islice(stream, 60))
    with pytest.raises(BadArgument, match="begun again"):
        mix([captions(demo, "multi_en"), captions(demo, "single_zh")], [4, 1], continue_from=[stream.state_dict()])


def test_continuing_with_another_number_of_datasets_is_refused(demo: DemoPaths) -> None:
    stream = english_and_chinese(demo)
    names(islice(stream, 10))
    with pytest.raises(BadArgument, match="other than 1 datasets"):
        mix([captions(demo, "single_en")], continue_from=[stream.state_dict()])


# -- arguments ---------------------------------------------------------------------------------------------


def test_datasets_with_other_columns_are_refused_and_the_way_out_named(demo: DemoPaths) -> None:
    streams = [captions(demo, config, row_format="llava") for config in ("single_en", "multi_en")]
    with pytest.raises(BadArgument, match=r"(?s)0 and 1 differ in: image, width, height.*row_format"):
        mix(streams)


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")], [1, 2, 3]])
def test_weights_that_cannot_work_are_refused(demo: DemoPaths, weights: list[float]) -> None:
    with pytest.raises(BadArgument, match="one positive weight for each"):
        mix([captions(demo, "single_en"), captions(demo, "single_zh")], weights)


def test_an_unknown_stopping_strategy_is_refused(demo: DemoPaths) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'all_exhausted'"):
        english_and_chinese(demo, stopping_strategy="all_exhaustd")


def test_a_mixture_or_a_shuffled_stream_is_not_shuffled_again(demo: DemoPaths) -> None:
    mixed = english_and_chinese(demo, stopping_strategy="never")
    for again in (lambda: shuffled(mixed), lambda: mix([mixed]), lambda: shuffled(shuffled(dialogues(demo)))):
        with pytest.raises(BadArgument, match="already"):
            again()


def test_nothing_to_mix_is_refused() -> None:
    with pytest.raises(BadArgument, match="at least one"):
        mix([])
