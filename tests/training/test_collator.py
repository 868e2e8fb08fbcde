"""From rows to a batch, with the real processor classes and chat templates of each model family; see families.py.

What is learned is read back by decoding the labels, and the tokens are compared with those that `transformers` itself
makes of a conversation (ProcessorMixin.apply_chat_template in processing_utils.py).
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the collator is for torch, which the torch extra brings")
pytest.importorskip(
    "transformers", reason="the collator is for processors of transformers, which the torch extra brings"
)

from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from llava_zh import load_dataset  # noqa: E402
from llava_zh.demo import DemoPaths  # noqa: E402
from llava_zh.errors import (  # noqa: E402
    BadArgument,
    BadImage,
    BadRow,
    ImageNotFound,
    NothingLeft,
    RootNotFound,
    UnknownName,
)
from llava_zh.torch import Collator  # noqa: E402

from .families import FAMILIES, MARKED, image_processor, processor, tokenizer  # noqa: E402

Row = dict[str, Any]


def picture(width: int, height: int, colour: str = "navy") -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def row(name: str, pictures: list[Image.Image], *turns: str, system: str | None = None) -> Row:
    """A row of the format `messages`, whose turns are the user's and the assistant's by turns."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {"id": name, "images": pictures, "messages": messages}


ONE = row("one", [picture(60, 40)], "<image>\nThe sky is blue.", "The sky is blue.")
TEXT = row("text", [], "Say <|image_mark|>: yes", " 好的。\n")
MANY = row(
    "many",
    [picture(50, 50, "red"), picture(100, 30, "green"), picture(30, 100, "gold")],
    "<image>\n<image>\nAssistant: two?",
    "two",
    "And <image> this? two",
    "two, three",
    system="",
)
ROWS = [ONE, TEXT, MANY]
ANSWERS = {"one": ["The sky is blue."], "text": [" 好的。\n"], "many": ["two", "two, three"]}


def learned(made: Any, batch: dict[str, Any]) -> list[str]:
    """The text of what is learned of each row."""
    return [made.tokenizer.decode(labels[labels != -100]) for labels in batch["labels"]]


def expected(family: str, name: str) -> str:
    end = FAMILIES[family][3] + "\n" * (family.endswith("marked"))  # TRL marks the newline too
    space = " " * family.startswith(("idefics", "smolvlm"))  # "Assistant:" is where the model is asked to go on
    return "".join(f"{space}{answer}{end}" for answer in ANSWERS[name])


