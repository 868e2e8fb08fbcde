"""The calls that hands know from ``datasets.load_dataset``: they mean the same, or say what to write."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pytest
from hub_server import HubServer
from published_rows import turns

import llava_zh
from llava_zh import load_dataset, load_dataset_builder
from llava_zh.errors import BadArgument, DataFileNotFound, HubError, LlavaZhError, UnknownArgument, UnknownName
from llava_zh.streams import calls

LINES = "".join(json.dumps({"id": str(i), "image": f"{i}.jpg", "conversations": turns()}) + "\n" for i in range(4))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A folder with the same rows in a folder, plain and compressed."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.jsonl").write_text(LINES)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    return tmp_path


@pytest.fixture(scope="module")
def memory() -> Iterator[str]:
    """A folder of fsspec's memory."""
    files = fsspec.filesystem("memory")
    files.pipe("/rows/deep/a.jsonl", LINES.encode())
    files.pipe("/rows/b.jsonl.gz", gzip.compress(LINES.encode()))
    yield "memory://rows"
    files.rm("/rows", recursive=True)


def ids(loaded: Any) -> list[str]:
    return [row["id"] for row in (loaded.decode(False) if hasattr(loaded, "decode") else loaded)]


def test_splits_are_what_they_are_in_datasets(rows: Path) -> None:
    given: dict[str, Any] = {"path": "llava", "data_dir": rows, "data_files": "b.jsonl.gz"}
    half = datasets.ReadInstruction("train", to=50, unit="%")
    first, rest, whole = load_dataset(**given, split=["train[:1]", half, datasets.Split.TRAIN])
    assert (ids(first), ids(rest), whole.num_rows) == (["0"], ["0", "1"], 4)
    streams = load_dataset(**given, split=["train", datasets.ReadInstruction("train")], streaming=True)
    assert [ids(stream) for stream in streams] == [["0", "1", "2", "3"]] * 2
    assert load_dataset("llava", "zh", str(rows), "b.jsonl.gz", "train")[0]["language"] == "zh", "by position"
    assert isinstance(load_dataset(**given), datasets.DatasetDict)
    for split, error, message in (
        ("test", UnknownName, "Unknown split 'test'"),
        (datasets.ReadInstruction("test"), UnknownName, "Unknown split 'test'"),
        (["train", "valid"], UnknownName, "Unknown split 'valid'"),
        (3, BadArgument, "split: expected 'train', a slice .*found int 3"),
    ):
        with pytest.raises(error, match=message):
            load_dataset(**given, split=split)
    with pytest.raises(BadArgument, match="is a slice, which a stream does not have"):
        load_dataset(**given, split=[half], streaming=True)


def test_files_are_named_in_every_way_that_datasets_takes(rows: Path, memory: str) -> None:
    for folder, files, count in (
        (None, {"train": str(rows / "b.jsonl.gz")}, 4),
        (None, {datasets.Split.TRAIN: [str(rows / "b.jsonl.gz")]}, 4),
        (rows, "**/*.jsonl", 4),
        (rows, ["**/a.jsonl", "b.jsonl.gz"], 8),
        (None, f"file://{rows}/b.jsonl.gz", 4),
        (f"file://{rows}", None, 8),
        (None, f"{memory}/deep/a.jsonl", 4),
        (None, [f"{memory}/**/*.jsonl", str(rows / "b.jsonl.gz")], 8),
        (memory, None, 8),
        (memory, "b.jsonl.gz", 4),
    ):
        loaded = load_dataset("llava", split="train", streaming=True, data_dir=folder, data_files=files)
        assert len(ids(loaded)) == count, (folder, files)
    assert load_dataset("llava", split="train", data_files=f"{memory}/b.jsonl.gz", num_proc=2).num_rows == 4
    for bad, error, message in (
        ({"train": "a", "test": "b"}, UnknownName, "Unknown split 'test' .*have one.* found 'train', 'test'. Load the"),
        ({}, UnknownName, "found no split"),
        (f"{memory}/none.jsonl", DataFileNotFound, "no file 'memory://rows/none.jsonl'"),
        (f"{memory}/*.parquet", DataFileNotFound, r"no file 'memory://rows/\*\.parquet'"),
        ("nowhere://a/b.jsonl", BadArgument, "'nowhere://a/b.jsonl' cannot be opened"),
    ):
        with pytest.raises(error, match=message):
            load_dataset("llava", data_files=bad)


