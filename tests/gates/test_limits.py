"""Limits are those that the documents name."""

from __future__ import annotations

import re
from pathlib import Path

from llava_zh.gates import limits

ROOT = Path(__file__).parents[2]


def test_the_table_in_the_security_policy_has_every_limit_and_no_other() -> None:
    told = set(re.findall(r"`(LLAVA_ZH_MAX_[A-Z_]+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    assert told == {each.variable for each in vars(limits).values() if isinstance(each, limits.Limit)}
