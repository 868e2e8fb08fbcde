"""A vision-language model small enough for a CPU, with random weights, made without any download.

It has the shape of LLaVA: a CLIP vision tower, a projector and a Llama. The training examples use it when no
``--model`` is given, so that they run anywhere; what they do with it is what they do with a real one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SIDE, PATCH = 56, 14  # 4 × 4 patches a picture
TURN_END, PAD, IMAGE = "<|im_end|>", "<pad>", "<image>"

# ChatML with what a real model's template has: image parts become the image token, the model's turns are marked.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == "assistant" %}{% generation %}\
{%- for part in message.content %}{% if part.type == "text" %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>
{% endgeneration %}{% else %}\
{%- for part in message.content %}{% if part.type == "image" %}<image>
{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}\
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def tiny_processor(texts: Iterable[str]) -> Any:
    """A processor whose tokenizer was trained on `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    special = [PAD, "<|im_start|>", TURN_END, IMAGE]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=PAD,
            eos_token=TURN_END,
            extra_special_tokens={"image_token": IMAGE},
        ),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token
        chat_template=CHAT_TEMPLATE,
    )


def tiny_model(processor: Any) -> Any:
    """A model of 0.2 million random weights for `processor`."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = processor.tokenizer
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = CLIPVisionConfig(**size, image_size=SIDE, patch_size=PATCH, projection_dim=64)
    text = LlamaConfig(
        **size,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_select_strategy="default",
    )
    return LlavaForConditionalGeneration(config)
