"""A run gives every row once: sessions that are killed, limits, archives that come and go, power cuts, in any order."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from model_server import ModelServer

from llava_zh.regenerate.plan import Plan

from .archives import images_of, stem, write_archive, write_rows
from .conftest import lines_of, output_of
from .sessions import Sessions

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="forks, and reads /proc")

ARCHIVES = 6


class Run(RuleBasedStateMachine):
    """A run over archives of eight images each; `shared` are the server and the process that sessions fork off."""

    shared: tuple[ModelServer, Sessions]

    def __init__(self) -> None:
        super().__init__()
        self.server, self.sessions = self.shared
        self.folder = Path(tempfile.mkdtemp(prefix="llava-zh-once-"))
        self.out, self.root = self.folder / "out", self.folder / "sa1b"
        self.images = write_rows(self.folder / "rows", ARCHIVES)
        self.bad: list[str] = []
        write_archive(self.root, 0)
        write_archive(self.root, 3)

    def teardown(self) -> None:
        self.finish()
        shutil.rmtree(self.folder)

    # -- what happens to it ----------------------------------------------------------------------------------

    @rule(
        limit=st.none() | st.integers(1, 50),
        answers=st.none() | st.integers(0, 30),
        widen=st.booleans(),
        retry_failed=st.booleans(),
    )
    def session(self, limit: int | None, answers: int | None, widen: bool, retry_failed: bool) -> None:
        """A session; with `answers`, it is killed after so many."""
        self.server.latency = 0.0 if answers is None else 0.002
        before = self.server.calls
        kill = None if answers is None else lambda: self.server.calls - before >= answers
        assert self.run(kill_when=kill, limit=limit, widen=widen, retry_failed=retry_failed) in (0, None)

    def run(self, **given: object) -> int | None:
        kill = given.pop("kill_when", None)
        return self.sessions.run(
            kill,  # type: ignore[arg-type]
            data_dir=str(self.folder / "rows"), image_root=str(self.root), output_dir=str(self.out),
            base_url=self.server.url, progress=False, unit_rows=7, concurrency=4, chunk_size=1500,
            archives="available", bad_images=self.bad, **{"model": "tiny-vlm", **given},
        )  # fmt: skip

    @rule(retry_failed=st.booleans())
    def mistyped(self, retry_failed: bool) -> None:
        """A session with other settings, which the run refuses if it is bound, and the server if it is not."""
        assert self.run(model="tiny-vml", retry_failed=retry_failed) == 1

    @rule(archive=st.integers(0, ARCHIVES - 1))
    def arrives_or_goes(self, archive: int) -> None:
        path = self.root / f"{stem(archive)}.tar"
        if not path.exists():
            write_archive(self.root, archive)
        elif len(list(self.root.iterdir())) > 1:  # an empty root is an error of another kind
            path.unlink()

    @rule(numbers=st.lists(st.integers(0, 8 * ARCHIVES - 1), max_size=3))
    def other_bad_images(self, numbers: list[int]) -> None:
        self.bad = [self.images[number] for number in numbers]

    @rule(seed=st.integers(0, 1 << 30))
    def power_cut(self, seed: int) -> None:
        """What was not synced is lost in part: the ends of the last plan and of the journals, or zeros stand there."""
        generator = random.Random(seed)
        plans = sorted((self.out / "journal").glob("plan-*.log"))[-1:]
        for path in [*plans, *(self.out / "journal").glob("*.a*.log")]:
            data = path.read_bytes()
            cut = generator.randint(self.synced(data) if path in plans else 0, len(data))
            path.write_bytes(data[:cut] + bytes(generator.choice([0, 0, len(data) - cut])))

    def synced(self, plan: bytes) -> int:
        """How much of a plan is on the disk for certain: up to the last of what is synced before the run goes on."""
        size = at = 0
        for line in plan.splitlines(keepends=True):
            at += len(line)
            try:
                record = json.loads(line)
            except ValueError:  # torn in an earlier power cut
                break
            committed = record["is"] == "closed" and [*(self.out / "journal").glob(f"{record['unit']:06d}.r*.done")]
            if record["is"] in ("segment", "selection", "again") or committed:
                size = at
        return size

    # -- the law ---------------------------------------------------------------------------------------------

    @invariant()
    def no_row_is_there_twice(self) -> None:
        positions = [row["regenerated"]["position"] for row in output_of(self.out)]
        assert len(positions) == len(set(positions))

    def finish(self) -> None:
        for archive in range(ARCHIVES):
            if not (self.root / f"{stem(archive)}.tar").exists():
                write_archive(self.root, archive)
        self.server.latency = 0.0
        assert self.run(retry_failed=True) == 0
        self.check()
        self.bad = []
        assert self.run(widen=True) == 0
        assert sorted(self.check()) == sorted(self.images)

    def check(self) -> list[str]:
        """The images of the output, which has exactly the rows of the plan, each once."""
        rows = output_of(self.out)
        assert lines_of(self.out / "failed.jsonl") == []
        positions = [row["regenerated"]["position"] for row in rows]
        plan = Plan(self.out / "journal")
        members = [position for unit in plan.units.values() for position in plan.members(unit).tolist()]
        assert len(members) == len(set(members))
        assert sorted(positions) == sorted(members)
        assert [self.images[position] for position in positions] == [row["image"] for row in rows]
        assert len({row["id"] for row in rows}) == len(rows)
        return [row["image"] for row in rows]


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[ModelServer, Sessions]]:
    with ExitStack() as stack:
        yield stack.enter_context(ModelServer()), stack.enter_context(Sessions())


def test_the_machine_works(shared: tuple[ModelServer, Sessions]) -> None:
    """One way through it, which has everything in it once."""
    machine = type("Once", (Run,), {"shared": shared})()
    machine.mistyped(retry_failed=False)
    machine.session(limit=5, answers=None, widen=False, retry_failed=False)
    machine.mistyped(retry_failed=True)
    machine.arrives_or_goes(1)
    machine.session(limit=None, answers=4, widen=False, retry_failed=False)
    machine.power_cut(1)
    machine.arrives_or_goes(3)
    machine.session(limit=12, answers=None, widen=True, retry_failed=False)
    machine.other_bad_images([3, 4])
    machine.session(limit=None, answers=3, widen=False, retry_failed=True)
    machine.no_row_is_there_twice()
    machine.teardown()
    assert images_of(0)


@pytest.mark.slow
@pytest.mark.hunt
def test_every_row_comes_once_in_whatever_order_things_happen(shared: tuple[ModelServer, Sessions]) -> None:
    run_state_machine_as_test(
        type("Once", (Run,), {"shared": shared}),  # type: ignore[arg-type]
        settings=settings(
            max_examples=200 if os.environ.get("LLAVA_ZH_HUNT") else 10,
            stateful_step_count=8,
            phases=[Phase.explicit, Phase.generate],  # to shrink would take an hour
        ),
    )
