"""One file a dataset: what is published where, and what its rows are. Installed as ``llava_zh.builders``."""
