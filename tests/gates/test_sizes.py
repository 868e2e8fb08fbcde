"""Numbers of bytes are read and shown in one way everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_zh.errors import BadArgument
from llava_zh.gates import sizes
from llava_zh.gates.limits import LINE, MEMBERS


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        ("32MB", 32_000_000),
        ("32MiB", 32 << 20),
        (" 1.5 kb ", 1500),
        ("0.1", 1),
        ("1.1GB", 1_100_000_000),
        ("9007199254740993", 9_007_199_254_740_993),
        ("many", None),
        ("-5", None),
        (-5, None),
        (True, None),
        ("1e6", None),
        ("٣MB", None),
        ("1" * 4000, None),
    ],
)
def test_a_size_is_a_number_with_or_without_a_unit(text: int | str, size: int | None) -> None:
    assert sizes.parse(text) == size


@given(st.integers(0, 10**15))
def test_what_is_shown_is_read_back_as_nearly_the_same(count: int) -> None:
    read = sizes.parse(sizes.show(count))
    assert read is not None
    assert abs(read - count) <= 0.06 * count


def test_a_limit_in_bytes_takes_a_size_and_one_in_other_things_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LINE.variable, "2MiB")
    assert LINE.value == 2 << 20
    for limit, text in ((LINE, "0 kB"), (LINE, "large"), (MEMBERS, "2k")):
        monkeypatch.setenv(limit.variable, text)
        with pytest.raises(BadArgument, match=f"{limit.variable} must be a number of {limit.unit} above 0"):
            _ = limit.value
