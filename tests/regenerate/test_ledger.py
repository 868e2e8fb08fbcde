"""Whatever two writes a crash comes between, the folder is whole and the run goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_zh.errors import BadFile, OutputError, RunConflict
from llava_zh.regenerate.ledger import Ledger, Place
from llava_zh.regenerate.manifest import FORMAT
from llava_zh.regenerate.plan import Begun, Closed, Selection, Start
from llava_zh.regenerate.source import Over

from .conftest import lines_of, positions_of

MANIFEST = {"format": FORMAT, "model": "m", "prompts": {}}


def row_at(position: int, key: str | None = None) -> dict[str, Any]:
    facts = {
        "position": position, "key": key or f"key{position}", "model": "m", "prompt": "caption_zh",
        "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 5, "asked": 1, "previous": None,
    }  # fmt: skip
    return {"id": position, "image": "a.jpg", "conversations": [{"from": "gpt", "value": "新"}], "regenerated": facts}


def place(position: int, key: str | None = None) -> Place:
    return Place(position // 5, position, key or f"key{position}")


def begin(ledger: Ledger, unit: int) -> None:
    ledger.tell(Begun(unit, 0, Start(5 * unit)))


def end(ledger: Ledger, unit: int) -> None:
    ledger.tell(Closed(unit, 5, Start(5 * unit + 5)))
    ledger.tell(Over(unit))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder with two finished units of five rows, the second of which has a failed row."""
    ledger = Ledger(tmp_path / "out", 5, MANIFEST)
    ledger.select(Selection(0))
    begin(ledger, 0)
    for position in [4, 2, 0, 1, 3]:
        ledger.done(place(position), row_at(position))
    end(ledger, 0)
    begin(ledger, 1)
    ledger.failed(place(7), "HTTP 422", {"message": "no"})
    for position in [5, 6, 8, 9]:
        ledger.done(place(position), row_at(position))
    end(ledger, 1)
    ledger.close()
    return tmp_path / "out"


def opened(folder: Path, check: Callable[[Ledger], None]) -> None:
    ledger = Ledger(folder, 5, MANIFEST)
    try:
        check(ledger)
    finally:
        ledger.close()


def test_finished_units_are_sorted_and_leave_no_journal(finished: Path) -> None:
    assert positions_of(finished) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert sorted(path.name for path in (finished / "journal").glob("*.log")) == ["plan-0000.log"]

    def check(ledger: Ledger) -> None:
        assert ledger.standing().finished == {0: 5, 1: 5}
        assert [unit.start.position for unit in ledger.plan.units.values()] == [0, 5]
        assert (ledger.tally.rows, ledger.tally.completion_tokens) == (9, 45)
        assert dict(ledger.failures) == {"HTTP 422": 1}
        assert ledger.distinct_keys() == 9

    opened(finished, check)


def test_a_crash_before_the_journal_is_dropped_leaves_nothing_behind(finished: Path) -> None:
    (finished / "journal" / "000000.r0.a0.log").write_bytes((finished / "data" / "000000.jsonl").read_bytes())
    opened(finished, lambda ledger: None)
    assert not (finished / "journal" / "000000.r0.a0.log").exists()
    assert positions_of(finished) == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_a_crash_between_the_rows_and_the_commit_finishes_the_unit_again(finished: Path) -> None:
    journal = finished / "journal"
    (finished / "data" / "000001.jsonl").rename(journal / "000001.r0.rows")
    (journal / "000001.r0.done").unlink()
    rows = (journal / "000001.r0.rows").read_bytes()
    lost = lines_of(finished / "failed.jsonl")[0]
    (journal / "000001.r0.a0.log").write_bytes(rows + json.dumps({"failed": lost}).replace(" ", "").encode() + b"\n")

    def check(ledger: Ledger) -> None:
        assert ledger.standing().known == {1: 10}
        assert all(ledger.is_known(place(position)) for position in range(5, 10))
        ledger.tell(Over(1))

    opened(finished, check)
    assert positions_of(finished) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert [row["position"] for row in lines_of(finished / "failed.jsonl")] == [7]


def test_a_crash_between_the_commit_and_the_file_puts_the_file_into_its_place(finished: Path) -> None:
    (finished / "data" / "000001.jsonl").rename(finished / "journal" / "000001.r0.rows")
    opened(finished, lambda ledger: None)
    assert positions_of(finished) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert not (finished / "journal" / "000001.r0.rows").exists()


def ask_again(ledger: Ledger) -> None:
    assert [position for position in range(5, 10) if not ledger.is_known(place(position))] == [7]
    ledger.done(place(7), row_at(7))
    ledger.tell(Over(1))


