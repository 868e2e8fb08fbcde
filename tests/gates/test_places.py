"""A name from outside never chooses a place on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llava_zh.errors import UnsafeName
from llava_zh.gates.places import checked_name, inside

NASTY = st.lists(
    st.sampled_from(["..", ".", "", "a", "x.jpg", "~", "C:", "c:\\x", "\\\\host", "\0", "con", "file:", "::", "-", " "])
    | st.text(max_size=5),
    max_size=6,
).map("/".join)


@given(NASTY)
@example("/etc/passwd")
@example("a/../../b")
@example("a\\..\\..\\b")
@example("x\0.jpg")
@example("id_rsa::/home/victim")
@example("\ud800")
def test_a_name_gives_a_path_inside_or_an_error(name: str) -> None:
    folder = Path("/scratch/folder")
    try:
        path = inside(folder, name)
    except UnsafeName:
        return
    assert folder in path.parents
    assert Path(os.path.normpath(path)) == path


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "./a/b", "一/二.jpg", "a b?.jpg", "..a/b..", "ab:c.jpg", "~x/y"])
def test_ordinary_names_pass(name: str) -> None:
    assert checked_name(name) == name.removeprefix("./")


def test_a_link_that_leads_out_is_refused_and_one_that_stays_is_not(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (folder / "real").write_text("here")
    (folder / "stays").symlink_to("real")
    (folder / "out").symlink_to(other)
    assert inside(folder, "stays").read_text() == "here"
    with pytest.raises(UnsafeName, match="symbolic link"):
        inside(folder, "out/x")
    (tmp_path / "alias").symlink_to(folder)
    assert inside(tmp_path / "alias", "real").read_text() == "here"
