from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hunting import hunt
from hypothesis import given
from hypothesis import strategies as st

from llava_zh.errors import BadFile, DataFileNotFound, LlavaZhError
from llava_zh.sa1b.lists import read_checklist, read_image_list, read_links

MD5 = "0123456789abcdef0123456789abcdef"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "file_name\tcdn_link\nsa_000000.tar\thttps://a/b?sig=1\n",
        "sa_000000.tar\thttps://a/b?sig=1",
        "\ufefffile_name cdn_link\r\n\r\nsa_000000.tar   https://a/b?sig=1\r\n",
    ],
)
def test_links_are_read_with_and_without_header_tabs_or_spaces(tmp_path: Path, text: str) -> None:
    assert read_links(written(tmp_path, text)) == {"sa_000000.tar": "https://a/b?sig=1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sa_000000.tar\n", "line 1: expected a file name, a tab and a link"),
        ("sa_000000.tar\thttps://a/?sig=SECRET extra\n", "line 1: .* found 3 fields"),
        ("sa_000000.tar\tftp://a/?sig=SECRET\n", "line 1: "),
        ("file_name\tcdn_link\n../sa_000000.tar\thttps://a/?sig=SECRET\n", "line 2: .* no name of a file"),
        ("https://a/?sig=SECRET\tsa_000000.tar\n", "line 1: .* the first a link"),
        ("https://a/?sig=SECRET\n", "found 1 field, the first a link"),
        ("sa_1.tar\thttps://a/?sig=SECRET\nsa_1.tar\thttps://b/?sig=SECRET\n", "line 2: a second, different link"),
        ("file_name\tcdn_link\n", "holds no link"),
    ],
)
def test_a_bad_link_is_named_by_its_line_and_never_shown(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadFile, match=message) as error:
        read_links(written(tmp_path, text))
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    "line", [f"{MD5}  sa_000000.tar", f"{MD5.upper()} *./sa_000000.tar", f"MD5 (sa_000000.tar) = {MD5}"]
)
def test_sums_are_read_in_the_forms_that_md5_tools_write(tmp_path: Path, line: str) -> None:
    assert read_checklist(written(tmp_path, line + "\n")) == {"sa_000000.tar": MD5}


@pytest.mark.parametrize("line", ["sa_000000.tar", f"{MD5}", f"{MD5[:-1]}  sa_000000.tar", f"{MD5} {MD5} a.tar"])
def test_a_bad_sum_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(BadFile, match="line 2: expected an MD5 sum"):
        read_checklist(written(tmp_path, f"{MD5}  a.tar\n{line}\n"))


def test_image_lists_may_have_comments_and_remarks(tmp_path: Path) -> None:
    text = "# bad ones\nsa_000000/sa_1.jpg\tdoes not decode: truncated\n\nsa_2.jpg\n"
    assert read_image_list(written(tmp_path, text)) == ["sa_000000/sa_1.jpg", "sa_2.jpg"]


def test_a_list_that_is_not_there_or_no_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataFileNotFound, match="nothing.txt cannot be read"):
        read_image_list(tmp_path / "nothing.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(BadFile, match="no text file in UTF-8"):
        read_links(tmp_path / "binary")


def test_a_list_is_bounded_by_its_lines_and_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_ZH_MAX_LINE_BYTES", "100")
    with pytest.raises(BadFile, match="line 2: a line or record may have 100 bytes.*LLAVA_ZH_MAX_LINE_BYTES"):
        read_image_list(written(tmp_path, "a.jpg\n" + "a" * 200 + "\n"))
    monkeypatch.setenv("LLAVA_ZH_MAX_LIST_BYTES", "50")
    with pytest.raises(BadFile, match="LLAVA_ZH_MAX_LIST_BYTES"):
        read_image_list(written(tmp_path, "a.jpg\n" * 20))
    with pytest.raises(DataFileNotFound, match="cannot be read"):
        read_image_list("a\0b")


@hunt(60)
@given(
    st.text()
    | st.lists(st.sampled_from(["sa_000000.tar", "\t", "https://a/?s=SECRETSECRET", "\n", MD5, " ", "="])).map("".join)
)
def test_a_list_of_anything_is_read_or_refused_as_one_of_ours(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for read in (read_links, read_checklist, read_image_list):
            path = Path(folder, "list")
            path.write_text(text, encoding="utf-8", newline="")
            try:
                read(path)
            except LlavaZhError as error:
                assert "SECRETSECRET" not in str(error) or read is read_checklist
