"""The files of a local folder: each real file once, and nothing that a link brings in from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_zh.errors import BadArgument, DataFileNotFound
from llava_zh.files.data_files import local_files


def names(folder: Path, data_files: object = None) -> list[str]:
    return [file.name for file in local_files(str(folder), data_files)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data/2024-05-01").mkdir(parents=True)
    (tmp_path / "data/2024-05-01/train.jsonl").write_text("{}\n")
    (tmp_path / "outside.jsonl").write_text("{}\n")
    return tmp_path / "data"


@pytest.mark.parametrize("target", ["2024-05-01", ".", "..//data", "2024-05-01/train.jsonl"])
def test_a_link_beside_its_target_does_not_double_the_rows(folder: Path, target: str) -> None:
    (folder / "latest").symlink_to(target)
    (folder / "2024-05-01/up").symlink_to("..")
    assert names(folder) == ["2024-05-01/train.jsonl"]


def test_one_file_named_twice_is_read_once(folder: Path) -> None:
    (folder / "latest.jsonl").symlink_to("2024-05-01/train.jsonl")
    assert len(local_files(str(folder), ["2024-05-01/train.jsonl", "latest.jsonl", "2024-05-01/*.jsonl"])) == 1


def test_a_link_that_leads_out_is_left_out_and_told_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "evil.jsonl").symlink_to("../outside.jsonl")
    (folder / "dir").symlink_to("..")
    assert names(folder) == ["2024-05-01/train.jsonl"]
    assert "evil.jsonl is a symbolic link that leads out" in caplog.text
    assert "LLAVA_ZH_FOLLOW_LINKS" in caplog.text


def test_a_link_that_the_user_names_is_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.jsonl").symlink_to("../outside.jsonl")
    assert names(folder, "mine.jsonl") == ["mine.jsonl"]
    monkeypatch.setenv("LLAVA_ZH_FOLLOW_LINKS", "1")
    assert names(folder) == ["2024-05-01/train.jsonl", "mine.jsonl"]


def test_a_data_folder_may_be_a_link_itself(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    assert names(tmp_path / "alias") == ["2024-05-01/train.jsonl"]


def test_two_names_of_one_cached_blob_are_two_files(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--o--n/snapshots/abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "datasets--o--n/blobs").mkdir()
    (tmp_path / "datasets--o--n/blobs/0").write_text("{}\n")
    for name in ("a.jsonl", "b.jsonl"):
        (snapshot / name).symlink_to("../../blobs/0")
    assert names(snapshot) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize("name", ["a\0b", "a\0b/c.jsonl"])
def test_a_name_with_nul_is_an_error_of_ours(folder: Path, name: str) -> None:
    with pytest.raises(BadArgument, match="NUL"):
        local_files(str(folder), name)
    with pytest.raises(BadArgument, match="NUL"):
        local_files(name, None)


def test_a_dangling_link_is_no_file(folder: Path) -> None:
    (folder / "gone.jsonl").symlink_to("nowhere")
    assert names(folder) == ["2024-05-01/train.jsonl"]
    with pytest.raises(DataFileNotFound):
        local_files(str(folder), "gone.jsonl")


def test_a_pattern_may_stand_for_folders_too(tmp_path: Path) -> None:
    for name in ("a/train.json", "b/c/train.json", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("[]")
    for pattern, found in (("*/train.json", ["a/train.json"]), ("**/train.json", ["a/train.json", "b/c/train.json"])):
        assert [file.name for file in local_files(str(tmp_path), pattern)] == found
    with pytest.raises(DataFileNotFound, match="no file"):
        local_files(str(tmp_path), "*/nothing.json")


def test_a_file_given_as_the_folder_says_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataFileNotFound, match="is a file, not a folder. Name it as data_files="):
        local_files(str(tmp_path / "a.json"), None)
