"""A stream of rows goes on where it was, without reading what is finished."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import datasets
import pytest
from model_server import ModelServer

from llava_zh.errors import BadArgument, RunConflict
from llava_zh.regenerate import regenerate
from llava_zh.regenerate.plan import Begun, Closed, Looked, Plan, Selection
from llava_zh.regenerate.source import Over, Passed, Row, Source, Standing, open_source, read_units

from .conftest import positions_of

Rows = Callable[[int], list[dict[str, Any]]]


def events(source: Source, journal: Path, finished: Collection[int] = (), limit: int | None = None) -> list[Any]:
    """What a session tells with the plan that sessions before it left in `journal`."""
    journal.mkdir(exist_ok=True)
    plan = Plan(journal)
    if not plan.selections:
        plan.add(Selection(0))
    found = []
    standing = Standing({unit: plan.units[unit].rows or 0 for unit in finished})
    for event in read_units(source, plan, standing, 10, limit):
        found.append(event)
        if isinstance(event, Begun | Looked | Closed):
            plan.add(event)
    plan.flush()
    plan.close()
    return found


def positions(found: list[Any]) -> list[int]:
    return [event.position for event in found if isinstance(event, Row)]


def numbered(count: int) -> Source:
    return open_source([{"image": str(n)} for n in range(count)], "x", {})


def test_rows_come_in_units_and_the_last_may_be_short(tmp_path: Path) -> None:
    found = events(numbered(23), tmp_path)
    assert [event.unit for event in found if isinstance(event, Begun)] == [0, 1, 2]
    assert [(event.unit, event.rows) for event in found if isinstance(event, Closed)] == [(0, 10), (1, 10), (2, 3)]
    assert [event.unit for event in found if isinstance(event, Over)] == [0, 1, 2]
    assert positions(found) == list(range(23))


def test_a_limit_ends_within_a_unit_and_beyond_the_rows_changes_nothing(tmp_path: Path) -> None:
    for limit, count in ((0, 0), (7, 7), (10, 10), (11, 11), (23, 23), (99, 23)):
        assert positions(events(numbered(23), tmp_path / str(limit), limit=limit)) == list(range(count))


def test_a_higher_limit_begins_where_the_lower_one_ended(tmp_path: Path) -> None:
    first = events(numbered(23), tmp_path, limit=12)
    assert [(event.unit, event.rows) for event in first if isinstance(event, Closed)] == [(0, 10), (1, 2)]
    second = events(numbered(23), tmp_path, finished=[0, 1])
    assert positions(second) == list(range(12, 23))
    assert [(event.unit, event.rows) for event in second if isinstance(event, Closed)] == [(2, 10), (3, 1)]


def test_of_a_finished_unit_only_the_first_row_is_looked_at(tmp_path: Path) -> None:
    events(numbered(23), tmp_path)
    found = events(numbered(23), tmp_path, finished=[0, 1])
    assert [event.position for event in found if isinstance(event, Passed)] == [0, 10]
    assert positions(found) == [20, 21, 22]


def test_rows_that_come_at_the_end_later_are_taken_up(tmp_path: Path) -> None:
    events(numbered(23), tmp_path)
    assert positions(events(numbered(26), tmp_path, finished=[0, 1, 2])) == [23, 24, 25]


def test_an_input_that_ends_earlier_than_before_is_refused(tmp_path: Path) -> None:
    events(numbered(23), tmp_path)
    with pytest.raises(RunConflict, match="it ends after 21 rows, and the run knows rows beyond"):
        events(numbered(21), tmp_path, finished=[0, 1])


def test_images_alone_become_rows(tmp_path: Path) -> None:
    found = events(open_source(["a.jpg", b"bytes"], "x", {}), tmp_path)
    assert [event.row for event in found if isinstance(event, Row)] == [{"image": "a.jpg"}, {"image": b"bytes"}]


@pytest.mark.parametrize("limit", [None, 50, 35])
def test_a_stream_with_state_reads_nothing_that_is_finished(limit: int | None, tmp_path: Path) -> None:
    read: list[int] = []

    def rows(shards: list[int]) -> Any:
        for shard in shards:
            read.append(shard)
            for number in range(10):
                yield {"image": f"{shard}.jpg", "number": shard * 10 + number}

    features = datasets.Features({"image": datasets.Value("string"), "number": datasets.Value("int64")})

    def source() -> Source:
        # Built by hand, since from_generator pickles the function and `read` with it.
        kwargs = {"shards": list(range(5))}
        examples = datasets.iterable_dataset.ExamplesIterable(_keyed(rows), kwargs)
        return open_source(datasets.IterableDataset(examples, datasets.DatasetInfo(features=features)), "x", {})

    events(source(), tmp_path, limit=limit)
    read.clear()
    found = events(source(), tmp_path, finished=[0, 1, 2])
    assert [event.row["number"] for event in found if isinstance(event, Row)] == list(range(30, 50))
    assert [event for event in found if isinstance(event, Passed)] == []
    assert read in ([3, 4], [2, 3, 4])
    units = [event.unit for event in [*found] if isinstance(event, Over)]
    again = events(source(), tmp_path, finished=[0, 1, 2, *units])
    assert positions(again) == []  # the end is the end


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
