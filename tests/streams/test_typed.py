"""Streams do what `datasets.IterableDataset` does, and resume at any row."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from llava_zh import load_dataset
from llava_zh.demo import DemoPaths
from llava_zh.files import readers
from llava_zh.streams.typed import TypedArrowExamples

CAPTIONS = "internvl-sa-1b-caption"
LLAVA = "llava-instruct-zh-600k"
ROWS = 60
Stream = datasets.IterableDataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published file of rows of very different lengths."""
    path = tmp_path_factory.mktemp("stream")
    rows = [
        {
            "id": i,
            "image": f"sa_{i % 3:06}/sa_{i}.jpg",
            "width": i,
            "height": 2 * i,
            "conversations": [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "图" * (i * i % 97)}],
        }
        for i in range(ROWS)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (path / "internvl_sa1b_caption_11m_single_image_en.jsonl").write_text(lines, encoding="utf-8")
    return path


def load(folder: Path) -> Stream:
    return load_dataset(CAPTIONS, "single_en", data_dir=folder, streaming=True, split="train", num_shards=4)


@pytest.fixture
def stream(folder: Path) -> Stream:
    return load(folder)


def ids(rows: Any) -> list[int]:
    return [int(row["id"]) for row in rows]


def test_the_end_is_told_of_however_the_rows_are_read_and_wherever_that_stops() -> None:
    def tables(shards: list[int]) -> Any:
        yield from ((shard, pa.table({"n": [shard, shard]})) for shard in shards)

    features = datasets.Features({"n": datasets.Value("int64")})
    told: list[int] = []
    examples = TypedArrowExamples(tables, {"shards": [1, 2]}, lambda **_: iter(()), features, lambda: told.append(1))
    for count, way in enumerate(("__iter__", "_whole_tables", "_iter_arrow")):
        reading = getattr(examples, way)()
        next(reading)
        assert len(told) == count
        reading.close()
        assert len(told) == count + 1


# -- resume ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda stream: stream,
        lambda stream: stream.map(lambda row: {"more": row["id"] + "!"}),
        lambda stream: stream.filter(lambda row: int(row["id"]) % 3 > 0),
        lambda stream: stream.skip(7).take(40),
        lambda stream: split_dataset_by_node(stream, rank=1, world_size=2),
        lambda stream: split_dataset_by_node(stream, rank=1, world_size=3),
    ],
    ids=["plain", "map", "filter", "skip and take", "a node of 2", "a node of 3"],
)
def test_a_stream_resumes_at_every_row(folder: Path, change: Any) -> None:
    everything = ids(change(load(folder)))
    for position in range(len(everything) + 1):
        stopped, resumed = change(load(folder)), change(load(folder))
        iterator = iter(stopped)
        before = ids(next(iterator) for _ in range(position))
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        assert before + ids(resumed) == everything


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda stream: stream,
        lambda stream: stream.map(lambda row: {"size": row["image"].size}),
        lambda stream: stream.filter(lambda row: row["image"].width > 0),
    ],
    ids=["plain", "map", "filter"],
)
def test_a_stream_of_pictures_resumes_at_every_row(demo: DemoPaths, change: Any) -> None:
    def fresh() -> Stream:
        return change(load_dataset(LLAVA, "detail", data_dir=demo.llava, streaming=True, split="train"))

    everything = [row["conversations"] for row in fresh()]
    for position in range(len(everything) + 1):
        stream = fresh()
        iterator = iter(stream)
        before = [next(iterator)["conversations"] for _ in range(position)]
        resumed = fresh()
        resumed.load_state_dict(stream.state_dict())
        assert before + [row["conversations"] for row in resumed] == everything


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, 25])
def test_a_stream_of_arrow_batches_resumes_after_every_batch(stream: Stream, batch_size: int) -> None:
    def fresh() -> Stream:
        return stream.with_format("arrow")

    def numbers(tables: Any) -> list[int]:
        return [int(i) for table in tables for i in table["id"].to_pylist()]

    batches = len(list(fresh().iter(batch_size)))
    for position in range(batches + 1):
        before = fresh()
        iterator = before.iter(batch_size)
        seen = numbers(next(iterator) for _ in range(position))
        resumed = fresh()
        resumed.load_state_dict(before.state_dict())
        assert seen + numbers(resumed.iter(batch_size)) == list(range(ROWS))