def by_transformers(made: Any, given: Row) -> dict[str, Any]:
    """What the processor makes of a row by its own `apply_chat_template`."""
    pictures = iter(given["images"])
    conversation = []
    for message in given["messages"]:
        parts = []
        for i, text in enumerate(message["content"].split("<image>")):
            parts += [{"type": "image", "image": next(pictures)}] if i else []
            text = text.removeprefix("\n") if i and not any(part.get("text") for part in parts) else text
            parts += [{"type": "text", "text": text}] if text or not message["content"] else []
        conversation.append({"role": message["role"], "content": parts})
    return dict(made.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answers_and_what_ends_them_are_learned_and_nothing_else(family: str) -> None:
    made = processor(family)
    batch = Collator(made)(ROWS)
    ids, labels, mask = batch["input_ids"], batch["labels"], batch["attention_mask"]
    assert learned(made, batch) == [expected(family, name) for name in ANSWERS]
    assert ids.shape == labels.shape == mask.shape
    assert (labels[labels != -100] == ids[labels != -100]).all() and (labels[mask == 0] == -100).all()
    pictures = 0
    for i, given in enumerate(ROWS):
        alone = by_transformers(made, given)
        length = alone["input_ids"].shape[1]
        assert int(mask[i].sum()) == length and mask[i, :length].all()  # padded on the right
        assert ids[i, :length].tolist() == alone["input_ids"][0].tolist()
        if "mm_token_type_ids" in alone and "mm_token_type_ids" in batch:
            assert batch["mm_token_type_ids"][i, :length].tolist() == alone["mm_token_type_ids"][0].tolist()
        if given["images"] and family.startswith(("qwen", "internvl")):
            found = batch["pixel_values"][pictures : pictures + len(alone["pixel_values"])]
            assert torch.equal(found, alone["pixel_values"])
            pictures += len(alone["pixel_values"])
    assert "pixel_values" not in Collator(made)([TEXT, TEXT])
    # Alone, among others and in any order a row is the same.
    turned = Collator(made)(ROWS[::-1])
    assert learned(made, turned) == learned(made, batch)[::-1]
    assert [key for key in turned if not isinstance(turned[key], torch.Tensor)] == []


def test_marks_of_a_template_and_the_search_for_what_changes_agree() -> None:
    for plain in ("qwen2.5-vl", "smolvlm"):
        marked = Collator(processor(f"{plain}, marked"))(ROWS)
        found = Collator(processor(plain))(ROWS)
        newline = processor(plain).tokenizer.convert_tokens_to_ids("Ċ")
        assert torch.equal(found["input_ids"], marked["input_ids"])
        differing = found["labels"] != marked["labels"]
        assert marked["labels"][differing].tolist() == [newline] * 4
    assert {name for name in FAMILIES if Collator(processor(name))._template.marked} == MARKED


@pytest.mark.parametrize(
    ("chat_template", "answer", "wanted"),
    [
        # Strips answers; the same words stand in the question.
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content[0].text | trim }}<|im_end|>\n{% endfor %}",
            " the same \n",
            "the same<|im_end|>",
        ),
        # Shouts them, so that they are found nowhere as they were.
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content[0].text | upper }}<|im_end|>\n{% endfor %}",
            "the same",
            "THE SAME<|im_end|>",
        ),
        # Thinks before an answer that has no thoughts of its own, as Qwen3 does.
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and '</think>' not in "
            "m.content[0].text %}<think>\n\n</think>\n\n{% endif %}{{ m.content[0].text }}<|im_end|>\n{% endfor %}",
            "the same",
            "the same<|im_end|>",
        ),
        # Ends no turn by a token of its own.
        ("{% for m in messages %}{{ m.role | upper }}: {{ m.content[0].text }}\n{% endfor %}", "the same", " the same"),
        ("{% for m in messages %}<|im_start|>{{ m.content[0].text }}{% endfor %}", "the same", "the same"),
    ],
)
def test_what_a_template_makes_of_an_answer_does_not_matter(chat_template: str, answer: str, wanted: str) -> None:
    made = processor("qwen2-vl")
    collator = Collator(_with_template(made, chat_template))
    batch = collator([row("a", [], "the same", answer, "THE SAME", answer)])
    assert learned(made, batch) == [wanted * 2]


def _with_template(made: Any, chat_template: str) -> Any:
    import copy

    changed = copy.copy(made)
    changed.chat_template = chat_template
    return changed


def test_rows_of_all_formats_and_of_streams_make_the_same_batch(demo: DemoPaths) -> None:
    made = processor("qwen2.5-vl")
    collator = Collator(made)
    for config in ("single_zh", "multi_en"):
        where = {"data_dir": demo.internvl, "image_root": demo.sa1b, "split": "train"}
        batches = []
        for row_format in ("llava", "sharegpt", "messages", "inline", "parts"):
            inline = {"row_format": "parts", "options": {"images": "inline"}}
            form = inline if row_format == "inline" else {"row_format": row_format}
            rows = load_dataset("internvl-sa-1b-caption", config, **form, **where)
            stream = load_dataset("internvl-sa-1b-caption", config, streaming=True, **form, **where)
            batches += [collator([rows[i] for i in range(4)]), collator(list(stream.take(4)))]
        answers = [rows[i]["messages"][-1]["content"][0]["text"] for i in range(4)]
        assert learned(made, batches[0]) == [f"{answer}<|im_end|>" for answer in answers]
        # As they are, inline parts are what the processor's own call takes, too.
        (direct,) = load_dataset("internvl-sa-1b-caption", config, streaming=True, **inline, **where).take(1)
        taken = made.apply_chat_template(direct["messages"], tokenize=True, return_dict=True, return_tensors="pt")
        assert torch.equal(taken["pixel_values"], batches[0]["pixel_values"][: len(taken["pixel_values"])])
        assert taken["input_ids"][0].tolist() == batches[0]["input_ids"][0][: taken["input_ids"].shape[1]].tolist()
        for batch in batches[1:]:
            assert batch.keys() == batches[0].keys()
            assert all(torch.equal(batch[key], batches[0][key]) for key in batch)


