"""llava-instruct-zh-600k: Chinese conversations on images of the Chinese web, by Qwen2.5-VL-32B-Instruct."""

from llava_zh.catalog.facts import ConfigFacts, DatasetFacts
from llava_zh.catalog.prompts import TASK_ROWS
from llava_zh.catalog.tasks import TASKS
from llava_zh.streams.builder import PublishedBuilder

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
        ConfigFacts(name="default", rows=641_868, language="zh", description="All three tasks.", prompt="llava"),
        ConfigFacts(
            name="conversation",
            rows=TASK_ROWS["conversation"],
            language="zh",
            task="conversation",
            prompt="llava",
            description="日常对话: daily dialogue.",
        ),
        ConfigFacts(
            name="complex_reasoning",
            rows=TASK_ROWS["complex_reasoning"],
            language="zh",
            task="complex_reasoning",
            prompt="llava",
            description="复杂推理: complex reasoning.",
        ),
        ConfigFacts(
            name="detail",
            rows=TASK_ROWS["detail"],
            language="zh",
            task="detail",
            prompt="llava",
            description="描述图片: image description.",
        ),
    ),
    default_config="default",
    tasks=TASKS,
)


class LlavaInstructZh600k(PublishedBuilder):
    """Which files hold the rows is found out from the file list and the columns."""

    FACTS = FACTS
