"""Any files in a form that trainers read: LLaVA's conversations, ``messages``, or one question and its answer."""

from llava_zh.catalog.facts import ConfigFacts, DatasetFacts
from llava_zh.catalog.tasks import TASKS
from llava_zh.streams.builder import PublishedBuilder

FACTS = DatasetFacts(
    name="llava",
    title="Files in LLaVA's form",
    description=(
        "Rows of your own, or of any repository: JSON Lines, a JSON array, Parquet or WebDataset, with an image (a "
        "path or the picture itself) and a conversation; rows of text alone may be among them. Name them by data_dir= "
        "or data_files=, which also take 'hf:owner/name' and 'modelscope:owner/name'."
    ),
    licence="that of the files",
    image_licence="that of the files",
    configs=(
        ConfigFacts(name="default", prompt="original", text_only=True, description="One image a row."),
        ConfigFacts(
            name="en", language="en", prompt="original", text_only=True, description="One image a row, text in English."
        ),
        ConfigFacts(
            name="zh", language="zh", prompt="original", text_only=True, description="One image a row, text in Chinese."
        ),
        ConfigFacts(
            name="multi", images="many", prompt="original", text_only=True, description="One image or several a row."
        ),
    ),
    default_config="default",
    image_folders=("images", "train2017"),
    columns={
        "image": ("image_bytes",),
        "caption": ("caption", "caption_zh", "caption_cn", "caption_en"),
        "question": ("question",),
        "answer": ("answer",),
    },
    tasks=TASKS,
)


class Llava(PublishedBuilder):
    """Which files hold the rows is found out from the file list and the columns."""

    FACTS = FACTS