def test_a_resumed_stream_reads_its_own_shard_again_and_none_before(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterator = iter(stream)
    before = ids(next(iterator) for _ in range(40))
    state = stream.state_dict()
    opened = []
    tables = readers.tables
    monkeypatch.setattr(readers, "tables", lambda shard, reading: opened.append(shard.start) or tables(shard, reading))
    stream.load_state_dict(state)
    assert before + ids(stream) == list(range(ROWS))
    assert 1 <= len(opened) < 4
    starts = [shard.start for shard in stream._ex_iterable.kwargs["shards"]]
    assert opened == starts[-len(opened) :]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stateful_data_loader_resumes_and_loses_nothing(stream: Stream, workers: int) -> None:
    reason = "StatefulDataLoader is torchdata's, which the torch extra brings"
    pytest.importorskip("torch", reason=reason)
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason=reason)

    def loader() -> Any:
        columns = stream.select_columns(["id"])
        return stateful.StatefulDataLoader(columns, batch_size=4, num_workers=workers, multiprocessing_context=context)

    context = "fork" if workers else None
    everything = [ids_of(batch) for batch in loader()]
    assert Counter(sum(everything, [])) == Counter(range(ROWS))
    for position in (0, 1, 4, 8, len(everything) - 1):
        first = loader()
        iterator = iter(first)
        before = [ids_of(next(iterator)) for _ in range(position)]
        state = first.state_dict()
        del iterator
        second = loader()
        second.load_state_dict(state)
        assert before + [ids_of(batch) for batch in second] == everything


def ids_of(batch: dict[str, Any]) -> list[int]:
    return [int(i) for i in batch["id"]]


# -- workers and nodes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", sorted({"fork", "spawn"} & set(multiprocessing.get_all_start_methods())))
def test_data_loader_workers_share_the_shards(stream: Stream, context: str) -> None:
    torch_data = pytest.importorskip("torch.utils.data", reason="DataLoader is torch's, which the torch extra brings")
    loader = torch_data.DataLoader(
        stream.select_columns(["id"]), batch_size=None, num_workers=2, multiprocessing_context=context
    )
    seen = ids(loader)
    assert sorted(seen) == list(range(ROWS))
    assert seen != sorted(seen), "both workers give rows in turn"


