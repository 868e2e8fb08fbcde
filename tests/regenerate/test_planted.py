"""A run's folder that another has meddled with: an error of ours names the file, and nothing outside is touched."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hunting import hunt
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from llava_zh.errors import BadFile, LlavaZhError, OutputError, RunConflict
from llava_zh.regenerate import folder as run_folder
from llava_zh.regenerate.images import keep_image
from llava_zh.regenerate.ledger import Ledger
from llava_zh.regenerate.manifest import FORMAT
from llava_zh.regenerate.plan import Begun, Closed, Selection, Start
from llava_zh.regenerate.source import Over
from llava_zh.storage.lines import read_lines, write_lines

from .conftest import positions_of
from .test_ledger import MANIFEST, place, row_at

FILES = [
    *("manifest.json", "failed.jsonl", "report.json", "journal/owner.json", "journal/lock", "journal/plan-0000.log"),
    *("journal/000000.r0.done", "journal/000000.r0.keys", "journal/000001.r0.a0.log", "data/000000.jsonl"),
    *("failed.jsonl.tmp", "journal/000001.r0.done.tmp", "journal/server.log"),
]
FOLDERS = ["journal", "data", "images", "batch"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a finished unit, and one of which two rows are done and one has failed."""
    out = tmp_path_factory.mktemp("run") / "out"
    ledger = Ledger(out, 5, MANIFEST)
    ledger.select(Selection(0))
    for unit, positions in ((0, range(5)), (1, range(5, 7))):
        ledger.tell(Begun(unit, 0, Start(5 * unit)))
        for position in positions:
            ledger.done(place(position), row_at(position))
    ledger.failed(place(8), "HTTP 422", {"message": "no"})
    ledger.tell(Closed(0, 5, Start(5)))
    ledger.tell(Over(0))
    ledger.close()
    return out


def go_on(out: Path) -> list[int]:
    """Finish the run; the positions that had to be asked."""
    ledger = Ledger(out, 5, MANIFEST)
    try:
        asked = []
        for unit in range(2):
            if unit in ledger.finished:
                continue
            if unit not in ledger.plan.units:
                ledger.tell(Begun(unit, 0, Start(5 * unit)))
            for position in range(5 * unit, 5 * unit + 5):
                if not ledger.is_known(place(position)):
                    ledger.done(place(position), row_at(position))
                    asked.append(position)
            if ledger.plan.units[unit].rows is None:
                ledger.tell(Closed(unit, 5, Start(5 * unit + 5)))
            ledger.tell(Over(unit))
    finally:
        ledger.close()
    return asked


