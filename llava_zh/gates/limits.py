"""How much of what comes from outside is believed before it is held against a bound.

Published data stays far below every one of these. Each can be raised by the environment variable that its error names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import BadArgument
from . import sizes


@dataclass(frozen=True)
class Limit:
    """A bound on what is read: `default` in `unit`, unless the environment variable `variable` says otherwise."""

    variable: str
    default: int
    unit: str
    what: str

    @property
    def value(self) -> int:
        """The bound in force.

        Raises:
            BadArgument: The environment variable holds no positive whole number; of bytes, no size either (``"1GB"``).
        """
        text = os.environ.get(self.variable)
        if not text:
            return self.default
        whole = text.isascii() and text.isdecimal() and len(text) < 19
        found = int(text) if whole else sizes.parse(text) if self.unit == "bytes" else None
        if not found:
            raise BadArgument(f"{self.variable} must be a number of {self.unit} above 0, not {text[:40]!r}.")
        return found

    def exceeded(self, found: int | None = None) -> str:
        """For a message: what is too large, by what bound, and how to raise it."""
        more = "more" if found is None else f"{found:,}"
        return (
            f"{self.what} may have {self.value:,} {self.unit}, this one has {more}. "
            f"If it is meant to be that large, set {self.variable}."
        )


LINE = Limit("LLAVA_ZH_MAX_LINE_BYTES", 64 << 20, "bytes", "a line or record")
DEPTH = Limit("LLAVA_ZH_MAX_DEPTH", 200, "levels", "nested JSON")
SAMPLE_IMAGES = Limit("LLAVA_ZH_MAX_SAMPLE_IMAGES", 1000, "images", "a row")
SAMPLE_BYTES = Limit("LLAVA_ZH_MAX_SAMPLE_BYTES", 1 << 30, "bytes", "a sample of a WebDataset")
# As many as Pillow opens without being told to; readers of an export would refuse a larger one.
PICTURE_PIXELS = Limit("LLAVA_ZH_MAX_PICTURE_PIXELS", 178_956_970, "pixels", "a picture")
ANSWER = Limit("LLAVA_ZH_MAX_ANSWER_BYTES", 4 << 20, "bytes", "a server's answer")
LIST = Limit("LLAVA_ZH_MAX_LIST_BYTES", 1 << 30, "bytes", "a list of links, sums or images")
LISTED_FILES = Limit("LLAVA_ZH_MAX_LISTED_FILES", 1_000_000, "files", "a hub's listing")
MEMBERS = Limit("LLAVA_ZH_MAX_MEMBERS", 20_000_000, "members", "an archive")
INDEX = Limit("LLAVA_ZH_MAX_INDEX_BYTES", 1 << 30, "bytes", "the index of an archive")

# Those by which a row or the rest of a file is left out, where that is asked for and no error.
_OF_ROWS = (LINE, DEPTH, SAMPLE_IMAGES, SAMPLE_BYTES, MEMBERS)


def changed() -> list[str]:
    """The limits on rows that are not by their default, as texts; whoever leaves out bad rows gets others by them."""
    return [f"{limit.variable}={limit.value}" for limit in _OF_ROWS if limit.value != limit.default]
