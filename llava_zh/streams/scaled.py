"""Datasets whose pictures are decoded at the size a model wants; see :mod:`llava_zh.images.decode`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import datasets
from datasets import Features, Image

from ..errors import BadArgument
from ..images.decode import check_size, decode_image
from ..rows.inline import InlinePart
from .insides import with_features

AnyDataset = TypeVar("AnyDataset")

# What this thread decoded last: `datasets` decodes the first image of every list twice, to see whether it changes.
_last = threading.local()


@dataclass
class ScaledImage(Image):  # type: ignore[misc]
    """`datasets.Image` that gives Pillow images of a limited size; arguments as for :func:`llava_zh.decode_image`.

    What is stored stays what `datasets.Image` stores, and a dataset written to disk names that type: read back, it has
    its pictures whole.
    """

    mode: str | None = "RGB"
    max_side: int | None = None
    max_pixels: int | None = None

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """The picture of one undecoded image; one that is decoded already is given back."""
        if not isinstance(value, Mapping | str):
            return value
        feature, last, image = getattr(_last, "decoded", (None, None, None))
        if feature is self and last is value:
            del _last.decoded
            return image
        image = decode_image(value, max_side=self.max_side, max_pixels=self.max_pixels, mode=self.mode or "RGB")
        _last.decoded = (self, value, image)
        return image


@dataclass
class ScaledPart(InlinePart):
    """A part of a turn whose picture is decoded as :class:`ScaledImage` does."""

    mode: str | None = "RGB"
    max_side: int | None = None
    max_pixels: int | None = None

    @property
    def image(self) -> Image:
        """The feature of the picture."""
        return ScaledImage(mode=self.mode, max_side=self.max_side, max_pixels=self.max_pixels)


def decode_images(
    dataset: AnyDataset,
    *,
    max_side: int | None = None,
    max_pixels: int | None = None,
    mode: str = "RGB",
) -> AnyDataset:
    """`dataset` with all its pictures decoded as :func:`llava_zh.decode_image` would, when a row is looked at.

    Args:
        dataset: A `Dataset` or `IterableDataset` with image columns (lists of images too), or a dict of them. Rows are
            not touched; shuffling, sharding and `state_dict` work as before. For arrays, go on with
            ``.with_format("numpy")`` or ``"torch"``.
        max_side, max_pixels, mode: As for :func:`llava_zh.decode_image`.

    Raises:
        BadArgument: The dataset has no image column or no features, or an argument cannot work.
    """
    check_size(max_side, max_pixels, mode)
    if isinstance(dataset, dict):
        return type(dataset)(
            {
                name: decode_images(split, max_side=max_side, max_pixels=max_pixels, mode=mode)
                for name, split in dataset.items()
            }
        )
    if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        raise BadArgument(f"Expected a Dataset or an IterableDataset, found {type(dataset).__name__}.")
    if dataset.features is None:
        raise BadArgument("The features of the dataset are not known; map() loses them unless it is given features=.")
    scaled = ScaledImage(mode=mode, max_side=max_side, max_pixels=max_pixels)
    features = Features({name: _replaced(feature, scaled) for name, feature in dataset.features.items()})
    if features == dataset.features:
        raise BadArgument(f"The dataset has no image column; its columns are {', '.join(dataset.features)}.")
    if isinstance(dataset, datasets.IterableDataset):
        return cast(AnyDataset, dataset.cast(features))
    return cast(AnyDataset, with_features(dataset, features))


def _replaced(feature: Any, image: ScaledImage) -> Any:
    """`feature` with every image in it replaced."""
    if isinstance(feature, Image):
        return image
    if isinstance(feature, InlinePart):
        return ScaledPart(mode=image.mode, max_side=image.max_side, max_pixels=image.max_pixels)
    if isinstance(feature, dict):
        return {name: _replaced(inner, image) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_replaced(feature[0], image)]
    if hasattr(feature, "feature"):  # List, LargeList, Sequence
        copy = type(feature)(_replaced(feature.feature, image))
        if hasattr(feature, "length"):
            copy.length = feature.length
        return copy
    return feature
