"""Language, windows and repetition of a text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_zh.curation.text import detect_language, figures, find_repetition, windows


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("一只猫坐在沙发上。", "zh"),
        ("牌子上写着 STOP 和 NO PARKING，旁边有一辆车。", "zh"),
        ("The sign reads '欢迎光临', and two people stand before the small shop.", "en"),
        ("A café by the sea", "en"),
        ("猫がソファの上に座っています。", "other"),
        ("Кошка сидит на диване.", "other"),
        ("고양이가 소파에 앉아 있다", "other"),
        ("12:30 — 99 %", None),
        ("", None),
    ],
)
def test_language_is_that_of_most_words(text: str, language: str | None) -> None:
    assert detect_language(text) == language


def test_chinese_windows_are_five_characters_and_english_ones_three_words() -> None:
    assert windows("红色的，沙发上", "zh") == ["红色的沙发", "色的沙发上"]
    assert windows("The old Mill, by a river.", "en") == ["the old mill", "old mill by", "mill by a", "by a river"]


@given(st.text(max_size=80), st.sampled_from(["zh", "en", "other", None]))
@settings(deadline=None)
def test_every_text_has_at_least_one_window(text: str, language: str | None) -> None:
    assert len(windows(text, language)) >= 1


@given(
    st.integers(1, 12).flatmap(
        lambda size: st.lists(st.sampled_from("山水风云花鸟鱼虫"), min_size=size, max_size=size)
    ),
    st.integers(5, 40),
    st.text(alphabet="甲乙丙丁戊己庚辛", max_size=30),
)
@settings(deadline=None)
def test_any_phrase_five_times_on_end_over_twenty_characters_is_a_loop(
    unit: list[str], times: int, before: str
) -> None:
    times = max(times, -(-20 // len(unit)))
    found = find_repetition(windows(before + "".join(unit) * times, "zh"), "zh", max_share=1)
    assert found is not None
    assert "times or more on end" in found


def test_english_loops_are_found_and_refrains_and_lists_are_not() -> None:
    def looked_at(text: str) -> str | None:
        return find_repetition(windows(text, "en"), "en", max_share=0.4)

    assert looked_at("A man stands. " + "He is wearing a hat. " * 6)
    assert looked_at("no " * 25)
    assert looked_at("A very, very, very, very, very long wall runs along the road.") is None
    assert (
        looked_at("There is a red car on the left, a blue car on the right, and a red car on the road behind them.")
        is None
    )


def test_a_text_that_says_much_twice_repeats_without_a_loop() -> None:
    sentence = "街道两旁是高大的梧桐树，树下停着几辆自行车。"
    text = sentence + "远处有一座白色的钟楼。" + sentence + "天空多云。" + sentence
    assert find_repetition(windows(text, "zh"), "zh", max_share=0.4) == "46% of it repeats, more than 40%"
    assert find_repetition(windows(text, "zh"), "zh", max_share=0.6) is None


# -- figures -----------------------------------------------------------------------------------------------

LONG = "图中是一条安静的街道，左边有红色的砖墙，右边停着几辆自行车，行人撑着雨伞慢慢走过，天色渐暗，灯光亮起来了"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("价格是15元", "价格是1.5元"),
        ("价格是１５元", "价格是16元"),
        ("温度是5度", "温度是-5度"),
        ("温度是5度", "温度是－5度"),
        ("温度是5度", "温度是−5度"),
        ("A < B", "A > B"),
        ("😀", "！！！"),
        ("😀", "🐱"),
        ("三只猫", "两只猫"),
        ("十一只猫", "十只猫"),
        ("two dogs run", "three dogs run"),
        ("x²", "x³"),
        ("50%", "50"),
        ("$5", "€5"),
        ("3+5", "3-5"),
        ("12:30", "1:230"),
        ("1:2", "12"),
    ],
)
def test_texts_that_say_other_figures_are_told_apart(one: str, other: str) -> None:
    assert figures(one) != figures(other)
    assert figures(f"{LONG}，{one}") != figures(f"{LONG}，{other}")


def test_a_text_of_punctuation_alone_is_told_apart_by_it() -> None:
    assert figures("！！！") != figures("？？？")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("图中有15只猫。", "图中有１５只猫！"),
        ("**图中**有一只猫", "图中有一只猫"),
        ("- a cat\n- a dog", "a cat, a dog"),
        ("# 标题\n猫", "猫"),
        ("“红色”的猫", "红色的猫"),
        ("a red-brown cat", "a red brown cat"),
    ],
)
def test_punctuation_and_markdown_are_no_figures(one: str, other: str) -> None:
    assert figures(one) == figures(other)
