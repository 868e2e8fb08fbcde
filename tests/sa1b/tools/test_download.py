from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_zh.errors import BadArgument, BadFile, OutputError, UnknownName
from llava_zh.sa1b.tools.download import download

from ..conftest import Files, write_archive
from ..small import kill_when, small_files

SECRET = "SECRETSIGNATURE"


class Cdn(ThreadingHTTPServer):
    """Serves `files` as a CDN of signed links does. Faults are set by name of the file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: Files = {}
        self.refuse: dict[str, int] = {}  # status to answer with
        self.busy: dict[str, int] = {}  # answers of 503 still to give
        self.cut: dict[str, list[int]] = {}  # after how many bytes to hang up, one entry an answer
        self.no_range: set[str] = set()
        self.pause = 0.0  # seconds between pieces
        self.sent: list[tuple[str, str]] = []  # name, Range
        self.stopping = threading.Event()

    def links(self, path: Path) -> Path:
        lines = ["file_name\tcdn_link"]
        lines += [f"{name}\thttp://127.0.0.1:{self.server_port}/{name}?sig={SECRET}" for name in self.files]
        path.write_text("\n".join(lines) + "\n")
        return path

    def starts(self, name: str) -> list[int]:
        """Where each answer that was more than a question for the size began."""
        ranges = [wanted for sent, wanted in self.sent if sent == name and wanted != "bytes=0-0"]
        return [int(re.match(r"bytes=(\d+)-", wanted)[1]) for wanted in ranges]


class Handler(BaseHTTPRequestHandler):
    server: Cdn

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name, cdn = self.path.partition("?")[0].lstrip("/"), self.server
        cdn.sent.append((name, self.headers.get("Range", "")))
        if f"sig={SECRET}" not in self.path or name in cdn.refuse:
            return self.send_error(cdn.refuse.get(name, 403))
        if cdn.busy.get(name, 0) > 0:
            cdn.busy[name] -= 1
            return self.send_error(503)
        data, start, stop = cdn.files[name], 0, len(cdn.files[name])
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted and name not in cdn.no_range:
            start, stop = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if wanted and wanted[0] != "bytes=0-0" and cdn.cut.get(name):
            stop = min(stop, start + cdn.cut[name].pop(0))
        for at in range(start, stop, 16 << 10):
            self.wfile.write(data[at : min(at + (16 << 10), stop)])
            if cdn.pause and cdn.stopping.wait(cdn.pause):
                break
        self.close_connection = True
        return None


@pytest.fixture
def cdn(tmp_path: Path) -> Iterator[Cdn]:
    server = Cdn()
    files = small_files(range(1, 30))
    for n, kind in enumerate(("gzip", "gzip", "tar")):
        name = f"sa_{n:06d}.tar"
        server.files[name] = write_archive(tmp_path / "published" / name, files, kind).read_bytes()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.stopping.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr("llava_zh.storage.http.time.sleep", lambda seconds: None)


def checklist(path: Path, files: Files) -> Path:
    path.write_text("".join(f"{hashlib.md5(data).hexdigest()}  {name}\n" for name, data in files.items()))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_archives_are_fetched_whole_and_checked(cdn: Cdn, tmp_path: Path) -> None:
    sums = checklist(tmp_path / "checklist.chk", cdn.files)
    done = download(cdn.links(tmp_path / "links.tsv"), tmp_path / "out", checklist=sums)
    assert [(one.name, one.problem, one.md5) for one in done] == [(name, None, True) for name in cdn.files]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == cdn.files


def test_only_chosen_archives_are_fetched_and_those_there_are_kept(cdn: Cdn, tmp_path: Path) -> None:
    links = cdn.links(tmp_path / "links.tsv")
    (done,) = download(links, tmp_path / "out", archives="sa_000001")
    assert not done.kept and names(tmp_path / "out") == ["sa_000001.tar"]
    before = (tmp_path / "out" / "sa_000001.tar").stat()
    kept, new = download(links, tmp_path / "out", archives=[1, 2])
    assert kept.kept and not new.kept
    assert (tmp_path / "out" / "sa_000001.tar").stat() == before
    with pytest.raises(UnknownName, match="sa_000009"):
        download(links, tmp_path / "out", archives=[9])


def test_a_cut_connection_is_continued_at_the_byte_reached(cdn: Cdn, tmp_path: Path, quick: None) -> None:
    cdn.cut["sa_000000.tar"] = [20_000, 30_000]
    cdn.busy["sa_000001.tar"] = 2
    done = download(cdn.links(tmp_path / "links.tsv"), tmp_path / "out")
    assert [one.problem for one in done] == [None] * 3
    assert cdn.starts("sa_000000.tar") == [0, 20_000, 50_000]
    assert (tmp_path / "out" / "sa_000000.tar").read_bytes() == cdn.files["sa_000000.tar"]


@pytest.mark.parametrize("status", [400, 401, 403, 410])
def test_an_expired_link_is_named_as_such_and_the_others_are_fetched(cdn: Cdn, tmp_path: Path, status: int) -> None:
    cdn.refuse["sa_000001.tar"] = status
    done = download(cdn.links(tmp_path / "links.tsv"), tmp_path / "out")
    assert [one.expired for one in done] == [False, True, False]
    assert f"the link has expired (status {status})" in str(done[1].problem)
    assert "Get a new list of links" in str(done[1].problem)
    assert names(tmp_path / "out") == ["sa_000000.tar", "sa_000002.tar"]


def test_a_link_that_expires_on_the_way_keeps_what_came_and_a_new_one_goes_on(
    cdn: Cdn, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "sa_000000.tar"
    cdn.cut[name] = [20_000]
    answer = Handler.do_GET

    def expiring(self: Handler) -> None:
        answer(self)
        if self.path.startswith(f"/{name}") and self.headers.get("Range") != "bytes=0-0":
            self.server.refuse[name] = 403

    monkeypatch.setattr(Handler, "do_GET", expiring)
    links = cdn.links(tmp_path / "links.tsv")
    (done,) = download(links, tmp_path / "out", archives=0)
    assert done.expired and names(tmp_path / "out") == [f".{name}.part"]
    cdn.refuse.clear()
    cdn.sent.clear()
    monkeypatch.setattr(Handler, "do_GET", answer)
    (done,) = download(links, tmp_path / "out", archives=0)
    assert done.problem is None and cdn.starts(name) == [20_000]
    assert (tmp_path / "out" / name).read_bytes() == cdn.files[name]


def test_no_message_shows_the_signature(
    cdn: Cdn, tmp_path: Path, quick: None, capfd: pytest.CaptureFixture[str]
) -> None:
    cdn.refuse["sa_000000.tar"] = 403
    cdn.refuse["sa_000001.tar"] = 404
    links = cdn.links(tmp_path / "links.tsv")
    cut = links.read_text().replace(f":{cdn.server_port}/sa_000002", ":1/sa_000002")  # nothing listens there
    links.write_text(cut)
    done = download(links, tmp_path / "out")
    problems = [str(one.problem) for one in done]
    assert "expired" in problems[0] and "404" in problems[1] and "ConnectionError" in problems[2]
    shown = capfd.readouterr()
    assert all(SECRET not in text for text in (*problems, shown.out, shown.err))


def test_a_server_that_ignores_range_is_read_from_the_start(
    cdn: Cdn, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_zh.storage.http.WHOLE_FILE", 1000)
    name = "sa_000000.tar"
    links = cdn.links(tmp_path / "links.tsv")
    (tmp_path / "out").mkdir()
    part = tmp_path / "out" / f".{name}.part"
    part.write_bytes(cdn.files[name][:30_000])
    cdn.no_range.add(name)
    (done,) = download(links, tmp_path / "out", archives=0)
    assert done.problem is None and (tmp_path / "out" / name).read_bytes() == cdn.files[name]
    (tmp_path / "out" / name).unlink()
    cdn.cut[name] = [20_000] * 20
    (done,) = download(links, tmp_path / "out", archives=0)
    assert "ignores Range" in str(done.problem) and names(tmp_path / "out") == [part.name]


def test_a_wrong_md5_is_refused_and_what_came_removed(cdn: Cdn, tmp_path: Path) -> None:
    wrong = {**cdn.files, "sa_000001.tar": b"other"}
    done = download(
        cdn.links(tmp_path / "links.tsv"),
        tmp_path / "out",
        checklist=checklist(tmp_path / "checklist.chk", wrong),
    )
    expected, found = (hashlib.md5(data).hexdigest() for data in (b"other", cdn.files["sa_000001.tar"]))
    assert f"expected MD5 {expected}, found {found}" in str(done[1].problem)
    assert names(tmp_path / "out") == ["sa_000000.tar", "sa_000002.tar"]


def test_a_checklist_that_lacks_an_archive_is_refused_before_anything_is_fetched(cdn: Cdn, tmp_path: Path) -> None:
    sums = checklist(tmp_path / "checklist.chk", {"sa_000000.tar": b""})
    with pytest.raises(BadFile, match=r"has no MD5 of sa_000001\.tar"):
        download(cdn.links(tmp_path / "links.tsv"), tmp_path / "out", checklist=sums)
    assert cdn.sent == []


def test_a_page_in_place_of_an_archive_is_no_archive(cdn: Cdn, tmp_path: Path) -> None:
    cdn.files["sa_000000.tar"] = b"<html>" + b"log in first " * 100
    (done,) = download(cdn.links(tmp_path / "links.tsv"), tmp_path / "out", archives=0)
    assert "no tar, gzip or zip file" in str(done.problem) and names(tmp_path / "out") == []


@pytest.mark.parametrize("left", [b"<html>what an earlier server said</html>" * 20, b"\x1f\x8b" + bytes(10_000_000)])
def test_what_an_earlier_call_left_of_something_else_is_not_built_upon(cdn: Cdn, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".sa_000000.tar.part").write_bytes(left)
    (done,) = download(cdn.links(tmp_path / "links.tsv"), tmp_path / "out", archives=0)
    assert done.problem is None
    assert (tmp_path / "out" / "sa_000000.tar").read_bytes() == cdn.files["sa_000000.tar"]


def test_free_space_is_checked_before_anything_is_fetched(
    cdn: Cdn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(map(len, cdn.files.values()))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=total - 1))
    with pytest.raises(OutputError, match="Fetching 3 files needs"):
        download(cdn.links(tmp_path / "links.tsv"), tmp_path / "out")
    assert all(wanted == "bytes=0-0" for _, wanted in cdn.sent)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=total))
    assert all(one.problem is None for one in download(tmp_path / "links.tsv", tmp_path / "out"))


def test_a_killed_download_is_continued(
    cdn: Cdn, tmp_path: Path, index_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cdn.files = {"sa_000000.tar": b"\x1f\x8b" + os.urandom(3_000_000)}
    cdn.pause = 0.005
    out, links = tmp_path / "out", cdn.links(tmp_path / "links.tsv")
    part = out / ".sa_000000.tar.part"
    code = f"from llava_zh.sa1b.tools.download import download; download({str(links)!r}, {str(out)!r})"
    ready: Callable[[], bool] = lambda: part.exists() and part.stat().st_size > 300_000  # noqa: E731
    kill_when(code, ready, index_cache)
    there = part.stat().st_size
    assert 300_000 < there < 3_000_000
    cdn.pause = 0
    cdn.sent.clear()
    (done,) = download(links, out)
    assert done.problem is None and cdn.starts("sa_000000.tar") == [there]
    assert (out / "sa_000000.tar").read_bytes() == cdn.files["sa_000000.tar"]


# -- the list as Meta gives it -----------------------------------------------------------------------------


def test_the_published_list_with_other_files_in_any_order_gives_the_archives(cdn: Cdn, tmp_path: Path) -> None:
    import random

    rows = [f"sa_{n:06d}.tar\thttp://127.0.0.1:{cdn.server_port}/sa_{n:06d}.tar?sig={SECRET}" for n in range(1000)]
    others = ("sa_images_ids.txt", "sa_co_gold.tar")
    rows += [f"{name} http://127.0.0.1:{cdn.server_port}/{name}?sig={SECRET}" for name in others]
    random.Random(1).shuffle(rows)
    links = tmp_path / "links.txt"
    links.write_text("file_name\tcdn_link\n" + "\n".join(rows))  # no final newline
    cdn.files |= {"sa_images_ids.txt": b"1\n2\n3\n", "sa_co_gold.tar": cdn.files["sa_000002.tar"]}
    done = download(links, tmp_path / "out", archives=range(3))
    assert [(one.name, one.problem) for one in done] == [(f"sa_{n:06d}.tar", None) for n in range(3)]
    done = download(links, tmp_path / "out", files=others)
    assert [(one.name, one.problem, one.skipped) for one in done] == [(name, None, False) for name in others]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == cdn.files
    with pytest.raises(UnknownName, match=r"notes\.txt.*sa_images_ids\.txt"):
        download(links, tmp_path / "out", files=["notes.txt"])
    with pytest.raises(BadArgument, match="archives= names no|is chosen"):
        download(links, tmp_path / "out", archives=[])


def test_other_files_are_listed_and_skipped_unless_they_are_asked_for(cdn: Cdn, tmp_path: Path) -> None:
    cdn.files["sa_images_ids.txt"] = b"1\n"
    done = download(cdn.links(tmp_path / "links.tsv"), tmp_path / "out")
    assert [(one.name, one.skipped) for one in done][-1] == ("sa_images_ids.txt", True)
    assert "sa_images_ids.txt" not in names(tmp_path / "out")
    cdn.files["sa_images_ids.txt"] = b"<!DOCTYPE html><html>log in</html>"
    (done_,) = download(tmp_path / "links.tsv", tmp_path / "out", files=["sa_images_ids.txt"])
    assert "is a web page" in str(done_.problem)


@pytest.mark.parametrize("name", [".sa_000001.tar.part", "sa_000001.tar"])
@pytest.mark.parametrize("what", ["link", "folder"])
def test_what_is_planted_stops_its_own_file_and_is_not_written_through(
    cdn: Cdn, tmp_path: Path, name: str, what: str
) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    if what == "folder":
        (out / name).mkdir()
    else:
        (out / name).symlink_to(victim)
    done = download(cdn.links(tmp_path / "links.tsv"), out)
    assert [one.problem is None for one in done] == [True, False, True]
    assert name in str(done[1].problem)
    assert not victim.exists()


def test_an_archive_that_is_a_link_to_another_disk_is_kept(cdn: Cdn, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sa_000000.tar").symlink_to(tmp_path / "published" / "sa_000000.tar")
    done = download(cdn.links(tmp_path / "links.tsv"), tmp_path / "out")
    assert [one.kept for one in done] == [True, False, False]


@pytest.mark.parametrize("size", ["abc", "-5", "9" * 5000, "nan"])
def test_a_size_that_is_no_number_is_a_problem_of_its_file(
    cdn: Cdn, tmp_path: Path, size: str, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    header = Handler.send_header

    def send_header(self: Handler, name: str, value: str) -> None:
        if "sa_000001" in self.path and name in ("Content-Length", "Content-Range"):
            value = f"bytes 0-0/{size}" if name == "Content-Range" else "1"
        header(self, name, value)

    monkeypatch.setattr(Handler, "send_header", send_header)
    done = download(cdn.links(tmp_path / "links.tsv"), tmp_path / "out")
    assert [one.problem is None for one in done] == [True, False, True]
    assert "does not say how large" in str(done[1].problem)
