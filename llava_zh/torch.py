"""Rows into PyTorch: a batch to train a vision-language model on, by one call.

    from llava_zh.torch import Collator

    loader = DataLoader(rows, batch_size=8, collate_fn=Collator(processor, max_length=4096))

It needs ``pip install "llava-zh[torch]"``.
"""

from __future__ import annotations

from .training.collator import Collator, Summary, require

__all__ = ["Collator", "Summary"]

require()
