from __future__ import annotations

import io
import tarfile
import zlib
from typing import NamedTuple

import pytest
from hunting import hunt
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_zh.sa1b.index import Scan
from llava_zh.sa1b.tar_header import safe_name
from llava_zh.sa1b.tar_scan import PIECE, scan_tar

from .conftest import tar_bytes

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def _dot() -> bytes:
    out = io.BytesIO()
    Image.new("L", (1, 1)).save(out, "JPEG", optimize=True)
    return out.getvalue()


_DOT = _dot()


def whole(size: int = 0) -> bytes:
    """A real JPEG of `size` bytes, or of as few as one has."""
    data, more = _DOT, size - len(_DOT)
    while more >= 4:
        length = more if more <= 60_000 else 50_000
        data = data[:2] + b"\xff\xfe" + (length - 2).to_bytes(2, "big") + bytes(length - 4) + data[2:]
        more -= length
    return data


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


def test_a_damaged_header_costs_its_own_member_alone() -> None:
    raw = bytearray(tar_bytes({f"sa_{i}.jpg": whole(1000) for i in (1, 2, 3)}))
    raw[1536 + 20] ^= 0xFF
    scan = scan_bytes(bytes(raw))
    assert [m.name for m in scan.members()] == ["sa_1.jpg", "sa_3.jpg"]
    [problem] = scan.problems
    assert (problem.kind, problem.offset) == ("damaged", 1536)
    assert "1,536 bytes are passed over" in problem.detail


def test_a_damaged_header_that_is_noticed_late_costs_its_own_member_alone() -> None:
    """Checksums are looked at for thousands of headers at once; the walk goes back to the one that does not fit."""
    raw = bytearray(tar_bytes({f"sa_{i}.jpg": whole() for i in range(9000)}))
    for row in (5, 4094, 4095, 4096, 4097, 7000):
        raw[1024 * row + 3] ^= 1
    scan = scan_bytes(bytes(raw))
    assert len(scan.members()) == 9000 - 6
    assert [p.offset // 1024 for p in scan.problems] == [5, 4094, 7000]  # three in a row are one


def test_two_tars_put_together_are_read_to_the_end_of_the_second() -> None:
    first, second = tar_bytes({"sa_1.jpg": whole()}), tar_bytes({"sa_5.jpg": b"5"})
    scan = scan_bytes(first + second)
    assert [m.name for m in scan.members()] == ["sa_1.jpg", "sa_5.jpg"]
    assert [(p.kind, p.offset) for p in scan.problems] == [("lost", 1024)]


@pytest.mark.parametrize("size", [512, 1536, 3 << 20])
def test_a_hole_of_zeros_costs_the_members_in_it(size: int) -> None:
    raw = bytearray(tar_bytes({f"sa_{i}.jpg": whole(size - 512) if size > 512 else b"" for i in (1, 2, 3, 4)}))
    raw[size : 2 * size] = bytes(size)
    scan = scan_bytes(bytes(raw))
    assert [m.name for m in scan.members()] == ["sa_1.jpg", "sa_3.jpg", "sa_4.jpg"]
    assert [(p.kind, p.offset) for p in scan.problems] == [("lost", size)]
    assert f"{size:,} bytes" in scan.problems[0].detail


def test_a_hole_that_ends_inside_a_member_is_passed_over_up_to_the_next_one() -> None:
    raw = bytearray(tar_bytes({f"sa_{i}.jpg": whole(5000) for i in (1, 2, 3)}))
    raw[5632 : 5632 + 2000] = bytes(2000)
    scan = scan_bytes(bytes(raw))
    assert [m.name for m in scan.members()] == ["sa_1.jpg", "sa_3.jpg"]
    assert [p.kind for p in scan.problems] == ["lost"]


def test_an_archive_of_nothing_but_zeros_is_a_problem_and_an_empty_tar_is_none() -> None:
    assert [p.kind for p in scan_bytes(bytes(100_000)).problems] == ["lost"]
    assert not scan_bytes(tar_bytes({})).problems


def test_bytes_behind_the_end_marker_that_are_no_tar_are_a_problem() -> None:
    scan = scan_bytes(tar_bytes({"sa_1.jpg": whole()}) + b"<html>" * 300)
    assert [m.name for m in scan.members()] == ["sa_1.jpg"]
    assert [(p.kind, p.offset) for p in scan.problems] == [("lost", 1024)]


def test_more_zeros_at_the_end_than_padding_has_are_a_problem() -> None:
    """A download that set aside the space first and did not finish."""
    assert [p.kind for p in scan_bytes(tar_bytes({"sa_1.jpg": whole()}) + bytes(17 << 20)).problems] == ["lost"]


@pytest.mark.parametrize("zeros", [0, 1, 511, 512, 100_000])
def test_padding_at_the_end_is_no_problem(zeros: int) -> None:
    assert not scan_bytes(tar_bytes({"sa_1.jpg": b"1"}) + bytes(zeros)).problems


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


def header_with(size: bytes, kind: bytes = b"0") -> bytes:
    """A header of sa_1.jpg with these 12 bytes for a size, and the checksum that fits them."""
    header = bytearray(tarfile.TarInfo("sa_1.jpg").tobuf(tarfile.GNU_FORMAT))
    header[124:136], header[156:157] = size, kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 12,  # -1 in base 256
        b"\x80" + b"\xff" * 11,
        b"\x80\0\0\0\x80" + bytes(7),  # 2**63
        b"9z" * 6,
    ],
)
def test_a_size_that_is_none_costs_its_own_member_alone(size: bytes) -> None:
    scan = scan_bytes(header_with(size) + tar_bytes({"sa_2.jpg": b"x"}))
    assert [(m.name, m.size) for m in scan.members()] == [("sa_2.jpg", 1)]
    assert [(p.kind, p.member) for p in scan.problems] == [("damaged", "sa_1.jpg")]


