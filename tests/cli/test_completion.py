"""`llava-zh completion`: what a shell is given, and what it is answered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llava_zh.cli import main

# A TAB as bash presents it to the function that was registered.
TAB = """
eval "$(llava-zh completion bash)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9
read -ra COMP_WORDS <<< "$1"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete llava-zh
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def command(tmp_path: Path) -> dict[str, str]:
    """An environment where `llava-zh` is this package."""
    (tmp_path / "llava-zh").write_text(f'#!/bin/sh\nexec {sys.executable} -m llava_zh "$@"\n')
    (tmp_path / "llava-zh").chmod(0o755)
    return os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("llava-zh sh", ["show "]),
        ("llava-zh show internvl-sa-1b-caption multi", ["multi_en", "multi_zh"]),
        ("llava-zh sa1b repack --images", ["--images", "--images-of"]),
    ],
)
def test_bash_is_offered_commands_names_and_options(line: str, offered: list[str], command: dict[str, str]) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", TAB, "bash", line], env=command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == offered, done.stderr


@pytest.mark.parametrize(
    ("shell", "registers"), [("zsh", "#compdef llava-zh"), ("fish", "complete --command llava-zh ")]
)
def test_other_shells_are_given_what_registers_the_command(
    shell: str, registers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    assert registers in capsys.readouterr().out


def test_without_the_library_the_line_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)
    assert main(["completion", "bash"]) == 1
    assert 'pip install "llava-zh[completion]"' in capsys.readouterr().err
