"""One request: it checks itself, names its identity, and is all that a call hands on."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import llava_zh
from llava_zh.catalog import registry
from llava_zh.catalog.facts import ConfigFacts, DatasetFacts
from llava_zh.catalog.request import About, Decides, Request, declared
from llava_zh.curation import curate
from llava_zh.demo import DemoPaths
from llava_zh.errors import BadArgument, LlavaZhError, RunConflict, UnknownArgument, UnknownName
from llava_zh.exporters import export
from llava_zh.files.data_files import DataFile
from llava_zh.images.locations import EmbeddedImages, Images, Sa1bImages, UnresolvedImages
from llava_zh.load import dataset_facts
from llava_zh.regenerate import regenerate
from llava_zh.regenerate.plan import Selection
from llava_zh.regenerate.source import open_source
from llava_zh.streams.builder import PublishedConfig

CAPTIONS, LLAVA = "internvl-sa-1b-caption", "llava-instruct-zh-600k"
PLANNED = Selection.__struct_fields__
FILE = DataFile("x.jsonl", 11, "huggingface", None, "OpenGVLab/X", "a" * 40)

# What version 0.1 called the folders of prepared datasets, taken from its own code.
GOLDEN: list[tuple[Images, dict[str, Any], str]] = [
    (Sa1bImages(("/sa1b",)), {}, "single_en-18c38f8459bed8a4"),
    (Sa1bImages(None), {}, "single_en-f80e5025f346b786"),
    (
        UnresolvedImages(),
        {"row_format": "messages", "options": {"system": "你好", "image_place": "front"}},
        "single_en-a8969b80b927a17d",
    ),
    (
        Sa1bImages(("/sa1b",)),
        {"archives": [3, 0], "bad_images": ["sa_2.jpg", "sa_1.jpg"], "on_bad_row": "skip", "chunk_size": 8},
        "single_en-0af4609fec771f02",
    ),
    (
        EmbeddedImages(),
        {"archives": "available", "on_missing_image": "null", "num_shards": 3},
        "single_en-0d6bca960f4f56e4",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Later(Request):
    """Fields of a later version: one says nothing of itself, one chooses rows, one decides none."""

    voice: str = "plain"
    rows: frozenset[str] = field(default=frozenset(), metadata={"about": About(Decides.CHOICE)})
    pace: int = field(default=1, metadata={"about": About(Decides.CUTS)})


def settled(**arguments: Any) -> Request:
    return Request(path=CAPTIONS, **arguments).settled(dataset_facts(CAPTIONS))


def identity(request: Request) -> list[str]:
    return request.settled(dataset_facts(CAPTIONS)).identity([FILE], EmbeddedImages())


@pytest.mark.parametrize(("images", "arguments", "name"), GOLDEN)
def test_a_dataset_that_an_earlier_version_prepared_is_found_again(
    images: Images, arguments: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SA1B_ROOT", raising=False)
    config = PublishedConfig(name="single_en", files=(FILE,), images=images, request=settled(**arguments))
    assert config.create_config_id({}) == name


def test_limits_by_which_bad_rows_are_left_out_are_part_of_the_identity_and_their_defaults_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skipping, raising = Request(path=CAPTIONS, on_bad_row="skip"), Request(path=CAPTIONS)
    before = identity(skipping), identity(raising)
    monkeypatch.setenv("LLAVA_ZH_MAX_LINE_BYTES", "64MiB")
    assert identity(skipping) == before[0]
    monkeypatch.setenv("LLAVA_ZH_MAX_LINE_BYTES", "2000")
    assert identity(skipping) == [*before[0], "LLAVA_ZH_MAX_LINE_BYTES=2000"]
    assert identity(raising) == before[1]


def test_a_field_that_is_added_changes_the_identity_wherever_it_is_set_and_nowhere_else() -> None:
    plain = Later(path=CAPTIONS)
    assert identity(plain) == identity(Request(path=CAPTIONS))
    assert plain.for_export() == Request(path=CAPTIONS).for_export()
    for changed in ({"voice": "loud"}, {"rows": frozenset("a")}):
        other = Later(path=CAPTIONS, **changed)
        assert identity(other) != identity(plain)
        assert other.for_export() != plain.for_export()
        assert other.for_run(PLANNED) != plain.for_run(PLANNED)
        assert other.selection()
    cut = Later(path=CAPTIONS, pace=2)
    assert identity(cut) == identity(plain)
    assert cut.for_export() == plain.for_export()
    assert cut.for_run(PLANNED) != plain.for_run(PLANNED)


# A value beside the default of every field, and whether it tells apart what comes out. Files and images tell for
# themselves; a run's plan knows what it chooses.
OTHER: dict[str, tuple[Any, bool, bool]] = {
    "path": (LLAVA, False, False),
    "name": ("single_zh", False, False),
    "data_dir": ("/data", False, False),
    "data_files": (["a.jsonl"], False, False),
    "source": ("modelscope", False, False),
    "revision": ("main", False, False),
    "token": ("hf_secret", False, False),
    "storage_options": ({"key": "hf_secret"}, False, False),
    "image_root": ("/sa1b", False, False),
    "row_format": ("messages", True, False),
    "options": ({"system": "x"}, True, False),
    "on_bad_row": ("skip", True, True),
    "on_missing_image": ("skip", True, False),
    "archives": ([1], True, False),
    "bad_images": (["sa_1.jpg"], True, False),
    "chunk_size": ("1MB", False, True),
    "num_shards": (4, False, True),
}


@pytest.mark.parametrize("name", declared(Request))
def test_each_field_decides_what_it_says_and_comes_back_from_a_manifest(name: str) -> None:
    value, rows, places = OTHER[name]
    plain, other = Request(path=CAPTIONS), Request(**({"path": CAPTIONS} | {name: value}))
    assert (identity(other) != identity(plain)) is rows
    assert (other.for_export() != plain.for_export()) is rows
    assert (other.for_run(PLANNED) != plain.for_run(PLANNED)) is places
    written = json.loads(json.dumps(other.to_dict()))
    if name in ("token", "storage_options"):
        assert "hf_secret" not in repr(other) + json.dumps(written)
        assert getattr(other.settled(dataset_facts(CAPTIONS)), name) is None
    else:
        assert Request.from_dict(written) == other
    assert pickle.loads(pickle.dumps(other)) == other


@pytest.mark.parametrize(
    ("function", "without"),
    [
        (llava_zh.load_dataset, set()),
        (llava_zh.load_dataset_builder, set()),
        (export, {"chunk_size"}),
    ],
)
def test_the_public_functions_take_every_field_with_its_default(
    function: Callable[..., Any], without: set[str]
) -> None:
    parameters = inspect.signature(function).parameters
    assert set(declared(Request)) - set(parameters) == without
    defaults = {name: parameter.default for name, parameter in parameters.items() if name in declared(Request)}
    assert defaults.pop("path") is inspect.Parameter.empty
    if function is export:
        assert defaults.pop("row_format") is None  # as the target reads it
    assert Request(path="x", **defaults) == Request(path="x")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"row_format": "sharegtp"}, UnknownName, "Unknown row format 'sharegtp'. Did you mean 'sharegpt'?"),
        ({"source": "hugingface"}, UnknownName, "Unknown source 'hugingface'. Did you mean 'huggingface'?"),
        ({"on_bad_row": "drop"}, UnknownName, "Unknown on_bad_row 'drop'."),
        ({"on_missing_image": "nul"}, UnknownName, "Unknown on_missing_image 'nul'. Did you mean 'null'?"),
        ({"archives": []}, BadArgument, "archives: an empty list chooses no row."),
        ({"chunk_size": "0MB"}, BadArgument, "chunk_size: '0MB' is no number of bytes"),
        ({"options": {"sytem": "x"}}, UnknownName, "Unknown row option 'sytem'. Did you mean 'system'?"),
    ],
)
def test_a_request_checks_itself(arguments: dict[str, Any], error: type[LlavaZhError], message: str) -> None:
    with pytest.raises(error) as caught:
        Request(path=CAPTIONS, **arguments)
    assert str(caught.value).startswith(message)


def test_what_is_written_of_a_request_gives_no_access() -> None:
    roots = ["s3://me:hush@host/sa1b", "https://host/sa1b?sig=hush"]
    for root in (roots, ",".join(roots)):
        written = Request(
            path=CAPTIONS, image_root=root, data_files={"train": "https://me:hush@host/a.jsonl"}
        ).to_dict()
        assert "hush" not in json.dumps(written)
        assert "host/sa1b" in json.dumps(written)


def test_the_manifests_of_exports_and_runs_begun_before_say_the_same(demo: DemoPaths, tmp_path: Path) -> None:
    """What version 0.1 wrote, but for the identities of the files."""
    chosen: dict[str, Any] = {"archives": [1, 0], "bad_images": ["sa_1.jpg"], "on_bad_row": "skip"}
    chosen |= {"on_missing_image": "skip", "image_root": demo.sa1b, "data_dir": demo.internvl}
    dataset = {"dataset": CAPTIONS, "version": "1.0.0"}
    export(CAPTIONS, "single_zh", to="internvl", output_dir=tmp_path, images="files", limit=3, num_shards=1,
           options={"system": "x"}, **chosen)  # fmt: skip
    written = json.loads((tmp_path / ".export" / "request.json").read_text())
    assert written.pop("files")
    assert written == dataset | {
        "to": "internvl", "configs": ["single_zh"], "row_format": "sharegpt", "options": {"system": "x", "sizes": True},
        "images": "files", "max_side": None, "selection": {"limit": 3}, "archives": ["sa_000000", "sa_000001"],
        "bad_images": ["sa_1.jpg"], "on_bad_row": "skip", "on_missing_image": "skip", "on_bad_image": "raise",
        "num_shards": 1,
    }  # fmt: skip
    source = open_source(CAPTIONS, "single_zh", {"chunk_size": "1MB", "num_shards": 2, "token": "hush", **chosen})
    assert [set(file) for file in source.identity.pop("files")] == [{"name", "size", "revision"}]
    assert source.identity == dataset | {
        "config": "single_zh", "on_bad_row": "skip", "chunk_size": 1_000_000, "num_shards": 2,
    }  # fmt: skip
    again = Request.from_dict(json.loads(json.dumps(source.asked)))
    assert again.given() == {*chosen, "name", "chunk_size", "num_shards"}
    assert again.archives == {"sa_000000", "sa_000001"}


def test_manifests_tell_apart_how_the_files_of_a_registered_dataset_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]
    row = {"image": "a.jpg", "other": "a.jpg", "conversations": turns}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "a.jpg").write_bytes(b"")
    facts = DatasetFacts("own", configs=(ConfigFacts("plain", language="en"),), default_config="plain")
    llava_zh.register(facts)
    export("own", to="jsonl", output_dir=tmp_path / "out", data_dir=tmp_path)
    identity = open_source("own", None, {"data_dir": tmp_path}).identity
    for name in ("_registered", "_origins"):
        monkeypatch.setattr(registry, name, {})
    llava_zh.register(replace(facts, columns={"image": "other"}))
    assert open_source("own", None, {"data_dir": tmp_path}).identity["rules"] != identity["rules"]
    with pytest.raises(RunConflict, match="rules: "):
        export("own", to="jsonl", output_dir=tmp_path / "out", data_dir=tmp_path)


@pytest.mark.parametrize("function", [regenerate, curate])
def test_functions_that_hand_on_the_arguments_of_loading_have_none_of_them_themselves(
    function: Callable[..., Any], tmp_path: Path
) -> None:
    parameters = inspect.signature(function).parameters
    assert set(declared(Request)) & set(parameters) <= {"path", "name"}
    needed = {"model": "m", "base_url": "http://127.0.0.1:9/v1"} if function is regenerate else {}
    with pytest.raises(UnknownArgument, match="has no argument 'data_dri'. Did you mean 'data_dir'?"):
        function(CAPTIONS, "single_zh", output_dir=tmp_path / "out", data_dri=tmp_path, **needed)


def test_an_iterator_of_bad_images_serves_more_than_once() -> None:
    request = Request(path=CAPTIONS, bad_images=iter(["sa_000000/sa_1.jpg", "./b/c.jpg"]))
    assert request.settled(dataset_facts(CAPTIONS)).bad_images == {"sa_1.jpg", "b/c.jpg"}
    assert request.settled(dataset_facts(LLAVA)).bad_images == {"sa_000000/sa_1.jpg", "b/c.jpg"}


def test_a_selection_is_shown_in_the_words_of_the_arguments() -> None:
    assert settled(chunk_size=5, row_format="parts").selection() == ""
    shown = settled(archives=[3, 0], bad_images=["sa_1.jpg"], on_bad_row="skip").selection()
    assert shown == "on_bad_row='skip', archives=['sa_000000', 'sa_000003'], bad_images= of 1 entry"
    assert settled(archives=range(45)).selection() == "45 archives"
    assert settled(archives="available").selection() == "archives='available'"
