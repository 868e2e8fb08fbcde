"""Images of one dataset in several places, told apart by how their published paths begin: ``sam/`` beside ``coco/``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..sa1b.published import NOWHERE, SCHEME, checked, mark, plain

if TYPE_CHECKING:
    from .locations import Held, Images, Present


def tidy(path: str) -> str:
    """`path` as its beginning is compared: without ``./`` and with ``/``; as it is where it can name no image."""
    return plain(path) or path


@dataclass(frozen=True)
class Part:
    """Images whose paths begin with `prefix` are in `images`, by what follows it if it is `cut`; None if not known."""

    prefix: str
    images: Images | None
    cut: bool = False

    def __post_init__(self) -> None:
        prefix = tidy(self.prefix)
        object.__setattr__(self, "prefix", prefix + "/" * (self.prefix[-1:] in ("/", "\\") and prefix[-1:] != "/"))


@dataclass(frozen=True)
class PrefixedImages:
    """Each image is where the first part says whose prefix its path has; one of no part is nowhere."""

    parts: tuple[Part, ...]

    @property
    def decode(self) -> bool:
        return any(images.decode for images in self.places())

    @property
    def identity(self) -> str:
        told = (f"{part.prefix}:{part.cut}:{part.images and part.images.identity}" for part in self.parts)
        return f"prefixed:{'|'.join(told)}"

    def places(self) -> Iterator[Images]:
        """The places that are known."""
        return (part.images for part in self.parts if part.images is not None)

    def of(self, path: str) -> tuple[Images | None, str]:
        """Where the image at `path` is, and its path there."""
        path = tidy(path)
        for part in self.parts:
            if path.startswith(part.prefix):
                return part.images, path[len(part.prefix) :] if part.cut else path
        return None, path

    def changed(self, change: Callable[[Images], Images]) -> PrefixedImages:
        """The same with each place as `change` makes it."""
        return PrefixedImages(tuple(p if p.images is None else replace(p, images=change(p.images)) for p in self.parts))

    def urls(self, paths: pa.Array) -> pa.Array:
        nowhere = [None if path is None else SCHEME + mark(path, NOWHERE) for path in paths.to_pylist()]
        found = pa.array(nowhere, pa.string())
        for where, images, theirs in self._split(paths):
            found = pc.replace_with_mask(found, where, images.urls(theirs).cast(pa.string()))
        return found

    def nowhere(self, paths: pa.Array) -> pa.Array:
        """Which of `paths` are of no place that is known."""
        left: Any = pc.is_valid(paths)
        for where, _, _ in self._split(paths):
            left = pc.and_(left, pc.invert(where))
        return left

    def present(self, paths: pa.Array) -> Present:
        found = np.zeros(len(paths), dtype=bool)
        for where, images, theirs in self._split(paths):
            found[where.to_numpy(zero_copy_only=False)] = images.present(theirs)
        return found

    def held(self) -> Held:
        held = [images.held() for images in self.places()]
        archives = [names for names, _ in held if names is not None]
        there = tuple(sorted({name for names in archives for name in names})) if archives else None
        return there, " ".join(text for _, text in held)

    def archive_of(self, paths: pa.Array, names: Sequence[str]) -> pa.Array:
        found = pa.nulls(len(paths), pa.string())
        for where, images, theirs in self._split(paths):
            found = pc.replace_with_mask(found, where, images.archive_of(theirs, names).cast(pa.string()))
        return found

    def contents(self) -> str:
        return "|".join(images.contents() for images in self.places())

    def _split(self, paths: pa.Array) -> Iterator[tuple[pa.Array, Images, pa.Array]]:
        """For each place that has any of `paths`: which, the place, and these paths there."""
        paths = paths.cast(pa.string())
        if checked(paths) is not paths:
            paths = pa.array([None if path is None else tidy(path) for path in paths.to_pylist()], pa.string())
        left: Any = pc.is_valid(paths)
        for part in self.parts:
            where = pc.and_(left, pc.fill_null(pc.starts_with(paths, part.prefix), False))
            left = pc.and_(left, pc.invert(where))
            if part.images is not None and pc.any(where).as_py():
                theirs = paths.filter(where)
                yield where, part.images, pc.utf8_slice_codeunits(theirs, len(part.prefix)) if part.cut else theirs
