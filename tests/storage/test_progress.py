"""Progress is a line for people at a terminal, and nothing for anyone else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import sys
from llava_zh.storage import progress
progress._SECONDS = 0
with progress.Progress("Looking\\x1b[2J", 4, unit="rows", done=1, show="quiet" not in sys.argv) as line:
    line.add(2)
    line.say("a word beside it")
    line.reach(4)
    assert "datasets" not in sys.modules
"""


def shown(*arguments: str, terminal: bool = True, **environment: str) -> str:
    """What a process with `environment` writes to standard error, which is a terminal or a pipe."""
    pty = pytest.importorskip("pty", reason="terminals of POSIX")
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        pytest.importorskip("termios", reason="terminals of POSIX").tcsetwinsize(ours, (24, 100))
    command = [sys.executable, "-c", CODE, *arguments]
    rest = {name: value for name, value in os.environ.items() if "PROGRESS" not in name}
    subprocess.run(command, stderr=theirs, env=rest | environment, check=True)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 1 << 16):
            said += piece
    except OSError:  # how the end of a terminal is told on Linux
        pass
    os.close(ours)
    return said.decode()


def test_a_terminal_sees_what_is_done_of_how_much_and_a_log_only_what_is_said() -> None:
    at_terminal = shown()
    assert "4/4" in at_terminal and "rows/s" in at_terminal and "a word beside it" in at_terminal
    assert "Looking\\x1b[2J" in at_terminal  # a name from outside steers nothing
    assert shown(terminal=False) == "a word beside it\n"
    for variable in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        assert shown(**{variable: "1"}).split("\r\n") == ["a word beside it", ""]
    assert "4/4" in shown(terminal=False, HF_HUB_DISABLE_PROGRESS_BARS="0")
    assert shown("quiet") == ""


def test_a_notebook_sees_it_though_it_has_no_terminal() -> None:
    """`tqdm.autonotebook` takes a process with this module for a notebook; without ipywidgets it draws text."""
    kernel = "import sys, types\nsys.modules['ipykernel.zmqshell'] = types.ModuleType('zmqshell')\n"
    kernel += "sys.modules['IPython'] = types.SimpleNamespace(get_ipython=lambda: None, version_info=(8,))\n"
    code = kernel + "import warnings; warnings.simplefilter('ignore')\n" + CODE
    rest = {name: value for name, value in os.environ.items() if "PROGRESS" not in name}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=rest)
    assert "4/4" in done.stderr
