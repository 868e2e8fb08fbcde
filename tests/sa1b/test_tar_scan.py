from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_zh.sa1b.index import Scan
from llava_zh.sa1b.tar_scan import safe_name, scan_tar

from .conftest import tar_bytes

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def scan_bytes(data: bytes) -> Scan:
    return scan_tar(lambda offset, size: data[offset : offset + size])


def by_tarfile(data: bytes) -> list[tuple[str, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(safe_name(m.name) or "", m.offset_data, m.size) for m in tar.getmembers() if m.isreg()]


def found(scan: Scan) -> list[tuple[str, int, int]]:
    return sorted(((m.name, m.offset, m.size) for m in scan.members()), key=lambda m: m[1])


names = st.one_of(
    st.builds("./sa_{}.{}".format, st.integers(0, 10**9 - 1), st.sampled_from(["jpg", "json"])),
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/\n"), min_size=1, max_size=60), max_size=4
    ).map("/".join),
    st.text("abc/", min_size=1, max_size=300),
).filter(lambda name: safe_name(name) is not None and not name.endswith("/"))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_members_offsets_and_sizes_are_those_of_tarfile(data: st.DataObject) -> None:
    """Any order of members, any of the three formats, mixed with folders, links and padding at the end."""
    out = io.BytesIO()
    format = data.draw(st.sampled_from(FORMATS))
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name in data.draw(st.lists(names, max_size=12)):
            member = tarfile.TarInfo(name)
            member.type = data.draw(st.sampled_from([tarfile.REGTYPE] * 6 + [tarfile.DIRTYPE, tarfile.SYMTYPE, b"\0"]))
            member.mtime = data.draw(st.sampled_from([0, 1.5]))  # a fraction makes a PAX header
            member.linkname = data.draw(names) if member.type == tarfile.SYMTYPE else ""
            member.size = data.draw(st.integers(0, 2000)) if member.isreg() else 0
            try:
                tar.addfile(member, io.BytesIO(bytes(member.size)))
            except ValueError:  # ustar cannot hold every long name
                continue
    raw = out.getvalue() + bytes(512 * data.draw(st.integers(0, 3)))
    scan = scan_bytes(raw)
    assert found(scan) == by_tarfile(raw)
    assert {problem.kind for problem in scan.problems} <= {"link"}


def test_a_batch_of_headers_is_no_limit() -> None:
    raw = tar_bytes({f"sa_{i}.jpg": b"x" for i in range(9000)})
    scan = scan_bytes(raw)
    assert len(scan.members()) == 9000 and not scan.problems and scan.end == 9000 * 1024


@pytest.mark.parametrize("format", FORMATS)
def test_sizes_beyond_octal_digits_are_read(format: int) -> None:
    member = tarfile.TarInfo("huge.bin")
    member.size = 9 * 2**30 if format != tarfile.USTAR_FORMAT else 8**11 - 1
    header = member.tobuf(format)
    padded = (member.size + 511) // 512 * 512

    def read_at(offset: int, size: int) -> bytes:
        return (
            header[offset : offset + size]
            if offset < len(header)
            else bytes(min(size, len(header) + padded + 1024 - offset))
        )

    scan = scan_tar(read_at)
    assert [(m.name, m.offset, m.size) for m in scan.members()] == [("huge.bin", len(header), member.size)]
    assert not scan.problems


def test_an_archive_cut_inside_a_member_keeps_those_before_and_says_where() -> None:
    raw = tar_bytes({"sa_1.jpg": bytes(1000), "sa_2.jpg": bytes(1000), "sa_3.jpg": bytes(1000)})
    scan = scan_bytes(raw[: 1536 * 2 + 900])
    assert [m.name for m in scan.members()] == ["sa_1.jpg", "sa_2.jpg"]
    [problem] = scan.problems
    assert (problem.kind, problem.member, problem.offset) == ("truncated", "sa_3.jpg", 1536 * 2)
    assert scan.end == 1536 * 2


@given(st.integers(0, 1536 * 3))
def test_any_cut_keeps_exactly_the_members_that_are_whole(cut: int) -> None:
    raw = tar_bytes({f"sa_{i}.jpg": bytes(1000) for i in (1, 2, 3)})[:cut]
    scan = scan_bytes(raw)
    assert [m.name for m in scan.members()] == [f"sa_{i}.jpg" for i in (1, 2, 3) if 1536 * (i - 1) + 512 + 1000 <= cut]
    assert [problem.kind for problem in scan.problems] == ["truncated"]


def test_a_damaged_header_ends_the_walk_there() -> None:
    raw = bytearray(tar_bytes({"sa_1.jpg": bytes(1000), "sa_2.jpg": bytes(1000), "sa_3.jpg": bytes(1000)}))
    raw[1536 + 20] ^= 0xFF
    scan = scan_bytes(bytes(raw))
    assert [m.name for m in scan.members()] == ["sa_1.jpg"]
    assert [(p.kind, p.offset) for p in scan.problems] == [("damaged", 1536)]


def test_links_devices_and_climbing_names_are_refused_and_reported() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in [
            ("sa_1.jpg", tarfile.SYMTYPE),
            ("sa_2.jpg", tarfile.LNKTYPE),
            ("sa_3.jpg", tarfile.CHRTYPE),
            ("sa_4.jpg", tarfile.BLKTYPE),
            ("sa_5.jpg", tarfile.FIFOTYPE),
            ("../sa_6.jpg", tarfile.REGTYPE),
            ("a/../../sa_7.jpg", tarfile.REGTYPE),
            ("./sa_8.jpg", tarfile.REGTYPE),
        ]:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(member)
    scan = scan_bytes(out.getvalue())
    assert [m.name for m in scan.members()] == ["sa_8.jpg"]
    kinds = sorted((p.kind, p.member) for p in scan.problems)
    assert kinds == sorted(
        [
            ("link", "sa_1.jpg"),
            ("link", "sa_2.jpg"),
            ("device", "sa_3.jpg"),
            ("device", "sa_4.jpg"),
            ("device", "sa_5.jpg"),
        ]
        + [("unsafe", "../sa_6.jpg"), ("unsafe", "a/../../sa_7.jpg")]
    )


def test_a_negative_size_neither_loops_nor_hides_what_follows() -> None:
    header = bytearray(tarfile.TarInfo("sa_1.jpg").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"-0000002000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    scan = scan_bytes(bytes(header) + tar_bytes({"sa_2.jpg": b"x"}))
    assert [(m.name, m.size) for m in scan.members()] == [("sa_1.jpg", 0), ("sa_2.jpg", 1)]


def test_a_sparse_member_is_refused_and_what_follows_it_is_found() -> None:
    sparse = tarfile.TarInfo("sa_1.jpg")
    sparse.size = 512
    header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[482] = 1  # one further header of the sparse map
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    raw = bytes(header) + bytes(512) + bytes(512) + tar_bytes({"sa_2.jpg": b"x"})
    scan = scan_bytes(raw)
    assert [(m.name, m.offset) for m in scan.members()] == [("sa_2.jpg", 1536 + 512)]
    assert [(p.kind, p.member) for p in scan.problems] == [("sparse", "sa_1.jpg")]
