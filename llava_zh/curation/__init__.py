"""Clean a dataset or a regeneration run: every row dropped names its reasons, every row kept stays as published."""

from llava_zh.curation.run import curate

__all__ = ["curate"]