@pytest.mark.parametrize("digits", ["9" * 19, "9" * 20, "9" * 5000, "-1", "1e3", "\u0663"])
def test_a_pax_size_that_is_none_costs_its_own_member_alone(digits: str) -> None:
    member = tarfile.TarInfo("sa_1.jpg")
    member.pax_headers = {"size": digits}
    scan = scan_bytes(member.tobuf(tarfile.PAX_FORMAT) + tar_bytes({"sa_2.jpg": b"x"}))
    assert [(m.name, m.size) for m in scan.members()] == [("sa_2.jpg", 1)]
    assert [(p.kind, p.member) for p in scan.problems] == [("damaged", "sa_1.jpg")]


def pax_tar(*members: tuple[str, dict[str, str]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, headers in members:
            member = tarfile.TarInfo(name)
            member.pax_headers = headers
            tar.addfile(member)
    return out.getvalue()


def test_extended_headers_are_bounded_together_and_cost_their_own_member_alone() -> None:
    header = tarfile.TarInfo.create_pax_global_header({"comment": "x" * (5 << 20)})  # skipped, however large
    size = 600 << 10
    one = header_with(b"%011o\0" % size, kind=b"x") + b"614400 comment=".ljust(size - 1, b"x") + b"\n"
    scan = scan_bytes(header + 3 * one + tar_bytes({"sa_1.jpg": b"1", "sa_2.jpg": b"2"}))
    assert [m.name for m in scan.members()] == ["sa_2.jpg"]
    assert [(p.kind, p.member) for p in scan.problems] == [("damaged", "sa_1.jpg")]


def test_a_pax_sparse_member_is_called_sparse_by_its_own_name() -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sa_1.jpg"}
    scan = scan_bytes(pax_tar(("GNUSparseFile.7/sa_1.jpg", headers), ("sa_2.jpg", {})))
    assert [m.name for m in scan.members()] == ["sa_2.jpg"]
    assert [(p.kind, p.member) for p in scan.problems] == [("sparse", "sa_1.jpg")]


@pytest.mark.parametrize("name", ["id_rsa::/home/victim", "http://host/a.jpg", "a\0b.jpg", "x" * 5000, "../a", "."])
def test_a_name_that_no_url_may_carry_is_unsafe(name: str) -> None:
    scan = scan_bytes(pax_tar(("a", {"path": name}), ("sa_2.jpg", {})))
    assert [m.name for m in scan.members()] == ["sa_2.jpg"]
    assert [p.kind for p in scan.problems] == ["unsafe"]
    assert len(scan.problems[0].member) <= 200


def test_a_name_that_is_no_utf8_is_found_by_its_bytes() -> None:
    raw = tar_bytes({"sa_x.jpg": b"1"}).replace(b"sa_x", b"sa_\xff")
    header = bytearray(raw[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    [member] = scan_bytes(bytes(header) + raw[512:]).members()
    assert member.name.encode("utf-8", "surrogateescape") == b"sa_\xff.jpg"


def test_members_beyond_the_limit_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_ZH_MAX_MEMBERS", "5000")
    scan = scan_bytes(tar_bytes({f"sa_{i}.jpg": b"" for i in range(9000)}))
    assert 5000 <= len(scan.members()) < 9000
    assert "LLAVA_ZH_MAX_MEMBERS" in scan.problems[-1].detail


def test_problems_of_one_kind_are_counted_beyond_ten_thousand() -> None:
    member = tarfile.TarInfo("sa_1.jpg")
    member.type, member.linkname = tarfile.SYMTYPE, "x"
    scan = scan_bytes(member.tobuf(tarfile.GNU_FORMAT) * 10_500 + bytes(1024))
    assert len(scan.problems) == 10_001 and "500 more" in scan.problems[-1].detail


def test_a_stream_that_only_goes_forward_gives_the_same_and_each_members_crc() -> None:
    raw = bytearray(tar_bytes({f"sa_{i}.jpg": whole(37 * i % 3000) for i in range(600)}))
    hole = raw.find(b"./sa_200.jpg")
    raw[hole : hole + 900] = bytes(900)
    data = bytes(raw)
    position = 0

    def read_at(offset: int, size: int) -> bytes:
        nonlocal position
        assert offset >= position - 2 * PIECE
        position = max(position, offset + size)
        return data[offset : offset + size]

    def crc_of(offset: int, size: int) -> int | None:
        return zlib.crc32(read_at(offset, size)) if offset + size <= len(data) else None

    forward, free = scan_tar(read_at, crc_of=crc_of), scan_bytes(data)
    assert found(forward) == found(free) and forward.problems == free.problems and free.problems
    for member in forward.members():
        assert (member.crc or 0) == zlib.crc32(data[member.offset : member.offset + member.size])


class Part(NamedTuple):
    """A piece of a tar stream, and where in it the members are that are to be found."""

    data: bytes
    members: list[tuple[str, int, int]]


@st.composite
def parts(draw: st.DrawFn) -> Part:
    """A member or some, whole or damaged, or what is no tar."""
    kind = draw(st.sampled_from(["whole"] * 4 + ["bad header", "hole", "noise", "end"]))
    size = draw(st.integers(0, 3000))
    if kind == "hole":
        return Part(bytes(512 * draw(st.integers(1, 30))), [])
    if kind == "noise":
        return Part(b"\xaa" * 512 * draw(st.integers(1, 30)), [])
    if kind == "end":
        return Part(bytes(1024), [])
    data = whole(size)
    size = len(data)
    name = f"sa_{draw(st.integers(0, 10**9 - 1))}.jpg"
    member = tarfile.TarInfo(draw(st.sampled_from(["", "./", "n" * 120 + "/"])) + name)
    member.size = size
    member.mtime = draw(st.sampled_from([0, 1.5]))
    header = bytearray(member.tobuf(draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))))
    found = [(safe_name(member.name) or "", len(header), size)]
    if kind == "bad header":
        header[len(header) - 512 + draw(st.integers(0, 511))] ^= draw(st.integers(1, 255))
        found = []
    return Part(bytes(header) + data + bytes(-size % 512), found)


@hunt(60)
@given(st.lists(parts(), max_size=12), st.integers(0, 4000))
def test_whole_members_are_found_whatever_lies_between_them(pieces: list[Part], cut: int) -> None:
    """Holes, foreign bytes, end markers in the middle, headers with a byte changed, and a cut at the end."""
    raw = b"".join(piece.data for piece in pieces)
    raw = raw[: max(0, len(raw) - cut)]
    start, expected = 0, []
    for piece in pieces:
        expected += [(name, start + at, size) for name, at, size in piece.members if start + at + size <= len(raw)]
        start += len(piece.data)
    calls = 0

    def read_at(offset: int, size: int) -> bytes:
        nonlocal calls
        calls += 1
        assert calls < 2000
        return raw[offset : offset + size]

    scan = scan_tar(read_at)
    assert set(expected) <= set(found(scan))
    # A header whose checksum alone was changed, in bytes that say nothing, is still one.
    assert len(found(scan)) <= len(expected) + sum(not piece.members for piece in pieces)


@hunt(60)
@given(st.binary(max_size=4096), st.lists(st.tuples(st.integers(0, 8191), st.integers(0, 255)), max_size=30))
def test_no_bytes_make_the_walk_fail(noise: bytes, edits: list[tuple[int, int]]) -> None:
    raw = bytearray(pax_tar(("a" * 150, {"mtime": "1.5"}), ("sa_2.jpg", {"GNU.sparse.name": "b"})) + noise)
    for offset, value in edits:
        raw[offset % len(raw)] = value
    for offset in (0, 512, 1024, 1536, 2048):  # headers with the checksum that fits
        raw[offset + 148 : offset + 156] = b"%06o\0 " % (
            256 + sum(raw[offset : offset + 148]) + sum(raw[offset + 156 : offset + 512])
        )
    scan = scan_bytes(bytes(raw))
    for member in scan.members():
        assert 0 <= member.offset <= member.offset + member.size <= len(raw)


def test_a_negative_size_neither_loops_nor_hides_what_follows() -> None:
    scan = scan_bytes(header_with(b"-0000002000\0") + tar_bytes({"sa_2.jpg": b"x"}))
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


@pytest.mark.parametrize("name", ["sa_1.jpg", "sa_1.json", "photo.jpg"])
@pytest.mark.parametrize("fault", ["overwritten", "moved"])
def test_what_stands_right_before_a_fault_is_kept_only_if_it_is_whole(name: str, fault: str) -> None:
    data = whole(5000) if name.endswith("jpg") else b"[" + b"1," * 2400 + b"1]"
    raw = tar_bytes({"sa_0.jpg": whole(700), name: data, "sa_2.jpg": whole(900)})
    at = raw.find(b"./sa_2.jpg")
    broken = raw[: at - 700] + b"\xaa" * 800 + raw[at + 100 :] if fault == "overwritten" else raw[:3000] + raw[3512:]
    scan = scan_bytes(broken)
    assert name not in [m.name for m in scan.members()] and "sa_0.jpg" in [m.name for m in scan.members()]
    assert ("lost", name) in [(p.kind, p.member) for p in scan.problems]
    header_alone = bytearray(raw)
    header_alone[at + 3] ^= 1
    assert {m.name for m in scan_bytes(bytes(header_alone)).members()} == {"sa_0.jpg", name}
