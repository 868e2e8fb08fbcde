"""Names that arguments may have, for editors and type checkers, and the keywords that the overloads of loading share.

They say nothing at run time: :class:`llava_zh.catalog.request.Request` checks what is given. ``tests/test_types.py``
holds both to each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import datasets

    from ..rows.formats import RowOptions

Path = str | os.PathLike[str]

#: Names that are built in; any other text may be a registered dataset, an id on a hub, or a path.
DatasetName = Literal[
    "internvl-sa-1b-caption", "llava-instruct-zh-600k", "llava-instruct-150k", "llava", "sa1b-captions"
]
#: Configurations of the built-in datasets; registered ones have others.
ConfigName = Literal[
    "single_en", "single_zh", "multi_en", "multi_zh",
    "default", "conversation", "complex_reasoning", "detail", "en", "zh", "multi",
]  # fmt: skip
RowFormat = Literal["llava", "sharegpt", "messages", "parts"]
OnBadRow = Literal["raise", "skip"]
OnMissingImage = Literal["raise", "skip", "null"]
SourceName = Literal["huggingface", "modelscope"]
DownloadModeName = Literal["reuse_dataset_if_exists", "reuse_cache_if_exists", "force_redownload"]
VerificationModeName = Literal["all_checks", "basic_checks", "no_checks"]
#: Where images are: a place, several of SA-1B, or either by how paths begin.
ImageRoot = Path | Sequence[Path] | Mapping[str, Path | Sequence[Path]]
DataFiles = Path | Iterable[Path] | Mapping[str, Path | Iterable[Path]]


class LoadOptions(TypedDict, total=False):
    """The keywords of :func:`llava_zh.load_dataset` on which the type of what it returns does not depend."""

    num_proc: int | None
    cache_dir: Path | None
    revision: str | None
    token: bool | str | None
    source: SourceName | None
    image_root: ImageRoot | None
    row_format: RowFormat
    options: RowOptions | Mapping[str, Any] | None
    archives: Iterable[int | str] | Literal["available"] | None
    bad_images: Path | Iterable[Any] | None
    on_bad_row: OnBadRow
    on_missing_image: OnMissingImage
    chunk_size: int | str
    num_shards: int | None
    keep_in_memory: bool | None
    download_mode: datasets.DownloadMode | DownloadModeName | None
    verification_mode: datasets.VerificationMode | VerificationModeName | None
    features: datasets.Features | None
    download_config: datasets.DownloadConfig | None
    storage_options: Mapping[str, Any] | None
    trust_remote_code: bool | None
