"""Answers in any accepted styling become turns with nothing lost; any other answer is refused with the reason."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import replace

import pytest
from hunting import hunt
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from llava_zh.catalog.prompts import PROMPTS
from llava_zh.errors import BadAnswer
from llava_zh.gates.model_text import controls, says_nothing
from llava_zh.regenerate.parsing import MAX_CHARS, parse_answer

CONVERSATION, QA, CAPTION = PROMPTS["conversation"], PROMPTS["complex_reasoning"], PROMPTS["caption_zh"]
LABELS = {
    "conversation": [("用户", "助手"), ("User", "Assistant"), ("USER", "assistant"), ("用户", "AI助手")],
    "qa": [("问题", "回答"), ("Question", "Answer"), ("问题", "答案")],
}
STYLES = [
    "{label}{colon}{space}",
    "{label} {colon}{space}",
    "**{label}{colon}**{space}",
    "**{label}**{colon}{space}",
    "**{label} {colon} **{space}",
    "__{label}__ {colon}{space}",
    "*{label}*{colon}{space}",
    "### {label}{colon}{space}",
    "### **{label}**{colon}{space}",
    "  {label}{colon}\n",
]
ANY_LABEL = re.compile(r"(用户|助手|问题|回答|答案|User|Assistant|Question|Answer)", re.IGNORECASE)

# Text of turns: anything but the marks a label is cut at, emphasis (which may belong to a label) and dressing lines.
words = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="*_#`-\\<\ufeff"), min_size=1, max_size=20
)
paragraph = words.map(str.strip).filter(
    lambda text: not (says_nothing(text) or controls(text) or ANY_LABEL.search(text))
)
turn_text = st.lists(paragraph, min_size=1, max_size=3).map("\n\n".join).filter(lambda text: text == text.strip())


def turns(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)]


@st.composite
def rendered(draw: st.DrawFn, kind: str, max_rounds: int, gap: st.SearchStrategy[str]) -> tuple[str, list[str]]:
    """An answer in one accepted styling, and the texts it was made of."""
    labels = draw(st.sampled_from(LABELS[kind]))
    style = draw(st.sampled_from(STYLES))
    rounds = draw(st.integers(1, max_rounds))
    texts = draw(st.lists(turn_text, min_size=2 * rounds, max_size=2 * rounds))
    answer = draw(st.sampled_from(["", "\n", "---\n", "以下是对话：\n\n", "Here you are:\n"]))
    for index, text in enumerate(texts):
        colon, space = draw(st.sampled_from(":：")), draw(st.sampled_from(["", " ", "\t", "\n", "\n\n"]))
        answer += style.format(label=labels[index % 2], colon=colon, space=space) + text + draw(gap)
    return answer, texts


line_gaps = st.sampled_from(["\n", "\n\n", "\r\n", " \n \n", "\n\n---\n\n", "\n\n**第2轮对话**\n\n", r"\n\n"])


@settings(deadline=None)
@given(rendered("conversation", 5, line_gaps))
def test_any_rounds_in_any_accepted_styling_parse_back(case: tuple[str, list[str]]) -> None:
    answer, texts = case
    assert parse_answer(answer, CONVERSATION) == turns(*texts)


@settings(deadline=None)
@given(rendered("qa", 1, line_gaps))
def test_any_question_and_answer_in_any_accepted_styling_parse_back(case: tuple[str, list[str]]) -> None:
    answer, texts = case
    assert parse_answer(answer, QA) == turns(*texts)


@hunt(100)
@given(st.lists(paragraph, min_size=2, max_size=10).filter(lambda texts: len(texts) % 2 == 0), st.sampled_from(":："))
@example(["0AI", "0"], ":")
@example(["AI", "0"], "：")
@example(["0 AI", "视觉", "OpenAI", "0"], "：")
def test_rounds_that_run_on_in_one_line_parse_back(texts: list[str], colon: str) -> None:
    assume(not any(re.search(r"[。？！?!…][ \t]?AI\Z", text, re.IGNORECASE) for text in texts))  # a label's "AI"
    answer = " ".join(f"{('用户', '助手')[index % 2]}{colon}{text}" for index, text in enumerate(texts))
    assert parse_answer(answer, CONVERSATION) == turns(*texts)


@settings(deadline=None)
@given(st.lists(paragraph, min_size=1, max_size=5), st.sampled_from(["\n", "\n\n", "\r\n", " \n\n "]))
def test_a_caption_becomes_one_paragraph_and_loses_no_character(paragraphs: list[str], gap: str) -> None:
    assume(not any(re.match(r"[-*+•|]|\d{1,2}[.、)）]", text) for text in paragraphs))
    [turn] = parse_answer(gap.join(paragraphs), CAPTION)
    assert turn["from"] == "gpt"
    assert "".join(turn["value"].split()) == "".join("".join(paragraphs).split())
    assert len(turn["value"].splitlines()) == 1


@settings(deadline=None)
@given(
    st.text(max_size=200), st.sampled_from(["conversation", "complex_reasoning", "detail", "caption_en", "original"])
)
def test_any_text_gives_turns_or_a_bad_answer_and_nothing_else(text: str, name: str) -> None:
    try:
        found = parse_answer(text, PROMPTS[name])
    except BadAnswer as error:
        assert error.args[0].startswith("Answer expected to be")
    else:
        assert found
        assert all(turn["value"].strip() for turn in found)


def test_reasoning_before_an_answer_is_cut_off() -> None:
    assert parse_answer("<think>\n先看左边。\n</think>\n\n一只橘色的猫。", CAPTION) == [
        {"from": "gpt", "value": "一只橘色的猫。"}
    ]
    thought = "<think>用户：要什么？\n助手：看图。</think>"
    assert parse_answer(f"{thought}用户：几只？\n助手：两只。", CONVERSATION) == turns("几只？", "两只。")


@pytest.mark.parametrize(
    ("text", "prompt", "reason"),
    [
        ("<think>先看左边，一只猫。", CAPTION, "reasoning never ends"),
        ("<think>先看左边，一只猫。</think>\n", CAPTION, "empty answer"),
        ("一只猫。<|im_end|>", CAPTION, "special token"),
        *((f"一只{sign}猫", CAPTION, "control character") for sign in "\0\x0b\x1b\x7f\x85\x9b\u202e\u2066\ufffd"),
        *((text, CAPTION, "empty answer") for text in ("\u200b\u200b", "\ufffd\ufffd", "\u3164 \ufe0f", "\x1b\n")),
        ("用户：\u200b\n助手：两只。", CONVERSATION, "empty answer"),
        ("一只猫。[UNUSED_TOKEN_145][UNUSED_TOKEN_145]", CAPTION, "special token"),
        ("用户：几只？</s>\n助手：两只。", CONVERSATION, "special token"),
        ("问题：几只？\n回答：两只<box>[[1,2,3,4]]</box>。", QA, "special token"),
    ],
)
def test_what_is_no_caption_in_an_answer_is_refused_by_its_reason(text: str, prompt: object, reason: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        parse_answer(text, prompt)  # type: ignore[arg-type]
    assert vars(caught.value)["reason"] == reason
    assert "expected to be" in str(caught.value)


def test_lines_of_a_caption_join_with_a_space_in_english_and_without_in_chinese() -> None:
    assert parse_answer("A cat.\n\nIt sits.", PROMPTS["caption_en"]) == [{"from": "gpt", "value": "A cat. It sits."}]
    assert parse_answer("一只猫。\n它坐着。", CAPTION) == [{"from": "gpt", "value": "一只猫。它坐着。"}]


def test_a_detailed_description_keeps_its_paragraphs() -> None:
    text = "### 场景\n\n- 两个人\n- 一只狗"
    assert parse_answer(text, PROMPTS["detail"]) == [{"from": "gpt", "value": text}]
    assert parse_answer("a\n\nb", PROMPTS["original"]) == [{"from": "gpt", "value": "a\n\nb"}]


def test_ai_belongs_to_the_label_it_is_joined_to_or_that_begins_a_sentence() -> None:
    assert parse_answer("用户：是猫吗？ AI 助手：是。 用户：几只？AI助手：两只。", CONVERSATION) == turns(
        "是猫吗？", "是。", "几只？", "两只。"
    )
    assert parse_answer("用户：什么是AI 助手：程序。", CONVERSATION) == turns("什么是AI", "程序。")
    assert parse_answer("用户：什么是\nAI\n助手：程序。\nAI", CONVERSATION) == turns("什么是\nAI", "程序。\nAI")


def test_a_bold_question_loses_the_bold_that_its_label_opened() -> None:
    answer = "**用户：图里有什么？**\n\n**助手：** **一只**狗"
    assert parse_answer(answer, CONVERSATION) == turns("图里有什么？", "**一只**狗")


def test_emphasis_that_opens_before_the_label_and_closes_in_the_text_stays_with_the_text() -> None:
    assert parse_answer("**用户：看** 图\n助手：好", CONVERSATION) == turns("**看** 图", "好")


def test_a_label_quoted_within_a_line_is_text() -> None:
    answer = "用户：牌子写着什么？\n\n助手：写着“尊敬的用户：请勿吸烟”。"
    assert parse_answer(answer, CONVERSATION) == turns("牌子写着什么？", "写着“尊敬的用户：请勿吸烟”。")


def test_a_heading_that_only_begins_like_a_label_is_text() -> None:
    answer = "问题：为什么？\n\n回答：\n**问题分析**：略\n回答者: 我"
    assert parse_answer(answer, QA) == turns("为什么？", "**问题分析**：略\n回答者: 我")


def test_literal_line_breaks_copied_from_the_prompt_are_line_breaks() -> None:
    answer = r"用户:几只?\n\n助手:两只。\n\n用户:颜色?\n\n助手:白。\n\n"
    assert parse_answer(answer, CONVERSATION) == turns("几只?", "两只。", "颜色?", "白。")


def test_an_image_marker_before_the_first_question_is_dropped() -> None:
    assert parse_answer("用户：<image>\n几只？\n助手：两只", CONVERSATION) == turns("几只？", "两只")


@pytest.mark.parametrize(
    ("text", "prompt", "says"),
    [
        ("", CAPTION, "an empty answer"),
        (" \n\t", CONVERSATION, "an empty answer"),
        ("```\n```", CAPTION, "an empty answer"),
        ("一只猫。", CONVERSATION, "neither label in '一只猫。'"),
        ("用户：A\n用户：B\n助手：C", CONVERSATION, "the labels 用户 用户 助手"),
        ("助手：A\n用户：B", CONVERSATION, "the labels 助手 用户"),
        ("用户：A\n助手：B\n用户：C", CONVERSATION, "the labels 用户 助手 用户"),
        ("用户：A\n助手：", CONVERSATION, "nothing after label 2 (助手)"),
        ("用户：A\n助手：B\n" * 6, CONVERSATION, "1 to 5 rounds; found 6 rounds"),
        ("这是猫。\n用户：A\n助手：B", CONVERSATION, "text before the first label: '这是猫。'"),
        ("问题：A\n回答：B\n问题：C\n回答：D", QA, "once; found 2 rounds"),
        ("问题：A", QA, "the labels 问题"),
        ("用户：A\n助手：<image>B", CONVERSATION, "<image> in turn 2"),
        ("<image> 猫", CAPTION, "<image> in"),
        ("# 描述\n一只猫", CAPTION, "Markdown structure: '# 描述"),
        ("有：\n- 猫\n- 狗", CAPTION, "one paragraph; found Markdown structure: '- 猫"),
        ("猫\0", CAPTION, "a NUL character at position 1"),
        ("猫\ud83d", CAPTION, "half a surrogate pair at position 1"),
        ("猫" * (MAX_CHARS + 1), CAPTION, "at most 100,000 characters; found 100,001"),
    ],
)
def test_a_bad_answer_says_what_was_expected_and_found(text: str, prompt: object, says: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        parse_answer(text, prompt)  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert f"expected to be {caught.value.expected}; found {caught.value.found}." in str(caught.value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("piece", ["\n", " \n", "*", "**", "用户", "用户：", "#", "\\n", "- ", "_ ", "第1轮\n", "\t"])
def test_the_longest_answer_parses_in_linear_time(piece: str) -> None:
    text = (piece * MAX_CHARS)[: MAX_CHARS - 10] + "x"
    started = time.perf_counter()
    for prompt in (CONVERSATION, QA, CAPTION, replace(CAPTION, single_paragraph=False)):
        with contextlib.suppress(BadAnswer):
            parse_answer(text, prompt)
    assert time.perf_counter() - started < 5  # a quadratic pattern would take minutes
