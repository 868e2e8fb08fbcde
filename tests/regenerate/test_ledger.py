"""Whatever two writes a crash comes between, the folder is whole and the run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_zh.errors import BadFile, RunConflict
from llava_zh.regenerate.ledger import Ledger, Place

from .conftest import lines_of, positions_of

MANIFEST = {"model": "m", "prompts": {}}


def row_at(position: int) -> dict[str, Any]:
    facts = {
        "position": position, "key": f"key{position}", "model": "m", "prompt": "caption_zh", "finish_reason": "stop",
        "prompt_tokens": 3, "completion_tokens": 5, "asked": 1, "previous": None,
    }  # fmt: skip
    return {"id": position, "image": "a.jpg", "conversations": [{"from": "gpt", "value": "新"}], "regenerated": facts}


def place(position: int) -> Place:
    return Place(position, f"key{position}")


def finish(ledger: Ledger, unit: int, positions: list[int]) -> None:
    ledger.begin(unit, {"at": unit})
    for position in positions:
        if not ledger.is_known(place(position)):
            ledger.done(place(position), row_at(position))
    ledger.end(unit, 5)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder with two finished units of five rows, the second of which has a failed row."""
    ledger = Ledger(tmp_path / "out", 5, MANIFEST)
    finish(ledger, 0, [4, 2, 0, 1, 3])
    ledger.begin(1, {"at": 1})
    ledger.failed(place(7), "HTTP 422", {"message": "no"})
    finish_rest = [5, 6, 8, 9]
    for position in finish_rest:
        ledger.done(place(position), row_at(position))
    ledger.end(1, 5)
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
    assert sorted(path.name for path in (finished / "journal").glob("*.log")) == ["units.log"]

    def check(ledger: Ledger) -> None:
        assert [ledger.covered(unit) for unit in range(3)] == [5, 5, 0]
        assert ledger.states == {0: {"at": 0}, 1: {"at": 1}}
        assert (ledger.tally.rows, ledger.tally.completion_tokens) == (9, 45)
        assert dict(ledger.failures) == {"HTTP 422": 1}

    opened(finished, check)


def test_a_crash_before_the_journal_is_dropped_leaves_nothing_behind(finished: Path) -> None:
    (finished / "journal" / "000000.log").write_bytes((finished / "data" / "000000.jsonl").read_bytes())
    opened(finished, lambda ledger: None)
    assert not (finished / "journal" / "000000.log").exists()
    assert positions_of(finished) == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_a_crash_between_the_data_file_and_its_entry_finishes_the_unit_again(finished: Path) -> None:
    units = (finished / "journal" / "units.log").read_bytes().splitlines(keepends=True)
    (finished / "journal" / "units.log").write_bytes(b"".join(line for line in units if b'"unit":1,"rows"' not in line))
    (finished / "journal" / "000001.log").write_bytes((finished / "data" / "000001.jsonl").read_bytes())

    def check(ledger: Ledger) -> None:
        assert ledger.covered(1) == 0
        ledger.begin(1, None)
        assert all(ledger.is_known(place(position)) for position in range(5, 10))
        ledger.end(1, 5)

    opened(finished, check)
    assert positions_of(finished) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    opened(finished, lambda ledger: None)


def test_forgiven_failures_open_their_units_and_keep_what_was_done(finished: Path) -> None:
    def check(ledger: Ledger) -> None:
        assert ledger.forgive() == 1
        assert [ledger.covered(unit) for unit in range(2)] == [5, 0]
        ledger.begin(1, None)
        assert [position for position in range(5, 10) if not ledger.is_known(place(position))] == [7]
        ledger.done(place(7), row_at(7))
        ledger.end(1, 5)

    opened(finished, check)
    assert positions_of(finished) == list(range(10))
    assert lines_of(finished / "failed.jsonl") == []


def test_a_crash_while_forgiving_forgets_nothing(finished: Path) -> None:
    failed = (finished / "failed.jsonl").read_bytes()

    def check(ledger: Ledger) -> None:
        ledger.reopen(1)  # all that was done before the crash

    opened(finished, check)
    assert (finished / "failed.jsonl").read_bytes() == failed

    def again(ledger: Ledger) -> None:
        ledger.begin(1, None)
        assert all(ledger.is_known(place(position)) for position in range(5, 10))
        ledger.end(1, 5)

    opened(finished, again)
    assert positions_of(finished) == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_another_row_at_a_known_position_is_a_conflict(finished: Path) -> None:
    def check(ledger: Ledger) -> None:
        with pytest.raises(RunConflict, match="row 5 of it is not the row"):
            ledger.check_first(Place(5, "another"))
        ledger.begin(2, None)
        ledger.done(place(10), row_at(10))
        with pytest.raises(RunConflict, match="row 10 of it is not the row"):
            ledger.is_known(Place(10, "another"))

    opened(finished, check)


def test_a_damaged_manifest_is_not_taken_for_another_run(finished: Path) -> None:
    (finished / "manifest.json").write_text("{")
    with pytest.raises(BadFile, match=r"manifest.json is no JSON"):
        Ledger(finished, 5, MANIFEST)
    (finished / "manifest.json").write_text(json.dumps(MANIFEST))
    opened(finished, lambda ledger: None)  # and the lock was given back
