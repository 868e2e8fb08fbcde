"""Regenerate captions and conversations with a vision-language model."""

from llava_zh.catalog.prompts import PROMPTS, Prompt, load_prompt
from llava_zh.regenerate.batch import read_batch, write_batch
from llava_zh.regenerate.captioner import Captioner
from llava_zh.regenerate.entry import regenerate
from llava_zh.regenerate.report import Report

__all__ = ["PROMPTS", "Captioner", "Prompt", "Report", "load_prompt", "read_batch", "regenerate", "write_batch"]
