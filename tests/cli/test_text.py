"""Text for terminals: columns, not characters."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llava_zh.cli import text

MIXED = st.text(st.sampled_from("ab cde 图像里有,。“”\n!?w"), max_size=200)


def test_wide_characters_take_two_columns_and_combining_marks_none() -> None:
    assert text.width("ab图像") == 6
    assert text.width("e\u0301") == 1


@given(MIXED, st.integers(4, 40))
def test_wrapping_keeps_every_character_but_spaces(content: str, columns: int) -> None:
    assert "".join("".join(text.wrap(content, columns)).split()) == "".join(content.split())


@given(MIXED, st.integers(4, 40))
@example(" ???a", 4)
def test_a_wrapped_line_is_no_wider_than_asked_but_for_punctuation_that_hangs(content: str, columns: int) -> None:
    for line in text.wrap(content, columns):
        while text.width(line) > columns:
            assert line[-1] in ",。”!?"
            line = line[:-1]


def test_chinese_is_broken_between_characters_and_english_between_words() -> None:
    assert [*text.wrap("图中是一片草地。左边有树", 10)] == ["图中是一片", "草地。左边", "有树"]
    assert [*text.wrap("two red kites fly", 9)] == ["two red", "kites fly"]


def test_no_line_starts_with_a_full_stop() -> None:
    assert [*text.wrap("图中有草地。树", 10)] == ["图中有草地。", "树"]


def test_line_breaks_of_the_text_stay() -> None:
    assert [*text.wrap("<image>\n\n描述", 40)] == ["<image>", "", "描述"]


def test_a_word_wider_than_the_line_is_cut() -> None:
    assert [*text.wrap("abcdefgh", 3)] == ["abc", "def", "gh"]


def test_control_characters_are_written_out() -> None:
    assert text.printable("a\x1b[2Jb\x9bc\r\n") == "a\\x1b[2Jb\\x9bc\\x0d\n"


def test_a_table_is_aligned_by_columns_of_the_terminal() -> None:
    assert text.table([("图像", "1", "x"), ("a", "22", "")], right=(1,)) == "图像   1  x\na     22"


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_900, "1.0 MB"),
        (834e6, "834 MB"),
        (11.4e9, "11.4 GB"),
        (2e15, "2000 TB"),
    ],
)
def test_sizes_are_written_as_the_hubs_write_them(count: float, written: str) -> None:
    assert text.size(count) == written


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(stream: io.StringIO, **environment: str) -> str:
        for name, value in {"TERM": "xterm", "NO_COLOR": "", **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setattr("sys.stderr", stream)
        text.say_table([("FILE", "STATE"), ("\x1b[31ma", "NOT OK")])
        text.tell_error("no")
        return stream.getvalue()

    plain = "FILE       STATE\n\\x1b[31ma  NOT OK\nllava-zh: no\n"
    coloured = shown(Terminal())
    for head in ("\x1b[1mFILE\x1b[0m", "\x1b[31mNOT OK\x1b[0m", "\x1b[31mllava-zh:\x1b[0m no", "\\x1b[31ma"):
        assert head in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert shown(Terminal(), NO_COLOR="1") == shown(Terminal(), TERM="dumb") == shown(io.StringIO()) == plain
