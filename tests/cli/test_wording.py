"""Errors on the command line speak of options, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_zh.cli import build_parser, main
from llava_zh.cli.wording import as_typed, options_of

ARGUMENTS = ("images", "retry_failed", "length", "overwrite", "data_dir", "max_side", "archives")
OPTIONS = {name: "--" + name.replace("_", "-") for name in ARGUMENTS}


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("Use images='files' to write them.", "Use --images files to write them."),
        ("images='url': a.jpg is in an archive", "--images url: a.jpg is in an archive"),
        ("retry_failed asks again", "--retry-failed asks again"),
        ("call it with retry_failed=True.", "call it with --retry-failed."),
        ("length: the lowest is above", "--length: the lowest is above"),
        ("its length is 3, of 4 images", "its length is 3, of 4 images"),
        ("load it with data_dir=.", "load it with --data-dir."),
        ("data_dir= and token=", "--data-dir and token="),
        ("max_side=0: expected at least 1.", "--max-side 0: expected at least 1."),
        ("Pass archives=[3], or archives=\"available\"", "Pass --archives [3], or --archives available"),
        ("load_dataset('x', 'y', data_dir='z') loads", "load_dataset('x', 'y', data_dir='z') loads"),
        ("/x/retry_failed/a 'retry_failed' data_dir.py", "/x/retry_failed/a 'retry_failed' data_dir.py"),
    ],
)  # fmt: skip
def test_arguments_become_options_and_other_words_stay(message: str, typed: str) -> None:
    assert as_typed(message, OPTIONS) == typed


def test_every_command_knows_its_options() -> None:
    parser = build_parser()
    args = parser.parse_args(["export", "x", "y", "--to", "parquet", "out"])
    assert options_of(parser, args.run)["on_missing_image"] == "--on-missing-image"
    args = parser.parse_args(["sa1b", "verify"])
    assert options_of(parser, args.run)["num_proc"] == "--num-proc"
    args = parser.parse_args(["curate", "x", "--output-dir", "y"])
    assert options_of(parser, args.run)["length_quantiles"] == "--length-quantiles"


def test_an_error_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "internvl-sa-1b-caption", "single_zh", "--data-dir", str(tmp_path), "--to", "parquet"]
    assert main([*command, "--max-side", "0", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "llava-zh: --max-side 0: expected at least 1.\n"


@pytest.mark.parametrize(
    "command",
    [
        ["curate", "rows.jsonl", "--output-dir", ""],
        ["show", "internvl-sa-1b-caption", "single_zh", "--data-dir", ""],
        ["sa1b", "verify", "--output-dir", "x", "--image-root", ""],
        ["curate", "rows.jsonl", "--output-dir", "x", "--leaks", "a", ""],
    ],
)
def test_an_empty_value_is_wrong_usage_and_no_current_folder(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert "is empty" in capsys.readouterr().err


def test_export_offers_only_what_it_takes_for_missing_images(capsys: pytest.CaptureFixture[str]) -> None:
    """A null picture can be loaded, and not written."""
    with pytest.raises(SystemExit):
        main(["export", "llava-instruct", "--to", "jsonl", "out", "--on-missing-image", "null"])
    assert "choose from" in capsys.readouterr().err
