"""Curation takes the rows that loading takes, with the pictures that they have, and gives them back to loading."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hunting import hunt
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llava_zh import load_dataset
from llava_zh.curation import curate
from llava_zh.demo.write import DemoPaths, write_demo
from llava_zh.errors import BadArgument, BadFile, BadRow, LlavaZhError, OutputError, RunConflict

INTERNVL, LLAVA = "internvl-sa-1b-caption", "llava-instruct-zh-600k"
ZH = "internvl_sa1b_caption_1m_single_image_zh.jsonl"
ALL: dict[str, Any] = {"length_quantiles": None, "near_duplicates": None, "max_repetition": None}
TEXTS = (
    "一只黑色的猫坐在红色的沙发上，旁边有一本打开的书和一杯热咖啡。",
    "草地上有两只棕色的小狗在追一个黄色的球，远处坐着一位老人。",
    "石桥横跨窄窄的河流，桥边的木牌指向古老的磨坊和远处的群山。",
)


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (seed % 256, seed // 256, 77)).save(out, "PNG")
    return out.getvalue()


def turns(text: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": "<image>\n图里有什么？"}, {"from": "gpt", "value": text}]


def record(number: int, text: str = "", **fields: Any) -> dict[str, Any]:
    said = text or f"{TEXTS[number % 3]}第{number}幅"
    return {"id": str(number), "image": f"sa_000000/sa_{number}.jpg", "conversations": turns(said), **fields}


def json_lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def pictures(data_dir: Path, dataset: str = LLAVA) -> list[tuple[str, list[str]]]:
    """Id and digests of the pictures of each row, as loading gives them."""
    rows = load_dataset(dataset, split="train", streaming=True, data_dir=data_dir).decode(False)
    found = []
    for row in rows:
        images = row["image"] if isinstance(row["image"], list) else [row["image"]]
        found.append((row["id"], [hashlib.md5(image["bytes"]).hexdigest() for image in images]))
    return found


# -- selections --------------------------------------------------------------------------------------------


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "JPEG")
    return out.getvalue()


def test_archives_choose_the_rows_that_loading_gives_also_where_paths_name_no_archive(tmp_path: Path) -> None:
    (tmp_path / "sa1b").mkdir()
    for archive, numbers in enumerate(((0, 1), (2, 3))):
        with tarfile.open(tmp_path / "sa1b" / f"sa_{archive:06d}.tar", "w") as tar:
            for n in numbers:
                member = tarfile.TarInfo(f"sa_{n}.jpg")
                member.size = len(jpeg())
                tar.addfile(member, io.BytesIO(jpeg()))
    (tmp_path / "rows.jsonl").write_bytes(json_lines([record(n, image=f"sam/images/sa_{n}.jpg") for n in range(4)]))
    given: dict[str, Any] = {"data_files": str(tmp_path / "rows.jsonl"), "image_root": tmp_path / "sa1b"}
    given["archives"] = [1]
    loaded = list(load_dataset(INTERNVL, "single_zh", split="train", streaming=True, **given).decode(False))
    assert [row["id"] for row in loaded] == ["2", "3"]
    curate(INTERNVL, "single_zh", output_dir=tmp_path / "out", **ALL, **given)
    kept = [json.loads(line) for line in (tmp_path / "out" / "data" / "000000.jsonl").read_bytes().splitlines()]
    assert [(row["id"], row["image"]) for row in kept] == [("2", "sam/images/sa_2.jpg"), ("3", "sam/images/sa_3.jpg")]


def test_a_bad_image_is_known_by_the_path_that_rows_show(tmp_path: Path) -> None:
    (tmp_path / "in" / "images").mkdir(parents=True)
    for n in range(3):
        (tmp_path / "in" / "images" / f"{n}.png").write_bytes(png(n))
    (tmp_path / "in" / "rows.jsonl").write_bytes(json_lines([record(n, image=f"images/{n}.png") for n in range(3)]))
    rows = load_dataset(LLAVA, split="train", streaming=True, data_dir=tmp_path / "in").decode(False)
    shown = [row["image"]["path"] for row in rows]
    report = curate(LLAVA, data_dir=tmp_path / "in", output_dir=tmp_path / "out", bad_images=shown[:1], **ALL)
    assert report.rows == report.kept == 2


# -- pictures ----------------------------------------------------------------------------------------------


def write_parquet(folder: Path, name: str, numbers: range, path: str = "0.jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {**record(n), "image": {"bytes": png(n), "path": path}, "type": "detail"} for n in numbers
    ]  # every picture has the same name, as embedding often leaves it
    pq.write_table(pa.Table.from_pylist(rows), folder / name)


def write_webdataset(folder: Path, name: str, numbers: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / name, "w") as tar:
        for n in numbers:
            for suffix, data in (("png", png(n)), ("json", json.dumps(record(n)).encode())):
                member = tarfile.TarInfo(f"{n % 2}-{n}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("source", ["dataset", "folder", "rows"])
@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_embedded_pictures_come_through_though_they_share_a_name(tmp_path: Path, form: str, source: str) -> None:
    write, suffix = (write_parquet, "parquet") if form == "parquet" else (write_webdataset, "tar")
    write(tmp_path / "in", f"0.{suffix}", range(4))
    write(tmp_path / "in", f"1.{suffix}", range(4, 8))
    before = pictures(tmp_path / "in")
    assert len({digest for _, [digest] in before}) == 8
    out = tmp_path / "out"
    if source == "dataset":
        report = curate(LLAVA, data_dir=tmp_path / "in", output_dir=out, length=(1, 999), **ALL)
    elif source == "folder":
        report = curate(tmp_path / "in", output_dir=out, length=(1, 999), **ALL)
    else:
        loaded = load_dataset(LLAVA, split="train", data_dir=tmp_path / "in", cache_dir=tmp_path / "cache")
        report = curate(loaded.cast_column("image", undecoded()), output_dir=out, **ALL)
    assert report.kept == 8
    assert pictures(out) == before
    assert [path.name for path in (out / "data").iterdir()] == ["000000.parquet"]


def undecoded() -> Any:
    import datasets

    return datasets.Image(decode=False)


def test_dropped_rows_are_told_of_without_their_pictures_and_the_others_keep_theirs(tmp_path: Path) -> None:
    rows = [{**record(n), "image": {"bytes": png(n), "path": None}} for n in range(3)]
    rows[1]["conversations"] = turns("")
    curate(rows, output_dir=tmp_path / "out", **ALL)
    dropped = json.loads((tmp_path / "out/dropped.jsonl").read_text())
    assert dropped["row"] == 1 and dropped["image"] is None
    assert pictures(tmp_path / "out") == [(str(n), [hashlib.md5(png(n)).hexdigest()]) for n in (0, 2)]


def test_columns_of_several_types_come_through_as_text(tmp_path: Path) -> None:
    def rows() -> list[dict[str, Any]]:
        image = {"bytes": png(1), "path": "a.png"}
        extra: list[Any] = [1, "two", {"three": []}, {}, None]
        return [{**record(n), "image": image, "id": n, "extra": value} for n, value in enumerate(extra)]

    curate(rows(), output_dir=tmp_path / "out", **ALL)
    table = pq.read_table(tmp_path / "out/data/000000.parquet")
    assert table["extra"].to_pylist() == ["1", "two", '{"three":[]}', "{}", None]
    assert [row_id for row_id, _ in pictures(tmp_path / "out")] == ["0", "1", "2", "3", "4"]


def test_a_curation_with_pictures_replaces_one_without_and_the_other_way_round(tmp_path: Path) -> None:
    named = [record(0)]
    embedded = [{**record(0), "image": {"bytes": png(0), "path": "a.png"}}]
    for rows, name in ((named, "000000.jsonl"), (embedded, "000000.parquet"), (named, "000000.jsonl")):
        curate(rows, output_dir=tmp_path / "out", overwrite=True, **ALL)
        assert [path.name for path in (tmp_path / "out/data").iterdir()] == [name]


# -- one request, one meaning ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPaths:
    return write_demo(tmp_path_factory.mktemp("demo"))


@pytest.mark.parametrize(
    "request_",
    [{"archives": "available"}, {"on_missing_image": "skip"}, {"on_missing_image": "null"}, {"archives": [0]}],
)
def test_a_request_means_what_it_means_when_the_dataset_is_loaded(
    demo: DemoPaths, tmp_path: Path, request_: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "sa1b"
    root.mkdir()
    (root / "sa_000000.tar").symlink_to(demo.sa1b / "sa_000000.tar")
    where: dict[str, Any] = {"data_dir": demo.internvl, "image_root": str(root), **request_}
    wanted = [
        row["id"] for row in load_dataset(INTERNVL, "single_zh", split="train", streaming=True, **where).decode(False)
    ]
    report = curate(INTERNVL, "single_zh", output_dir=tmp_path / "out", exact_duplicates=False, **where, **ALL)
    rows = [
        json.loads(line)
        for name in ("data/000000.jsonl", "dropped.jsonl")
        for line in (tmp_path / "out" / name).read_bytes().splitlines()
    ]
    assert report.rows == len(wanted) > 20
    assert sorted(row["id"] for row in rows) == sorted(wanted)
    assert all(row["image"].startswith("sa_00000") for row in rows)


# -- every file that loading reads -------------------------------------------------------------------------


def as_array(data: bytes) -> bytes:
    return b"[" + data.strip().replace(b"\n", b",\n") + b"]"


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        (ZH, bytes),
        (ZH, lambda data: b"\xef\xbb\xbf" + data),
        (ZH, lambda data: data.replace(b"\n", b"\r\n")),
        (f"{ZH}.gz", gzip.compress),
        (f"{ZH}.zst", lambda data: pa.compress(data, codec="zstd", asbytes=True)),
        ("rows.json", as_array),
        ("rows.json", lambda data: b"\xef\xbb\xbf" + as_array(data)),
        ("data/a.jsonl", bytes),
    ],
)
@pytest.mark.parametrize("whole_folder", [False, True])
def test_any_file_that_loading_reads_can_be_curated(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], whole_folder: bool
) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(pack(json_lines([record(n) for n in range(6)])))
    report = curate(tmp_path / "in" if whole_folder else path, output_dir=tmp_path / "out", **ALL)
    assert report.kept == 6
    kept = [json.loads(line) for line in (tmp_path / "out/data/000000.jsonl").read_bytes().splitlines()]
    assert kept == [record(n) for n in range(6)]


FIELDS = st.sampled_from(["id", "image", "width", "conversations", "type", "unused", "language"])
VALUES = st.sampled_from(
    [
        *(None, 1, -1.5, math.nan, math.inf, "8", "", [], {}, "sa_000000/sa_1.jpg", "../x", ["a.jpg", "b.jpg"]),
        turns("猫"),
        [{"from": "robot", "value": "x"}],
        [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "猫"}],
    ]
)


@hunt(40)
@given(st.dictionaries(FIELDS, VALUES, max_size=3), st.sampled_from(["lines", "array"]))
def test_a_row_has_the_verdict_that_loading_has(changed: dict[str, Any], form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_verdict(Path(folder), changed, form)


def check_verdict(folder: Path, changed: dict[str, Any], form: str) -> None:
    data = json_lines([record(0) | changed])
    path = folder / (ZH if form == "lines" else "rows.json")
    path.write_bytes(data if form == "lines" else as_array(data))

    def verdict(read: Callable[[], Any]) -> str:
        try:
            read()
        except LlavaZhError as error:
            return type(error).__name__
        return "good"

    # The configuration for several images, since a file by itself does not say which it is of.
    loaded = verdict(
        lambda: list(
            load_dataset(INTERNVL, "multi_zh", split="train", streaming=True, data_files=[str(path)]).decode(False)
        )
    )
    assert verdict(lambda: curate(path, output_dir=folder / "out", **ALL)) == loaded


def test_a_tar_of_captions_and_a_damaged_file_give_curation_the_rows_that_loading_has(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for n in range(3):
            for name, data in ((f"sa_{n}.jpg", jpeg()), (f"sa_{n}.txt", TEXTS[n].encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    lines = json_lines([record(n, hashlib.sha512(b"%d" % n).hexdigest()) for n in range(2000)])
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines)[:-20_000])
    for dataset, name in (("sa1b-captions", "0.tar"), (LLAVA, "cut.jsonl.gz")):
        given: dict[str, Any] = {"split": "train", "streaming": True, "on_bad_row": "skip"}
        loaded = list(load_dataset(dataset, data_files=str(tmp_path / name), **given).decode(False))
        report = curate(tmp_path / name, output_dir=tmp_path / f"of {name}", on_bad_row="skip", **ALL)
        assert report.rows == len(loaded) > 0
        curated = load_dataset(LLAVA, data_dir=tmp_path / f"of {name}", **given).decode(False)
        assert [row["conversations"] for row in curated] == [row["conversations"] for row in loaded]
    with pytest.raises(BadFile, match="cut short"):
        curate(tmp_path / "cut.jsonl.gz", output_dir=tmp_path / "strict", **ALL)


def test_nesting_without_end_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(json_lines([record(0)])[:-2] + b', "unused": ' + b"[" * 10_000 + b"\n")
    with pytest.raises(BadRow):
        curate(tmp_path / "rows.jsonl", output_dir=tmp_path / "out")
    report = curate(tmp_path / "rows.jsonl", output_dir=tmp_path / "out", on_bad_row="skip")
    assert (report.rows, report.kept) == (0, 0)


def test_options_without_a_meaning_for_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(json_lines([record(0)]))
    with pytest.raises(BadArgument, match="data_dir beside"):
        curate(tmp_path / "rows.jsonl", output_dir=tmp_path / "out", data_dir=tmp_path)
    with pytest.raises(BadArgument, match="row_format"):
        curate(INTERNVL, "single_zh", output_dir=tmp_path / "out", row_format="messages", data_dir=tmp_path)


# -- the output folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".curating.lock", ".curating", "data", "dropped.jsonl", "report.json"])
@pytest.mark.parametrize("what", ["link", "dangling", "other"])
def test_what_is_planted_in_the_output_folder_is_named_and_nothing_is_written_through_it(
    tmp_path: Path, name: str, what: str
) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    is_folder = name in (".curating", "data")
    if what == "link":
        victim.mkdir() if is_folder else victim.write_text("mine")
        (out / name).symlink_to(victim)
    elif what == "dangling":
        (out / name).symlink_to(victim)
    elif is_folder:
        (out / name).write_text("mine")
    else:
        (out / name).mkdir()
    with pytest.raises(OutputError, match=name.replace(".", r"\.")):
        curate([record(0)], output_dir=out, overwrite=True)
    if what == "link":
        assert list(victim.iterdir()) == [] if is_folder else victim.read_text() == "mine"
    elif what == "dangling":
        assert not victim.exists()


@pytest.mark.parametrize("name", ["data/000000.jsonl.tmp", "dropped.jsonl.tmp", "report.json.tmp"])
def test_a_link_under_a_temporary_name_is_not_followed(tmp_path: Path, name: str) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    (out / "data").mkdir(parents=True)
    victim.write_text("mine")
    (out / name).symlink_to(victim)
    curate([record(0)], output_dir=out, overwrite=True)
    assert victim.read_text() == "mine"


def test_a_folder_with_rows_of_others_is_not_mixed_with_ours(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.parquet").write_bytes(b"mine")
    with pytest.raises(RunConflict, match="new or empty"):
        curate([record(0)], output_dir=tmp_path, overwrite=True)


def test_a_python_file_that_registers_a_dataset_is_its_name(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"pic": "1.jpg", "said": "一只黑色的猫坐在红色的沙发上。"}) + "\n")
    script = tmp_path / "curated_by_its_file.py"
    script.write_text(
        "from llava_zh import register\n"
        "register({'name': 'curated-by-its-file', 'configs': [{'name': 'default', 'language': 'zh'}],"
        " 'columns': {'image': 'pic', 'caption': 'said'}})\n"
    )
    report = curate(script, output_dir=tmp_path / "out", data_dir=tmp_path, **ALL)
    assert (report.rows, report.kept) == (1, 1)
