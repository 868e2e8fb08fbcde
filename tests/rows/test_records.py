"""What a published record may look like, and what is said of one that is bad."""

from __future__ import annotations

import base64
import pickle
from typing import Any

import pyarrow as pa
import pytest
from hunting import hunt
from hypothesis import example, given
from hypothesis import strategies as st

from llava_zh.errors import BadRow, UnsafeName
from llava_zh.gates.places import checked_name
from llava_zh.rows import record_columns, records
from llava_zh.rows.records import Expect, Place

TURNS = [{"from": "human", "value": "<image>\n看"}, {"from": "gpt", "value": "图"}]


def record(**changes: Any) -> dict[str, Any]:
    row = {"id": 7, "image": "sa_000000/sa_1.jpg", "conversations": TURNS, **changes}
    return {name: value for name, value in row.items() if value is not ...}


def checked(row: Any, images: str = "one") -> dict[str, Any]:
    """The annotation of one record, by the way that looks at one row after another."""

    def fail(error: BadRow) -> None:
        raise error

    (annotation,) = records.from_rows([(Place("f.jsonl", byte=3), row)], Expect(images), fail).to_pylist()
    return annotation


def by_columns(row: Any, images: str = "one") -> dict[str, Any] | None:
    """The same by whole columns, or None where that way declines."""
    table = record_columns.from_arrow(pa.Table.from_pylist([row]), Expect(images))
    return None if table is None else table.to_pylist()[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": "x-1"}, {"id": "x-1"}),
        ({"id": ...}, {"id": None}),
        ({"image": ..., "image_path": "a.jpg"}, {"images": ["a.jpg"]}),
        ({"image": ..., "images": ["a.jpg"]}, {"images": ["a.jpg"]}),
        ({"image": ..., "img": "a.jpg"}, {"images": ["a.jpg"]}),
        ({"image": ["a.jpg"]}, {"images": ["a.jpg"]}),
        ({"image": b"JPEG"}, {"images": [None], "bytes": [b"JPEG"]}),
        ({"image": {"bytes": b"JPEG", "path": None}}, {"images": [None], "bytes": [b"JPEG"]}),
        ({"image": {"bytes": b"JPEG", "path": "/srv/a.jpg"}}, {"images": ["/srv/a.jpg"], "bytes": [b"JPEG"]}),
        ({"image": {"bytes": None, "path": "a.jpg"}}, {"images": ["a.jpg"], "bytes": [None]}),
        ({"width": 3, "height": [4]}, {"width": [3], "height": [4]}),
        ({"width_list": [3], "height": 4}, {"width": [3], "height": [4]}),
        ({"type": "x"}, {"task": "x"}),
        ({"task_type": "x"}, {"task": "x"}),
        ({"conversations": ..., "conversation": TURNS}, {"conversations": TURNS}),
        ({"conversations": [{"from": "human", "value": "q"}]}, {"conversations": [{"from": "human", "value": "q"}]}),
        (
            {"conversations": ..., "messages": [{"role": "user", "content": "q"}, {"role": "gpt", "content": "a"}]},
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        ),
        (
            {"conversations": [{"from": "system", "value": "s"}, {"from": "gpt", "text": "a"}]},
            {"conversations": [{"from": "system", "value": "s"}, {"from": "gpt", "value": "a"}]},
        ),
    ],
)  # fmt: skip
def test_every_alias_is_understood_by_whole_columns_as_by_single_rows(
    change: dict[str, Any], expected: dict[str, Any]
) -> None:
    annotation = checked(record(**change))
    assert expected.items() <= annotation.items()
    assert by_columns(record(**change)) == annotation


@pytest.mark.parametrize(
    ("conversations", "texts"),
    [
        ('[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]', ["q", "a"]),
        ({"from": ["human", "gpt"], "value": ["q", "a"]}, ["q", "a"]),
        ({"role": ["user", "assistant"], "content": ["q", "a"]}, ["q", "a"]),
        ([{"from": "human", "value": "<img>\nq"}, {"from": "gpt", "value": "a"}], ["<image>\nq", "a"]),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}], ["<image>q"]),
    ],
    ids=["JSON text", "struct of lists", "struct of lists by role", "<img>", "content parts"],
)
def test_unusual_turns_are_left_to_single_rows_and_understood_there(conversations: Any, texts: list[str]) -> None:
    row = record(conversations=conversations)
    assert [turn["value"] for turn in checked(row)["conversations"]] == texts
    assert by_columns(row) is None


