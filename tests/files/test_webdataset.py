"""WebDataset shards: every sample that is there, once, and what is wrong with the shard said by its offset."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from hunting import hunt
from hypothesis import given
from hypothesis import strategies as st

from llava_zh.errors import BadFile, BadRow, LlavaZhError
from llava_zh.files import readers, webdataset
from llava_zh.files.data_files import DataFile, local_files
from llava_zh.files.shards import Reading
from llava_zh.gates import pictures
from llava_zh.rows.columns import Columns
from llava_zh.rows.records import Expect

TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def members(numbers: range) -> list[tuple[str, bytes]]:
    pairs = [[(f"{i}.jpg", b"picture %d" % i), (f"{i}.json", record(i))] for i in numbers]
    return [member for pair in pairs for member in pair]


def record(number: int) -> bytes:
    return json.dumps({"id": str(number), "conversations": TURNS}).encode()


def tar(files: list[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> tuple[bytes, list[int]]:
    """An archive, and where each of its members ends."""
    buffer, ends = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            ends.append(buffer.tell())
    return buffer.getvalue(), ends


def data_file(folder: Path, data: bytes, name: str = "0.tar") -> DataFile:
    (folder / name).write_bytes(data)
    return local_files(str(folder), [name])[0]


def read(file: DataFile, skip: bool = True) -> tuple[list[str], list[LlavaZhError]]:
    """The ids of the rows, and the errors, all of them or the one that is raised."""
    found: list[LlavaZhError] = []
    note: Any = found.append

    def raised(error: LlavaZhError) -> None:
        raise error

    reading = Reading(Expect("many"), note if skip else raised, lambda n: None, on_damage=note if skip else raised)
    rows: list[str] = []
    try:
        for shard in readers.plan([file], chunk_size=1 << 20, num_shards=None):
            for table in readers.tables(shard, reading):
                for row in table.to_pylist():
                    assert row["bytes"] == [b"picture %d" % int(row["id"])]
                    rows.append(row["id"])
    except LlavaZhError as error:
        found.append(error)
    return rows, found


def ids(*numbers: int) -> list[str]:
    return [str(number) for number in numbers]


WHOLE, ENDS = tar(members(range(30)))
OTHER = tar(members(range(30, 40)))[0]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("data", "left", "told"),
    [
        (WHOLE[: ENDS[19]], range(10), f"ends at byte {ENDS[19]} without an end marker"),
        (WHOLE[: ENDS[20]], range(10), f"ends at byte {ENDS[20]} without an end marker"),
        (WHOLE[: ENDS[19] + 100], range(10), f"ends within a header, at byte {ENDS[19]}"),
        (WHOLE[: ENDS[19] + 515], range(10), "ends within the member '10.jpg'"),
        (
            WHOLE[: ENDS[19]] + bytes(ENDS[21] - ENDS[19]) + WHOLE[ENDS[21] :],
            [*range(10), *range(11, 30)],
            f"end marker is at byte {ENDS[19]}, and more follows at byte {ENDS[21]}",
        ),
        (WHOLE + OTHER, range(40), f"and more follows at byte {len(WHOLE)}"),
        (
            WHOLE[: ENDS[19]] + b"\xff" * 512 + WHOLE[ENDS[19] + 512 :],
            [*range(10), *range(11, 30)],
            f"no header where one is due, at byte {ENDS[19]}",
        ),
        (WHOLE + b"<html>" * 100, range(30), "no header where one is due"),
    ],
    ids=[
        "cut between samples",
        "cut between members",
        "cut in a header",
        "cut in data",
        "hole",
        "two",
        "damage",
        "tail",
    ],
)
def test_a_damaged_shard_gives_every_sample_that_is_there_and_says_where_it_is_damaged(
    data: bytes, left: list[int], told: str, pack: Any, tmp_path: Path
) -> None:
    file = data_file(tmp_path, pack(data))
    for skip in (False, True):
        rows, errors = read(file, skip)
        damage = [error for error in errors if isinstance(error, BadFile)]
        if told.startswith("no header") and len(left) == 29:  # the .json of the lost picture is left over
            if not skip:
                continue
        else:
            assert len(errors) == 1
        assert rows == ids(*left)
        assert told in str(damage[0])
        assert "0.tar: the tar archive is damaged or cut short" in str(damage[0])


@pytest.mark.parametrize("end", [WHOLE, WHOLE.rstrip(b"\0") + bytes(1024), WHOLE + bytes(1 << 16)])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_whole_shard_is_whole_however_long_its_end_marker_is(end: bytes, form: int, tmp_path: Path) -> None:
    names = [("图" * 30 + "/" + name, data) for name, data in members(range(30))]
    for data in (end, tar(names, form)[0]):
        data += bytes(-len(data) % 512)
        assert read(data_file(tmp_path, data), skip=False) == (ids(*range(30)), [])


def test_what_macos_adds_to_archives_is_no_sample(tmp_path: Path) -> None:
    junk = b"\0\5\x16\7\0\2\0\0Mac OS X        "
    files = [
        ("._1.jpg", junk), ("1.jpg", b"picture 1"), ("._1.json", junk), ("1.json", record(1)), (".DS_Store", junk),
        ("__MACOSX/._1.jpg", junk), ("__MACOSX/1.json", junk),
    ]  # fmt: skip
    assert read(data_file(tmp_path, tar(files)[0]), skip=False) == (ids(1), [])


def test_samples_whose_members_stand_apart_are_put_together(tmp_path: Path) -> None:
    files = sorted(members(range(200)), key=lambda member: member[0].endswith(".json"))
    rows, errors = read(data_file(tmp_path, tar(files)[0]), skip=False)
    assert (rows, errors) == (ids(*range(200)), [])


def test_samples_too_far_apart_to_be_held_are_a_bad_file_that_says_how_to_order_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdataset, "HELD_BYTES", 100)
    files = sorted(members(range(200)), key=lambda member: member[0].endswith(".json"))
    _, [error] = read(data_file(tmp_path, tar(files)[0]), skip=False)
    assert isinstance(error, BadFile)
    assert "do not follow each other: '0'" in str(error)
    assert "--sort=name" in str(error)


def test_a_key_that_comes_again_is_an_error_that_names_it_and_no_second_row(tmp_path: Path) -> None:
    file = data_file(tmp_path, tar([*members(range(3)), *members(range(1, 2))])[0])
    rows, [error] = read(file)
    assert rows == ids(0, 1, 2)
    assert isinstance(error, BadRow)
    assert "member 1.jpg" in str(error)


def test_a_sample_that_lacks_its_text_or_its_picture_is_named(tmp_path: Path) -> None:
    files = [*members(range(2)), ("7.jpg", b"x"), *members(range(3, 4)), ("8.json", record(8))]
    rows, errors = read(data_file(tmp_path, tar(files)[0]))
    assert rows == ids(0, 1, 3)
    assert ["sample 7" in str(e) or "sample 8" in str(e) for e in errors] == [True, True]
    assert "no .json" in str(errors[0])
    assert "no picture" in str(errors[1])


@pytest.mark.parametrize("suffix", pictures.SUFFIXES)
def test_every_kind_of_picture_is_one_in_a_webdataset(tmp_path: Path, suffix: str) -> None:
    file = data_file(tmp_path, tar([(f"1{suffix}", b"picture 1"), ("1.json", record(1))])[0])
    assert read(file) == (ids(1), [])


def test_the_picture_wins_over_the_name_for_it_also_where_a_dataset_has_a_column_of_its_own(tmp_path: Path) -> None:
    texts = [{"file_name": "1.jpg", "caption": "a"}, {"info": {"file": "1.jpg", "text": "b"}, "caption": "c"}]
    files = [(f"{i}.json", json.dumps(text).encode()) for i, text in enumerate(texts)]
    shard = data_file(tmp_path, tar(sorted([*files, ("0.jpg", b"picture 0"), ("1.jpg", b"picture 1")]))[0])
    columns = Columns.of({"image": ("file_name", "info.file"), "caption": ("caption",)})
    found = list(webdataset.samples(shard, None, columns))
    assert [columns.get(row, "image")[1]["bytes"] for row in found if isinstance(row, dict)] == [
        b"picture 0",
        b"picture 1",
    ]
    assert [row["info"] for row in found if "info" in row] == [{"text": "b"}]


def test_of_two_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    files = [("1.jpg", b"old"), ("1.jpg", b"picture 1"), ("1.json", record(9)), ("1.json", record(1))]
    assert read(data_file(tmp_path, tar(files)[0]), skip=False) == (ids(1), [])


def test_a_sample_over_a_limit_is_a_bad_row_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_ZH_MAX_SAMPLE_BYTES", "1000")
    monkeypatch.setenv("LLAVA_ZH_MAX_SAMPLE_IMAGES", "4")
    monkeypatch.setenv("LLAVA_ZH_MAX_LINE_BYTES", "2000")
    images = [(f"a.{i}.jpg", b"x") for i in range(5)]
    large = [("b.jpg", bytes(1001)), ("c.0.jpg", bytes(600)), ("c.1.jpg", bytes(600)), ("d.json", bytes(2001))]
    files = [*members(range(1)), *images, ("a.json", record(5)), *large, *members(range(1, 2))]
    rows, errors = read(data_file(tmp_path, tar(files)[0]))
    assert rows == ids(0, 1)
    named = ["SAMPLE_IMAGES", "SAMPLE_BYTES", "SAMPLE_BYTES", "LINE_BYTES"]
    assert [name in str(error) for name, error in zip(named, errors, strict=True)] == [True] * 4


def test_a_sample_of_very_many_images_takes_time_by_their_number_and_not_its_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_ZH_MAX_SAMPLE_IMAGES", "100000")
    pictures = b"".join(tar([(f"a.{i}.jpg", b"x")])[0][:1024] for i in range(1000))
    began = time.process_time()
    list(webdataset.samples(data_file(tmp_path, pictures * 4 + bytes(1024)), None))
    assert time.process_time() - began < 2


@hunt(150)
@given(
    st.lists(st.integers(0, len(WHOLE) - 1), max_size=4),
    st.sampled_from(["cut", "zero", "flip", "drop", "double"]),
    st.integers(1, 3000),
    st.booleans(),
)
def test_no_damage_makes_a_wrong_row_or_hides_itself(
    tmp_path_factory: pytest.TempPathFactory, places: list[int], how: str, length: int, packed: bool
) -> None:
    data = gzip.compress(WHOLE, 1) if packed else WHOLE
    for place in places:
        at = place % max(len(data), 1)
        data = {
            "cut": data[:at],
            "zero": data[:at] + bytes(min(length, len(data) - at)) + data[at + length :],
            "flip": data[:at] + bytes(b ^ 0x55 for b in data[at : at + length % 16]) + data[at + length % 16 :],
            "drop": data[:at] + data[at + length :],
            "double": data[:at] + data[at : at + length] + data[at:],
        }[how]
    file = data_file(tmp_path_factory.mktemp("hunt"), data)
    if not file.size:
        return
    seen: list[LlavaZhError] = []
    note: Any = seen.append
    reading = Reading(Expect("many"), note, lambda n: None, on_damage=note)
    shards = readers.plan([file], chunk_size=1 << 20, num_shards=None)
    rows = [row for s in shards for t in readers.tables(s, reading) for row in t.to_pylist()]
    keys = [row["images"][0] for row in rows]
    assert len(set(keys)) == len(keys)
    # A tar has no checksum over data, so a picture may be damaged; but rows do not go missing in silence.
    assert len(rows) == 30 or seen
