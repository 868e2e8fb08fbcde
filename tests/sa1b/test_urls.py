from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_zh.errors import BadArgument, RootNotFound
from llava_zh.gates.safe_text import public_name
from llava_zh.sa1b import image_url, search_path, url_suffix, urls


def test_a_root_becomes_one_hop_of_the_chain() -> None:
    assert image_url("sa_000000/sa_1.jpg", "/data/sa1b") == "sa1b://sa_000000/sa_1.jpg::/data/sa1b"


def test_without_a_root_the_url_has_no_chain() -> None:
    assert image_url("sa_000000/sa_1.jpg", None) == "sa1b://sa_000000/sa_1.jpg"


def test_several_roots_become_one_hop_each_in_order() -> None:
    assert url_suffix(["/fast", "hf://datasets/u/sa1b"]) == "::/fast::hf://datasets/u/sa1b"


def test_commas_separate_roots_in_a_string_and_belong_to_the_name_in_a_list() -> None:
    assert search_path("/a,s3://b/c") == ["/a", "s3://b/c"]
    assert search_path(["/a,b"]) == ["/a,b"]


def test_the_environment_is_read_when_no_root_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA1B_ROOT", "/a, /b")
    assert search_path(None) == ["/a", "/b"]


def test_no_root_at_all_is_an_error_that_names_both_ways_to_give_one() -> None:
    with pytest.raises(RootNotFound, match=r"image_root=.*SA1B_ROOT"):
        search_path(None)


def test_relative_and_home_roots_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert search_path("sa1b") == [str(tmp_path / "sa1b")]
    assert search_path("~/sa1b") == [str(tmp_path / "home" / "sa1b")]


def test_a_root_that_would_break_the_chain_is_refused() -> None:
    with pytest.raises(BadArgument, match="::"):
        search_path(["/data/a::b"])


@pytest.mark.parametrize(
    ("given_path", "normal"),
    [
        ("sa1b://sa_000000/sa_1.jpg::/data", "sa_000000/sa_1.jpg"),
        ("/sa_000000/./sa_1.jpg", "sa_000000/sa_1.jpg"),
        ("sa_000000//sa_1.jpg/", "sa_000000/sa_1.jpg"),
        ("./sa_1.jpg", "sa_1.jpg"),
        ("sa1b://", ""),
        ("", ""),
    ],
)
def test_paths_are_brought_to_one_form(given_path: str, normal: str) -> None:
    assert urls.normalize(given_path) == normal


@pytest.mark.parametrize("path", ["../x.jpg", "sa_000000/../../x", "a/.."])
def test_a_path_that_climbs_is_refused(path: str) -> None:
    with pytest.raises(BadArgument, match=r"\.\."):
        urls.normalize(path)


@given(st.integers(0, 10**9 - 1), st.booleans())
def test_a_member_name_and_its_key_give_each_other(image: int, is_masks: bool) -> None:
    name = f"sa_{image}.{'json' if is_masks else 'jpg'}"
    key = urls.member_key(name)
    assert key is not None and urls.key_name(key) == name


@pytest.mark.parametrize("name", ["sa_01.jpg", "sa_1.png", "xsa_1.jpg", "sa_.jpg", "sa_1.jpg\n", "sa_٣.jpg"])
def test_other_names_have_no_key(name: str) -> None:
    assert urls.member_key(name) is None


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("sa_000000.tar", "sa_000000"),
        ("sa_000000.tar.gz", "sa_000000"),
        ("photos.tgz", "photos"),
        ("SA-1B-Part-000012.zip", "sa_000012"),
        ("a.b.zip", "a.b"),
        ("sa_000000.tar.sa1bx", None),
        (".tar", None),
        ("notes.txt", None),
    ],
)
def test_an_archive_is_addressed_by_its_stem(file: str, stem: str | None) -> None:
    assert urls.archive_stem(file) == stem


def test_secrets_in_a_url_are_not_shown() -> None:
    assert public_name("https://me:secret@host/x?sig=secret") == "https://host/x"