def test_forgiven_failures_open_their_units_and_keep_what_was_done(finished: Path) -> None:
    def check(ledger: Ledger) -> None:
        assert ledger.forgive() == 1
        assert ledger.standing().finished == {0: 5}
        assert positions_of(finished) == [0, 1, 2, 3, 4, 5, 6, 8, 9]  # until the unit is finished anew
        ask_again(ledger)

    opened(finished, check)
    assert positions_of(finished) == list(range(10))
    assert lines_of(finished / "failed.jsonl") == []
    assert sorted(path.name for path in (finished / "journal").glob("000001.*")) == [
        "000001.r1.done", "000001.r1.keys",
    ]  # fmt: skip
    opened(finished, lambda ledger: None)


def test_a_crash_after_forgiving_asks_only_what_had_failed(finished: Path) -> None:
    opened(finished, lambda ledger: [ledger.forgive()].clear())
    assert positions_of(finished) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    opened(finished, ask_again)
    assert positions_of(finished) == list(range(10))


def test_another_row_at_a_known_position_is_a_conflict(finished: Path) -> None:
    def check(ledger: Ledger) -> None:
        with pytest.raises(RunConflict, match="row 5 of it is not the row"):
            ledger.check_first(5, "another")
        begin(ledger, 2)
        ledger.done(place(10), row_at(10))
        with pytest.raises(RunConflict, match="row 10 of it is not the row"):
            ledger.is_known(place(10, "another"))

    opened(finished, check)


def test_a_unit_whose_keys_are_not_all_different_is_not_finished(finished: Path) -> None:
    ledger = Ledger(finished, 5, MANIFEST)
    begin(ledger, 2)
    for position in range(10, 15):
        key = f"key{min(position, 13)}"
        ledger.done(place(position, key), row_at(position, key))
    end(ledger, 2)
    with pytest.raises(OutputError, match=r"unit 2 cannot be finished: 5 rows have only 4 different keys.* key13 \(2"):
        ledger.close()
    assert not (finished / "data" / "000002.jsonl").exists()


def test_rows_that_are_in_two_units_are_found_and_named(finished: Path) -> None:
    ledger = Ledger(finished, 5, MANIFEST)
    begin(ledger, 2)
    for position in range(10, 15):
        key = f"key{position - 10 if position == 12 else position}"
        ledger.done(place(position, key), row_at(position, key))
    end(ledger, 2)
    ledger.close()
    assert (ledger.tally.rows, ledger.distinct_keys()) == (14, 13)
    assert "in the units 0, 2; key2 (2 times)" in str(ledger.twice())


def test_a_damaged_manifest_is_not_taken_for_another_run(finished: Path) -> None:
    (finished / "manifest.json").write_text("{")
    with pytest.raises(BadFile, match=r"manifest.json is no JSON"):
        Ledger(finished, 5, MANIFEST)
    (finished / "manifest.json").write_text(json.dumps(MANIFEST))
    opened(finished, lambda ledger: None)  # and the lock was given back


def test_a_folder_of_the_version_before_is_refused_with_what_to_do(finished: Path) -> None:
    (finished / "manifest.json").write_text(json.dumps({**MANIFEST, "format": 1, "versions": {"llava-zh": "0.1.0"}}))
    with pytest.raises(RunConflict, match=r"a run of llava-zh 0.1.0, in format 1.*Finish it with that version"):
        Ledger(finished, 5, MANIFEST)
    (finished / "manifest.json").write_text(json.dumps({**MANIFEST, "format": 99}))
    with pytest.raises(RunConflict, match=r"expected format 2 of a run's folder, found 99"):
        Ledger(finished, 5, MANIFEST)


def test_a_lost_end_of_the_plan_loses_no_row_and_gives_none_twice(finished: Path, tmp_path: Path) -> None:
    """A power cut can keep a journal and lose the part of the plan that it is of, which is then made anew."""

    def three_rows(ledger: Ledger) -> None:
        begin(ledger, 2)
        for position in (10, 11, 14):
            ledger.done(place(position), row_at(position))

    opened(finished, three_rows)
    plans = sorted((finished / "journal").glob("plan-*.log"))
    assert len(plans) == 2
    whole = plans[1].read_bytes()
    for size in range(len(whole)):
        out = tmp_path / str(size)
        shutil.copytree(finished, out)
        (out / "journal" / plans[1].name).write_bytes(whole[:size])

        def two_rows(ledger: Ledger) -> None:
            if 2 not in ledger.plan.units:  # as the reader does; with another limit, it ends elsewhere now
                begin(ledger, 2)
            asked = [position for position in (10, 11) if not ledger.is_known(place(position))]
            for position in asked:
                ledger.done(place(position), row_at(position))
            assert asked == []  # what was answered is not asked again
            ledger.tell(Closed(2, 2, Start(12)))
            ledger.tell(Over(2))

        opened(out, two_rows)
        assert positions_of(out) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
