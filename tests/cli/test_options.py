"""The commands hand on every option that they have, under the name of the argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from llava_zh import curate, export
from llava_zh.catalog.request import Request, declared
from llava_zh.cli import build_parser
from llava_zh.cli.options import load_keywords, own_keywords
from llava_zh.regenerate import regenerate

NAMES = ["internvl-sa-1b-caption", "single_zh"]


@pytest.mark.parametrize(
    ("function", "typed", "by_other_options"),
    [
        # --system and --image-place give `options`; headers of requests are of Python alone, as in datasets
        (export, ["export", *NAMES, "out", "--to", "jsonl"], {"options", "storage_options"}),
        (curate, ["curate", *NAMES, "--output-dir", "out"], set()),
        # the key is in an environment variable, and the progress is quiet where nobody watches
        (regenerate, ["regenerate", *NAMES, "--output-dir", "out", "--model", "m"], {"api_key", "progress"}),
    ],
)
def test_a_command_gives_every_argument_of_its_function(
    function: Callable[..., Any], typed: list[str], by_other_options: set[str]
) -> None:
    args = build_parser().parse_args(typed)
    parameters = inspect.signature(function).parameters
    named = {name for name, each in parameters.items() if each.kind is not inspect.Parameter.VAR_KEYWORD}
    loading = {name for name, about in declared(Request).items() if about.option is not None}
    left = named - set(own_keywords(function, args)) - loading - {"path", "path_or_rows", "name", "token"}
    assert left == by_other_options
    assert load_keywords(args) == {}
    defaults = {name: parameters[name].default for name in own_keywords(function, args)}
    given = {name: value for name, value in own_keywords(function, args).items() if value is not None}
    assert {name for name, value in given.items() if value != defaults[name]} <= {"output_dir", "to", "model"}


@pytest.mark.parametrize(
    ("typed", "unheeded"),
    [
        (["export", *NAMES, "out", "--to", "jsonl"], "--chunk-size 1kB"),
        (["export", *NAMES, "out", "--to", "jsonl"], "--on-missing-image null"),
        (["regenerate", *NAMES, "--output-dir", "out", "--model", "m"], "--row-format parts"),
        (["curate", *NAMES, "--output-dir", "out"], "--row-format parts"),
    ],
)
def test_a_command_offers_nothing_that_it_would_not_heed(typed: list[str], unheeded: str) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([*typed, *unheeded.split()])


def test_the_languages_of_an_export_are_those_that_its_dataset_has() -> None:
    assert build_parser().parse_args(["export", "own", "out", "--to", "jsonl", "--language", "fr"]).language == "fr"


def test_every_option_of_loading_reaches_the_request() -> None:
    typed = {
        "data_dir": "/d", "data_files": "a b", "source": "modelscope", "revision": "main", "image_root": "/r",
        "row_format": "parts", "on_bad_row": "skip", "on_missing_image": "null", "archives": "0-1,sa_000003",
        "bad_images": "bad.txt", "num_shards": "4",
    }  # fmt: skip
    line = [word for name, value in typed.items() for word in ("--" + name.replace("_", "-"), *value.split())]
    given = load_keywords(build_parser().parse_args(["show", *NAMES, *line]))
    assert given.keys() == typed.keys()
    assert given["archives"] == [0, 1, "sa_000003"]
    assert Request(path=NAMES[0], **given).given() == typed.keys()
    assert {name for name, about in declared(Request).items() if about.option} - typed.keys() == {"chunk_size"}
