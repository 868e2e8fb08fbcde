"""Parts that hold their pictures: `options={"images": "inline"}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from llava_zh import decode_images, load_dataset
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument
from llava_zh.rows.formats import RowOptions

INLINE = {"images": "inline", "system": "S"}  # a system turn first: lists were once decoded by their first element


def load(demo: DemoPaths, **arguments: Any) -> Any:
    given = {"split": "train", "data_dir": demo.internvl, "row_format": "parts", "image_root": demo.sa1b, **arguments}
    return load_dataset("internvl-sa-1b-caption", "multi_zh", **given)


def as_templates_see(row: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Which turns have which parts, a picture being told by its key, as Qwen's templates do."""
    kinds = [["image" if "image" in part else part["text"] for part in turn["content"]] for turn in row["messages"]]
    return [(turn["role"], found) for turn, found in zip(row["messages"], kinds, strict=True)]


def pictures(row: dict[str, Any]) -> list[Any]:
    """What `transformers` collects (ProcessorMixin.apply_chat_template in processing_utils.py)."""
    keys = ("image", "url", "path", "base64")
    parts = [part for turn in row["messages"] for part in turn["content"] if part["type"] == "image"]
    return [part[key] for part in parts for key in keys if key in part]


def test_pictures_are_inside_their_parts_in_datasets_streams_and_caches(demo: DemoPaths, tmp_path: Path) -> None:
    plain = load(demo, options={"system": "S"})[1]
    prepared = load(demo, options=INLINE, cache_dir=tmp_path)
    again = load(demo, options=INLINE, cache_dir=tmp_path)
    stream = load(demo, options=INLINE, streaming=True)
    assert prepared._fingerprint == again._fingerprint and prepared.features == stream.features
    small = decode_images(stream, max_side=32)
    for row in (prepared[1], again[1], list(stream.take(2))[1], list(small.take(2))[1]):
        assert "images" not in row and len(plain["images"]) > 1
        kinds = [(t["role"], ["image" if p["type"] == "image" else p["text"] for p in t["content"]])
                 for t in plain["messages"]]  # fmt: skip
        assert as_templates_see(row) == kinds and kinds[0] == ("system", ["S"])
        found = pictures(row)
        assert all(isinstance(picture, Image.Image) for picture in found)
        if found[0].size == plain["images"][0].size:
            assert [p.tobytes() for p in found] == [p.tobytes() for p in plain["images"]]
        else:
            assert [max(picture.size) for picture in found] == [32] * len(plain["images"])
    undecoded = next(iter(load(demo, options=INLINE, streaming=True, image_root=None)))
    assert all(picture["path"].startswith("sa1b://") and picture["bytes"] is None for picture in pictures(undecoded))


def test_the_option_is_for_parts_alone_and_changes_no_identity_unless_it_is_set(demo: DemoPaths) -> None:
    with pytest.raises(BadArgument, match="images='inline' puts pictures into the parts of row_format='parts'"):
        load(demo, options=INLINE, row_format="messages")
    with pytest.raises(BadArgument, match="images: expected 'inline' or None, found 'outside'"):
        RowOptions(images="outside")
    assert RowOptions(system="S").identity == "RowOptions(system='S', image_place=None, sizes=None)"
    assert "images='inline'" in RowOptions(images="inline").identity


def test_rows_are_kept_with_the_bytes_of_their_pictures_and_found_again(demo: DemoPaths, tmp_path: Path) -> None:
    rows = load(demo, options=INLINE)
    rows.save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "rows.parquet")
    saved = datasets.load_from_disk(str(tmp_path / "saved"))
    again = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    assert rows.features == saved.features == again.features
    # As push_to_hub does before it writes (arrow_dataset.py, _push_parquet_shards_to_hub).
    embedded = rows.with_format("arrow").map(datasets.table.embed_table_storage, batched=True).with_format(None)
    for kept in (saved, again, embedded):
        assert as_templates_see(kept[1]) == as_templates_see(rows[1])
        assert [p.tobytes() for p in pictures(kept[1])] == [p.tobytes() for p in pictures(rows[1])]
    messages = embedded.with_format("arrow")[:]["messages"].to_pylist()
    stored = [part["image"] for turns in messages for turn in turns for part in turn["content"] if part["image"]]
    assert stored and all(image["bytes"] for image in stored)
