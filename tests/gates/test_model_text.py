"""What a model reasons is cut off, and no special token of a known family passes for text."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hunting import hunt
from hypothesis import example, given
from hypothesis import strategies as st

from llava_zh.gates.model_text import controls, says_nothing, special_tokens, without_reasoning

# Letters by their category that show nothing, and signs of form that show something (Arabic number signs and the like).
FILLERS = (0x115F, 0x1160, 0x3164, 0xFFA0)
PREPENDED = (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440))
CAPTION = "一只橘色的猫坐在草地上。"

OPENED_AND_CLOSED = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<Thought>", "</Thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisThe user ", "assistantfinal"),
]


@pytest.mark.parametrize(("opened", "closed"), OPENED_AND_CLOSED)
def test_a_reasoning_block_is_cut_off_and_one_without_an_end_leaves_nothing(opened: str, closed: str) -> None:
    assert without_reasoning(f"{opened}先看左边，a < b。{closed}\n\n{CAPTION}") == CAPTION
    assert without_reasoning(f"{opened}先看左边，a < b。\n\n{CAPTION}") is None


@pytest.mark.parametrize(("opened", "closed"), OPENED_AND_CLOSED[:11])
def test_a_block_that_began_in_the_prompt_is_cut_off_too(opened: str, closed: str) -> None:
    assert without_reasoning(f"先看左边。{closed}\n{CAPTION}") == CAPTION


def test_blocks_within_each_other_and_after_the_text_are_cut_off() -> None:
    assert without_reasoning(f"<think>a<think>b</think>c</think>{CAPTION}") == CAPTION
    assert without_reasoning(f"{CAPTION}<think>好了</think>") == CAPTION
    assert without_reasoning(f"<think>a</think><think></think>\n{CAPTION}") == CAPTION
    assert without_reasoning("<think>一只猫。</think>") == ""
    assert without_reasoning(f"<think>a</think>\n<answer>{CAPTION}</answer>") == CAPTION
    assert without_reasoning(f"<think>a[/THINK]{CAPTION}") is None


def test_a_text_without_reasoning_is_given_back_as_it_is() -> None:
    for text in (CAPTION, f" {CAPTION}\n", "I think </b> a < b", "<thin king>", "analysis of a photo", "", "[思考]"):
        assert without_reasoning(text) is text


@pytest.mark.parametrize(
    "token",
    [
        *("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "</s>", "<s>", "<|return|>"),
        *("[UNUSED_TOKEN_145]", "<eoc>", "<eoa>", "<image>", "<IMG_CONTEXT>", "<img>", "</img>", "<|vision_start|>"),
        *("<box>", "</box>", "<ref>", "</quad>", "<|box_start|>", "<|object_ref_end|>", "<|begin_of_box|>"),
        *("<｜end▁of▁sentence｜>", "<end_of_turn>", "<turn|>", "<|turn>", "<unused12>", "[INST]", "[/INST]", "<<SYS>>"),
        *("[IMG_END]", "[gMASK]", "<sop>", "<eos>", "<unk>", "<pad>", "<0x0A>", "<reserved_106>", "<extra_id_0>"),
        *("<end_of_utterance>", "<loc_12>", "<loc0123>", "<video>", "<tool_call>", "</think>", "◁/think▷", "<answer>"),
        *("[PAD151645]", "<SPECIAL_12>", "]~b]", "<fake_token_around_image>", "<|header_start|>"),
    ],
)
def test_a_special_token_is_found_at_any_place(token: str) -> None:
    for text in (f"{CAPTION}{token}", f"{token}{CAPTION}", f"一只{token}{token}猫", f"a{token}b", token):
        assert special_tokens(text) == [token]
        assert special_tokens(text, besides=[token]) == []


def test_a_token_that_was_cut_is_found_where_the_text_ends() -> None:
    assert special_tokens(f"{CAPTION}<|im_end") == ["<|im_end"]
    assert special_tokens(f"{CAPTION}im_end|>") == ["im_end|>"]


@pytest.mark.parametrize(
    "text",
    [
        *("a < b", "A<B>C", "x <s y> z", "<3", "[1]", "价格<100元", "if (a<b && b>c)", "->|<-", "<p>段落</p>", "<|>"),
        *("<<<", "《图像》", "a|b", "[图1]", "<div class='x'>", "1 <| 2", "<- image ->", "用户[头像]", "[MASKS]"),
        *("think", "<b>bold</b>", "x<y>z", "a <image b", "牌子上写着<出口>", "[PADDING]", "<https://a.b/s>"),
    ],
)
def test_a_text_that_only_speaks_of_such_signs_holds_none(text: str) -> None:
    assert special_tokens(text) == []
    assert without_reasoning(text) is text


marks = st.sampled_from([*(mark for pair in OPENED_AND_CLOSED for mark in pair), "<|im_end|>", "<", "<|", "猫", "a b"])


@hunt(100)
@example("</think>analysisThe user ")
@given(st.lists(marks | st.text(max_size=8), max_size=12).map("".join))
def test_what_is_left_holds_no_reasoning_mark_that_is_not_told(text: str) -> None:
    rest = without_reasoning(text)
    if rest is not None:
        assert len(rest) <= len(text)
        assert "<think>" not in rest
        again = without_reasoning(rest)
        assert again == rest or special_tokens(rest)


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<", "<|", "<|a", "<answer>", "<|channel|>a", "[", "analysis"]
)
def test_the_longest_answer_takes_linear_time(piece: str) -> None:
    started = time.process_time()
    for text in (piece * (200_000 // len(piece)), piece + "a" * 200_000, piece + " " * 200_000):
        without_reasoning(text)
        special_tokens(text)
    assert time.process_time() - started < 2


@given(st.text())
def test_a_text_says_something_if_any_letter_figure_or_sign_is_in_it(text: str) -> None:
    if any(unicodedata.category(character)[0] in "LN" for character in text.translate(dict.fromkeys(FILLERS))):
        assert not says_nothing(text)
    if all(unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp") for character in text):
        assert says_nothing(text) or any(ord(character) in PREPENDED for character in text)


@given(st.text())
def test_every_control_character_is_found(text: str) -> None:
    wanted = [c for c in text if unicodedata.category(c) == "Cc" and c not in "\n\t\r"]
    assert set(controls(text)) >= {f"U+{ord(character):04X}" for character in wanted}
    if text.isprintable() and "\ufffd" not in text:
        assert controls(text) == []
