"""A file has its name with all of its content or not at all, whoever writes beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_zh.storage.atomic import add_atomically, atomic


@pytest.mark.parametrize("shared", [False, True])
def test_an_error_leaves_the_file_of_before_and_nothing_beside_it(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "x"
    for data in (b"one", b"two"):
        with atomic(path, shared=shared) as file:
            assert Path(file.name).parent == tmp_path and Path(file.name) != path
            file.write(data)
            file.seek(0)
            assert file.read() == data  # it can be read back before it has its name
        assert path.read_bytes() == data
    with pytest.raises(KeyboardInterrupt), atomic(path, shared=shared) as file:
        file.write(b"thr")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"two" and list(tmp_path.iterdir()) == [path]


def test_what_stands_under_the_temporary_name_is_replaced_and_a_link_never_written_through(tmp_path: Path) -> None:
    victim, path, temporary = tmp_path / "victim", tmp_path / "out" / "x", tmp_path / "out" / "unfinished"
    path.parent.mkdir()
    victim.write_bytes(b"mine")
    for link in (path, temporary):
        link.symlink_to(victim)
    with atomic(path, temporary) as file:
        file.write(b"new")
    assert victim.read_bytes() == b"mine" and path.read_bytes() == b"new" and not path.is_symlink()
    assert not add_atomically(path, b"other", temporary) and path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]
