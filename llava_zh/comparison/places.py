"""Where the pictures of compared rows are: found by the dataset that they are of, as loading finds them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from llava_zh.catalog import paths, registry
from llava_zh.catalog.request import Request
from llava_zh.errors import BadArgument, ImageNotFound, UnknownName
from llava_zh.images.names import Base
from llava_zh.images.prefixed import PrefixedImages
from llava_zh.images.written_paths import around
from llava_zh.load import builder_for, builder_of
from llava_zh.regenerate.finished import FinishedRun
from llava_zh.rows.records import MARK
from llava_zh.storage.durable import explained
from llava_zh.storage.lines import write_lines


@dataclass(frozen=True)
class Located:
    """What opens the images of each pair, what was put before their published paths, and how many are not there."""

    images: list[list[str]]
    base: Base
    missing: int


@dataclass(frozen=True)
class Places:
    """Where to look for pictures: the run that they belong to, if any, and what the caller says."""

    run: FinishedRun | None
    image_root: Any = None

    def located(self, pairs: Sequence[Sequence[str]]) -> Located:
        """The images of pairs, given by their published names.

        Raises:
            BadArgument: No place of pictures is known, or a pair names none.
            ImageNotFound: None of the pictures is where it was looked for.
        """
        if not pairs or not all(name for names in pairs for name in names):
            raise BadArgument("A judge looks at pictures, and the rows name none: they need their images' paths.")
        places = self._images(pairs)
        if not places.decode:
            raise BadArgument(self._unknown(pairs[0][0]))
        names = pa.array([name for names in pairs for name in names], pa.string())
        there = places.present(names)
        if not there.any():
            raise ImageNotFound(
                f"None of the {len(there):,} pictures is there, the first is {pairs[0][0]}. Check image_root"
                f"{self._as_made()}."
            )
        urls = iter(places.urls(names).to_pylist())
        base = around(places) if isinstance(places, PrefixedImages) else getattr(places, "base", "")
        return Located([[next(urls) for _ in names] for names in pairs], base, int((~there).sum()))

    def _images(self, pairs: Sequence[Sequence[str]]) -> Any:
        """The dataset's own way to its pictures, which looks at rows to know it: it is given these."""
        root = self.image_root
        if root is None and self.run is not None and (self.run.folder / "images").is_dir():
            root = str(self.run.folder.absolute())  # pictures that were given as such are kept there
        with explained(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="llava-zh-compare-") as folder:
            path = Path(folder) / "rows.jsonl"
            write_lines(path, (msgspec.json.encode(_row(names)) + b"\n" for names in pairs))
            if self.run is not None and (dataset := _known(self.run)) is not None:
                asked = {"data_files": [os.fspath(path)], "image_root": root}
                return builder_of(Request.of(dataset, self.run.config, asked, "compare")).config.images
            facts, request = paths.placed(Request.of(path, None, {"image_root": root}, "compare"))
            # A path is known by its first rows; here all names are at hand.
            images = paths.places_of(name for names in pairs for name in names)
            if not isinstance(images, str):  # of a mapping "" is the folder of all that are not SA-1B's
                images = {start: place for start, place in images.items() if place == "sa1b"} | {"": "own"}
            return builder_for(replace(facts, images=images), request).config.images

    def _unknown(self, first: str) -> str:
        return (
            f"A judge looks at the pictures, and it is not known where they are (the first is {first}). Pass "
            f"image_root={self._as_made()}."
        )

    def _as_made(self) -> str:
        asked = self.run.manifest.get("asked") if self.run is not None else None
        root = asked.get("image_root") if isinstance(asked, dict) else None
        return f"; the run was made with {root!r}" if root else ""


def _known(run: FinishedRun) -> str | None:
    """The dataset of a run, if it is registered here."""
    if run.dataset is None or run.dataset == "rows":
        return None
    try:
        registry.find(run.dataset)
    except UnknownName:  # it was a path, or registered by the process that made the run
        return None
    return run.dataset


def _row(names: Sequence[str]) -> dict[str, Any]:
    turns = [{"from": "human", "value": MARK * len(names)}, {"from": "gpt", "value": "-"}]
    return {"image": names[0] if len(names) == 1 else list(names), "conversations": turns}
