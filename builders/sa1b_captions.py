"""Any captions of SA-1B's images: LLaVA's conversations, or a column with the caption."""

from llava_zh.catalog.facts import ConfigFacts, DatasetFacts
from llava_zh.streams.builder import PublishedBuilder

FACTS = DatasetFacts(
    name="sa1b-captions",
    title="Captions of SA-1B",
    description=(
        "Rows of your own, or of any repository, whose images are SA-1B's, named as in sa_000000/sa_1.jpg, by the file "
        "alone or by a URL that ends in it: JSON Lines, a JSON array, Parquet or WebDataset. Name them by data_dir= or "
        "data_files=, which also take 'hf:owner/name' and 'modelscope:owner/name'."
    ),
    licence="that of the files",
    image_licence="SA-1B research licence (the captions' licence does not cover the images)",
    configs=(
        ConfigFacts(name="default", description="One image a row."),
        ConfigFacts(name="en", language="en", prompt="caption_en", description="One image a row, text in English."),
        ConfigFacts(name="zh", language="zh", prompt="caption_zh", description="One image a row, text in Chinese."),
        ConfigFacts(name="multi", images="many", prompt="original", description="One image or several a row."),
    ),
    default_config="default",
    images="sa1b",
    sizes=True,
    columns={
        "image": ("image", "image_path", "url", "opensource_url", "image_id", "file_name"),
        "caption": ("caption", "global_caption", "cap_seg.global_caption", "text", "txt"),
        "question": ("question",),
        "answer": ("answer",),
    },
)


class Sa1bCaptions(PublishedBuilder):
    """Which files hold the rows is found out from the file list and the columns."""

    FACTS = FACTS
