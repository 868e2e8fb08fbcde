# ruff: noqa: E501 (chat templates)
"""Row formats: the same turns and images in each of them, marks that match images, options, typed alike everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pytest
from datasets import IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_zh import load_dataset, load_dataset_builder
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument, BadRow, UnknownName
from llava_zh.rows.formats import ROW_FORMATS, RowOptions, RowShape, parts, to_rows
from llava_zh.rows.records import ANNOTATIONS, MARK, Expect, Place, from_rows

INTERNVL, LLAVA = "internvl-sa-1b-caption", "llava-instruct-zh-600k"
ROLE_BACK = {"user": "human", "assistant": "gpt", "system": "system"}
CONSTANTS = {"config": "single_en", "language": "en"}

Turns = Sequence[tuple[str, str]]


def rows_of(samples: Sequence[tuple[int, Turns]], row_format: str, **options: Any) -> list[dict[str, Any]]:
    """Rows made from samples of (number of images, turns), through the same code as a loaded file's."""
    annotations = pa.Table.from_pylist(
        [
            {
                "id": str(i),
                "images": [f"sa_000000/sa_{i}_{j}.jpg" for j in range(images)],
                "bytes": [None] * images,
                "width": [100 + j for j in range(images)],
                "height": None,
                "conversations": [{"from": role, "value": text} for role, text in turns],
                "task": None,
            }
            for i, (images, turns) in enumerate(samples)
        ],
        schema=ANNOTATIONS,
    )
    shape = RowShape(row_format, "many", pixels=True, tasks=False, decode=False, options=RowOptions(**options))
    table = to_rows(annotations, shape, shape.features().arrow_schema, lambda paths: paths, CONSTANTS)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def turns_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    """The turns of a row of any format, as they were published: the way back."""
    if "conversations" in row:
        return [(turn["from"], turn["value"]) for turn in row["conversations"]]
    turns = []
    for message in row["messages"]:
        content = message["content"]
        if not isinstance(content, str):
            opening = True
            text = ""
            for i, part in enumerate(content):
                if part["type"] == "image":
                    last = i == len(content) - 1
                    text += f"{MARK}\n" if opening and not last else MARK
                else:
                    text, opening = text + part["text"], False
            content = text
        turns.append((ROLE_BACK[message["role"]], content))
    return turns


def images_of(row: dict[str, Any]) -> list[str]:
    images = row["images"] if "images" in row else row["image"]
    return [image["path"] for image in (images if isinstance(images, list) else [images])]


# Text without marks of its own, but with whatever else may stand beside one.
TEXT = st.text("ab图\n <>", max_size=8).filter(lambda text: MARK not in text)


@st.composite
def sample(draw: st.DrawFn) -> tuple[int, Turns]:
    """A row with one to four images whose marks are anywhere: opening turns as published, or woven into the text."""
    images = draw(st.integers(1, 4))
    rounds = draw(st.integers(1, 3))
    turns = [("system", draw(TEXT))] if draw(st.booleans()) else []
    at = sorted(draw(st.lists(st.integers(0, rounds - 1), min_size=images, max_size=images)))
    for i in range(rounds):
        text = ""
        for _ in range(at.count(i)):
            # `a<image>b` would join with the text around it to another mark only by chance, which the filter excludes.
            text += draw(st.sampled_from([f"{MARK}\n", f"Image: {MARK}\n", f"x{MARK} "]))
        text += draw(st.text("ab图\n ", min_size=1, max_size=8))
        turns += [("human", text), ("gpt", draw(TEXT))]
    return images, turns


