"""A stream of rows goes on where it was, without reading what is finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from model_server import ModelServer

from llava_zh.errors import BadArgument
from llava_zh.regenerate import regenerate
from llava_zh.regenerate.source import Begin, End, Passed, Row, Source, open_source, read_units

from .conftest import positions_of

Rows = Callable[[int], list[dict[str, Any]]]


def events(source: Source, covered: dict[int, int], states: dict[int, Any], limit: int | None = None) -> list[Any]:
    return list(read_units(source, 10, limit, lambda unit: covered.get(unit, 0), states))


def test_rows_come_in_units_and_the_last_may_be_short() -> None:
    found = events(open_source([{"image": str(n)} for n in range(23)], "x", {}), {}, {})
    assert [event.unit for event in found if isinstance(event, Begin)] == [0, 1, 2]
    assert [(event.unit, event.rows) for event in found if isinstance(event, End)] == [(0, 10), (1, 10), (2, 3)]
    assert [event.position for event in found if isinstance(event, Row)] == list(range(23))


def test_a_limit_ends_within_a_unit_and_beyond_the_rows_changes_nothing() -> None:
    rows = [{"image": str(n)} for n in range(23)]
    for limit, count in ((0, 0), (7, 7), (10, 10), (11, 11), (23, 23), (99, 23)):
        found = events(open_source(rows, "x", {}), {}, {}, limit)
        assert len([event for event in found if isinstance(event, Row)]) == count


def test_finished_units_show_only_their_first_row_and_a_longer_input_goes_on() -> None:
    found = events(open_source([{"image": str(n)} for n in range(23)], "x", {}), {0: 10, 1: 4}, {})
    assert [event.position for event in found if isinstance(event, Passed)] == [0, 10]
    assert [event.position for event in found if isinstance(event, Row)] == list(range(14, 23))


def test_a_dataset_goes_on_from_its_state_without_reading_what_is_finished() -> None:
    read: list[int] = []

    def rows(shards: list[int]) -> Any:
        for shard in shards:
            read.append(shard)
            yield from ({"image": f"{number}.jpg", "number": number} for number in range(10 * shard, 10 * shard + 10))

    features = datasets.Features({"image": datasets.Value("string"), "number": datasets.Value("int64")})

    def source() -> Source:
        # Built by hand, since from_generator pickles the function and `read` with it.
        kwargs = {"shards": list(range(5))}
        examples = datasets.iterable_dataset.ExamplesIterable(_keyed(rows), kwargs)
        return open_source(datasets.IterableDataset(examples, datasets.DatasetInfo(features=features)), "x", {})

    states = {event.unit: event.state for event in events(source(), {}, {}) if isinstance(event, Begin)}
    read.clear()
    found = events(source(), {0: 10, 1: 10, 2: 10}, states)
    assert [event.row["number"] for event in found if isinstance(event, Row)] == list(range(30, 50))
    assert [event for event in found if isinstance(event, Passed)] == []
    assert read in ([3, 4], [2, 3, 4])


def _keyed(rows: Callable[[list[int]], Any]) -> Callable[[list[int]], Any]:
    def examples(shards: list[int]) -> Any:
        return enumerate(rows(shards))

    return examples


def test_images_of_a_datasets_dataset_are_sent_as_they_are_stored(
    server: ModelServer, tmp_path: Path, images: list[str]
) -> None:
    rows = datasets.Dataset.from_dict({"image": images[:25]}).cast_column("image", datasets.Image())
    for limit in (12, 25):
        report = regenerate(
            rows, "test_zh", output_dir=tmp_path, base_url=server.url, model="tiny-vlm", unit_rows=10, limit=limit,
            progress=False,
        )  # fmt: skip
        assert report.rows == limit
    assert server.calls == 25
    assert positions_of(tmp_path) == list(range(25))


def test_what_is_no_rows_is_refused() -> None:
    for wrong in (5, b"bytes", {"image": "one"}):
        with pytest.raises(BadArgument, match="an iterable of rows; found"):
            open_source(wrong, "x", {})
