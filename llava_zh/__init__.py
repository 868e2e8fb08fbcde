"""InternVL-SA-1B-Caption and llava-instruct-zh-600k in one line: typed, sharded, streamed."""

from .load import get_dataset_config_names, list_datasets, load_dataset, load_dataset_builder

__version__ = "0.1.0"
__all__ = ["get_dataset_config_names", "list_datasets", "load_dataset", "load_dataset_builder"]