@settings(max_examples=40)
@given(st.lists(sample(), min_size=1, max_size=5))
@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_every_format_leads_back_to_the_same_turns_and_images(
    row_format: str, samples: list[tuple[int, Turns]]
) -> None:
    published = rows_of(samples, "llava")
    rows = rows_of(samples, row_format)
    assert [turns_of(row) for row in rows] == [list(turns) for _, turns in samples]
    assert [images_of(row) for row in rows] == [images_of(row) for row in published]
    assert [row["id"] for row in rows] == [row["id"] for row in published]


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.lists(TEXT, min_size=1, max_size=3), st.booleans()), min_size=1, max_size=5
    )
)
@pytest.mark.parametrize("row_format", [name for name in ROW_FORMATS if name != "llava"])
def test_rows_without_marks_get_one_an_image_before_the_first_human_text(
    row_format: str, samples: list[tuple[int, list[str], bool]]
) -> None:
    made = [
        (images, [("system", "S")] * system + [turn for text in texts for turn in (("human", text), ("gpt", "A"))])
        for images, texts, system in samples
    ]
    for (images, texts, system), row in zip(samples, rows_of(made, row_format), strict=True):
        turns = turns_of(row)
        expected = f"{MARK}\n" * images + texts[0]
        if row_format == "parts" and not texts[0]:
            expected = expected.removesuffix("\n")  # nothing follows that the newline would set apart
        assert turns[int(system)] == ("human", expected)
        assert sum(text.count(MARK) for _, text in turns) == images
        assert turns[int(system) + 1 :] == made[0][1][:0] + [
            turn for i, text in enumerate(texts) for turn in (("human", text), ("gpt", "A")) if i or turn[0] == "gpt"
        ]


def test_llava_rows_stay_as_published_even_without_marks() -> None:
    assert turns_of(rows_of([(1, [("human", "Q"), ("gpt", "A")])], "llava")[0]) == [("human", "Q"), ("gpt", "A")]


def test_a_row_without_a_human_turn_gets_its_marks_in_its_first_turn() -> None:
    (row,) = rows_of([(1, [("gpt", "A")])], "messages")
    assert turns_of(row) == [("gpt", f"{MARK}\nA")]


@pytest.mark.parametrize("marks", [1, 3])
def test_more_or_fewer_marks_than_images_are_an_error_that_says_so(marks: int) -> None:
    record = {"image": ["a.jpg", "b.jpg"], "conversations": [{"from": "human", "value": MARK * marks}]}
    with pytest.raises(
        BadRow, match=rf"f.jsonl, byte 7: conversations: expected 2 <image> marks .* found {marks} marks"
    ):
        from_rows([(Place("f.jsonl", byte=7), record)], Expect("many"), _raise)


def _raise(error: BadRow) -> None:
    raise error


# -- parts -------------------------------------------------------------------------------------------------


def image(count: int = 1) -> list[dict[str, str]]:
    return [{"type": "image", "text": ""}] * count


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("turn", "content"),
    [
        (f"{MARK}\nQ", [*image(), text("Q")]),
        (f"{MARK}Q", [*image(), text("Q")]),
        (f"{MARK}\n{MARK}\n\nQ", [*image(2), text("\nQ")]),
        (f"A: {MARK}\nB: {MARK}", [text("A: "), *image(), text("\nB: "), *image()]),
        (f"Q\n{MARK}", [text("Q\n"), *image()]),
        (MARK, image()),
        (f"{MARK}\n", image()),
        (f"\n{MARK}\nQ", [text("\n"), *image(), text("\nQ")]),
        (f"{MARK}{MARK}\nQ", [*image(2), text("Q")]),
        (f"{MARK}\n{MARK} \n", [*image(2), text(" \n")]),
        (f"<i<{MARK[1:]}", [text("<i"), *image()]),
        ("Q", [text("Q")]),
        ("<", [text("<")]),
        ("", [text("")]),
    ],
)
def test_parts_stand_where_the_marks_stood(turn: str, content: list[dict[str, str]]) -> None:
    assert parts(pa.array([turn])).to_pylist() == [content]
    # Turns do not run into each other, and a sliced array is read from where it starts.
    assert parts(pa.array(["x", turn, f"{MARK}\ny", turn]).slice(1)).to_pylist() == [
        content,
        [*image(), text("y")],
        content,
    ]


def test_a_mark_is_not_put_together_from_two_texts() -> None:
    assert parts(pa.array([MARK[:3], MARK[3:], "", MARK])).to_pylist() == [
        [text(MARK[:3])],
        [text(MARK[3:])],
        [text("")],
        image(),
    ]


