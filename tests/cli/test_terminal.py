"""A terminal shows what datasets, archives and servers sent, and never obeys it."""

from __future__ import annotations

import ast
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from hunting import hunt
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

import llava_zh.cli
from llava_zh.cli import main, text
from llava_zh.gates.safe_text import HIDDEN, keep_secret

ESC, OSC, C1, BIDI = "\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\u202e"
HOSTILE = f"a{ESC}{OSC}{C1}{BIDI}b"
STEERING = frozenset(
    {*map(chr, (*range(9), *range(11, 32), *range(127, 160))), *"\u200e\u200f\u202a\u202e\u2066\u2069"}
)
ZH = "internvl_sa1b_caption_1m_single_image_zh.jsonl"


def test_only_one_module_of_the_command_line_writes_to_the_terminal() -> None:
    """The image that ``sa1b cat`` copies is the one exception, and it refuses a terminal."""
    folder = Path(llava_zh.cli.__file__).parent
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called == "print" or called.endswith((".write", ".writelines")):
                found.append((path.relative_to(folder).as_posix(), called))
    assert set(found) == {
        ("text.py", "sys.stdout.write"),
        ("text.py", "sys.stderr.write"),
        ("sa1b/look.py", "sys.stdout.buffer.write"),
    }


@hunt(60)
@given(st.text(), st.booleans())
@example(HOSTILE, True)
@example("\ud800\U000e0041\x7f", False)
def test_json_on_stdout_is_the_value_and_holds_nothing_that_steers(value: str, indent: bool) -> None:
    kept, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    try:
        text.say_json({value: [value, 1, None]}, indent=1 if indent else None)
        sys.stdout.flush()
        written = sys.stdout.buffer.getvalue().decode()  # type: ignore[attr-defined]
    finally:
        sys.stdout = kept
    assert json.loads(written) == {value: [value, 1, None]}
    assert not STEERING & set(written)


def test_json_is_valid_where_the_terminal_has_no_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "latin-1", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", out)
    text.say_json(["图像", "é", "😀", BIDI])
    out.flush()
    assert json.loads(out.buffer.getvalue()) == ["图像", "é", "😀", BIDI]  # type: ignore[attr-defined]


def test_a_number_that_a_secret_is_made_of_leaves_json_valid(capsys: pytest.CaptureFixture[str]) -> None:
    keep_secret("80443322")
    text.say_json({"count": 80443322, "text": "pin 80443322"})
    assert json.loads(capsys.readouterr().out) == {"count": 80443322, "text": f"pin {HIDDEN}"}


@hunt(60)
@given(st.text())
@example(HOSTILE)
def test_whatever_is_said_told_or_put_in_a_table_steers_nothing(content: str) -> None:
    kept, sys.stdout, sys.stderr = (sys.stdout, sys.stderr), io.StringIO(), io.StringIO()
    try:
        text.say(content)
        text.tell(content)
        text.say(text.table([(content, "b"), ("c", content)]))
        shown = sys.stdout.getvalue() + sys.stderr.getvalue()
    finally:
        sys.stdout, sys.stderr = kept
    assert not STEERING & set(shown)
    assert len(text.table([(content, "b"), ("c", content)]).split("\n")) == 2


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def hostile_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "root"
    root.mkdir()
    for number, whole in ((0, True), (1, False)):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in (
                ("sa_1.jpg", jpeg()),
                (f"{HOSTILE}.jpg", b"no"),
                (f"{HOSTILE}\n.jpg", b"no"),
                (f"x{HOSTILE}.jpg", jpeg() * 9),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        (root / f"sa_{number:06d}.tar").write_bytes(out.getvalue() if whole else out.getvalue()[:-20000].rstrip(b"\0"))
    (root / f"{HOSTILE}.tar").write_bytes(out.getvalue())
    return root


@pytest.mark.parametrize(
    "command",
    [
        *("index", "status", "status --json", "ls", "ls sa_000000 -l", "locate sa_1.jpg 2 --jsonl", "locate NAME"),
        *("verify --num-proc 1 --output-dir OUT", "repack --output-dir OUT"),
    ],
)
def test_names_in_archives_are_shown_and_not_obeyed(
    hostile_root: Path, tmp_path: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [
        {"OUT": str(tmp_path / "out"), "NAME": f"sa_000000/{HOSTILE}.jpg"}.get(word, word) for word in command.split()
    ]
    main(["sa1b", *words, "--image-root", str(hostile_root)])
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err
    assert not STEERING & set(shown.out)
    assert not STEERING - {"\r"} & set(shown.err)  # progress bars
    if command.startswith("verify"):  # an archive of such a name is not addressed, so `ls` leaves it out
        assert "a\\x1b[2J" in shown.out + shown.err


@pytest.mark.parametrize("arguments", [[], ["--jsonl", "--on-bad-row", "skip"], ["--on-bad-row", "skip"]])
def test_rows_and_what_is_wrong_with_them_are_shown_and_not_obeyed(
    tmp_path: Path, arguments: list[str], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    turns = [{"from": "human", "value": f"<image>\n{HOSTILE}"}, {"from": "gpt", "value": HOSTILE}]
    rows = [
        {"id": HOSTILE, "image": "sa_000000/sa_1.jpg", "conversations": turns, HOSTILE: 1},
        {"id": HOSTILE, "image": f"../{HOSTILE}", "conversations": turns},
    ]
    (tmp_path / ZH).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    main(["show", "internvl-sa-1b-caption", "single_zh", "--data-dir", str(tmp_path), *arguments])
    shown = capfd.readouterr()
    told = shown.err + "".join(record.getMessage() for record in caplog.records)
    assert "\\x1b" in told
    assert not STEERING & set(shown.out + told)
    if "--jsonl" in arguments:
        assert json.loads(shown.out.splitlines()[0])["id"] == HOSTILE


def test_a_fault_of_our_own_is_told_without_obeying_what_it_quotes(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError(HOSTILE)

    monkeypatch.setattr("llava_zh.load.dataset_facts", fails)
    assert main(["list"]) == 1
    shown = capfd.readouterr().err
    assert "ValueError: a\\x1b[2J" in shown and "please report" in shown
    assert not STEERING & set(shown)
