"""``llava-zh sa1b``: what its commands print, write and exit with, on the demo's gzip archives."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from llava_zh import load_dataset
from llava_zh.cli import build_parser, main
from llava_zh.demo import DemoPaths

INTERNVL = "internvl-sa-1b-caption"


@pytest.fixture(autouse=True)
def index_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(demo: DemoPaths, tmp_path: Path) -> Path:
    """A copy of the demo's archives that may be written to."""
    return Path(shutil.copytree(demo.sa1b, tmp_path / "sa1b"))


def table(text: str) -> dict[str, list[str]]:
    """The lines of a printed table by their first cell, split at two blanks or more."""
    rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip()]
    return {row[0]: row[1:] for row in rows}


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def member_names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def test_status_shows_archives_and_how_many_rows_they_cover(
    root: Path, demo: DemoPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "sa_000002.tar").unlink()
    where = ["--image-root", str(root), "--data-dir", str(demo.internvl)]
    assert main(["sa1b", "index", "--image-root", str(root), "--archives", "0"]) == 0
    capsys.readouterr()
    assert main(["sa1b", "status", *where]) == 0
    shown = capsys.readouterr()
    rows = table(shown.out)
    assert rows["sa_000000"][:2] == ["gzip", "yes"] and rows["sa_000001"][:2] == ["gzip", "no"]
    assert f"llava-zh sa1b index --image-root {root}" in shown.err

    lines = (demo.internvl / "internvl_sa1b_caption_1m_single_image_zh.jsonl").read_text().splitlines()
    archives = [json.loads(line)["image"].partition("/")[0] for line in lines]
    counts = [archives.count(f"sa_{n:06d}") for n in range(3)]
    share = f"{counts[0]} ({counts[0] / len(lines):.1%})"
    assert rows["single_zh"] == [str(len(lines)), share, str(counts[1]), str(counts[2])]

    assert main(["sa1b", "status", INTERNVL, "single_zh", "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["coverage"] == {
        "single_zh": {"rows": 80, "covered": counts[0], "unindexed": counts[1], "missing": counts[2]}
    }
    assert [info["indexed"] for info in found["archives"]] == [True, False]


def test_status_of_all_configs_says_which_have_no_file(
    root: Path, demo: DemoPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "captions"
    folder.mkdir()
    shutil.copy(demo.internvl / "internvl_sa1b_caption_77k_multi_image_zh.jsonl", folder)
    assert main(["sa1b", "status", "--data-dir", str(folder), "--image-root", str(root)]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["single_en"] == ["no file"] and rows["multi_zh"][0] == "20"


def test_status_without_a_root_says_how_to_give_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SA1B_ROOT", raising=False)
    assert main(["sa1b", "status"]) == 1
    assert "--image-root" in capsys.readouterr().err


def test_the_root_may_come_from_the_environment(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA1B_ROOT", str(root))
    assert main(["sa1b", "ls"]) == 0
    assert capsys.readouterr().out.split() == ["sa_000000/", "sa_000001/", "sa_000002/"]


def test_index_tells_of_problems_and_of_archives_it_cannot_read(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncate(root / "sa_000001.tar")
    (root / "sa_000002.tar").write_text("<html>expired</html>")
    assert main(["sa1b", "index", "--image-root", str(root), "--sidecar"]) == 1
    shown = capsys.readouterr()
    rows = table(shown.out)
    assert rows["sa_000000"][-1] == "none" and rows["sa_000001"][-1] == "1 truncated"
    assert "sa_000001: truncated: sa_" in shown.err and "sa_000002" in shown.err
    assert (root / "sa_000000.tar.sa1bx").exists()
    (root / "sa_000002.tar").unlink()
    assert main(["sa1b", "index", "--image-root", str(root)]) == 0
    assert "Nothing to index" in capsys.readouterr().err


def test_index_of_an_archive_that_is_not_there_names_those_that_are(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sa1b", "index", "--image-root", str(root), "--archives", "7"]) == 1
    assert "Unknown archive 'sa_000007'" in capsys.readouterr().err


def test_locate_prints_where_an_image_lies(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sa1b", "locate", "1", "sa_000001/sa_11190.json", "--jsonl", "--image-root", str(root)]) == 0
    one, other = map(json.loads, capsys.readouterr().out.splitlines())
    with tarfile.open(root / "sa_000000.tar") as tar:
        member = tar.getmember("./sa_1.jpg")
    assert one == {
        "path": "sa_000000/sa_1.jpg",
        "file": str(root / "sa_000000.tar"),
        "kind": "gzip",
        "size": member.size,
        "member": "sa_1.jpg",
        "offset": member.offset_data,
    }
    assert other["member"] == "sa_11190.json"
    assert main(["sa1b", "locate", "1", "2", "--image-root", str(root)]) == 1
    shown = capsys.readouterr()
    assert table(shown.out)["sa_000000/sa_1.jpg"][-1] == str(root / "sa_000000.tar")
    assert "No image sa_2.jpg" in shown.err and "1 to 11186" in shown.err


def test_ls_lists_members_with_sizes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sa1b", "ls", "sa_000000", "-l", "--image-root", str(root)]) == 0
    listed = {name: int(size) for size, name in map(str.split, capsys.readouterr().out.splitlines())}
    with tarfile.open(root / "sa_000000.tar") as tar:
        assert listed == {f"sa_000000/{member.name[2:]}": member.size for member in tar}


def test_cat_copies_the_bytes_to_standard_output_or_a_file(root: Path, tmp_path: Path) -> None:
    with tarfile.open(root / "sa_000000.tar") as tar:
        expected = tar.extractfile("./sa_1.jpg").read()
    arguments = [sys.executable, "-m", "llava_zh", "sa1b", "cat", "1", "--image-root", str(root)]
    assert subprocess.run(arguments, capture_output=True, check=True).stdout == expected
    assert main(["sa1b", "cat", "sa_000000/sa_1.jpg", "--image-root", str(root), "--output", str(tmp_path / "1")]) == 0
    assert (tmp_path / "1").read_bytes() == expected


def test_indexes_that_cannot_be_kept_are_not_begun(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["sa1b", "index", "--image-root", str(root)]) == 1
    shown = capsys.readouterr()
    assert "Indexes cannot be kept in" in shown.err and "LLAVA_ZH_CACHE" in shown.err and "--sidecar" in shown.err
    assert not shown.out
    assert main(["sa1b", "index", "--image-root", str(root), "--sidecar"]) == 0


def test_verify_exits_with_0_when_all_is_good_and_1_when_something_is_bad(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checklist = tmp_path / "checklist.chk"
    checklist.write_text(
        "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n" for path in root.glob("*.tar"))
    )
    arguments = ["sa1b", "verify", "--image-root", str(root), "--output-dir", str(tmp_path / "v"), "--num-proc", "1"]
    assert main([*arguments, "--checklist", str(checklist)]) == 0
    shown = capsys.readouterr()
    assert table(shown.out)["sa_000000"][-2:] == ["ok", "ok"]
    assert "Images: 100 good, 0 bad" in shown.out
    truncate(root / "sa_000002.tar")
    (root / "images").mkdir()
    (root / "images" / "sa_5.jpg").write_bytes(b"no")
    assert main([*arguments, "--checklist", str(checklist)]) == 1
    shown = capsys.readouterr()
    rows = table(shown.out)
    assert rows["sa_000002"][-2:] == ["differs", "NOT OK"] and rows["sa_000001"][-1] == "ok"
    assert "its MD5 is" in shown.err and "truncated: sa_" in shown.err and "sa_5.jpg: is no JPEG" in shown.err
    assert f"bad_images={str(tmp_path / 'v' / 'bad-images.txt')!r}" in shown.out
    assert "NOT OK: 2 of 4 archives and folders." in shown.out
    assert "Next, for sa_000002: " in shown.err and "sa1b download --archives 2 --links LIST" in shown.err


def test_repack_takes_the_images_of_a_list_or_of_a_configuration(
    root: Path, demo: DemoPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("sa_000000/sa_1.jpg\nsa_000001/sa_11190.jpg\nsa_000077/sa_5.jpg\n")
    arguments = ["sa1b", "repack", "--image-root", str(root), "--output-dir"]
    assert main([*arguments, str(tmp_path / "listed"), "--images", str(wanted)]) == 0
    shown = capsys.readouterr()
    assert table(shown.out)["sa_000000"][:1] == ["1"] and "sa_000002" not in shown.out
    assert "Images in 1 archive that are not there" in shown.err and "research licence" in shown.err
    assert member_names(tmp_path / "listed" / "sa_000001.tar") == ["sa_11190.jpg"]

    named = ["--images-of", INTERNVL, "multi_zh", "--data-dir", str(demo.internvl)]
    assert main([*arguments, str(tmp_path / "named"), *named]) == 0
    lines = (demo.internvl / "internvl_sa1b_caption_77k_multi_image_zh.jsonl").read_text().splitlines()
    images = {image for line in lines for image in json.loads(line)["image"]}
    packed = {f"{path.stem}/{name}" for path in (tmp_path / "named").iterdir() for name in member_names(path)}
    assert packed == images
    rows = load_dataset(
        INTERNVL, "multi_zh", split="train", streaming=True, data_dir=demo.internvl, image_root=tmp_path / "named"
    )
    assert sum(len(row["image"]) for row in rows) == sum(len(json.loads(line)["image"]) for line in lines)


def test_repack_exits_with_1_when_an_image_or_an_archive_is_missing_from_the_outcome(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("sa_000000/sa_2.jpg\nsa_000000/sa_1.jpg\n")
    arguments = ["sa1b", "repack", "--image-root", str(root), "--output-dir"]
    assert main([*arguments, str(tmp_path / "one"), "--images", str(wanted)]) == 1
    assert "sa_000000: asked for, but not there: sa_2.jpg" in capsys.readouterr().err
    truncate(root / "sa_000001.tar")
    assert main([*arguments, str(tmp_path / "all")]) == 1
    shown = capsys.readouterr()
    assert table(shown.out)["sa_000001"][-1] == "repacked" and table(shown.out)["sa_000002"][-1] == "repacked"
    assert "sa_000001: left out: " in shown.err and "truncated" in shown.err
    assert main([*arguments, str(tmp_path / "all"), "--salvage"]) == 0
    assert table(capsys.readouterr().out)["sa_000002"][-1] == "kept"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if "sa_000002" in self.path:
            self.send_error(403)
        else:
            super().do_GET()


def test_download_fetches_what_it_can_and_names_expired_links(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        links = tmp_path / "links.tsv"
        links.write_text(
            "file_name\tcdn_link\n"
            + "".join(
                f"sa_{n:06d}.tar\thttp://127.0.0.1:{server.server_port}/sa_{n:06d}.tar?sig=SECRET\n" for n in range(3)
            )
        )
        arguments = ["sa1b", "download", "--links", str(links), "--output-dir", str(tmp_path / "out")]
        assert main([*arguments, "--archives", "0"]) == 0
        assert main(arguments) == 1
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    shown = capsys.readouterr()
    rows = table(shown.out)
    assert rows["sa_000000.tar"][-1] == "kept" and rows["sa_000001.tar"][-2:] == ["fetched", "size"]
    assert rows["sa_000002.tar"] == ["NOT FETCHED"]
    assert "the link has expired" in shown.err and "SECRET" not in shown.out + shown.err
    assert (tmp_path / "out" / "sa_000001.tar").read_bytes() == (root / "sa_000001.tar").read_bytes()


COMMANDS = ("status", "index", "locate", "ls", "cat", "verify", "repack", "download")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["sa1b", command, "--help"])
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    examples = [line.strip() for line in shown.splitlines() if line.strip().startswith("llava-zh ")]
    assert examples
    for example in examples:
        build_parser().parse_args(example.split()[1:])


def test_what_is_printed_as_an_image_is_the_image(root: Path, tmp_path: Path) -> None:
    assert main(["sa1b", "cat", "11190", "--image-root", str(root), "--output", str(tmp_path / "a.jpg")]) == 0
    with Image.open(tmp_path / "a.jpg") as image:
        image.load()
        assert image.format == "JPEG"


def test_a_file_that_cannot_be_written_is_an_error(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["sa1b", "cat", "1", "--image-root", str(root), "--output", str(tmp_path / "file" / "a.jpg")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert main(["sa1b", "verify", "--image-root", str(root), "--output-dir", str(tmp_path / "file" / "v")]) == 1
    assert "cannot be written" in capsys.readouterr().err