@given(st.lists(st.tuples(st.sampled_from(["", MARK, f"{MARK}\n"]), TEXT), max_size=6))
def test_marks_that_all_open_their_text_are_found_without_looking_elsewhere(turns: list[tuple[str, str]]) -> None:
    texts = pa.array([opening + rest for opening, rest in turns], pa.string())
    marked = np.array([opening != "" for opening, _ in turns], bool)
    assert parts(texts, marked).equals(parts(texts))


def test_no_texts_have_no_parts() -> None:
    assert parts(pa.array([], pa.string())).to_pylist() == []


CHAT_TEMPLATES = {
    # The way of Qwen2.5-VL's template: by type or key.
    "qwen2_5_vl": "{% for m in messages %}<|{{ m.role }}|>{% for c in m.content %}{% if c.type == 'image' or 'image' in c %}"
    "<img>{% elif 'text' in c %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}",
    # The way of LLaVA's: images first, then text.
    "llava": "{% for m in messages %}{{ m.role }}: {% for c in m.content | selectattr('type', 'equalto', 'image') %}<img>\n"
    "{% endfor %}{% for c in m.content | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}{% endfor %}{% endfor %}",
    # A template that writes the text of every part.
    "careless": "{% for m in messages %}{% for c in m.content %}{{ '<img>' if c.type == 'image' }}{{ c.text }}{% endfor %}"
    "{% endfor %}",
}


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_an_image_part_renders_as_one_without_text(name: str) -> None:
    (row,) = rows_of([(2, [("human", f"{MARK}\n{MARK}\nQ"), ("gpt", "A")])], "parts")
    plain = [
        {**m, "content": [c if c["type"] == "text" else {"type": "image"} for c in m["content"]]}
        for m in row["messages"]
    ]
    template = jinja2.Template(CHAT_TEMPLATES[name])
    rendered = template.render(messages=row["messages"])
    assert rendered == template.render(messages=plain)
    assert rendered.count("<img>") == 2 and "None" not in rendered


# -- options -----------------------------------------------------------------------------------------------


SAMPLES: list[tuple[int, Turns]] = [
    (1, [("human", f"{MARK}\nQ"), ("gpt", "A")]),
    (1, [("human", f"Q\n{MARK}"), ("gpt", "A")]),
    (2, [("system", "own"), ("human", "Q"), ("gpt", "A")]),
    (2, [("human", f"Image-1: {MARK}\nImage-2: {MARK}\nQ"), ("gpt", "A")]),
    (2, [("human", f"{MARK}\nQ"), ("gpt", "A"), ("human", f"{MARK}\nQ2"), ("gpt", "A2")]),
]


@pytest.mark.parametrize("row_format", ["llava", "sharegpt", "messages"])
def test_marks_move_to_the_front_or_the_end_unless_they_are_woven_into_the_text(row_format: str) -> None:
    woven = [f"Image-1: {MARK}\nImage-2: {MARK}\nQ", f"{MARK}\nQ"]
    for place, one, two in (
        ("front", f"{MARK}\nQ", f"{MARK}\n{MARK}\nQ"),
        ("end", f"Q\n{MARK}", f"Q\n{MARK}\n{MARK}"),
    ):
        rows = [turns_of(row) for row in rows_of(SAMPLES, row_format, image_place=place)]
        first = [next(text for role, text in turns if role == "human") for turns in rows]
        assert first == [one, one, two, *woven]
        assert rows[4][2] == ("human", f"{MARK}\nQ2")


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_a_system_prompt_goes_before_rows_that_have_none(row_format: str) -> None:
    rows = [turns_of(row) for row in rows_of(SAMPLES, row_format, system="S")]
    assert [turns[0] for turns in rows] == [("system", "own" if i == 2 else "S") for i in range(len(SAMPLES))]
    assert all(sum(role == "system" for role, _ in turns) == 1 for turns in rows)
    without = [turns_of(row) for row in rows_of(SAMPLES, row_format)]
    assert [[turn for turn in turns if turn[0] != "system"] for turns in rows] == [
        [turn for turn in turns if turn[0] != "system"] for turns in without
    ]


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_widths_and_heights_come_and_go_with_sizes(row_format: str) -> None:
    assert rows_of(SAMPLES, row_format, sizes=True)[2]["width"] == [100, 101]
    assert "width" not in rows_of(SAMPLES, row_format, sizes=False)[0]
    assert ("width" in rows_of(SAMPLES, row_format)[0]) == (row_format == "llava")


