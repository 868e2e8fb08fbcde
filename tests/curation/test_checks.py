"""What one row shows by itself."""

from __future__ import annotations

from typing import Any

import pytest

from llava_zh.catalog.prompts import PROMPTS
from llava_zh.curation.checks import LEAKS, Checks


def defects(*turns: tuple[str, str], checks: Checks | None = None, **row: Any) -> list[str]:
    return (checks or Checks()).look_at(row, turns).defects


ASKED = ("human", "<image>\n请描述图片")


@pytest.mark.parametrize("roles", ["human gpt", "human gpt human gpt", "system human gpt"])
def test_turns_alternate_after_an_optional_system_turn(roles: str) -> None:
    assert defects(*((role, "好") for role in roles.split())) == []


@pytest.mark.parametrize(
    "roles", ["", "gpt human", "human", "human human gpt", "human gpt human", "human gpt system gpt"]
)
def test_any_other_order_of_turns_is_named(roles: str) -> None:
    [found] = defects(*((role, "好") for role in roles.split()))
    assert found == f"turns: {roles or 'none'} instead of human gpt, once or more"


@pytest.mark.parametrize(
    "answer",
    [
        "根据你的描述，图中有猫。",
        "根据您提供的描述，图中有猫。",
        "抱歉，我无法看到图片。",
        "我设计了一个新的问题：为什么？",
        "作为一个AI助手，我认为",
        "As an AI language model, I",
        "Here is a single-paragraph description: a cat.",
        f"好的。{PROMPTS['detail'].text}",
        PROMPTS["caption_en"].text,
        PROMPTS["caption_zh"].text,
    ],
)
def test_an_answer_that_speaks_to_its_prompt_is_a_leak(answer: str) -> None:
    assert any(found.startswith("leak: ") for found in defects(ASKED, ("gpt", answer)))


@pytest.mark.parametrize(
    "answer", ["设计师设计的对话框很大。", "As an aid to the blind, a cane.", "海报上写着AI芯片。"]
)
def test_words_that_only_look_like_a_leak_are_none(answer: str) -> None:
    assert defects(ASKED, ("gpt", answer)) == []


def test_a_refusal_in_any_answer_is_called_one() -> None:
    [found] = defects(ASKED, ("gpt", "一只猫。"), ("human", "？"), ("gpt", "抱歉，我无法回答这个问题。"))
    assert found == "refusal: '抱歉，我无法回答这个问题'"
    reasons = [found.split(":")[0] for found in defects(ASKED, ("gpt", "I'm sorry, I can't help with that image."))]
    assert reasons == ["refusal"]


def test_leaks_are_lower_case_so_that_case_does_not_matter() -> None:
    assert all(phrase == phrase.lower() for phrase in LEAKS)
    assert min(map(len, LEAKS)) >= 5


def test_only_answers_are_judged() -> None:
    assert defects(("human", "根据你的描述，why?\n\nA second paragraph"), ("gpt", "一只猫"), language="zh") == []


@pytest.mark.parametrize(
    ("row", "question", "asked"),
    [
        ({"config": "single_zh"}, "描述", True),
        ({"config": "multi_zh"}, "描述", False),
        ({}, PROMPTS["caption_en"].text, True),
        ({}, PROMPTS["caption_zh"].text, True),
        ({}, PROMPTS["detail"].text, False),
        ({"regenerated": {"prompt": "caption_en"}}, "", True),
        ({"regenerated": {"prompt": "detail"}, "config": "single_zh"}, "", False),
        ({"regenerated": {"prompt": "original"}}, "用一段话描述", True),
    ],
)
def test_several_lines_are_a_defect_where_one_paragraph_is_asked(
    row: dict[str, Any], question: str, asked: bool
) -> None:
    found = defects(("human", question), ("gpt", "A cat.\n\nA dog."), checks=Checks(language="en"), **row)
    assert found == (["paragraphs: 3 lines where one paragraph is asked"] if asked else [])
    assert (
        defects(("human", question), ("gpt", "a\nb"), checks=Checks(language="en", single_paragraph=False), **row) == []
    )


def test_the_language_expected_is_given_or_the_row_s_or_its_prompt_s() -> None:
    english = ("gpt", "Two dogs run.")
    wrong = ["language: en where zh is expected"]
    assert defects(ASKED, english) == []
    assert defects(ASKED, english, language="zh") == wrong
    assert defects(ASKED, english, regenerated={"prompt": "caption_zh"}) == wrong
    assert defects(ASKED, english, checks=Checks(language="zh"), language="en") == wrong
    assert defects(ASKED, ("gpt", "12:30"), language="zh") == []


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        ("<think>看图</think>一只橘色的猫", ["reasoning"]),
        ("<think>看图，还没有想完", ["reasoning"]),
        ("一只猫。<|im_end|>", ["special_tokens"]),
        ("一只猫[UNUSED_TOKEN_145]", ["special_tokens"]),
        ("<think>好</think>一只猫</s>", ["reasoning", "special_tokens"]),
        ("一只\x1b[31m猫", ["control_characters"]),
        ("一只\u202e猫\ufffd", ["control_characters"]),
        ("\u200b\u200b", ["empty"]),
        ("一家👨\u200d👩\u200d👧，🏴\U000e0067\U000e007f，\r\n\t“עב\u200f”", []),
        ("如果 a < b，则 <3 出现在海报上 [1]", []),
    ],
)
def test_what_a_model_left_in_its_answer_is_a_defect(answer: str, reasons: list[str]) -> None:
    assert [found.split(":")[0] for found in defects(ASKED, ("gpt", answer))] == reasons
