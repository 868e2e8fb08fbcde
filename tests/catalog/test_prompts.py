"""Prompts are the published words; a user's file is read whole or refused with the reason."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest

from llava_zh.catalog.prompts import PROMPTS, TASK_ROWS, draw_task, load_prompt
from llava_zh.errors import BadArgument, BadFile, UnknownName

# Taken from the published cards with their own line breaks; a changed character changes these.
SHA256 = {
    "caption_en": "d3c3f1b6571a1798b6cd47cfb9a84109394e3a96f54d4cc063993a4ba6120f4c",
    "caption_zh": "b3050c4ba098dca22f71690a16ebd0d46cf04885ab4941a0df64bc9207a7491a",
    "conversation": "8a2906e0ea7021f997c29cf24593189e4dcc9e6ef0f243e40b925a4e69b6b810",
    "complex_reasoning": "3b50f8b70f19699a5322dde83773270eed32b0cf2633c94f11a8d714af9cca03",
    "detail": "db98663aba81cc918fadbea8bd1cd4edbd6e2ced24d09ba0af2fa43c64098b89",
    "original": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
}


def test_every_prompt_is_the_published_text_to_the_byte() -> None:
    assert {name: prompt.sha256 for name, prompt in PROMPTS.items()} == SHA256


def test_the_llava_prompts_keep_line_breaks_and_literal_backslash_n() -> None:
    assert PROMPTS["conversation"].text.count("\n") == 6
    assert PROMPTS["conversation"].text.endswith(r"以 用户:...\n\n助手:...\n\n用户:...\n\n助手:...\n\n 的格式返回。")
    assert PROMPTS["complex_reasoning"].text.endswith(r"以 问题:...\n\n回答:...\n\n 的格式返回。")
    assert PROMPTS["detail"].text.count("\n") == 1


def test_kinds_languages_and_tasks_are_those_of_the_datasets() -> None:
    found = {name: (prompt.kind, prompt.language, prompt.task) for name, prompt in PROMPTS.items()}
    assert found == {
        "caption_en": ("caption", "en", None),
        "caption_zh": ("caption", "zh", None),
        "conversation": ("conversation", "zh", "conversation"),
        "complex_reasoning": ("qa", "zh", "complex_reasoning"),
        "detail": ("caption", "zh", "detail"),
        "original": ("original", None, None),
    }


def test_a_prompt_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(PROMPTS["conversation"])) == PROMPTS["conversation"]


def test_tasks_are_drawn_in_the_published_proportions() -> None:
    drawn = Counter(draw_task(f"sa_000000/sa_{number}.jpg", seed=0) for number in range(20_000))
    for task, rows in TASK_ROWS.items():
        assert drawn[task] / 20_000 == pytest.approx(rows / 641_868, abs=0.012)


def test_a_draw_depends_on_key_and_seed_alone() -> None:
    keys = [f"{number}.jpg" for number in range(200)]
    first = [draw_task(key, 7) for key in keys]
    assert first == [draw_task(key, 7) for key in reversed(keys)][::-1]
    assert first != [draw_task(key, 8) for key in keys]
    # The same in every process, on every machine: a change here would redraw the tasks of runs under way.
    conversation, reasoning, detail = TASK_ROWS
    assert first[:6] == [conversation, reasoning, conversation, conversation, reasoning, detail]


def test_a_text_file_is_a_caption_prompt_in_the_language_it_is_written_in(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"\xef\xbb\xbf" + "描述图片。\n第二行。\n".encode())
    prompt = load_prompt(str(tmp_path / "mine.txt"))
    assert (prompt.id, prompt.text, prompt.kind) == ("mine.txt", "描述图片。\n第二行。", "caption")
    assert (prompt.language, prompt.task, prompt.single_paragraph) == ("zh", None, False)
    (tmp_path / "mine.txt").write_text("Describe.", encoding="utf-8")
    assert load_prompt(str(tmp_path / "mine.txt")).language == "en"


def test_a_toml_file_gives_kind_language_and_task(tmp_path: Path) -> None:
    path = tmp_path / "talk.toml"
    path.write_text(
        'text = "请以 用户：…助手：… 写 3 轮对话。"\nkind = "conversation"\nlanguage = "zh"\ntask = "conversation"\n',
        encoding="utf-8",
    )
    prompt = load_prompt(str(path))
    assert (prompt.id, prompt.kind, prompt.language, prompt.task) == ("talk.toml", "conversation", "zh", "conversation")


def test_an_unknown_name_names_the_nearest_prompt() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'caption_zh'"):
        load_prompt("caption_hz")


def test_a_missing_file_is_an_unknown_prompt(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="nor a file"):
        load_prompt(str(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("a.txt", b" \n", BadFile, "has no text"),
        ("a.toml", b'kind = "qa"', BadFile, "has no text"),
        ("a.txt", "描述".encode("gb18030"), BadFile, "not UTF-8 at byte 0"),
        ("a.toml", b"text = ", BadFile, "not TOML"),
        ("a.toml", b'text = "x"\nkinds = "qa"', BadArgument, "unknown field 'kinds'. Did you mean 'kind'"),
        ("a.toml", b'text = "x"\nkind = "poem"', BadArgument, "must be one of caption, conversation, qa, found 'poem'"),
        ("a.toml", b'text = "x"\nkind = "original"', BadArgument, "must be one of"),
        ("a.toml", b"text = 3", BadArgument, "'text' must be str, found int 3"),
        ("a.toml", b'text = "Talk."\nkind = "conversation"', BadArgument, "'User' and 'Assistant'"),
        ("a.toml", '''text = "问题：…"\nkind = "qa"'''.encode(), BadArgument, "'问题' and '回答'"),
        ("a.txt", b"<image>\nDescribe.", BadArgument, "holds the marker <image>"),
    ],
)
def test_a_bad_prompt_file_says_what_is_wrong(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error) as caught:
        load_prompt(str(tmp_path / name))
    assert says in str(caught.value)
    assert name in str(caught.value)
