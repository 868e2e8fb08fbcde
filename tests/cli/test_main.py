"""The command line as a whole, and `llava-zh list`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hub_server import HubServer

import llava_zh
from llava_zh.cli import COMMANDS, build_parser, main
from llava_zh.demo import DemoPaths
from llava_zh.load import dataset_facts

HEAVY = {"datasets", "torch", "pyarrow", "numpy", "huggingface_hub", "modelscope", "modelscope_hub", "requests", "PIL"}
INTERNVL, LLAVA = "internvl-sa-1b-caption", "llava-instruct-zh-600k"
EXAMPLES_HERE = ("list", "show", "download", "doctor")


def llava(*args: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llava_zh", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)  # type: ignore[call-overload,no-any-return]


def commands() -> dict[str, object]:
    return dict(build_parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr,arg-type]


def example_lines(command: str) -> list[str]:
    lines = re.sub(r"\\\n\s*", "", commands()[command].epilog).splitlines()  # type: ignore[attr-defined]
    return [line.strip() for line in lines if line.strip().startswith("llava-zh ")]


@pytest.mark.parametrize(
    ("line", "heavy"),
    [
        ("--help", HEAVY),
        ("list --json", HEAVY),
        (f"curate {INTERNVL} single_zh", HEAVY),  # DIR is missing
        ("show --nope", HEAVY),
        ("show nonsense", {"datasets", "torch", "modelscope"}),
    ],
)
def test_help_the_list_and_wrong_arguments_import_nothing_heavy(line: str, heavy: set[str]) -> None:
    code = f"import sys\nfrom llava_zh.cli import main\ntry: main({line.split()})\nfinally: "
    code += f"print({heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


@pytest.mark.parametrize("command", ["", "sa1b"])
def test_a_command_that_needs_another_shows_its_help_when_it_is_alone(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"usage: llava-zh {command} [options] COMMAND ...".replace("  ", " "))
    assert "\nExample:\n" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shwo x", "llava-zh: error: there is no command 'shwo'. Did you mean 'show'?"),
        ("sa1b repak", "llava-zh sa1b: error: there is no command 'repak'. Did you mean 'repack'?"),
        ("show --imge-root x", "llava-zh show: error: there is no option --imge-root. Did you mean '--image-root'?"),
        ("show a --source modelscop", "argument --source: unknown value 'modelscop'. Did you mean 'modelscope'?"),
        ("show a b c", "llava-zh show: error: not understood: c"),
    ],
)
def test_a_misspelt_word_is_told_of_with_the_nearest(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def parsers(parser: argparse.ArgumentParser | None = None) -> Iterator[argparse.ArgumentParser]:
    for action in (parser or build_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield each
                yield from parsers(each)


def test_no_line_of_a_help_breaks_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    broken = [
        line
        for parser in parsers()
        for line in parser.format_help().splitlines()
        if re.search(r"[a-z]-$|[^ ]/$|\[$", line) and not line.strip().startswith("llava-zh")
    ]
    assert broken == []
    for parser in parsers():
        words = [word for line in parser.format_usage().splitlines() for word in line.split()]
        assert " ".join(words).startswith(f"usage: {parser.prog}")


def test_every_command_with_an_output_folder_takes_it_by_name_and_by_option() -> None:
    takes = {parser.prog: parser for parser in parsers() if "--output-dir" in parser._option_string_actions}
    named = ("demo", "download", "export", "regenerate", "curate", "sa1b verify", "sa1b repack", "sa1b download")
    assert takes.keys() >= {f"llava-zh {command}" for command in named}
    needed = {"export": "--to jsonl", "regenerate": "--model m", "sa1b download": "--links l"}
    for prog, parser in takes.items():
        command = prog.removeprefix("llava-zh ")
        if command not in named:
            continue
        names = [INTERNVL, "single_zh"] if any(action.dest == "name" for action in parser._actions) else []
        line = [*names, *needed.get(command, "").split()]
        forms = (["--output-dir", "out"], ["out"], ["out", "--output-dir", "./out"])
        found = [str(parser.parse_args([*line, *form]).output_dir).removeprefix("./") for form in forms]
        assert found == ["out"] * 3, command
        with pytest.raises(SystemExit):
            parser.parse_args([*line, "out", "--output-dir", "other"])


def test_a_configuration_is_not_taken_for_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    parse = build_parser().parse_args
    with pytest.raises(SystemExit):
        parse(["export", INTERNVL, "single_zh", "--to", "jsonl"])
    assert "DIR is missing: 'single_zh' is a configuration" in capsys.readouterr().err
    args = parse(["export", INTERNVL, "./single_zh", "--to", "jsonl"])
    assert (args.name, args.output_dir) == (None, "./single_zh")
    args = parse(["download", LLAVA, "./here"])
    assert (args.name, str(args.output_dir)) == (None, "here")
    args = parse(["download", LLAVA, "detail"])
    assert (args.name, args.output_dir) == ("detail", None)


def test_json_is_one_document_wherever_it_is_offered(demo: DemoPaths, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(demo.internvl)]
    for line, records in (
        (["list"], 5),
        (["show", INTERNVL, "single_zh", "-n", "3", *where], 3),
        (["sa1b", "ls", "--image-root", str(demo.sa1b)], 3),
        (["sa1b", "locate", "1", "--image-root", str(demo.sa1b)], 1),
    ):
        assert main([*line, "--json"]) == 0
        whole = json.loads(capsys.readouterr().out)
        assert main([*line, "--jsonl"]) == 0
        assert [json.loads(each) for each in capsys.readouterr().out.splitlines()] == whole
        assert len(whole) >= records


def test_the_help_offers_json_in_every_command_that_prints_data() -> None:
    silent = {parser.prog for parser in parsers() if "--json" not in parser._option_string_actions}
    assert silent == {"llava-zh sa1b", "llava-zh sa1b cat", "llava-zh completion"}


def test_help_lists_every_command() -> None:
    shown = llava("--help").stdout
    assert [name for name in COMMANDS if not re.search(rf"\n    {name}\s", shown)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_description_and_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert commands()[command].description  # type: ignore[attr-defined]
    assert re.search(rf"[Ee]xamples?:\n(.*\n)*  llava-zh {command}", shown)


def test_version_is_the_packages() -> None:
    assert llava("--version").stdout == f"llava-zh {llava_zh.__version__}\n"


@pytest.mark.parametrize("args", [["nonsense"], ["show"], ["show", INTERNVL, "single_zh", "-n", "0"]])
def test_wrong_usage_exits_with_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert "usage: llava-zh" in capsys.readouterr().err


def test_an_explained_failure_is_one_message_on_stderr_and_exits_with_1() -> None:
    done = llava("show", "internvl-sa1b", "single_zh")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("llava-zh: Unknown dataset 'internvl-sa1b'. Did you mean 'internvl-sa-1b-caption'?")
    assert "Traceback" not in done.stderr


def test_a_reader_that_stops_early_ends_the_command_quietly(demo: DemoPaths, tmp_path: Path) -> None:
    published = (demo.internvl / "internvl_sa1b_caption_11m_single_image_en.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(published * 20)  # more than a pipe holds: it is written to when nobody reads
    command = [sys.executable, "-m", "llava_zh", "show", INTERNVL, "single_en", "-n", "1600", "--jsonl"]
    command += ["--data-files", str(tmp_path / "rows.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == "0"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_a_terminal_without_chinese_still_gets_the_list() -> None:
    done = llava("list", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "\\u65e5\\u5e38\\u5bf9\\u8bdd: daily dialogue." in done.stdout


def test_list_names_every_config_with_rows_size_language_task_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"single_en +11,000,000 +11\.4 GB +en +caption", shown)
    assert re.search(r"detail +199,791 +– +zh +detail", shown)
    assert re.search(r"licence +mit\n", shown)
    for dataset in llava_zh.list_datasets():
        for config in llava_zh.get_dataset_config_names(dataset):
            assert f"\n  {config} " in shown


def test_list_as_json_is_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    facts = [asdict(dataset_facts(name)) for name in llava_zh.list_datasets()]
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(facts))


def test_the_examples_of_the_help_run_as_they_stand(demo: DemoPaths, tmp_path: Path) -> None:
    examples = [line for command in EXAMPLES_HERE for line in example_lines(command)]
    lines = [" ".join(shlex.split(line, comments=True)) for line in examples]
    assert len(lines) >= 2 + 3 + 3 + 3
    code = "import sys\nfrom llava_zh.cli import main\n"
    code += "for line in sys.argv[1:]: print('$', line, main(line.split()[1:]), flush=True)"
    (tmp_path / "llava-zh-demo").symlink_to(demo.root)
    assert (
        main(
            [
                "curate",
                INTERNVL,
                "single_zh",
                str(tmp_path / "curated"),
                "--data-dir",
                str(demo.internvl),
                "--length",
                "zh=50:",
            ]
        )
        == 0
    )
    assert (tmp_path / "curated" / "dropped.jsonl").stat().st_size
    internvl, instruct = (
        demo.internvl,
        {p.relative_to(demo.llava).as_posix(): p for p in demo.llava.rglob("*.*")},
    )
    with (
        HubServer({"OpenGVLab/InternVL-SA-1B-Caption": internvl, "opencsg/llava-instruct-zh-600k": instruct}) as hf,
        HubServer(
            {"thomas/InternVL-SA-1B-Caption": internvl, "opencsg/llava-instruct-zh-600k": instruct}, "modelscope"
        ) as ms,
    ):
        caches = {"HF_HOME": "hf", "MODELSCOPE_CACHE": "ms", "MODELSCOPE_HOME": "ms-home", "LLAVA_ZH_CACHE": "cache"}
        env = os.environ | {name: str(tmp_path / folder) for name, folder in caches.items()} | hf.env | ms.env
        command = [sys.executable, "-c", code, *lines]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=env)
    results = [line for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert results == [f"$ {line} 0" for line in lines], done.stderr
