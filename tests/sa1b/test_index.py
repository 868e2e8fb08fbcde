from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_zh.errors import BadIndex
from llava_zh.sa1b.index import ArchiveIndex, Member, Numbered, Scan, assemble, contains
from llava_zh.sa1b.tar_header import safe_name
from llava_zh.sa1b.urls import member_key

STATE = {"size": 2**50, "stamp": "x", "ends": ""}

paths = st.one_of(
    st.builds("sa_{}.{}".format, st.integers(0, 50), st.sampled_from(["jpg", "json"])),
    st.builds("{}/sa_{}.jpg".format, st.sampled_from(["images", "a/b", "other"]), st.integers(0, 50)),
    st.text("ab/é中", min_size=1, max_size=8).map(lambda text: safe_name(text) or "a"),
)
members = st.lists(
    st.builds(
        lambda name, offset, size, deflated, crc: Member(name, offset, size, size // 2, deflated, crc),
        paths,
        st.integers(0, 2**40),
        st.one_of(st.integers(0, 2**20), st.just(2**33)),
        st.booleans(),
        st.one_of(st.none(), st.integers(1, 2**32 - 1)),
    ),
    max_size=60,
)


def last_of_each_name(listed: list[Member]) -> dict[str, Member]:
    return {member.name: member for member in listed}


@settings(deadline=None)
@given(members)
def test_every_member_is_found_at_its_place_whatever_the_order(listed: list[Member]) -> None:
    index = ArchiveIndex(assemble("zip", Scan(listed), STATE))
    expected = last_of_each_name(listed)
    assert len(index) == len(expected)
    for name, member in expected.items():
        found = index.find(name)
        assert found is not None and found.name == name
        assert found[1:] == member[1:]
    assert sorted(m.name for m in index.members()) == sorted(expected)


@settings(deadline=None)
@given(members)
def test_of_duplicates_the_last_is_used_and_the_others_are_reported(listed: list[Member]) -> None:
    index = ArchiveIndex(assemble("zip", Scan(listed), STATE))
    assert index.problem_counts.get("duplicate", 0) == len(listed) - len(last_of_each_name(listed))


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=60), st.booleans())
def test_of_numbered_members_with_one_number_the_last_is_used(ids: list[int], with_crcs: bool) -> None:
    batches = []
    for start in range(0, len(ids), 20):
        keys = np.array(ids[start : start + 20], "u4") * 2
        places = np.arange(start, start + len(keys), dtype="u8")
        crcs = (places + 7).astype("u4") if with_crcs and start != 20 else None
        batches.append(Numbered("", keys, places * 1024 + 512, places + 1, crcs))
    listed = [member for batch in batches for member in batch.members()]
    scan = Scan(numbered=batches)
    index = ArchiveIndex(assemble("tar", scan, STATE))
    expected = last_of_each_name(listed)
    assert {member.name: member for member in index.members()} == expected
    reported = [problem for problem in index.problems if problem.kind == "duplicate"]
    assert len(reported) == len(listed) - len(expected)
    assert all("the last one is used" in problem.detail for problem in reported)


def test_checksums_cost_four_bytes_a_member_and_nothing_where_none_is_known() -> None:
    def length(crc: int | None) -> int:
        listed = [Member(f"sa_{i}.jpg", i * 10**6, 10**6, 10**6, crc=crc) for i in range(10**4)]
        return len(assemble("gzip", Scan(listed), STATE))

    assert 0 <= length(5) - length(None) - 4 * 10**4 < 64


@given(members, paths)
def test_a_name_that_is_not_there_is_not_found(listed: list[Member], name: str) -> None:
    index = ArchiveIndex(assemble("zip", Scan(listed), STATE))
    found = index.find(name)
    if found is not None:
        assert found.name == name or found.name.endswith(f"/{name}")


def test_members_by_number_take_at_most_twenty_bytes_each() -> None:
    listed = [Member(f"sa_{i}.{kind}", i * 10**6, 10**6, 10**6) for i in range(11186) for kind in ("jpg", "json")]
    for kind in ("tar", "zip"):
        assert len(assemble(kind, Scan(listed), STATE)) <= 20 * len(listed) + 2048


def test_a_number_is_found_with_and_without_the_folder_that_the_archive_has() -> None:
    index = ArchiveIndex(assemble("tar", Scan([Member("sa_000000/sa_1.jpg", 512, 9, 9)]), STATE))
    assert index.find("sa_1.jpg") == index.find("sa_000000/sa_1.jpg") == Member("sa_000000/sa_1.jpg", 512, 9, 9)
    assert index.find("elsewhere/sa_1.jpg") is None


def test_images_and_masks_may_lie_in_folders_of_their_own() -> None:
    listed = [Member("images/sa_1.jpg", 1, 1, 1), Member("masks/sa_1.json", 2, 2, 2)]
    index = ArchiveIndex(assemble("tar", Scan(listed), STATE))
    assert index.find("sa_1.jpg") is not None and index.find("sa_1.json") is not None


def test_one_number_in_two_folders_stays_two_members() -> None:
    listed = [Member("a/sa_1.jpg", 1, 1, 1), Member("b/sa_1.jpg", 2, 2, 2)]
    index = ArchiveIndex(assemble("tar", Scan(listed), STATE))
    assert [index.find(name) and index.find(name).offset for name in ("a/sa_1.jpg", "b/sa_1.jpg")] == [1, 2]  # type: ignore[union-attr]


def test_a_path_is_looked_up_by_its_last_segments_then_by_its_file_name() -> None:
    listed = [Member(name, i, i, i) for i, name in enumerate(["x/images/1.jpg", "y/1.jpg", "y/2.jpg"])]
    index = ArchiveIndex(assemble("tar", Scan(listed), STATE))
    assert [m.name for m in index.find_base("images/1.jpg")] == ["x/images/1.jpg"]
    assert [m.name for m in index.find_base("z/1.jpg")] == ["x/images/1.jpg", "y/1.jpg"]
    assert index.find_base("3.jpg") == []


def test_names_that_are_no_utf8_are_kept() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    index = ArchiveIndex(assemble("tar", Scan([Member(name, 1, 2, 2)]), STATE))
    assert index.find(name) == Member(name, 1, 2, 2)


@settings(deadline=None)
@given(st.data())
def test_any_changed_byte_or_length_is_noticed(data: st.DataObject) -> None:
    good = assemble("tar", Scan([Member(f"sa_{i}.jpg", i, i, i) for i in range(20)] + [Member("x", 1, 1, 1)]), STATE)
    bad = bytearray(good)
    if data.draw(st.booleans()):
        bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del bad[data.draw(st.integers(0, len(bad) - 1)) :]
    with pytest.raises(BadIndex, match="Damaged SA-1B index"):
        ArchiveIndex(bytes(bad))


@given(st.sets(st.integers(0, 200)), st.lists(st.integers(0, 200)))
def test_keys_are_looked_up_in_bulk(held: set[int], wanted: list[int]) -> None:
    keys = np.array(sorted(held) or [999], "u4")
    assert contains(keys, np.array(wanted, "u4")).tolist() == [key in held for key in wanted]


def test_the_range_of_ids_is_that_of_the_members() -> None:
    listed = [Member("sa_7.jpg", 1, 1, 1), Member("sa_3.json", 1, 1, 1)]
    assert ArchiveIndex(assemble("tar", Scan(listed), STATE)).id_range() == (3, 7)
    assert ArchiveIndex(assemble("tar", Scan([Member("x", 1, 1, 1)]), STATE)).id_range() is None
    assert member_key("sa_3.json") == 7
