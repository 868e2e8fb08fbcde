"""Duplicates are found by their text, and near-duplicates as often as their similarity promises."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hunting import hunt
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llava_zh.curation.duplicates import (
    SLOTS,
    Columns,
    append_sketches,
    bands_for,
    exact_duplicates,
    near_duplicates,
    similarity,
    text_digest,
)


def overlapping(draw: random.Random, share: float) -> tuple[list[str], list[str]]:
    """Two lists of 200 windows whose Jaccard similarity is about `share`."""
    common = round(200 * 2 * share / (1 + share))
    words = [f"{draw.getrandbits(64):x}" for _ in range(400 - common)]
    return words[:200], words[200 - common :]


def columns_of(folder: Path, grams: list[list[str]], threshold: float) -> Columns:
    columns = Columns(folder)
    append_sketches(columns, grams, bands_for(threshold))
    return columns


def test_equal_texts_point_to_the_earliest_sound_row(tmp_path: Path) -> None:
    columns = Columns(tmp_path)
    texts = ["甲", "乙", "甲", "丙", "乙", "甲"]
    columns.append("digest", np.frombuffer(b"".join(map(text_digest, texts)), np.uint64))
    assert exact_duplicates(columns, np.ones(6, bool)).tolist() == [-1, -1, 0, -1, 1, 0]
    assert exact_duplicates(columns, np.array([False, True, True, True, True, True])).tolist() == [-1, -1, -1, -1, 1, 2]
    columns.close()


@given(st.lists(st.integers(0, 8), max_size=60))
@settings(deadline=None, max_examples=40)
def test_exact_duplicates_are_those_a_dictionary_finds(texts: list[int]) -> None:
    import tempfile

    first: dict[int, int] = {}
    expected = [-1 if first.setdefault(text, row) == row else first[text] for row, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        columns = Columns(Path(folder))
        columns.append("digest", np.frombuffer(b"".join(text_digest(str(text)) for text in texts), np.uint64))
        assert exact_duplicates(columns, np.ones(len(texts), bool)).tolist() == expected
        columns.close()


def test_white_space_is_no_difference() -> None:
    assert text_digest("a  cat\n sits ") == text_digest("a cat sits")
    assert text_digest("a cat sits") != text_digest("acat sits")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_estimate_is_near_the_similarity(tmp_path: Path, share: float) -> None:
    draw = random.Random(1)
    pairs = [overlapping(draw, share) for _ in range(100)]
    columns = columns_of(tmp_path, [side for pair in pairs for side in pair], 0.8)
    sketches = columns.read("sketch", np.uint8, SLOTS)
    estimates = similarity(sketches[::2], sketches[1::2])
    exact = np.array([len({*one} & {*other}) / len({*one} | {*other}) for one, other in pairs])
    assert abs(np.mean(estimates - exact)) < 0.015
    assert np.std(estimates - exact) < 0.06
    columns.close()


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_nearly_all_pairs_above_the_threshold_are_found_and_none_far_below(tmp_path: Path, threshold: float) -> None:
    draw = random.Random(2)
    above, below = min(1.0, threshold + 0.1), threshold - 0.2
    pairs = [overlapping(draw, above) for _ in range(150)] + [overlapping(draw, below) for _ in range(150)]
    columns = columns_of(tmp_path, [side for pair in pairs for side in pair], threshold)
    found = near_duplicates(columns, np.ones(600, bool), threshold)
    assert np.all(found[::2] == -1)
    matched = found[1::2] >= 0
    assert np.array_equal(found[1::2][matched], np.arange(0, 600, 2)[matched])
    assert matched[:150].mean() > 0.95
    assert matched[150:].sum() == 0
    columns.close()


def test_a_large_cluster_points_to_its_earliest_row(tmp_path: Path) -> None:
    draw = random.Random(3)
    base = [f"{draw.getrandbits(64):x}" for _ in range(200)]
    grams = [[f"{draw.getrandbits(64):x}" for _ in range(200)]]
    for _ in range(300):
        changed = list(base)
        changed[draw.randrange(200)] = f"{draw.getrandbits(64):x}"
        grams.append(changed)
    columns = columns_of(tmp_path, grams, 0.8)
    assert near_duplicates(columns, np.ones(301, bool), 0.8).tolist() == [-1, -1, *[1] * 299]
    sound = np.ones(301, bool)
    sound[1] = False
    assert near_duplicates(columns, sound, 0.8).tolist() == [-1, -1, -1, *[2] * 298]
    columns.close()


def test_no_rows_have_no_duplicates(tmp_path: Path) -> None:
    columns = Columns(tmp_path)
    assert exact_duplicates(columns, np.zeros(0, bool)).tolist() == []
    assert near_duplicates(columns, np.zeros(0, bool), 0.8).tolist() == []
    columns.close()


# What tells two texts apart: a number, its sign or point, an operator, a symbol, an emoji.
FIGURES = st.one_of(
    st.integers(-999, 999).map(str),
    st.decimals(-99, 99, places=2).map(str),
    st.sampled_from("+−×÷=<>≤≥≈%‰±~|&@$€¥£°√∞→←↑↓★☆♥♠✓✗①②½²😀🐱👍🎉🇨🇳"),
    st.sampled_from(("两", "三", "四", "十一", "零下5", "一百", "3/4", "12:30", ".5")),
)
FILLER = "图中是一条安静的街道左边有红色的砖墙右边停着几辆自行车行人撑着雨伞慢慢走过天色渐暗灯光亮起来了" * 4


@hunt(60)
@given(FIGURES, FIGURES, st.integers(0, len(FILLER)), st.sampled_from([0.3, 0.8, 1.0]))
@example("15", "1.5", 0, 0.8)
@example("-5", "5", 100, 0.3)
def test_texts_that_differ_in_a_figure_are_never_near_duplicates(
    one: str, other: str, at: int, threshold: float
) -> None:
    import tempfile

    from llava_zh.curation.text import figures, windows

    texts = [f"{FILLER[:at]}，{figure}，{FILLER[at:]}" for figure in (one, other, one)]
    with tempfile.TemporaryDirectory() as folder:
        columns = Columns(Path(folder))
        apart = np.array([figures(text) for text in texts], np.uint64)
        append_sketches(columns, [windows(text, "zh") for text in texts], bands_for(threshold), apart)
        found = near_duplicates(columns, np.ones(3, bool), threshold).tolist()
        columns.close()
    assert found == [-1, -1 if one != other else 0, 0]


def test_duplicates_are_found_among_many_rows_that_differ_in_a_number_only(tmp_path: Path) -> None:
    """They share all bands but for what tells them apart, and fill no bucket that a true duplicate is looked for in."""
    from llava_zh.curation.text import figures, windows

    texts = [f"{FILLER}第{number}幅" for number in range(200)] + [f"{FILLER}，第0幅"]
    columns = Columns(tmp_path)
    apart = np.array([figures(text) for text in texts], np.uint64)
    append_sketches(columns, [windows(text, "zh") for text in texts], bands_for(0.8), apart)
    assert near_duplicates(columns, np.ones(201, bool), 0.8).tolist() == [-1] * 200 + [0]
    columns.close()
