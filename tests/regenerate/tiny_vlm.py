"""Write a LLaVA of 32 hidden units with random weights, and all that ``transformers serve`` needs of it, to a folder.

A script for the interpreter that has ``torch`` and ``transformers[serving]``; nothing is downloaded.
"""

from __future__ import annotations

import sys

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}assistant: "
)


def processor() -> LlavaProcessor:
    # Only signs that are text by themselves: random bytes are no UTF-8, and such an answer is refused.
    vocabulary = ["<pad>", "<s>", "</s>", "<image>", *sorted(filter(str.isascii, ByteLevel.alphabet()))]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=fast,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def model(vocabulary: int) -> LlavaForConditionalGeneration:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=LlamaConfig(
                vocab_size=vocabulary,
                max_position_embeddings=4096,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
                **small,
            ),
            vision_config=CLIPVisionConfig(image_size=32, patch_size=16, **small),
            image_token_index=3,
            vision_feature_layer=-1,
        )
    ).eval()


def main(folder: str) -> None:
    prepare = processor()
    tiny = model(len(prepare.tokenizer))
    # Random weights never say the end; what they say as fifth token shall mean it, so that answers end with "stop".
    ends = {2}
    for level in range(0, 256, 16):
        picture = Image.new("RGB", (64, 48), (level, 255 - level, 128))
        inputs = prepare(images=picture, text="user: <image>\nassistant: ", return_tensors="pt")
        ends.add(int(tiny.generate(**inputs, max_new_tokens=5, do_sample=False)[0][-1]))
    tiny.generation_config.eos_token_id = sorted(ends)
    tiny.save_pretrained(folder)
    prepare.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
