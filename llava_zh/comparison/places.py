"""Where the pictures of compared rows are: found by the dataset that they are of, as loading finds them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from llava_zh.catalog import registry
from llava_zh.catalog.request import Request
from llava_zh.errors import BadArgument, ImageNotFound, UnknownName
from llava_zh.images.names import Base
from llava_zh.images.prefixed import PrefixedImages
from llava_zh.images.written_paths import around
from llava_zh.load import builder_of
from llava_zh.regenerate.finished import FinishedRun
from llava_zh.sa1b.urls import SA_NAME


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
        dataset, config = self._dataset(pairs[0])
        root = self.image_root
        if root is None and self.run is not None and (self.run.folder / "images").is_dir():
            root = str(self.run.folder.absolute())  # pictures that were given as such are kept there
        with tempfile.TemporaryDirectory(prefix="llava-zh-compare-") as folder:
            path = Path(folder) / "rows.jsonl"
            path.write_bytes(b"".join(msgspec.json.encode(_row(names)) + b"\n" for names in pairs))
            request = Request.of(dataset, config, {"data_files": [os.fspath(path)], "image_root": root}, "compare")
            return builder_of(request).config.images

    def _dataset(self, first: Sequence[str]) -> tuple[str, str | None]:
        if self.run is not None and self.run.dataset not in (None, "rows"):
            try:
                registry.find(str(self.run.dataset))
                return str(self.run.dataset), self.run.config
            except UnknownName:
                pass  # registered by the process that made the run
        return ("sa1b-captions" if SA_NAME.fullmatch(first[0].rpartition("/")[2]) else "llava"), None

    def _unknown(self, first: str) -> str:
        return (
            f"A judge looks at the pictures, and it is not known where they are (the first is {first}). Pass "
            f"image_root={self._as_made()}."
        )

    def _as_made(self) -> str:
        asked = self.run.manifest.get("asked") if self.run is not None else None
        root = asked.get("image_root") if isinstance(asked, dict) else None
        return f"; the run was made with {root!r}" if root else ""


def _row(names: Sequence[str]) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>" * len(names)}, {"from": "gpt", "value": "-"}]
    return {"image": names[0] if len(names) == 1 else list(names), "conversations": turns}
