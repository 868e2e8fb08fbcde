"""Parts of a turn that hold their pictures, as `processor.apply_chat_template` takes them.

Arrow has one type for all parts, so that a text part has a null picture there. It must not come out of a row: Qwen's
chat templates take any part with the key ``image`` for a picture (``'image' in content``), and `datasets` before 5
decodes a list only if its first element changes by it. So a part is a feature of its own, which leaves out what a part
does not have: ``{"type": "text", "text": …}`` and ``{"type": "image", "image": <picture>}``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from datasets import Image

_STORED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass
class InlinePart:
    """A feature as `datasets` has them (features/features.py, FeatureType) for one part of a turn.

    `datasets` knows it wherever this library is imported; what reads its files elsewhere sees the Arrow struct.

    Args:
        pictures: Whether a picture comes decoded, or as ``{"bytes", "path"}``.
    """

    pictures: bool = True
    id: str | None = field(default=None, repr=False)
    decode: ClassVar[bool] = True  # even where pictures are not: a part leaves out what it does not have
    dtype: ClassVar[str] = "dict"
    pa_type: ClassVar[Any] = pa.struct([("type", pa.string()), ("text", pa.string()), ("image", _STORED)])
    _type: str = field(default="InlinePart", init=False, repr=False)

    def __call__(self) -> Any:
        return self.pa_type

    @property
    def image(self) -> Image:
        """The feature of the picture."""
        from datasets import Image

        return Image(decode=self.pictures)

    def encode_example(self, value: Any) -> dict[str, Any]:
        """A part as it is stored."""
        picture = value.get("image")
        stored = None if picture is None else self.image.encode_example(picture)
        return {"type": value["type"], "text": value.get("text"), "image": stored}

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> dict[str, Any]:
        """A stored part with what its kind has alone."""
        if value["type"] != "image":
            return {"type": value["type"], "text": value["text"]}
        picture = value.get("image")
        if self.pictures and picture is not None:
            picture = self.image.decode_example(picture, token_per_repo_id=token_per_repo_id)
        return {"type": "image", "image": picture}

    def cast_storage(self, storage: Any) -> Any:
        """Stored parts, of the type that they have here."""
        if storage.type == self.pa_type or not pa.types.is_struct(storage.type):
            return storage.cast(self.pa_type)
        # Field by field, as rows of Python may have them in any order, and older Arrow casts them in theirs alone.
        there = {field.name for field in storage.type}
        type_, text, image = (
            storage.field(name) if name in there else pa.nulls(len(storage)) for name in ("type", "text", "image")
        )
        columns = [type_.cast(pa.string()), text.cast(pa.string()), self.image.cast_storage(image)]
        return pa.StructArray.from_arrays(columns, fields=list(self.pa_type), mask=storage.is_null())

    def embed_storage(self, storage: Any, *arguments: Any, **options: Any) -> Any:
        """Stored parts with the bytes of their pictures; what else is asked for differs between versions."""
        from datasets import Image

        embedded = Image().embed_storage(storage.field("image"), *arguments, **options)
        columns = [storage.field("type"), storage.field("text"), embedded]
        return pa.StructArray.from_arrays(columns, fields=list(self.pa_type), mask=storage.is_null())


@functools.cache
def register() -> None:
    """Make the feature known to `datasets` by its name, which stands in caches."""
    from datasets.features import features

    features._FEATURE_TYPES.setdefault("InlinePart", InlinePart)


def with_pictures(turns: pa.Array, stored: pa.Array) -> pa.Array:
    """Turns of parts whose image parts hold the `stored` images, which are as many, in their order."""
    messages = turns.flatten()
    content = messages.field("content")
    parts = content.flatten()
    pictures = pc.equal(parts.field("type"), "image").to_numpy(zero_copy_only=False)
    which = pa.array(np.cumsum(pictures) - 1, mask=~pictures)
    filled = pa.StructArray.from_arrays(
        [parts.field("type"), parts.field("text"), stored.take(which)], fields=list(InlinePart.pa_type)
    )
    contents = pa.ListArray.from_arrays(content.offsets, filled)
    both = pa.StructArray.from_arrays([messages.field("role"), contents], ["role", "content"])
    return pa.ListArray.from_arrays(turns.offsets, both)
