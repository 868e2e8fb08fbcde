"""Fetching one file into a folder: names, locks, hashes; transfers themselves are tested through the command."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from llava_zh.errors import BadFile, OutputError, RunConflict, UnsafeName
from llava_zh.files import fetch
from llava_zh.files.data_files import DataFile

CONTENT = "图像\n".encode() * 1000


@pytest.fixture
def file(tmp_path: Path) -> DataFile:
    """A file that is on this machine already, as one in a client's cache is."""
    path = tmp_path / "cached"
    path.write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return DataFile("data/a.jsonl", len(CONTENT), "huggingface", str(path), "o/n", "0" * 40, digest)


def test_a_cached_file_is_copied_below_the_folder_under_its_published_name(file: DataFile, tmp_path: Path) -> None:
    placed, kept = fetch.into_folder(file, tmp_path / "out")
    assert (placed.path, kept) == (str(tmp_path / "out/data/a.jsonl"), False)
    assert Path(placed.path).read_bytes() == CONTENT
    assert fetch.into_folder(file, tmp_path / "out") == (placed, True)


@pytest.mark.parametrize("name", ["../a.jsonl", "/etc/a.jsonl", "data/../../a.jsonl", "..\\a.jsonl", "C:a.jsonl"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, file: DataFile, tmp_path: Path) -> None:
    with pytest.raises(UnsafeName, match="huggingface:o/n.*choose a place outside its folder"):
        fetch.into_folder(replace(file, name=name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_processes_do_not_write_one_file(file: DataFile, tmp_path: Path) -> None:
    part = fetch._part(file, fetch._target(file, tmp_path / "out"))
    part.parent.mkdir(parents=True)
    with filelock.FileLock(f"{part}.lock"), pytest.raises(RunConflict, match="Another process is fetching"):
        fetch.into_folder(file, tmp_path / "out")


def test_the_part_of_another_content_is_not_continued(file: DataFile, tmp_path: Path) -> None:
    target = fetch._target(file, tmp_path / "out")
    earlier = fetch._part(replace(file, digest="f" * 64), target)
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"other bytes")
    fetch.into_folder(file, tmp_path / "out")
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["a.jsonl"]


def test_what_a_part_holds_already_is_not_counted_against_the_disk(file: DataFile, tmp_path: Path) -> None:
    remote = replace(file, path=None)
    assert fetch.missing_bytes(remote, tmp_path) == len(CONTENT)
    part = fetch._part(file, fetch._target(file, tmp_path))
    part.parent.mkdir()
    part.write_bytes(CONTENT[:1000])
    assert fetch.missing_bytes(remote, tmp_path) == len(CONTENT) - 1000
    assert fetch.missing_bytes(remote, None) == len(CONTENT)
    assert fetch.missing_bytes(file, None) == 0


def test_gits_hash_is_checked_where_the_hub_lists_no_sha256(file: DataFile, tmp_path: Path) -> None:
    # As `git hash-object` prints it for these bytes.
    git = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    fetch.check(replace(file, digest=git))
    with pytest.raises(BadFile, match=f"expected git SHA-1 {'0' * 40}, found {git}"):
        fetch.check(replace(file, digest="0" * 40))


def test_a_file_without_a_listed_hash_is_held_to_its_size(file: DataFile) -> None:
    fetch.check(replace(file, digest=None))
    with pytest.raises(BadFile, match="expected 7,001 bytes, found 7,000"):
        fetch.check(replace(file, digest=None, size=7001))


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(file: DataFile, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(OutputError, match="cannot be written"):
        fetch.into_folder(file, tmp_path / "out")
