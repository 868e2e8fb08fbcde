"""The pages of docs/: every code block runs, links and navigation hold, and the site is built without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from documents import ROOT, blocks, reader, run_console, run_python, without_comments

DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("zh/")])
def test_the_code_of_a_page_runs_and_prints_what_is_said(page: str, tmp_path: Path) -> None:
    folder, scratch = tmp_path / "reader", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    with reader(folder) as env:
        run_console(DOCS / page, folder, env)
        run_python(DOCS / page, folder, env, scratch)


def test_a_chinese_page_has_the_code_of_the_english_one() -> None:
    for page in (page for page in PAGES if page.startswith("zh/") and page != "zh/index.md"):
        english, chinese = (
            [(b.language, b.needs, without_comments(b)) for b in blocks(DOCS / each)]
            for each in (page.removeprefix("zh/"), page)
        )
        assert english == chinese, page


def test_no_block_is_left_that_nothing_runs() -> None:
    """What installs or starts something else than this library is a line of a file in examples/, or an installation."""
    known = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("examples/*/*") if path.is_file())
    for page in PAGES:
        for block in blocks(DOCS / page):
            assert block.language in ("python", "text", "console", "bash"), f"{page}:{block.line}"
            for line in block.text.splitlines() if block.language == "bash" else ():
                assert line.startswith("pip install ") or line.strip() in known, f"{page}:{block.line}: {line}"


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(named) == PAGES


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    bin_ = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    packages = re.search(r"^docs = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert packages
    install = [bin_ / "python", "-m", "pip", "install", "-q", *re.findall(r'"([^"]+)"', packages[1])]
    subprocess.run(install, check=True)
    done = subprocess.run([bin_ / "zensical", "build", "--strict"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "site").rglob("*.html")]
    assert pages and not any(
        re.search(r'(?:src|href)="https?://(?!zensical|github)[^"]*\.(?:js|css|woff)', p) for p in pages
    )
