"""From rows to what a vision-language model is trained on; `llava_zh.torch` is its door."""
