"""What a person can paste into a public issue: versions and findings, without secrets and names of users."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from .. import text
from .findings import Finding

# Fewer letters would be found in words of other meanings.
_SHORTEST = 3


def block(sections: Iterable[tuple[str, Sequence[Finding]]]) -> str:
    """The findings of all sections as a fenced block of Markdown."""
    lines = []
    for title, findings in sections:
        lines.append(title)
        lines += [f"  {finding.state or '-':7}  {finding.what}: {finding.detail}" for finding in findings]
    # A fence in what a file or a server says would end the block.
    said = [text.one_line(_anonymous(line)).replace("```", "'''") for line in lines]
    return "\n".join(["```text", *said, "```"])


def _anonymous(line: str) -> str:
    """`line` without the user's home and name in its paths."""
    home = str(Path.home())
    if len(home) > 1:
        line = re.sub(rf"{re.escape(home)}(?![\w-])", "~", line)
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a process whose user has no entry
        return line
    return re.sub(rf"(?<=/){re.escape(user)}(?=/|$)", "USER", line) if len(user) >= _SHORTEST else line