def test_options_are_checked_and_a_wrong_one_is_named() -> None:
    assert RowOptions.of({"system": "S"}) == RowOptions(system="S")
    assert RowOptions.of(None) == RowOptions()
    with pytest.raises(UnknownName, match="Did you mean 'image_place'"):
        RowOptions.of({"image_plase": "front"})
    with pytest.raises(UnknownName, match="Known: front, end"):
        RowOptions(image_place="middle")
    with pytest.raises(BadArgument, match="system: expected text"):
        RowOptions(system=3)  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match="expected a dict"):
        RowOptions.of("front")  # type: ignore[arg-type]


# -- loaded ------------------------------------------------------------------------------------------------


def load(demo: DemoPaths, dataset: str, config: str, row_format: str, **arguments: Any) -> Any:
    data_dir = demo.internvl if dataset == INTERNVL else demo.llava
    return load_dataset(dataset, config, split="train", data_dir=data_dir, row_format=row_format, **arguments)


@pytest.mark.parametrize("row_format", [name for name in ROW_FORMATS if name != "llava"])
def test_a_format_has_the_same_features_for_every_config_of_both_datasets(demo: DemoPaths, row_format: str) -> None:
    seen = []
    for dataset, configs, folder in (
        (INTERNVL, ("single_en", "multi_zh"), demo.internvl),
        (LLAVA, ("default", "detail"), demo.llava),
    ):
        for config in configs:
            for options in ({}, {"sizes": True}):
                builder = load_dataset_builder(
                    dataset,
                    config,
                    data_dir=folder,
                    row_format=row_format,
                    options=options,
                    image_root=None if dataset == LLAVA else demo.sa1b,
                )
                seen.append((bool(options), builder.info.features))
    for sizes in (False, True):
        features = [found for has_sizes, found in seen if has_sizes == sizes]
        assert all(found == features[0] and list(found) == list(features[0]) for found in features)


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_streamed_and_prepared_rows_are_the_same_and_the_images_open(
    demo: DemoPaths, row_format: str, tmp_path: Any
) -> None:
    options = {"system": "你好", "image_place": "end"}
    arguments = {"options": options, "image_root": demo.sa1b}
    prepared = load(demo, INTERNVL, "multi_zh", row_format, cache_dir=tmp_path, **arguments)
    streamed: IterableDataset = load(demo, INTERNVL, "multi_zh", row_format, streaming=True, **arguments)
    column = "image" if row_format == "llava" else "images"
    assert prepared.features == streamed.features
    for left, right in zip(prepared, streamed, strict=True):
        pictures = [[np.asarray(picture) for picture in row.pop(column)] for row in (left, right)]
        assert left == right and turns_of(left)[0] == ("system", "你好")
        assert all(np.array_equal(a, b) for a, b in zip(*pictures, strict=True))


def test_other_options_are_prepared_apart(demo: DemoPaths, tmp_path: Any) -> None:
    plain = load(demo, INTERNVL, "single_zh", "messages", cache_dir=tmp_path)
    with_prompt = load(demo, INTERNVL, "single_zh", "messages", cache_dir=tmp_path, options={"system": "S"})
    again = load(demo, INTERNVL, "single_zh", "messages", cache_dir=tmp_path, options=RowOptions())
    assert plain[0]["messages"][0]["role"] == "user"
    assert with_prompt[0]["messages"][0] == {"role": "system", "content": "S"}
    assert again.cache_files == plain.cache_files != with_prompt.cache_files


def test_missing_images_given_as_null_are_null_in_every_format(demo: DemoPaths, tmp_path: Any) -> None:
    (tmp_path / "sa_000000").mkdir()  # a root that is there and holds no image
    (tmp_path / "sa_000000" / "sa_9.jpg").write_bytes(b"x")
    for row_format in ROW_FORMATS:
        rows = load(
            demo, INTERNVL, "single_zh", row_format, streaming=True, image_root=tmp_path, on_missing_image="null"
        )
        row = next(iter(rows))
        assert row.get("image", row.get("images")) in (None, [None])