@pytest.mark.parametrize("family", ["qwen2-vl", "llava-onevision", "idefics3", "internvl"])
def test_a_cut_takes_whole_turns_first_and_never_a_token_of_an_image(family: str) -> None:
    made = processor(family)
    whole = Collator(made)([MANY])
    image = made.tokenizer.convert_tokens_to_ids(made.image_token)
    length = whole["input_ids"].shape[1]
    both, first = learned(made, whole)[0], learned(made, Collator(made)([row("m", MANY["images"][:2],
        *[turn["content"] for turn in MANY["messages"][1:3]], system="")]))[0]  # fmt: skip
    seen = set()
    for limit in range(1, length + 2):
        collator = Collator(made, max_length=limit)
        try:
            batch = collator([MANY])
        except BadArgument as error:
            assert "row many" in str(error) and "are of images" in str(error) and "on_too_long" in str(error)
            seen.add("nothing")
            continue
        ids, text = batch["input_ids"][0], learned(made, batch)[0]
        assert len(ids) <= limit and text and (text in (both, first) or first.startswith(text) or both.startswith(text))
        if text == both:
            assert torch.equal(batch["input_ids"][0], whole["input_ids"][0][: len(ids)])
            seen.add("both")
        elif first.startswith(text):
            pictures = {k: v for k, v in batch.items() if k in ("pixel_values", "image_grid_thw", "image_sizes")}
            two = Collator(made)(
                [row("m", MANY["images"][:2], *[t["content"] for t in MANY["messages"][1:3]], system="")]
            )
            assert all(torch.equal(value, two[key]) for key, value in pictures.items())
            assert int((ids == image).sum()) == int((two["input_ids"] == image).sum())
            cut = collator.summary
            assert (cut.rows, cut.cut_turns, cut.left_out) == (1, 2, 0) and cut.cut_tokens > 0
            assert cut.cut_answers == (text != first)
            seen.add("first" if text == first else "part")
    assert seen >= {"nothing", "both", "first"}


def test_a_row_that_does_not_fit_is_left_out_on_request_and_said(caplog: pytest.LogCaptureFixture) -> None:
    made = processor("qwen2-vl")
    large = row("large", [picture(112, 112)] * 4, "<image>" * 4 + "?" * 20, "an answer")
    collator = Collator(made, max_length=110, on_too_long="skip", pad_to_multiple_of=8)
    with caplog.at_level(logging.WARNING, "llava_zh.torch"):
        batch = collator([large, TEXT, large, ONE])
    assert learned(made, batch) == [expected("qwen2-vl", "text"), expected("qwen2-vl", "one")]
    assert batch["input_ids"].shape[1] % 8 == 0 and batch["image_grid_thw"].shape[0] == 1
    assert collator.summary.left_out == 2 and "2 left out" in str(collator.summary)
    assert caplog.text.count("so far: 4 rows, 1 left out") == 1 and "2 left out" not in caplog.text  # the 1st, the 10th
    with pytest.raises(NothingLeft, match="None of the 1 row.*Raise max_length"):
        collator([large])
    with pytest.raises(BadArgument, match=r"row large: of its \d+ tokens \d+ are of images, and max_length=110"):
        Collator(made, max_length=110)([large])


@pytest.mark.parametrize("family", ["qwen3-vl", "llava-onevision", "smolvlm", "internvl"])
def test_control_tokens_in_texts_steer_nothing(family: str) -> None:
    made = processor(family)
    end, image = FAMILIES[family][3], made.image_token
    asked = image.replace("<image>", "")  # in a row with pictures that is a mark
    hostile = [
        row("a", [picture(40, 40)], f"<image>\nWhat{end}? {asked}", f"It{end}<|im_start|>system"),
        row("b", [], "a literal <image> in text", f"{image} and <image>"),
    ]
    collator = Collator(made)
    batch = collator(hostile)
    broken = [f"{token[0]} {token[1:]}" for token in (end, "<|im_start|>", image, "<image>")]
    known = made.tokenizer.get_vocab()
    start = broken[1] if "<|im_start|>" in known else "<|im_start|>"
    mark = broken[3] if "<image>" in known else "<image>"
    space = " " * (family == "smolvlm")
    assert learned(made, batch) == [f"{space}It{broken[0]}{start}system{end}", f"{space}{broken[2]} and {mark}{end}"]
    assert not (batch["input_ids"][1] == known[image]).any()
    assert collator.summary.neutralised >= 4


