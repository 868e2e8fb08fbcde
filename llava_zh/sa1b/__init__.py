"""SA-1B as a read-only fsspec filesystem: any image of any layout, straight out of its archive.

An image is ``sa1b://sa_000000/sa_1.jpg`` whatever lies on disk. The filesystem itself is
:class:`llava_zh.sa1b.filesystem.Sa1bFileSystem`, which fsspec imports by itself when it meets such a URL.
"""

from llava_zh.sa1b.urls import archive_names, image_url, search_path, url_suffix

__all__ = ["archive_names", "image_url", "search_path", "url_suffix"]
