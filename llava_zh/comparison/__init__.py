"""Old texts beside new ones: what a regeneration changed, by measure and, where a model is asked, by judgement."""

from llava_zh.comparison.entry import compare
from llava_zh.comparison.judge import Judge
from llava_zh.comparison.result import Comparison

__all__ = ["Comparison", "Judge", "compare"]