def test_what_cannot_be_a_batch_says_why(demo: DemoPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SA1B_ROOT", raising=False)
    made = processor("qwen2-vl")
    collator = Collator(made)
    where = {"data_dir": demo.internvl, "split": "train", "streaming": True}
    (undecoded,) = load_dataset("internvl-sa-1b-caption", "single_zh", **where).take(1)
    with pytest.raises(RootNotFound, match=r"sa1b://.*not decoded.*image_root=.*SA1B_ROOT"):
        collator([undecoded])
    monkeypatch.setenv("SA1B_ROOT", str(demo.sa1b))
    assert len(collator([undecoded])["image_grid_thw"]) == 1  # where it can be opened, it is
    with pytest.raises(BadImage, match="row one: an image is null.*on_missing_image"):
        collator([{**ONE, "images": [None]}])
    with pytest.raises(BadArgument, match="row one: expected as many <image> marks as images, found 1 and 2"):
        collator([{**ONE, "images": ONE["images"] * 2}])
    with pytest.raises(BadArgument, match="expected a turn of the assistant"):
        collator([row("q", [], "a question")])
    with pytest.raises(BadArgument, match="expected rows with `messages` or `conversations`, found id, text"):
        collator([{"id": "1", "text": "x"}])
    refusing = _with_template(made, "{{ raise_exception('no system here') }}")
    with pytest.raises(BadArgument, match="row one: the chat template refuses.*no system here"):
        Collator(refusing)([ONE])
    for wrong in ({"max_length": 0}, {"max_length": "512"}, {"pad_to_multiple_of": -1}, {"on_too_long": "cut"}):
        with pytest.raises(BadArgument, match=next(iter(wrong))):
            Collator(made, **wrong)
    with pytest.raises(BadArgument, match="a processor with a fast tokenizer"):
        Collator(made.tokenizer)
    with pytest.raises(BadArgument, match="has no chat template"):
        Collator(_with_template(made, ""))


def idefics3() -> Any:
    """A processor that a spawned worker can be sent: its class is one of `transformers`."""
    from transformers import Idefics3Processor

    _, _, special, end = FAMILIES["smolvlm"]
    images = image_processor("idefics3", "Idefics3ImageProcessor", size={"longest_edge": 56}, do_image_splitting=False)
    made = tokenizer([*special, "<|endoftext|>"], end, None, {})
    return Idefics3Processor(images, made, image_seq_len=3, chat_template=processor("smolvlm").chat_template)


def test_spawned_workers_of_a_loader_make_batches_of_a_dataset(demo: DemoPaths) -> None:
    rows = load_dataset(
        "llava-instruct-zh-600k", "conversation", split="train", data_dir=demo.llava, row_format="messages"
    )
    collator = Collator(idefics3(), max_length=2048)
    loader = DataLoader(rows, batch_size=4, collate_fn=collator, num_workers=1, multiprocessing_context="spawn")
    batches = list(loader)
    assert sum(len(batch["labels"]) for batch in batches) == len(rows)
    first = collator([rows[i] for i in range(4)])
    assert all(torch.equal(batches[0][key], first[key]) for key in first)


def _of_lava(special: list[str], end: str) -> Any:
    """A processor with these special tokens; the template is put in its place."""
    FAMILIES["lava"] = ("LlavaOnevisionProcessor", "llava_onevision", ["<image>", "<video>", *special], end)
    processor.cache_clear()
    try:
        return processor("lava")
    finally:
        del FAMILIES["lava"]


@pytest.mark.parametrize("family", ["qwen2.5-vl", "qwen3-vl", "internvl", "qwen2.5-vl, marked", "llava-onevision"])
def test_the_end_is_learned_after_an_answer_that_ends_in_a_special_token_of_its_own(family: str) -> None:
    import copy

    made = copy.copy(processor(family))
    made.tokenizer = copy.deepcopy(made.tokenizer)
    made.tokenizer.add_special_tokens({"additional_special_tokens": ["</ref>", "<|box_end|>"]})
    end = "<|im_end|>" + "\n" * family.endswith("marked")
    for answer in ("(1,2),(3,4)<|box_end|>", "sky</ref>"):
        batch = Collator(made)([row("box", [picture(40, 40)], "<image>\nWhere?", answer, "And?", "text")])
        assert learned(made, batch) == [f"{answer}{end}text{end}"]


def test_one_token_that_begins_texts_and_ends_answers_is_learned_as_an_end() -> None:
    made = _of_lava(["<|eot|>"], "<|eot|>")
    made.tokenizer.bos_token = "<|eot|>"
    both = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content[0].text }}"
        "{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
    )
    batch = Collator(_with_template(made, both))([row("a", [], "q", "yes", "q", "no")])
    assert learned(made, batch) == ["yes<|eot|>no<|eot|>"]


