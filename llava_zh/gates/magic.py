"""How files begin: the one table of what bytes are that are not what was expected."""

from __future__ import annotations

GZIP = b"\x1f\x8b"
ZIP = b"PK\x03\x04"
JPEG, JPEG_END = b"\xff\xd8", b"\xff\xd9"
BOM = b"\xef\xbb\xbf"  # of UTF-8

# What files are, by their first bytes to the letter.
_BINARY = (
    (GZIP, "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\0", "xz data"),
    (ZIP, "a zip archive"),
    (b"PAR1", "a Parquet file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"\xff\xfe\0\0", "text in UTF-32"),
    (b"\0\0\xfe\xff", "text in UTF-32"),
    (b"\xff\xfe", "text in UTF-16 (as PowerShell's > writes it)"),
    (b"\xfe\xff", "text in UTF-16"),
)
# The same for text, in lower case and without a byte order mark and spaces before it.
_TEXT = (
    (b"<!doctype svg", "an SVG drawing"),
    (b"<!doctype", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<head", "an HTML page"),
    (b"<body", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"%!ps", "an EPS or PostScript file"),
    (b"%pdf", "a PDF"),
)
_BEFORE_TEXT = b"\xef\xbb\xbf \t\r\n"


def begins_as(head: bytes) -> str:
    """What a file is that begins with `head`, with its article (``"a zip archive"``); "" where that is not known."""
    text = head.lstrip(_BEFORE_TEXT)[:64].lower()
    found = next((what for start, what in _BINARY if head.startswith(start)), "")
    return found or next((what for start, what in _TEXT if text.startswith(start)), "")
