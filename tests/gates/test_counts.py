"""One row is no rows."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

import llava_zh
from llava_zh.gates.counts import counted


@pytest.mark.parametrize(
    ("number", "things", "said"),
    [
        (1, "bad rows left out", "1 bad row left out"),
        (1, "entries", "1 entry"),
        (0, "rows", "0 rows"),
        (1234, "less images", "1,234 less images"),
        (1, "less images", "1 less image"),
    ],
)
def test_one_thing_is_said_in_the_singular(number: int, things: str, said: str) -> None:
    assert counted(number, things) == said


_THINGS = re.compile(r"^ (?:[a-z]+ )?(rows|images|archives|files|entries|pairs|answers|shards|configurations|links)\b")


def test_a_number_of_things_is_said_by_one_function() -> None:
    """Wherever the library puts a number before them, which may be one."""
    package = Path(llava_zh.__file__).parent
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for value, after in itertools.pairwise(parts):
                if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                    continue
                if (things := _THINGS.match(str(after.value))) is None:
                    continue
                is_number = ast.unparse(value).startswith("{len(") or (
                    value.format_spec is not None and ast.unparse(value.format_spec).strip("f'\"") == ","
                )
                is_fixed = re.fullmatch(r"[A-Z_]+(.value)?", ast.unparse(value.value)) is not None
                if is_number and not is_fixed:
                    found.append(f"{path.relative_to(package)}:{value.lineno}: {ast.unparse(value)}{things[0]}")
    assert found == []
