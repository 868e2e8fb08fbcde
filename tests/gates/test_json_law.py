"""What is JSON and what is not, the same for a row alone and among any neighbours, read fast or slowly, in any file."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hunting import hunt
from hypothesis import example, given
from hypothesis import strategies as st

from llava_zh.errors import BadRow
from llava_zh.files import jsonl
from llava_zh.gates import json_values
from llava_zh.rows.records import Expect

TURNS = '[{"from":"human","value":"<image>\\nq"},{"from":"gpt","value":"a"}]'
# JSON values as people and programs write them, good and bad.
VALUES = st.sampled_from([
    "1", "8.0", "8", "-0", "-0.0", "1e2", "1E+2", "1e999", "-1e999", "1e-999", "01", "+1", ".5", "5.", "1_0", "0x1F",
    "NaN", "-NaN", "nan", "Infinity", "-Infinity", "Inf", "-Inf", "inf", "null", "true", "True", "None", "undefined",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" * 40, "1" * 310, "1" * 400,
    '"8"', '""', '"2024-01-01"', '"2024-01-01 00:00:00"', '"a/1.jpg"', '"\\ud800"', '"\\udc00x"', '"\\ud83d\\ude00"',
    '"\\u0000"', '"\\x41"', '"a\tb"', '"a\x01b"', '"\x00"', '"\x7f"', "'a'", '"a', 'a"', '"\ufeff"', '"\\/"',
    "[]", "[[]]", "[1,]", "[1 2]", "[1,\"a\"]", "[NaN]", "[1,2.5]", "[null]", "{}", '{"a":1,"a":2}', '{"a":NaN}',
    '{"a":1,}', "{a:1}", '{"":1}', "[" * 199 + "]" * 199, "[" * 200 + "]" * 200,
    "[" * 5000, '{"a":' * 300 + "1" + "}" * 300,
    '"' + "[" * 500 + '"', "/**/1", "1//", "", TURNS, json.dumps(TURNS),
    json.dumps('[{"from":"gpt","value":"a","x":NaN}]'),
    '["a.jpg"]', '["a.jpg","b.jpg"]', '{"path":"a.jpg"}', '{"path":"a.jpg","bytes":null}', "[8]", "[8,null]", "[8.0]",
])  # fmt: skip
KEYS = st.sampled_from(["id", "image", "width", "height_list", "conversations", "type", "x", "y", "x y", "", "\\u0078"])


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line of a file: mostly a record with something unusual in one or two of its keys, now and then anything."""
    fields = {"id": draw(st.sampled_from(["1", '"a"'])), "image": '"a/1.jpg"', "conversations": TURNS}
    pairs = list(fields.items())
    for _ in range(draw(st.integers(0, 2))):
        key, value = draw(KEYS), draw(VALUES)
        pairs = [pair for pair in pairs if pair[0] != key or draw(st.booleans())]
        pairs.insert(draw(st.integers(0, len(pairs))), (key, value))
    space = draw(st.sampled_from(["", "", " ", "\t"]))
    text = "{" + f",{space}".join(f'"{key}":{space}{value}' for key, value in pairs) + "}"
    before = draw(st.sampled_from(["", "", "", "", " ", "\ufeff", ",", "[", "{}", "x"]))
    after = draw(
        st.sampled_from(["", "", "", "", " ", "\r", ",", "]", "{}", "\x00", "\x00 }", "}", " // x", "#", "\x1a"])
    )
    line = (before + text + after).encode()
    if draw(st.integers(0, 9)) == 0:  # damage a byte or cut it
        at = draw(st.integers(0, len(line)))
        line = (
            line[:at]
            + draw(st.sampled_from([b"", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\n", b"\x00"]))
            + line[at + 1 :]
        )
    return draw(
        st.sampled_from([line, line, line, line, b"", b" ", b"{", b"}", b'{"a":', b"{}}{}", b"null", b"\xef\xbb\xbf"])
    )


def verdicts(block: bytes) -> list[Any]:
    """What comes of a block: rows, and the errors of the others, in the order of the lines where that can be told."""
    bad: list[BadRow] = []
    good = jsonl.parse("f", 0, block, Expect("many"), bad.append).to_pylist()
    return [*map(repr, good), *sorted((error.field, error.expected, error.found) for error in bad)]


def test_a_name_that_is_not_utf8_is_a_bad_row_and_nothing_else() -> None:
    start = b'{"image":"a.jpg","conversations":' + TURNS.encode()
    for name in (b"x\xff", b"\xed\xa0\x80"):
        odd = start[:-2] + b',"' + name + b'":1}]' if name > b"x\xff" else start + b',"' + name + b'":1'
        found = verdicts(start + b',"y":1}\n' + odd + b"}")
        assert [isinstance(verdict, str) for verdict in found] == [True, False]


def test_a_value_that_is_text_is_told_from_a_number() -> None:
    [(_, expected, found)] = alone(b'{"id":1,"image":"a.jpg","width":"8","conversations":' + TURNS.encode() + b"}")
    assert expected == "an integer or a list of integers, in pixels"
    assert found == '"8"'


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_the_constants_that_python_writes_are_good_where_they_are_not_used_and_named_where_they_are(
    constant: str,
) -> None:
    start, odd = b'{"image":"a.jpg","conversations":' + TURNS.encode() + b",", b'{"id":"x","image":["a.jpg"]}'
    for key, verdict in (("score", "good"), ("width", "bad")):
        line = start + f'"{key}":{constant}}}'.encode()
        for block in (line, line + b"\n" + line, odd + b"\n" + line):
            found = [v for v in verdicts(block) if isinstance(v, str) or v[0] != "conversations"]
            if verdict == "good":
                assert all(isinstance(v, str) for v in found)
            else:
                assert {v[2] for v in found} == {constant}
            assert found


def test_a_score_that_is_nan_in_json_text_of_turns_is_good() -> None:
    text = json.dumps('[{"from":"human","value":"q","score":NaN},{"from":"gpt","value":"a"}]')
    [found] = alone(f'{{"image":"a.jpg","conversations":{text}}}'.encode())
    assert isinstance(found, str)


def test_nesting_counts_brackets_that_are_no_text() -> None:
    assert json_values.depth(b'{"a[[[\\"[[": ["[[[", [{}, [[]]]]}') == 5
    assert json_values.depth(b'["[[[\\') == 1, "a text may be cut off behind a backslash"
    assert json_values.decode(b"[" * 200 + b"]" * 200) is not None
    with pytest.raises(json_values.NotJson, match="LLAVA_ZH_MAX_DEPTH"):
        json_values.decode(b"[" * 201 + b"]" * 201)


def test_a_line_of_ten_thousand_brackets_is_a_bad_row_and_ends_no_process() -> None:
    program = (
        "from llava_zh.files import jsonl; from llava_zh.rows.records import Expect\n"
        'good = b\'{"image":"a.jpg","conversations":[{"from":"gpt","value":"a"}]\'\n'
        "for deep in (b'['*10000+b']'*10000, b'['*2000000, b'{\"a\":'*100000):\n"
        "    for block in (good+b',\"x\":'+deep+b'}', good+b',\"x\":[1]}\\n'+good+b',\"x\":'+deep+b'}', deep):\n"
        "        bad = []\n"
        "        rows = jsonl.parse('f', 0, block, Expect(), bad.append)\n"
        "        assert len(bad) == 1 and 'LLAVA_ZH_MAX_DEPTH' in str(bad[0]), bad\n"
        "        assert len(rows) == block.count(b'[1]')\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_line_over_the_limit_is_a_bad_row_that_names_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_ZH_MAX_LINE_BYTES", "300")
    line = b'{"image":"a.jpg","conversations":' + TURNS.encode() + b"}"
    long = line[:-1] + b',"x":"' + b"y" * 300 + b'"}'
    found = verdicts(line + b"\n" + long + b"\n" + line)
    assert len(found) == 3
    assert found[2][0] == "line"
    bad: list[BadRow] = []
    jsonl.parse("f", 0, long, Expect(), bad.append)
    assert "LLAVA_ZH_MAX_LINE_BYTES" in str(bad[0])


@pytest.mark.parametrize("size", [1, 1000])
def test_a_line_of_any_length_costs_no_more_memory_than_the_limit(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_ZH_MAX_LINE_BYTES", str(4 << 20))
    line = b'{"image":"a.jpg"}\n'
    pieces = [line, b"x" * (1 << 20)] + [b"y" * (1 << 20)] * size + [b"\n" + line]
    found = [b for _, b in jsonl.blocks(iter(pieces), jsonl.Range(0, 1 << 62))]
    held = max(len(b) for b in found if not isinstance(b, jsonl.TooLong))
    assert held < 6 << 20
    assert sum(isinstance(b, jsonl.TooLong) for b in found) == (size > 4)
    assert found[-1] == line if size > 4 else bytes(found[-1]).endswith(line)


def alone(line: bytes) -> list[Any]:
    return verdicts(line + b"\n")


@hunt(300)
@given(st.lists(lines(), min_size=1, max_size=6))
@example([b'{"id":1,"image":"a.jpg","conversations":' + TURNS.encode() + b',"x":NaN}'])
@example([b"{}}{}", b'{"a":', b"{}"])
@example([b'{"id":1,"image":"a.jpg","conversations":' + TURNS.encode() + b"}\x00 }"])
def test_a_line_gives_the_same_row_or_error_alone_as_among_any_neighbours(found: list[bytes]) -> None:
    # A damaged line may have become two.
    found = [piece for line in found for piece in line.split(b"\n")]
    together = verdicts(b"".join(line + b"\n" for line in found))
    apart = [alone(line) for line in found]
    rows = [row for verdict in apart for row in verdict if isinstance(row, str)]
    errors = [error for verdict in apart for error in verdict if not isinstance(error, str)]
    assert [row for row in together if isinstance(row, str)] == rows
    # Errors that quote a byte's place in the file differ in it.
    assert len(together) == len(rows) + len(errors)
    assert sorted(e[:2] for e in together if not isinstance(e, str)) == sorted(e[:2] for e in errors)
