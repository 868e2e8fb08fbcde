"""How parts are divided, taken and left over, for any seed, cut and number of nodes and workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_zh.errors import BadArgument
from llava_zh.streams.epochs import Part, Plan, Step, divide, division_text, find_states, parts_text, remaining, sources


def plan(**changes: Any) -> Plan:
    facts = {"name": "x", "num_shards": 8, "window": 3, "stripes": 2, "repeat": 1.0, "seed": 5, "order": 5}
    return Plan(**{**facts, **changes})


plans = st.builds(
    plan,
    num_shards=st.integers(1, 20),
    window=st.integers(1, 6),
    stripes=st.integers(1, 9),
    seed=st.integers(0, 2**40),
    order=st.integers(0, 2**62),
)


@given(plans, st.integers(0, 3), st.data())
def test_the_parts_of_an_epoch_have_every_row_of_every_shard_once(plan: Plan, turn: int, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 12), min_size=plan.num_shards, max_size=plan.num_shards))
    found = []
    for number in range(plan.num_parts):
        shards = plan.shards_of(number // plan.stripes, plan.order, turn)
        names = [(shard, row) for shard in shards for row in range(lengths[shard])]
        rows = plan.rows_of(Part(number), {shard: lengths[shard] for shard in shards}, plan.order, turn)
        found += [names[row] for row in rows]
    assert sorted(found) == [(shard, row) for shard, length in enumerate(lengths) for row in range(length)]


@given(plans, st.integers(0, 30))
def test_a_part_from_a_later_row_on_is_the_end_of_the_part(plan: Plan, start: int) -> None:
    lengths = dict.fromkeys(plan.shards_of(0, plan.order, 0), 25)
    whole = plan.rows_of(Part(0), lengths, plan.order, 0)
    assert plan.rows_of(Part(0, start), lengths, plan.order, 0).tolist() == whole[start:].tolist()


@given(plans, st.integers(1, 5), st.integers(1, 5))
def test_nodes_and_workers_divide_the_parts_among_them(plan: Plan, nodes: int, workers: int) -> None:
    parts = range(plan.num_parts)
    shares = [divide(parts, (Step(n, nodes), Step(w, workers))) for n in range(nodes) for w in range(workers)]
    assert sorted(part for share in shares for part in share) == list(parts)


@given(plans, st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4), st.data())
def test_whatever_is_taken_before_each_change_of_the_world_every_row_is_taken_once(
    plan: Plan, worlds: list[tuple[int, int]], data: st.DataObject
) -> None:
    rows = 7  # of each part
    left: list[Part] | None = None
    taken: list[tuple[int, int]] = []
    for nodes, workers in worlds:
        whole = [Part(number) for number in range(plan.num_parts)] if left is None else left
        states = []
        for node in range(nodes):
            for worker in range(workers):
                division = (Step(node, nodes), Step(worker, workers))
                mine = divide(whole, division)
                done = data.draw(st.integers(0, len(mine)))
                row = data.draw(st.integers(0, rows - mine[done].start)) if done < len(mine) else 0
                taken += [(part.number, r) for part in mine[:done] for r in range(part.start, rows)]
                if row:
                    taken += [(mine[done].number, r) for r in range(mine[done].start, mine[done].start + row)]
                text = None if left is None else parts_text(left)
                states.append(_state(plan, division_text(division), done, row, left=text))
        _, left = remaining(states, plan)
    assert left is not None
    taken += [(part.number, r) for part in left for r in range(part.start, rows)]
    assert sorted(taken) == [(number, r) for number in range(plan.num_parts) for r in range(rows)]


def _state(plan: Plan, division: str, part: int = 0, row: int = 0, **more: Any) -> dict[str, Any]:
    state = {"source": plan.identity, "order": plan.order, "turn": 0, "left": None, "division": division}
    return {**state, "part": part, "row": row, **more}


def test_a_state_from_before_the_division_stands_for_a_worker_that_has_not_begun() -> None:
    states = [_state(plan(), "0/2 0/2", row=3), _state(plan(), "0/2"), _state(plan(), "1/2")]
    _, left = remaining(states, plan())
    assert left == [Part(0, 3), *(Part(number) for number in range(1, 6))]


@pytest.mark.parametrize(
    "divisions",
    [["0/2"], ["0/2 0/2", "1/2"], ["0/2", "1/3", "2/3"], ["1/2 0/2", "1/2 1/2"], ["0/2", "1/2 0/3", "1/2 2/3"]],
)
def test_states_that_do_not_make_up_a_whole_are_refused(divisions: list[str]) -> None:
    with pytest.raises(BadArgument, match="missing"):
        remaining([_state(plan(), division) for division in divisions], plan())


def test_states_of_two_epochs_or_of_a_dataset_that_began_again_are_refused() -> None:
    with pytest.raises(BadArgument, match="different epochs"):
        remaining([_state(plan(), "0/2"), _state(plan(), "1/2", order=6)], plan())
    with pytest.raises(BadArgument, match="begun again"):
        remaining([_state(plan(), "0/2"), _state(plan(), "1/2", turn=1)], plan())


def test_states_are_found_inside_what_a_loader_saved_with_the_epoch_around_them() -> None:
    inner = {"type": "X", "row": 1}
    saved = {"_snapshot": {"workers": [{"epoch": 3, "examples_iterable": {"examples_iterable": inner}}]}}
    assert list(find_states(saved, "X")) == [(3, inner)]
    with pytest.raises(BadArgument, match="snapshot_every_n_steps=1"):
        list(find_states({**saved, "_steps_since_snapshot": 2}, "X"))


def test_epochs_have_orders_of_their_own_and_the_same_copies() -> None:
    first, second = plan(repeat=0.5).at_epoch(1), plan(repeat=0.5).at_epoch(2)
    assert first.order != second.order and first == plan(repeat=0.5).at_epoch(1)
    rows = [sorted(p.rows_of(Part(0), {4: 100}, p.order, 0).tolist()) for p in (first, second)]
    both = [
        sorted([*p.rows_of(Part(0), {4: 100}, p.order, 0), *p.rows_of(Part(1), {4: 100}, p.order, 0)])
        for p in (first, second)
    ]
    assert rows[0] != rows[1] and both[0] == both[1]


def test_windows_are_shuffled_each_in_an_order_of_its_own() -> None:
    whole = plan(stripes=1)
    orders = [whole.rows_of(Part(number), {0: 30, 1: 30}, 5, 0).tolist() for number in range(whole.num_windows)]
    again = whole.rows_of(Part(0), {0: 30, 1: 30}, 5, 1).tolist()
    assert len({tuple(order) for order in [*orders, again]}) == whole.num_windows + 1


def test_the_draws_of_sources_are_uniform_and_differ_between_workers() -> None:
    one, other = (sources(0, (Step(0, 2), Step(worker, 2)), 0) for worker in range(2))
    assert not np.array_equal(one, other)
    # The mean of 1024 uniform numbers has deviation 0.009.
    assert abs(one.mean() - 0.5) < 0.045 and abs(other.mean() - 0.5) < 0.045
