"""InternVL-SA-1B-Caption and llava-instruct-zh-600k in one line: typed, sharded, streamed."""

from typing import TYPE_CHECKING, Any

from .load import get_dataset_config_names, list_datasets, load_dataset, load_dataset_builder, register
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .comparison import compare
    from .curation import curate
    from .exporters import export
    from .images.decode import decode_image
    from .streams.scaled import decode_images
    from .streams.shuffle import mix, shuffled


__all__ = [
    "compare",
    "curate",
    "decode_image",
    "decode_images",
    "export",
    "get_dataset_config_names",
    "list_datasets",
    "load_dataset",
    "load_dataset_builder",
    "mix",
    "register",
    "shuffled",
]

# Imported when first used: what needs more than the standard library at import.
_LAZY = {
    "compare": "comparison",
    "curate": "curation",
    "decode_image": "images.decode",
    "decode_images": "streams.scaled",
    "export": "exporters",
    "mix": "streams.shuffle",
    "shuffled": "streams.shuffle",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