def test_files_over_http_are_read_by_ranges_with_the_headers_of_storage_options(tmp_path: Path) -> None:
    files = {"a.jsonl": LINES.encode(), "b.jsonl.gz": gzip.compress(LINES.encode())}
    with HubServer({"me/own": files}, require_token="hf_good") as hub:
        base = f"{hub.env['HF_ENDPOINT']}/datasets/me/own/resolve/main"
        headers = {"headers": {"Authorization": "Bearer hf_good"}}
        for options in (headers, {"http": {"client_kwargs": headers}}):
            builder = load_dataset_builder("llava", data_files=[f"{base}/a.jsonl", f"{base}/b.jsonl.gz"],
                                           storage_options=options, num_shards=4)  # fmt: skip
            assert len(ids(builder.as_streaming_dataset(split="train"))) == 8
            assert "hf_good" not in repr(builder.config)
        config = datasets.DownloadConfig(storage_options=headers, force_download=True)
        assert load_dataset("llava", split="train", data_files=f"{base}/a.jsonl", download_config=config).num_rows == 4
        with pytest.raises(HubError, match=r"/none\.jsonl: 404 Not Found"):
            load_dataset("llava", data_files=f"{base}/none.jsonl", storage_options=headers)


def test_features_are_cast_or_refused(rows: Path) -> None:
    given: dict[str, Any] = {"path": "llava", "split": "train", "data_dir": rows, "data_files": "b.jsonl.gz"}
    have = load_dataset_builder("llava", data_dir=rows, data_files="b.jsonl.gz").info.features
    asked = datasets.Features({**have, "id": datasets.Value("large_string")})
    for streaming in (False, True):
        loaded = load_dataset(**given, streaming=streaming, features=asked)
        assert loaded.features["id"] == datasets.Value("large_string")
        assert ids(loaded) == ["0", "1", "2", "3"]
    for features, message in (
        (datasets.Features({"id": datasets.Value("string")}), "the rows have the columns id, image.*these are id"),
        (datasets.Features({**have, "conversations": datasets.Value("int64")}), "cannot be cast to these"),
        ({"id": "string"}, "expected datasets.Features, found dict"),
    ):
        with pytest.raises(BadArgument, match=f"^features: {message}|^features: .*{message}"):
            load_dataset(**given, features=features)
    with pytest.raises(BadArgument, match="pass it to load_dataset"):
        load_dataset_builder("llava", data_dir=rows, features=asked)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"row_fromat": "llava"},
            UnknownArgument,
            "no argument 'row_fromat'. Did you mean 'row_format'",
        ),
        ({"use_auth_token": True}, UnknownArgument, "no argument 'use_auth_token'. Pass token="),
        ({"columns": ["id"]}, UnknownArgument, r"take select_columns\(\)"),
        ({"verification_mode": "no_check"}, UnknownName, "Did you mean 'no_checks'"),
        ({"download_mode": "force"}, UnknownName, "Did you mean 'force_redownload'"),
        ({"download_config": {}}, BadArgument, "expected datasets.DownloadConfig, found dict"),
        ({"download_config": datasets.DownloadConfig(cache_dir="x")}, BadArgument, "cache_dir is not .*HF_HOME"),
        ({"download_config": datasets.DownloadConfig(local_files_only=True)}, BadArgument, "set HF_HUB_OFFLINE=1"),
        ({"storage_options": "x"}, BadArgument, "storage_options: expected a mapping"),
    ],
)
def test_what_cannot_be_meant_names_what_to_write(
    rows: Path, given: dict[str, Any], error: type[LlavaZhError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_dataset("llava", data_dir=rows, **given)


def test_code_is_never_run_which_is_said_once(
    rows: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_told_of_code", False)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load_dataset("llava", split="train", streaming=True, data_dir=rows, trust_remote_code=True)
    assert caplog.text.count("trust_remote_code has no effect") == 1


def test_dir_lists_the_public_names_and_nothing_else() -> None:
    assert dir(llava_zh) == sorted(llava_zh.__all__)
    assert all(getattr(llava_zh, name) for name in dir(llava_zh))
