"""The tasks of instruction data after LLaVA, and the Chinese, English and LLaVA names they are published under."""

from __future__ import annotations

from collections.abc import Mapping

TASKS: Mapping[str, tuple[str, ...]] = {
    "conversation": (
        "日常对话",
        "对话",
        "daily dialogue",
        "daily conversation",
        "conversation",
        "dialogue",
        "dialog",
        "chat",
    ),
    "complex_reasoning": ("复杂推理", "推理", "complex reasoning", "complex_reasoning", "reasoning"),
    "detail": (
        "描述图片",
        "图片描述",
        "描述",
        "image captioning",
        "detailed description",
        "detail_23k",
        "detail",
        "caption",
    ),
}
