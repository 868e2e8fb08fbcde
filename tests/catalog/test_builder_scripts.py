"""Builders used as classes, and their files as scripts of `datasets`, which had them before 4.0."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from llava_zh.builders.internvl_sa1b_caption import InternvlSa1bCaption
from packaging.version import Version

from llava_zh import load_dataset, load_dataset_builder
from llava_zh.catalog import registry
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument, UnknownArgument

BUILDERS = Path(__file__).parent.parent.parent / "builders"
SCRIPT = str(BUILDERS / "internvl_sa1b_caption.py")


def test_a_builder_file_has_facts_only_and_is_short() -> None:
    for path in BUILDERS.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 100, path
        assert "def " not in text, path


def test_a_builder_built_directly_takes_the_arguments_of_load_dataset(demo: DemoPaths, tmp_path: Path) -> None:
    given = {"data_dir": str(demo.internvl), "image_root": str(demo.sa1b), "archives": [1]}
    builder = InternvlSa1bCaption(config_name="single_en", cache_dir=str(tmp_path), **given)
    same = load_dataset_builder("internvl-sa-1b-caption", "single_en", cache_dir=tmp_path, **given)
    assert builder.cache_dir == same.cache_dir
    first = next(iter(builder.as_streaming_dataset(split="train")))
    assert first["image"].size
    builder.download_and_prepare()
    assert builder.as_dataset(split="train")[0]["conversations"] == first["conversations"]
    with pytest.raises(BadArgument, match="needs the name of a configuration"):
        InternvlSa1bCaption(data_dir=str(demo.internvl))
    with pytest.raises(UnknownArgument, match="image_rot"):
        InternvlSa1bCaption(config_name="single_en", data_dir=str(demo.internvl), image_rot="x")


def test_a_built_in_builders_file_is_the_dataset_that_it_defines(demo: DemoPaths) -> None:
    assert registry.find(SCRIPT)[0] is registry.find("internvl-sa-1b-caption")[0]
    rows = load_dataset(SCRIPT, "single_en", split="train", streaming=True, data_dir=demo.internvl)
    assert len(list(rows)) == 80


@pytest.mark.skipif(Version(datasets.__version__) >= Version("4"), reason="datasets has no scripts from 4.0 on")
@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_loads_a_builders_file_as_a_script(demo: DemoPaths, streaming: bool, tmp_path: Path) -> None:
    rows = datasets.load_dataset(
        SCRIPT,
        "single_en",
        split="train",
        streaming=streaming,
        trust_remote_code=True,
        cache_dir=str(tmp_path),
        data_dir=str(demo.internvl),
        image_root=str(demo.sa1b),
    )
    assert next(iter(rows))["image"].size
    assert len(list(rows)) == 80
