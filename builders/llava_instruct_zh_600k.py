"""llava-instruct-zh-600k: Chinese conversations on images of the Chinese web, by Qwen2.5-VL-32B-Instruct."""

from llava_zh.catalog.facts import ConfigFacts, DatasetFacts
from llava_zh.streams.builder import PublishedBuilder

TASKS = {
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

FACTS = DatasetFacts(
    name="llava-instruct-zh-600k",
    title="llava-instruct-zh-600k",
    description=(
        "Chinese instruction data after LLaVA-Instruct-150K, synthesised by Qwen2.5-VL-32B-Instruct: daily dialogue "
        "(usually 5 rounds), complex reasoning and image description (1 round), each row on an image of its own."
    ),
    homepage="https://modelscope.cn/datasets/opencsg/llava-instruct-zh-600k",
    repos={"huggingface": "opencsg/llava-instruct-zh-600k", "modelscope": "opencsg/llava-instruct-zh-600k"},
    revisions={"huggingface": "main", "modelscope": "master"},
    licence="see the dataset's page",
    image_licence="images crawled from Chinese websites; see the dataset's page",
    citation="",
    configs=(
        ConfigFacts(name="default", rows=641_868, language="zh", description="All three tasks."),
        ConfigFacts(
            name="conversation",
            rows=247_431,
            language="zh",
            task="conversation",
            description="日常对话: daily dialogue.",
        ),
        ConfigFacts(
            name="complex_reasoning",
            rows=194_646,
            language="zh",
            task="complex_reasoning",
            description="复杂推理: complex reasoning.",
        ),
        ConfigFacts(
            name="detail", rows=199_791, language="zh", task="detail", description="描述图片: image description."
        ),
    ),
    default_config="default",
    tasks=TASKS,
)


class LlavaInstructZh600k(PublishedBuilder):
    """Which files hold the rows is found out from the file list and the columns."""

    FACTS = FACTS