def test_several_images_fit_a_config_of_many_and_as_many_marks() -> None:
    turns = [{"from": "human", "value": "Image-1: <image>\nImage-2: <image>\n"}]
    row = record(image=["a.jpg", "b.jpg"], width_list=[1, 2], height_list=[3, 4], conversations=turns)
    annotation = checked(row, "many")
    assert annotation["images"] == ["a.jpg", "b.jpg"]
    assert annotation["width"] == [1, 2]
    assert by_columns(row, "many") == annotation


BAD = [
    ({"image": ...}, "image", "the path of an image, or a list of paths", "nothing (the key is missing or null)"),
    ({"image": None}, "image", "the path of an image, or a list of paths", "nothing"),
    ({"image": 5}, "image", "the path of an image as text", "5"),
    ({"image": ["a.jpg", "b.jpg"]}, "image", "one image", '2 images: ["a.jpg", "b.jpg"]'),
    ({"image": []}, "image", "one image", "0 images"),
    ({"image": [None]}, "image", "the path of an image as text", "null"),
    ({"image": {"bytes": "base64?", "path": None}}, "image", "an image's bytes", "base64?"),
    ({"image": "../a.jpg"}, "image", "below the image root", "../a.jpg"),
    ({"image": "a/../../b.jpg"}, "image", "below the image root", "a/../../b.jpg"),
    ({"image": "/etc/a.jpg"}, "image", "not absolute", "/etc/a.jpg"),
    ({"image": "C:\\a.jpg"}, "image", "not absolute", "C:\\\\a.jpg"),
    ({"image": "\\\\host\\a.jpg"}, "image", "not absolute", "host"),
    ({"image": "http://h/a.jpg"}, "image", "no scheme", "http://h/a.jpg"),
    ({"image": "a.jpg::/etc"}, "image", "below the image root", "a.jpg::/etc"),
    ({"image": ""}, "image", "below the image root", ""),
    ({"id": True}, "id", "text or an integer", "true"),
    ({"id": 1.5}, "id", "text or an integer", "1.5"),
    ({"width": "9"}, "width", "an integer or a list of integers, in pixels", "9"),
    ({"width": 2.5}, "width", "an integer", "2.5"),
    ({"width": float("nan")}, "width", "an integer", "NaN"),
    ({"width": float("inf")}, "width", "an integer", "Infinity"),
    ({"width": 2**63}, "width", "an integer", str(2**63)),
    ({"height": [1, None]}, "height", "a list of integers", "[1, null]"),
    ({"type": 3}, "type", "text", "3"),
    ({"conversations": ...}, "conversations", "a list of at least one turn", "nothing (the key is missing or null)"),
    ({"conversations": []}, "conversations", "a list of at least one turn", "[]"),
    ({"conversations": 3}, "conversations", "a list of at least one turn", "3"),
    ({"conversations": "oops"}, "conversations", "the same as JSON text", "oops"),
    ({"conversations": '["\\ud800"]'}, "conversations", "the same as JSON text", "ud800"),
    ({"conversations": {"from": ["human"], "value": ["a", "b"]}}, "conversations", "as many of each", '"value": 2'),
    ({"conversations": ["hello"]}, "conversations[0]", "an object with 'from' and 'value'", "hello"),
    ({"conversations": [TURNS[0], {"value": "x"}]}, "conversations[1].from", "one of human", "nothing"),
    ({"conversations": [{"from": "robot", "value": "x"}]}, "conversations[0].from", "user, gpt, assistant", "robot"),
    ({"conversations": [{"from": "gpt"}]}, "conversations[0].value", "text under 'value', 'text' or", "neither"),
    ({"conversations": [{"from": "gpt", "value": 3}]}, "conversations[0].value", "text under", "3"),
    ({"conversations": [{"from": "gpt", "value": "<image><image>"}]}, "conversations", "1 <image> mark for", "2 marks"),
    ({"conversations": [{"from": "gpt", "content": [{"type": "video"}]}]}, "conversations[0].content", "text", "video"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field", "expected", "found"), BAD, ids=[f"{b[1]}-{b[3][:20]}" for b in BAD])
def test_a_bad_record_is_told_of_by_file_byte_field_expected_and_found(
    change: dict[str, Any], field: str, expected: str, found: str
) -> None:
    with pytest.raises(BadRow) as caught:
        checked(record(**change))
    error = caught.value
    assert (error.file, error.byte, error.field) == ("f.jsonl", 3, field)
    assert expected in error.expected
    assert found in error.found
    assert str(error).startswith(f"f.jsonl, byte 3: {field}: expected {error.expected}, found {error.found}.")


@pytest.mark.parametrize("change", [bad[0] for bad in BAD], ids=[f"{b[1]}-{b[3][:20]}" for b in BAD])
def test_whole_columns_decline_every_bad_record(change: dict[str, Any]) -> None:
    try:
        table = pa.Table.from_pylist([record(**change)])
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return  # such a record cannot even be a column
    assert record_columns.from_arrow(table, Expect("one")) is None


def test_one_of_two_marks_for_two_images_is_bad() -> None:
    with pytest.raises(BadRow, match="expected 2 <image> marks for as many images, or none, found 1 marks"):
        checked(record(image=["a.jpg", "b.jpg"]), "many")


def test_a_bad_row_survives_the_way_out_of_a_worker_process() -> None:
    error = records.with_line(records.bad_row(Place("f", byte=1), "id", "text", 1.5, "Do so."), 4)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "f, line 4 (byte 1): id: expected text, found 1.5. Do so."
    assert (copy.line, copy.byte, copy.field, copy.hint) == (4, 1, "id", "Do so.")


def test_what_was_found_is_shortened() -> None:
    error = records.bad_row(Place("f", row=9), "id", "text", "图" * 1000)
    assert len(str(error)) < 200
    assert str(error).startswith("f, row 9: ")


@hunt(200)
@given(st.text(st.sampled_from("ab./\\:~%\0\n\x7f\u202e图 ?#"), max_size=8))
@example("data:x")
@example("...")
@example("./.")
@example("a/..b/..")
@example("Data:image/png;base64,AAAA")
def test_a_path_is_judged_the_same_by_columns_by_rows_and_by_the_gate_for_names(path: str) -> None:
    row = record(image=path)
    data = path[:5].lower() == "data:"
    try:
        checked_name(path)
    except UnsafeName:
        safe = False
    else:
        safe = not data
    try:
        by_row = checked(row)
    except BadRow:
        by_row = None
    assert (by_row is not None and by_row["bytes"] == [None]) == safe
    assert (by_columns(row) is not None) == safe
    # An empty picture beside it changes nothing for the one without bytes.
    plain = [{"from": "human", "value": "q"}]
    pair = {**row, "conversations": plain, "image": [{"bytes": b"x", "path": "/named"}, {"bytes": None, "path": path}]}
    assert (by_columns(pair, "many") is not None) == safe


def test_a_picture_in_a_data_uri_comes_back_as_its_bytes() -> None:
    picture = bytes(range(256))
    uri = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    found = checked(record(image=uri))
    assert (found["images"], found["bytes"]) == ([None], [picture])


@pytest.mark.parametrize("uri", ["data:,", "data:text/html;base64,AAAA", "data:image/png;base64,@"])
def test_a_data_uri_that_is_no_picture_is_a_bad_row(uri: str) -> None:
    with pytest.raises(BadRow, match="a picture as data:image"):
        checked(record(image=uri))


def test_a_path_that_is_refused_says_what_to_do() -> None:
    for path, advice in (
        ("https://host/1.jpg", "image_root="),
        ("imgs\\1.jpg", "with '/'"),
        ("/etc/passwd", "absolute"),
    ):
        with pytest.raises(BadRow, match=advice):
            checked(record(image=path))


def test_a_row_of_more_images_than_the_limit_is_bad_whichever_way_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_ZH_MAX_SAMPLE_IMAGES", "3")
    plain = [{"from": "human", "value": "q"}]
    three, four = (record(image=["a"] * number, conversations=plain) for number in (3, 4))
    assert by_columns(three, "many") is not None
    assert by_columns(four, "many") is None
    with pytest.raises(BadRow, match="LLAVA_ZH_MAX_SAMPLE_IMAGES"):
        checked(four, "many")
