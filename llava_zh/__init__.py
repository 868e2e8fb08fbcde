"""InternVL-SA-1B-Caption and llava-instruct-zh-600k in one line: typed, sharded, streamed.

The names below are the public ones. Those of :data:`_LATER` are imported when they are first used, so that
``import llava_zh`` stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .load import get_dataset_config_names, list_datasets, load_dataset, load_dataset_builder

if TYPE_CHECKING:
    from .curation import curate as curate
    from .decode import decode_image as decode_image
    from .decode import decode_images as decode_images

__version__ = "0.1.0"
# Public name → the module that has it.
_LATER = {
    "curate": "curation",
    "decode_image": "decode",
    "decode_images": "decode",
}
__all__ = ["get_dataset_config_names", "list_datasets", "load_dataset", "load_dataset_builder", *_LATER]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