class Outside:
    """A folder that no run may touch; it is there while a run is tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "victim").write_text('{"private": "key"}\n')
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in self.folder.iterdir()}


def plant(path: Path, what: str, outside: Outside) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if what == "link to a file":
        path.symlink_to(outside.folder / "victim")
    elif what == "link to nothing":
        path.symlink_to(outside.folder / "new")
    elif what == "link to a folder":
        path.symlink_to(outside.folder)
    elif what == "folder":
        path.mkdir()
    elif what == "file":
        path.write_text("a file")
    else:
        os.mkfifo(path)


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
@pytest.mark.parametrize("what", ["link to a file", "link to nothing", "link to a folder", "folder", "pipe"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_where_one_belongs_is_named_and_never_followed(
    name: str, what: str, begun: Path, tmp_path: Path
) -> None:
    out, outside = tmp_path / "out", Outside(tmp_path / "outside")
    shutil.copytree(begun, out)
    plant(out / name, what, outside)
    if name == "failed.jsonl.tmp" and what != "folder":  # in the way only of a file that is made anew
        go_on(out)
        assert positions_of(out) == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    else:
        with pytest.raises((OutputError, RunConflict)) as caught:
            go_on(out)
        assert Path(name).name.removesuffix(".tmp") in str(caught.value)
        assert "where a file is expected" in str(caught.value) or what == "folder"
    assert outside.state() == outside.before
    assert (out / name).is_symlink() or "link" not in what or name == "failed.jsonl.tmp"


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
@pytest.mark.parametrize("what", ["link to a folder", "file", "pipe"])
@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_no_folder_where_one_belongs_is_named_and_never_followed(
    name: str, what: str, begun: Path, tmp_path: Path
) -> None:
    out, outside = tmp_path / "out", Outside(tmp_path / "outside")
    shutil.copytree(begun, out)
    plant(out / name, what, outside)
    with pytest.raises(OutputError, match=f"out/{name} is .* where a folder is expected"):
        go_on(out)
    assert outside.state() == outside.before


JUNK: dict[str, bytes] = {
    "empty": b"",
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "list": b"[1,2,3]\n",
    "number": b"12345678901234567890123456789012345678901234567890\n",
    "huge": b'{"format":2,"rows":1e400,"unit":99999999999999999999999,"size":-1}\n',
    "null": b"null\n",
    "bad utf-8": b'{"host":"\xff\xfe","model":"\xc3"}\n',
    "outside": b'{"is":"begun","unit":"../../x","selection":0,"start":{"position":0},"name":"/etc/passwd"}\n',
    "zeros": bytes(4096),
    "wrong types": b'{"host":[],"pid":"x","token":{},"beat":"many","is":7,"rows":[],"format":{},"versions":7}\n',
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".tmp")])
def test_a_damaged_file_is_an_error_of_ours_or_costs_only_itself(
    name: str, junk: str, begun: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(begun, out)
    (out / name).write_bytes(JUNK[junk])
    try:
        go_on(out)
    except (OutputError, RunConflict, BadFile) as error:
        assert Path(name).name in str(error) or (name.endswith("plan-0000.log") and "plan" in str(error))
    else:
        assert positions_of(out) == ([0, 1, 2, 3, 4, 5, 6, 7, 9] if "a0" not in name else list(range(10)))


OWNER = b'{"host":"node-7","pid":12,"token":"","beat":4,"time":"2026-01-01T00:00:00+00:00"}\n'


@hunt(12)
@given(
    name=st.sampled_from(
        ["manifest.json", "journal/owner.json", "journal/plan-0000.log", "journal/000000.r0.done",
         "journal/000001.r0.a0.log", "journal/000000.r0.keys"]
    ),
    at=st.integers(0, 5000),
    bytes_=st.binary(min_size=1, max_size=40),
    cut=st.booleans(),
)  # fmt: skip
@example(name="journal/plan-0000.log", at=0, bytes_=b"\n", cut=False)
@example(name="journal/plan-0000.log", at=118, bytes_=b"\0", cut=False)  # found: a failure missing in failed.jsonl
@example(name="journal/plan-0000.log", at=300, bytes_=b"\0", cut=False)  # found: a finished unit without its end
def test_bytes_changed_anywhere_never_lose_or_repeat_a_row_in_silence(
    begun: Path, tmp_path_factory: pytest.TempPathFactory, name: str, at: int, bytes_: bytes, cut: bool
) -> None:
    out = tmp_path_factory.mktemp("changed") / "out"
    shutil.copytree(begun, out)
    data = bytearray((out / name).read_bytes() if (out / name).exists() else OWNER)
    at = min(at, len(data))
    data[at : at + len(bytes_)] = bytes_
    (out / name).write_bytes(data[: at + len(bytes_)] if cut else data)
    try:
        go_on(out)
    except LlavaZhError:
        pass
    else:
        found = positions_of(out)
        lost = [json.loads(line)["position"] for line in (out / "failed.jsonl").read_bytes().splitlines()]
        assert sorted(found + lost) == list(range(10))
    shutil.rmtree(out.parent)


def test_a_line_longer_than_any_row_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_ZH_MAX_LINE_BYTES", "100")
    (tmp_path / "log").write_bytes(b'{"a":1}\n' + b"x" * 1000 + b'\n{"b":2}\n' + b"y" * 150)
    found = list(read_lines(tmp_path / "log"))
    assert found == [b'{"a":1}\n', b"x" * 100, b'{"b":2}\n', b"y" * 100]


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_a_whole_file_takes_the_place_of_a_link_and_not_of_its_target(tmp_path: Path) -> None:
    outside = Outside(tmp_path / "outside")
    for name in ("data.jsonl", "data.jsonl.tmp"):
        (tmp_path / name).symlink_to(outside.folder / "victim")
    write_lines(tmp_path / "data.jsonl", [b"{}\n"])
    assert not (tmp_path / "data.jsonl").is_symlink()
    assert outside.state() == outside.before


def test_a_manifest_holds_no_secret(tmp_path: Path) -> None:
    from llava_zh.gates.safe_text import keep_secret

    keep_secret("canary-7f3a9c21e5")
    manifest = {"format": FORMAT, "parameters": {"user": "canary-7f3a9c21e5"}, "model": "m"}
    for _ in range(2):
        Ledger(tmp_path / "out", 5, manifest).close()
    assert b"canary" not in (tmp_path / "out" / "manifest.json").read_bytes()


# -- two machines --------------------------------------------------------------------------------------------

HOLD = """
import socket, sys
name = sys.argv[2]
socket.gethostname = lambda: name
from pathlib import Path
from llava_zh.regenerate import folder
folder.HEARTBEAT = 0.05
held = folder.RunFolder(Path(sys.argv[1]))
(Path(sys.argv[1]) / "journal" / "lock").unlink()  # a lock that other machines do not see
print("held", flush=True)
import time
while True:
    time.sleep(0.05)
    try:
        held.beat()
    except Exception as error:
        print(type(error).__name__, error, flush=True)
        break
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Any:
    """A process on another machine that holds the run at ``out``."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out"), "node-7"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "WATCHED", 1.5)


@pytest.mark.skipif(os.name == "nt", reason="an open lock cannot be removed there")
@pytest.mark.usefixtures("soon")
def test_a_run_that_lives_on_another_machine_is_refused(elsewhere: Any, tmp_path: Path) -> None:
    with pytest.raises(RunConflict, match=rf'on another machine \("pid": {elsewhere.pid}, "host": "node-7"'):
        run_folder.RunFolder(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGSTOP is POSIX")
@pytest.mark.usefixtures("soon")
def test_a_run_that_died_on_another_machine_is_taken_over_whatever_its_clock_said(
    elsewhere: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import signal

    elsewhere.send_signal(signal.SIGSTOP)
    record = tmp_path / "out" / "journal" / "owner.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "time": "2099-01-01T00:00:00+00:00"}))
    held = run_folder.RunFolder(tmp_path / "out")
    assert "the run on node-7 gave no sign of life and is taken over" in caplog.text
    elsewhere.send_signal(signal.SIGCONT)
    said = elsewhere.stdout.readline()  # the process that wakes up sees that it has lost the run, and ends
    assert said.startswith("RunConflict")
    assert "was taken over by another run" in said
    assert json.loads(record.read_text())["host"] == socket.gethostname()
    held.close()
    assert not record.exists()
    run_folder.RunFolder(tmp_path / "out").close()  # given back: nobody is waited for


@pytest.mark.usefixtures("soon")
def test_a_run_given_back_while_it_is_watched_is_free(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_folder.RunFolder(out).close()
    record = out / "journal" / "owner.json"
    record.write_text(json.dumps({"host": "node-7", "pid": 1, "token": "t", "beat": 3}))
    timer = threading.Timer(0.3, record.unlink)
    timer.start()
    started = time.monotonic()
    run_folder.RunFolder(out).close()
    assert time.monotonic() - started < 1.4
    timer.join()


def test_the_folder_itself_may_be_reached_through_a_link(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path / "disk2" / "out")
    (tmp_path / "out").symlink_to(tmp_path / "disk2" / "out")
    assert go_on(tmp_path / "out") == [7, 9]


def test_what_stands_beside_the_files_of_a_run_is_none_of_its_business(begun: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(begun, out)
    (out / "notes.txt").symlink_to(tmp_path / "elsewhere.txt")
    (out / "curated").mkdir()
    (out / "journal" / "000001.r0.a99999999999.log").write_text("no attempt")
    assert go_on(out) == [7, 9]


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_planted_picture_is_never_taken_for_the_one_that_its_name_is_of(tmp_path: Path) -> None:
    red, green = _png("red"), _png("green")
    name = keep_image(tmp_path, red)
    for planted in (green, red[:-1], b"", red):
        (tmp_path / name).write_bytes(planted)
        assert keep_image(tmp_path, red) == name
        assert (tmp_path / name).read_bytes() == red


def test_a_picture_is_kept_beside_no_link_and_no_pipe(tmp_path: Path) -> None:
    red, outside = _png("red"), Outside(tmp_path / "outside")
    name = keep_image(tmp_path, red)
    for plant in (lambda path: path.symlink_to(outside.folder / "victim"), os.mkfifo):
        (tmp_path / name).unlink()
        plant(tmp_path / name)
        with pytest.raises(OutputError, match=r"\.png is a (link|pipe) where a file is expected"):
            keep_image(tmp_path, red)


def test_the_record_of_who_holds_a_run_is_not_written_into_a_file_of_another_name(tmp_path: Path) -> None:
    victim, record = tmp_path / "victim", tmp_path / "out" / "journal" / "owner.json"
    record.parent.mkdir(parents=True)
    victim.write_bytes(b"precious")
    os.link(victim, record)
    held = run_folder.RunFolder(tmp_path / "out")
    assert victim.read_bytes() == b"precious"
    assert json.loads(record.read_bytes())["pid"] == os.getpid()
    held.close()
