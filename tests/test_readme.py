"""Every code block of the README runs, in order, and prints what the block after it says; the Chinese one has the same.

``bash`` blocks install things: those are the first two, which .ci/run and the test of the wheel run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT, blocks, reader, run_console, run_python, without_comments

README, README_ZH = ROOT / "README.md", ROOT / "README_zh.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with the miniature in it, and the environment of a reader whose hub is a loopback one."""
    folder = tmp_path_factory.mktemp("readme")
    with reader(folder) as env:
        yield folder, env


def test_the_python_blocks_run_in_order_and_print_what_is_said(
    place: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    assert run_python(README, *place, tmp_path)


def test_the_commands_run_and_print_what_is_said(place: tuple[Path, dict[str, str]]) -> None:
    assert run_console(README, *place)


def test_both_readmes_have_the_same_structure_and_code() -> None:
    """The words and comments differ; headings, tables, links to files, code, commands and their order do not."""
    first, second = ([(b.language, b.needs, without_comments(b)) for b in blocks(each)] for each in (README, README_ZH))
    assert first == second
    shapes = []
    for each in (README, README_ZH):
        prose = re.sub(r"^```.*?^```$", "", each.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        marks = re.findall(r"^(#+ |\|.*\|$)", prose, re.MULTILINE)
        shapes.append([mark.count("|") or mark for mark in marks])
    assert shapes[0] == shapes[1]


def test_no_block_is_left_that_nothing_runs() -> None:
    for readme in (README, README_ZH):
        assert {b.language for b in blocks(readme)} <= {"bash", "python", "text", "console"}
        installs = [b.text.strip() for b in blocks(readme) if b.language == "bash"]
        assert installs == [
            "pip install . && llava-zh demo",
            'pip install -e ".[test]" && python -m pytest -n auto -m "not slow"',
        ]


def test_every_link_to_a_file_leads_to_one() -> None:
    for page in (README, README_ZH, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links {link}"
