"""Errors on the command line speak of options, as they are typed."""

from __future__ import annotations

import argparse
import ast
import errno
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import llava_zh
from llava_zh.cli import build_parser, main
from llava_zh.cli.text import in_words
from llava_zh.cli.wording import as_typed, options_of, refusal
from llava_zh.demo import DemoPaths
from llava_zh.errors import OutputError

ARGUMENTS = ("images", "retry_failed", "length", "overwrite", "data_dir", "max_side", "archives")
OPTIONS = {name: "--" + name.replace("_", "-") for name in ARGUMENTS}


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("Use images='files' to write them.", "Use --images files to write them."),
        ("images='url': a.jpg is in an archive", "--images url: a.jpg is in an archive"),
        ("retry_failed asks again", "--retry-failed asks again"),
        ("call it with retry_failed=True.", "call it with --retry-failed."),
        ("retry_failed=True (--retry-failed) asks", "--retry-failed asks"),
        ("Pass data_dir= (on the command line --data-dir), or", "Pass --data-dir, or"),
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


def test_what_only_python_has_is_not_offered() -> None:
    said = as_typed("For a private dataset set HF_TOKEN or pass token=; see the page.", OPTIONS)
    assert said == "For a private dataset set HF_TOKEN; see the page."
    assert as_typed("pass data_dir= (and token=) too", OPTIONS) == "pass --data-dir too"


# Rooms whose calls no command makes, and texts that are lines of Python or facts of a dataset.
_PYTHON_ALONE = ("streams/", "training/", "torch.py", "images/decode.py", "load.py")
_NO_ARGUMENTS = {"zh", "en", "sort", "s", "split", "args", "text_only", "streaming", "cache_dir"}
_NAMED = re.compile(r"(?<![\w.%])([a-z]+(?:_[a-z]+)*)=(?!=)")


def texts(path: Path) -> Iterator[str]:
    """The texts of a module that a person may come to read; what is put into them is an X."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    aside |= {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        if id(node) in aside or not isinstance(node, ast.JoinedStr | ast.Constant):
            continue
        said = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in parts)
        if " " in said and not re.search(r"<[a-z!/]|</", said):  # markup has attributes
            yield said


@pytest.mark.slow
def test_no_text_of_the_library_reaches_a_person_at_a_shell_with_an_argument_of_python() -> None:
    parser = build_parser()
    options: dict[str, str] = {}
    for command in commands_of(parser):
        options |= options_of(parser, command.get_default("run"))
    package = Path(llava_zh.__file__).parent
    left = [
        (path.relative_to(package).as_posix(), match[1], typed)
        for path in sorted(package.rglob("*.py"))
        if not path.relative_to(package).as_posix().startswith(_PYTHON_ALONE)
        for typed in (as_typed(said, options) for said in texts(path))
        if "load_dataset(" not in typed
        for match in _NAMED.finditer(typed)
        if match[1] not in _NO_ARGUMENTS
    ]
    assert left == []


def commands_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield command
                yield from commands_of(command)


def test_what_goes_wrong_is_told_in_options(
    demo: DemoPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faults as people make them, each command in its words."""
    rows = ["internvl-sa-1b-caption", "single_zh", "--data-dir", str(demo.internvl)]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("of another")
    faults = [
        ["show", *rows, "--num-shards", "0"],
        ["show", "llava", "--data-dir", str(demo.llava), "--archives", "0"],
        ["show", rows[0], "single_zh", "--data-dir", str(tmp_path / "none")],
        ["show", *rows, "--image-root", str(tmp_path / "none")],
        ["show", *rows, "--bad-images", str(tmp_path / "none")],
        ["curate", *rows, str(tmp_path / "taken")],
        ["curate", *rows, str(tmp_path / "new"), "--near-duplicates", "7"],
        ["export", *rows, str(tmp_path / "taken"), "--to", "jsonl"],
        ["export", *rows, str(tmp_path / "new"), "--to", "jsonl", "--images", "files"],
        ["export", *rows, str(tmp_path / "new"), "--to", "jsonl", "--sample", "0"],
        ["sa1b", "status", "--image-root", str(tmp_path / "none")],
    ]
    for line in faults:
        status = main(line)
        told = capsys.readouterr().err
        assert status == 0 or "llava-zh: " in told, line
        assert "Traceback" not in told, line
        assert not _NAMED.findall(re.sub(r"load_dataset\([^)]*\)", "", told)), (line, told)


def test_a_warning_of_the_library_is_told_in_options(capsys: pytest.CaptureFixture[str]) -> None:
    with in_words(lambda message: as_typed(message, OPTIONS)):
        logging.getLogger("llava_zh.x").warning("overwrite=True replaces it")
    assert capsys.readouterr().err == "--overwrite replaces it\n"


@pytest.fixture
def no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place where nobody can write, root included: below a file. The caches are there."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "file" / "indexes"))
    return tmp_path / "file" / "out"


def test_show_needs_no_cache(no_place: Path, demo: DemoPaths, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["show", "internvl-sa-1b-caption", "single_zh", "-n", "1", "--data-dir", str(demo.internvl)]
    assert main([*line, "--image-root", str(demo.sa1b)]) == 0
    assert "(cannot be opened" not in capsys.readouterr().out
    with pytest.raises(OutputError, match=r"HF_HOME, or HF_DATASETS_CACHE.*cache_dir="):
        llava_zh.load_dataset("internvl-sa-1b-caption", "single_zh", data_dir=str(demo.internvl))


@pytest.mark.parametrize("command", ["demo", "export", "curate", "sa1b repack"])
def test_a_folder_that_cannot_be_written_is_an_explained_error(
    command: str, no_place: Path, demo: DemoPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["internvl-sa-1b-caption", "single_zh", "--data-dir", str(demo.internvl)]
    more = {"export": [*rows, "--to", "jsonl"], "curate": rows, "sa1b repack": ["--image-root", str(demo.sa1b)]}
    assert main([*command.split(), *more.get(command, []), "--output-dir", str(no_place)]) == 1
    told = capsys.readouterr().err
    assert "Not a directory" in told
    assert "name a folder that is new or empty" in told or "Choose another place" in told
    assert "Traceback" not in told


def test_a_cache_that_cannot_be_written_is_told_with_the_variable_that_moves_it(no_place: Path) -> None:
    error = NotADirectoryError(errno.ENOTDIR, "Not a directory", str(no_place.parent / "indexes" / "x"))
    assert "set LLAVA_ZH_CACHE to a folder" in str(refusal(error))
    assert refusal(OSError("anything else")) is None
