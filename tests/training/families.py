"""Processors of the model families, made on the spot: the real template, the real image processor at a small size, and
a tokenizer of a few hundred tokens with the family's special ones. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
QWEN = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
INTERN = ["<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>", "<video>"]
IDEFICS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
IDEFICS += [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
PAD = "<|endoftext|>"

# The processor, the template, special tokens, what ends an answer, and what the template writes for a picture.
FAMILIES: dict[str, tuple[str, str, list[str], str]] = {
    "qwen2-vl": ("Qwen2VLProcessor", "qwen2_5_vl", QWEN, "<|im_end|>"),
    "qwen2.5-vl": ("Qwen2_5_VLProcessor", "qwen2_5_vl", QWEN, "<|im_end|>"),
    "qwen3-vl": ("Qwen3VLProcessor", "qwen3_vl", QWEN, "<|im_end|>"),
    "internvl": ("InternVLProcessor", "internvl", INTERN, "<|im_end|>"),
    "llava-onevision": ("LlavaOnevisionProcessor", "llava_onevision", [*QWEN[:2], "<image>", "<video>"], "<|im_end|>"),
    "idefics2": ("Idefics2Processor", "idefics2", IDEFICS[:3], "<end_of_utterance>"),
    "idefics3": ("Idefics3Processor", "idefics3", ["<|begin_of_text|>", *IDEFICS], "<end_of_utterance>"),
    "smolvlm": ("Idefics3Processor", "smolvlm", ["<|im_start|>", *IDEFICS], "<end_of_utterance>"),
    "qwen2.5-vl, marked": ("Qwen2_5_VLProcessor", "qwen2_5_vl_training", QWEN, "<|im_end|>"),
    "smolvlm, marked": ("Idefics3Processor", "smolvlm_training", ["<|im_start|>", *IDEFICS], "<end_of_utterance>"),
}
MARKED = {"llava-onevision", "qwen2.5-vl, marked", "smolvlm, marked"}
SAMPLE = [
    "What is in the picture? 图中是什么？",
    "Assistant: The sky is blue. 图中是深蓝色的夜空下的一片平静的蓝色湖面。",
]


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text("utf-8")


@cache
def processor(family: str) -> Any:
    """The processor of a family; the same one each time, so it must not be changed."""
    import transformers

    name, chat_template, special, end = FAMILIES[family]
    base = getattr(transformers, name)
    # Films want torchvision, and tokenizers of our own are of the general class: neither is looked at here.
    made = type(name, (base,), {"check_argument_for_proper_class": lambda self, argument, value: None})
    extra: dict[str, Any] = {"chat_template": template(chat_template)}
    named: dict[str, str] = {}
    if name == "InternVLProcessor":
        images = image_processor("got_ocr2", "GotOcr2ImageProcessor", size={"height": 28, "width": 28}, max_patches=4)
        named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
        named |= {"video_token": "<video>"}
        extra |= {"image_seq_length": 4, "video_processor": None}
    elif name == "LlavaOnevisionProcessor":
        sizes = {"size": {"height": 28, "width": 28}, "image_grid_pinpoints": [[28, 28], [28, 56], [56, 28], [56, 56]]}
        images = image_processor("llava_onevision", "LlavaOnevisionImageProcessor", **sizes)
        extra |= {"num_image_tokens": 4, "vision_feature_select_strategy": "full", "video_processor": None}
    elif name == "Idefics2Processor":
        sizes = {"size": {"shortest_edge": 28, "longest_edge": 56}, "do_image_splitting": False}
        images = image_processor("idefics2", "Idefics2ImageProcessor", **sizes)
        extra |= {"image_seq_len": 3}
    elif name == "Idefics3Processor":
        sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
        images = image_processor("idefics3", "Idefics3ImageProcessor", **sizes)
        extra |= {"image_seq_len": 3}
    else:
        sizes = {"min_pixels": 28 * 28, "max_pixels": 112 * 112}
        images = image_processor("qwen2_vl", "Qwen2VLImageProcessor", **sizes)
        extra |= {"video_processor": None}
    bos = "<|begin_of_text|>" if "<|begin_of_text|>" in special else None
    return made(images, tokenizer([*special, PAD], end, bos, named), **extra)


def image_processor(module: str, name: str, **sizes: Any) -> Any:
    """The image processor that needs no torchvision: a class of its own since transformers 5."""
    import transformers

    try:
        found = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
        return getattr(found, f"{name}Pil")(**sizes)
    except ModuleNotFoundError:
        return getattr(transformers, name)(**sizes)


def tokenizer(special: list[str], end: str, bos: str | None, named: dict[str, str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        SAMPLE * 5, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=end, pad_token=PAD, bos_token=bos, extra_special_tokens=named
    )
