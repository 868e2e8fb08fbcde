"""What leaves the library holds no secret and steers no terminal."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_zh import errors
from llava_zh.gates import safe_text

KEY = "sk-Zq8/canary+77=xV31~kd92mQ"


@pytest.fixture(autouse=True)
def _kept() -> None:
    safe_text.keep_secret(KEY)


@given(st.text(), st.text(), st.integers(0, 12), st.integers(0, 12))
def test_no_long_piece_of_a_secret_is_left_wherever_it_stands_and_however_it_was_cut(
    before: str, after: str, front: int, back: int
) -> None:
    cut = KEY[front : len(KEY) - back]
    left = safe_text.redacted(before + cut + after)
    if len(cut) >= 8:
        assert not any(cut[at : at + 8] in left for at in range(len(cut) - 7) if cut[at : at + 8] not in before + after)


@pytest.mark.parametrize("form", [KEY, quote(KEY, safe=""), json.dumps(KEY)[1:-1], f"Bearer {KEY}", repr({"a": KEY})])
def test_a_secret_is_hidden_in_every_form_that_texts_have_it_in(form: str) -> None:
    assert "canary" not in safe_text.redacted(f"got {form} back")


SPELLINGS = {
    "upper": KEY.upper(),
    "lower": KEY.lower(),
    **{f"base64 {n}": base64.b64encode(b"x" * n + KEY.encode() + b"yz").decode() for n in range(3)},
    "base64 of a header": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(f"??{KEY}".encode()).decode(),
    "percent": quote(KEY, safe="").lower(),
    "all percent": "".join(f"%{byte:02x}" for byte in KEY.encode()),
    "hex": KEY.encode().hex().upper(),
    "html": "".join(f"&#{ord(c)};" for c in KEY),
    "html in hex": KEY.replace("/", "&#x2F;").replace("+", "&#43;"),
    "json twice": json.dumps(json.dumps("".join(f"\\u{ord(c):04x}" for c in KEY))),
    "python": "".join(f"\\x{ord(c):02x}" for c in KEY),
    "pieces": " | ".join(KEY[at : at + 7] for at in range(0, len(KEY), 7)),
    "zero width": "\u200b".join(KEY),
    "full width": "".join(chr(ord(c) + 0xFEE0) for c in KEY),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_text_that_holds_a_secret_in_another_spelling_does_not_leave(name: str) -> None:
    left = safe_text.redacted(f"The server said: {SPELLINGS[name]} (end)")
    assert left == safe_text.LEFT_OUT or (safe_text.HIDDEN in left and "canary" not in left.lower())


def test_a_text_without_a_secret_leaves_as_it_is() -> None:
    for text in (
        "100 %2f &amp; \\u4e00 \\U0fffffff 一只猫",
        "sk-Zq8 and a canary",
        base64.b64encode(bytes(90)).decode(),
    ):
        assert safe_text.redacted(text) == text


def test_passwords_and_signatures_in_a_url_are_secrets() -> None:
    safe_text.keep_url_secrets("s3://key:pa%24%24word1@host/x::https://h/y?Signature=abcdefghijklmnop1234&n=1")
    left = safe_text.redacted("pa$$word1 pa%24%24word1 abcdefghijklmnop1234 n=1")
    assert left == "[secret] [secret] [secret] n=1"


def test_a_secret_of_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary_of_the_environment")
    assert safe_text.redacted("token hf_canary_of_the_environment!") == "token [secret]!"


def test_short_words_are_no_secrets() -> None:
    safe_text.keep_secret("x")
    assert safe_text.redacted("an exact text") == "an exact text"


@given(st.text(st.characters(codec=None)))
def test_printable_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    left = safe_text.printable(text)
    left.encode("utf-8")
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in left)
    assert not any(
        unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI") for c in left
    )
    assert safe_text.printable(left) == left


def test_errors_are_redacted_and_printable_and_stay_so_over_pickling() -> None:
    error = errors.BadImage(f"\x1b]0;owned\x07 {KEY}", member=f"\u202e{KEY}")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert str(one) == r"\x1b]0;owned\x07 [secret]"
        assert one.member == r"\u202e[secret]"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, OSError)]
)
def test_an_error_that_is_an_oserror_has_an_errno(kind: type[OSError]) -> None:
    error = kind("what happened")
    assert isinstance(error.errno, int)
    assert str(error) == "what happened"


def test_log_records_leave_safe(caplog: pytest.LogCaptureFixture) -> None:
    logger = safe_text.get_logger("llava_zh.tests")
    with caplog.at_level(logging.WARNING):
        logger.warning("%s: %s", "\x1b[31m", base64.b64encode(b"x") + KEY.encode())
    assert "\x1b" not in caplog.text and "canary" not in caplog.text


@given(st.text(max_size=40), st.integers(0, 60), st.integers(1, 400), st.sampled_from([KEY, "hunter-22"]))
def test_a_text_is_cut_after_its_secrets_are_taken_out(before: str, padding: int, length: int, secret: str) -> None:
    safe_text.keep_secret(secret)
    text = before + " " * padding + secret + "." * 5000
    left = safe_text.cut(text, length)
    assert len(left) <= length + 1
    assert secret[:5] not in left.removeprefix(before)


def test_a_window_that_ends_within_a_short_secret_leaves_nothing_of_it() -> None:
    safe_text.keep_secret("hunter-22")
    for end in range(4090, 4110):
        text = (KEY * 200)[:end] + "hunter-22" + "." * 100
        assert "hunt" not in safe_text.cut(text, 10)
        assert "hunt" not in safe_text.cut(text, 4000)


def test_data_holds_a_secret_where_a_telling_part_of_it_stands_there() -> None:
    for secret in ("hunter-22x", "EMPTY", "password"):
        safe_text.keep_secret(secret)
    for text in (f"一只{KEY}猫", f"x{KEY[3:19]}", f"{KEY[-16:]}y", "my hunter-22x"):
        assert safe_text.holds_secret(text)
    for text in (f"一只{KEY[3:18]}", "the EMPTY password", "hunter-2", "一只猫", ""):
        assert not safe_text.holds_secret(text)