def test_a_stream_survives_pickle_and_deepcopy(stream: Stream) -> None:
    for duplicate in (pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream)):
        assert list(duplicate) == list(stream)
        assert duplicate.num_shards == stream.num_shards


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_node_gets_whole_shards(folder: Path, world_size: int) -> None:
    stream = load_dataset(CAPTIONS, "single_en", data_dir=folder, streaming=True, split="train", chunk_size=2000)
    assert stream.num_shards % 4 == 0
    nodes = [split_dataset_by_node(stream, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {node.num_shards for node in nodes} == {stream.num_shards // world_size}
    assert sorted(sum((ids(node) for node in nodes), [])) == list(range(ROWS))


def test_reshard_cuts_every_shard_in_two(stream: Stream) -> None:
    if not hasattr(stream, "reshard"):
        pytest.skip("IterableDataset.reshard came with datasets 5")
    finer = stream.reshard()
    assert finer.num_shards == 8
    assert finer.reshard().num_shards == 16
    assert list(finer.reshard()) == list(stream)


# -- order -------------------------------------------------------------------------------------------------


def test_shuffle_changes_the_order_and_nothing_else(stream: Stream) -> None:
    shuffled = stream.shuffle(seed=42, buffer_size=20)
    assert ids(shuffled) != list(range(ROWS))
    assert sorted(ids(shuffled)) == list(range(ROWS))
    assert ids(shuffled) == ids(stream.shuffle(seed=42, buffer_size=20))
    assert ids(shuffled) != ids(stream.shuffle(seed=43, buffer_size=20))


def test_every_epoch_has_an_order_of_its_own(stream: Stream) -> None:
    shuffled = stream.shuffle(seed=42, buffer_size=20)
    orders = []
    for epoch in range(3):
        shuffled.set_epoch(epoch)
        orders.append(tuple(ids(shuffled)))
    assert len(set(orders)) == 3
    shuffled.set_epoch(0)
    assert tuple(ids(shuffled)) == orders[0]


# -- formats and changes -----------------------------------------------------------------------------------


def test_a_stream_can_be_mapped_filtered_and_cut(stream: Stream) -> None:
    assert ids(stream.take(5)) == [0, 1, 2, 3, 4]
    assert ids(stream.skip(57)) == [57, 58, 59]
    assert ids(stream.filter(lambda row: row["width"] % 20 == 0)) == [0, 20, 40]
    mapped = stream.map(lambda row: {"area": row["width"] * row["height"]}, remove_columns=["conversations"])
    assert [row["area"] for row in mapped.take(4)] == [0, 2, 8, 18]
    lengths = stream.map(lambda batch: {"n": [len(batch["id"])] * len(batch["id"])}, batched=True, batch_size=16)
    assert [row["n"] for row in lengths] == [16] * 48 + [12] * 12
    renamed = stream.rename_column("id", "key").remove_columns(["config", "language"])
    assert next(iter(renamed)).keys() == {"key", "image", "width", "height", "conversations"}
    assert [len(batch["id"]) for batch in stream.batch(25)] == [25, 25, 10]


def test_arrow_batches_have_the_types_of_the_features(stream: Stream) -> None:
    tables = list(stream.with_format("arrow").iter(25))
    assert [len(table) for table in tables] == [25, 25, 10]
    assert all(isinstance(table, pa.Table) for table in tables)
    assert {table.schema.remove_metadata() for table in tables} == {stream.features.arrow_schema.remove_metadata()}


def test_numpy_rows_have_numbers_and_text(stream: Stream) -> None:
    row = next(iter(stream.skip(3).with_format("numpy")))
    assert row["width"] == np.int64(3)
    assert row["id"] == "3"


def test_torch_rows_have_tensors(stream: Stream) -> None:
    torch = pytest.importorskip("torch", reason="the torch format needs torch, which the torch extra brings")
    row = next(iter(stream.skip(3).with_format("torch")))
    assert torch.equal(row["width"], torch.tensor(3))
    assert row["id"] == "3"


@pytest.mark.parametrize("streaming", [True, False])
def test_images_can_be_left_undecoded_and_decoded_again(demo: DemoPaths, streaming: bool) -> None:
    dataset = load_dataset(
        CAPTIONS, "single_en", data_dir=demo.internvl, image_root=demo.sa1b, streaming=streaming, split="train"
    )
    decoded = next(iter(dataset))["image"]
    undecoded = dataset.cast_column("image", datasets.Image(decode=False))
    first = next(iter(undecoded))["image"]
    assert first["path"].startswith("sa1b://sa_0000")
    assert first["path"].endswith(f"::{demo.sa1b}")
    assert first["bytes"] is None
    again = next(iter(undecoded.cast_column("image", datasets.Image())))["image"]
    assert isinstance(again, Image.Image)
    assert again.tobytes() == decoded.tobytes()


def test_images_of_an_undecoded_stream_can_be_decoded_where_a_root_is_set(
    demo: DemoPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = load_dataset(CAPTIONS, "multi_zh", data_dir=demo.internvl, streaming=True, split="train")
    assert next(iter(stream))["image"][0]["path"].startswith("sa1b://")
    monkeypatch.setenv("SA1B_ROOT", str(demo.sa1b))
    decoded = stream.cast_column("image", [datasets.Image()])
    row = next(iter(decoded))
    assert [picture.size for picture in row["image"]] == list(zip(row["width"], row["height"], strict=True))


def test_numpy_rows_have_pixels(demo: DemoPaths) -> None:
    dataset = load_dataset(
        CAPTIONS, "single_en", data_dir=demo.internvl, image_root=demo.sa1b, streaming=True, split="train"
    )
    row = next(iter(dataset.with_format("numpy")))
    assert row["image"].shape == (row["height"], row["width"], 3)


# -- several datasets at once ------------------------------------------------------------------------------


def all_configs(demo: DemoPaths, streaming: bool) -> list[Any]:
    common = {"row_format": "messages", "streaming": streaming, "split": "train"}
    captions = {"data_dir": demo.internvl, "image_root": demo.sa1b}
    names = ("single_en", "single_zh", "multi_en", "multi_zh")
    return [
        *(load_dataset(CAPTIONS, name, **captions, **common) for name in names),
        load_dataset(LLAVA, data_dir=demo.llava, **common),
    ]


@pytest.mark.parametrize("streaming", [True, False])
def test_messages_of_all_configs_have_one_type_and_mix(demo: DemoPaths, streaming: bool) -> None:
    parts = all_configs(demo, streaming)
    assert len({str(part.features) for part in parts}) == 1
    joined = datasets.concatenate_datasets(parts)
    assert joined.features == parts[0].features
    rows = list(joined.cast_column("images", [datasets.Image(decode=False)]))
    assert Counter(row["config"] for row in rows) == {
        "single_en": 80,
        "single_zh": 80,
        "multi_en": 20,
        "multi_zh": 20,
        "default": 40,
    }
    mixed = datasets.interleave_datasets(parts, probabilities=[0.3, 0.3, 0.1, 0.1, 0.2], seed=1)
    some = list(mixed.take(30))
    assert len({row["config"] for row in some}) >= 4
    for row in some:
        assert all(isinstance(picture, Image.Image) for picture in row["images"])
        marks = sum(message["content"].count("<image>") for message in row["messages"])
        assert marks == len(row["images"])


def test_a_mix_of_streams_resumes(demo: DemoPaths) -> None:
    def fresh() -> Stream:
        parts = [part.select_columns(["config", "messages"]) for part in all_configs(demo, True)[:3]]
        return datasets.interleave_datasets(parts, probabilities=[0.5, 0.3, 0.2], seed=2)

    everything = list(fresh())
    for position in (0, 1, 13, 50):
        stream = fresh()
        iterator = iter(stream)
        before = [next(iterator) for _ in range(position)]
        resumed = fresh()
        resumed.load_state_dict(stream.state_dict())
        assert before + list(resumed) == everything


def test_prepared_datasets_can_be_mapped_with_a_stable_fingerprint(demo: DemoPaths) -> None:
    def load() -> datasets.Dataset:
        return load_dataset(CAPTIONS, "multi_zh", data_dir=demo.internvl, split="train")

    mapped = [load().map(_count_turns).cache_files for _ in range(2)]
    assert mapped[0] == mapped[1], "the second map is served from the cache of the first"


def _count_turns(row: dict[str, Any]) -> dict[str, int]:
    return {"turns": len(row["conversations"])}