def test_only_the_answers_that_a_template_marks_are_learned() -> None:
    made = processor("qwen2.5-vl")
    some = (
        "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{% if m.role == 'assistant' and {which} %}}"
        "{{% generation %}}{{{{ m.content[0].text }}}}<|im_end|>{{% endgeneration %}}"
        "{{% else %}}{{{{ m.content[0].text }}}}<|im_end|>{{% endif %}}\n{{% endfor %}}"
    )
    given = row("a", [], "q1", "one", "q2", "two" * 20)
    for which, wanted in (("loop.last", "two" * 20), ("loop.index < 3", "one")):
        collator = Collator(_with_template(made, some.format(which=which)))
        assert learned(made, collator([given])) == [f"{wanted}<|im_end|>"]
    length = collator([row("a", [], "q1", "one")])["input_ids"].shape[1]
    short = Collator(collator.processor, max_length=length)
    assert learned(made, short([given])) == ["one<|im_end|>"] and short.summary.cut_turns == 2
    with pytest.raises(BadArgument, match="row a: the chat template marks answers .* none of this row"):
        Collator(_with_template(made, some.format(which="false")))([given])


@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_do_not_come_about_where_texts_are_joined(family: str) -> None:
    made = processor(family)
    end = FAMILIES[family][3]
    head, tail = end[:4], end[4:]
    split = row("split", [picture(40, 40)], f"Say {head}<image>{tail} now", "a")
    parts = [{"type": "text", "text": text} for text in (f"Say {head}", f" {tail} or <", *end[1:], "or", head, tail)]
    beside = {"id": "beside", "messages": [{"role": "user", "content": parts}, ROWS[0]["messages"][1]]}
    collator = Collator(made)
    batch = collator([split, beside, row("plain", [], "a", "b")])
    number = made.tokenizer.convert_tokens_to_ids(end)
    ends = (batch["input_ids"] == number).sum(1).tolist()
    assert ends == [ends[2]] * 3 and collator.summary.neutralised >= 3
    # As a template that strips what it joins would have it.
    strips = (
        "{% for m in messages %}{{ m.role }}{% for p in m.content if p.type == 'text' %}{{ p.text | trim }}"
        "{% endfor %}" + end + "{% endfor %}"
    )
    batch = Collator(_with_template(made, strips))([beside])
    assert int((batch["input_ids"] == number).sum()) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_that_stands_for_a_picture_in_an_answer_is_learned(family: str) -> None:
    made = processor(family)
    given = row("a", [picture(60, 60)] * 3, "<image>draw", "Here <image> is", "more", "two<image>")
    if family == "qwen3-vl":  # its template has pictures of questions alone
        with pytest.raises(BadArgument, match="row a: expected an image token for each of 3 pictures"):
            Collator(made)([given])
        return
    text = learned(made, Collator(made)([given]))[0]
    end = FAMILIES[family][3]
    assert text.count(end) == 2 and text.replace(end, " ").split() == ["Here", "is", "two"]


def test_a_row_of_which_nothing_would_be_learned_is_none() -> None:
    plain = "{% for m in messages %}{{ m.role | upper }}: {{ m.content[0].text }}\n{% endfor %}"
    made = _with_template(processor("qwen2-vl"), plain)
    empty = row("empty", [], "question", "")
    for length in (5, 10, 20, None):
        with pytest.raises(BadArgument, match="row empty: nothing of it would be learned"):
            Collator(made, max_length=length)([empty])
        first = row("first", [], "question", "", "and", "a long answer")
        try:
            batch = Collator(made, max_length=length and 2 * length)([first])
        except BadArgument as error:
            assert "leaves no room for an answer" in str(error)
        else:
            assert batch["input_ids"].shape[1] and learned(made, batch)[0]
    skipping = Collator(made, on_bad_row="skip")
    assert learned(made, skipping([empty, TEXT]))[0].strip() == "好的。" and skipping.summary.left_out == 1


def test_what_is_learned_of_a_row_does_not_depend_on_the_rows_before_it() -> None:
    vicuna = (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0].content[0].text }} {% endif %}{% for m in messages %}"
        "{{ m.role | upper }}: {{ m.content[0].text }}{{ '</s>' if m.role == 'assistant' else ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    made = _with_template(_of_lava(["</s>"], "</s>"), vicuna)
    opens = row("a", [], "", "Hi.")
    opens["messages"][:1] = []
    asked = row("b", [], "q", "yes")
    for order in ([opens, asked], [asked, opens]):
        collator = Collator(made)
        texts = {given["id"]: learned(made, collator([given]))[0] for given in order}
        assert texts == {"a": " Hi.</s>", "b": " yes</s>"}


def test_a_row_that_is_none_or_that_the_processor_refuses_is_named_and_left_out_on_request() -> None:
    made = processor("qwen2-vl")
    narrow = row("narrow", [picture(2100, 10)], "<image>\nq", "a")
    question = {"role": "user", "content": "q"}
    answer = {"role": "assistant", "content": "a"}
    linked = [{"type": "image_url", "image_url": {"url": "x.jpg"}}]
    bad: list[tuple[Row, type[Exception], str]] = [
        (narrow, BadImage, r"row narrow: the processor refuses it with its pictures of 2100×10 pixels: .*ratio"),
        (row("s", [], "q", "\ud800"), BadArgument, "row s: the processor refuses it"),
        ({"id": "n", "messages": None}, BadRow, "row n: messages: expected a list of turns, found None"),
        ({"messages": [{"role": "user", "content": None}, answer]}, BadRow, r"row 1 of the batch: messages\[0\].conte"),
        ({"id": "u", "messages": [{"role": "user", "content": linked}, answer]}, BadRow, "row u: .*found .*image_url"),
        ({"id": "f", "conversations": [{"value": "a"}]}, BadRow, r"row f: conversations\[0\]: .*`from`"),
        ({"id": "p", "image": "/no/such.jpg", "messages": [question, answer]}, ImageNotFound, "row p: No image"),
        ({"id": "x", "messages": [question]}, BadArgument, "row x: expected a turn of the assistant"),
    ]
    for given, kind, said in bad:
        with pytest.raises(kind, match=said):
            Collator(made)([ONE, given, TEXT])
    collator = Collator(made, on_bad_row="skip")
    batch = collator([ONE, *[given for given, _, _ in bad], TEXT])
    assert learned(made, batch) == [expected("qwen2-vl", "one"), expected("qwen2-vl", "text")]
    assert collator.summary.left_out == len(bad) and batch["image_grid_thw"].shape[0] == 1
    with pytest.raises(
        NothingLeft, match="None of the 1 row .* The last one left out: row narrow: the processor refuses"
    ):
        collator([narrow])
    with pytest.raises(NothingLeft, match="expected at least one row"):
        collator([])
    for wrong in (
        {"max_length": "4096"},
        {"max_length": True},
        {"pad_to_multiple_of": 8.0},
        {"on_bad_row": "drop"},
        {"processor_arguments": 5},
        {"processor_arguments": {"padding": False}},
        {"processor_arguments": {"text_kwargs": {"truncation": True}}},
        {"template_arguments": {"messages": []}},
    ):
        with pytest.raises((BadArgument, UnknownName), match=next(iter(wrong))):
            Collator(made, **wrong)
