"""Remote roots against a real HTTP server with byte ranges, on the loopback."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from llava_zh.errors import BadArchive, BadArgument, BadIndex, ImageNotFound
from llava_zh.sa1b.filesystem import Sa1bFileSystem
from llava_zh.sa1b.image_cache import ImageCache, parse_limit
from llava_zh.sa1b.source import RemoteSource

from .conftest import Files, write_archive, write_files


class Server(ThreadingHTTPServer):
    listed = True  # give folder listings
    ranges = True  # honour byte ranges
    sent = 0  # bytes of bodies
    fails_after: int | None = None  # requests for files that are answered before all others get a 503
    root: Path


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None: ...

    def list_directory(self, path: object) -> None:  # type: ignore[override]
        if self.server.listed:
            return super().list_directory(path)  # type: ignore[arg-type, return-value]
        return self.send_error(404)

    def translate_path(self, path: str) -> str:
        return str(self.server.root / path.partition("?")[0].lstrip("/"))

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        if not path.is_file():
            return super().do_GET()
        if self.server.fails_after is not None:
            self.server.fails_after -= 1
            if self.server.fails_after < 0:
                return self.send_error(503)
        data, status = path.read_bytes(), 200
        if wanted and self.server.ranges:
            last = int(wanted[2] or len(data) - 1)
            data, status, size = data[int(wanted[1]) : last + 1], 206, len(data)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        if status == 206 and wanted:
            self.send_header("Content-Range", f"bytes {wanted[1]}-{int(wanted[1]) + len(data) - 1}/{size}")
        self.end_headers()
        self.server.sent += len(data)
        self.wfile.write(data)
        return None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.root = tmp_path / "served"
    server.root.mkdir()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


MakeFs = Callable[..., Sa1bFileSystem]


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_archives_are_read_by_ranges_through_their_sidecars(
    server: Server, make_fs: MakeFs, files: Files, index_cache: Path
) -> None:
    write_archive(server.root / "sa_000000.tar", files, "gzip")
    write_archive(server.root / "sa_000001.tar", files, "tar")
    write_files(server.root / "sa_000002", {"sa_1.jpg": files["sa_1.jpg"]})
    make_fs(server.root).build_index(sidecar=True)
    fs = make_fs(url(server))
    for stem in ("sa_000000", "sa_000001"):
        assert fs.cat(f"{stem}/sa_7.jpg") == files["sa_7.jpg"]
    assert fs.cat("sa_000002/sa_1.jpg") == files["sa_1.jpg"]
    with pytest.raises(ImageNotFound):
        fs.cat("sa_000002/sa_2.jpg")
    server.sent = 0
    assert fs.cat("sa_000001/sa_8.jpg") == files["sa_8.jpg"]
    assert server.sent == len(files["sa_8.jpg"])
    assert not list(index_cache.rglob("*.sa1bx"))


def test_a_server_that_lists_nothing_is_asked_for_the_usual_names(
    server: Server, make_fs: MakeFs, files: Files
) -> None:
    server.listed = False
    write_archive(server.root / "data" / "sa_000000.tar", files, "gzip")
    write_files(server.root / "sa_000001" / "images", {"sa_1.jpg": files["sa_1.jpg"]})
    fs = make_fs(url(server))
    with pytest.raises(BadIndex, match="llava-zh sa1b index"):
        fs.cat("sa_000000/sa_1.jpg")
    make_fs(server.root).build_index(sidecar=True)
    assert fs.cat("sa_000000/sa_1.jpg") == files["sa_1.jpg"]
    assert fs.cat("sa_000001/sa_1.jpg") == files["sa_1.jpg"]


def test_a_server_without_ranges_is_named(server: Server, make_fs: MakeFs, files: Files) -> None:
    write_archive(server.root / "sa_000000.tar", files, "tar")
    make_fs(server.root).build_index(sidecar=True)
    server.ranges = False
    with pytest.raises((BadArchive, BadIndex), match=r"byte ranges|no index"):
        make_fs(url(server)).cat("sa_000000/sa_1.jpg")


def test_an_index_is_built_by_streaming_the_archive_once(server: Server, make_fs: MakeFs, files: Files) -> None:
    path = write_archive(server.root / "sa_000000.tar", files, "gzip")
    fs = make_fs(url(server))
    server.sent = 0
    [info] = fs.build_index()
    assert (info.kind, info.members) == ("gzip", 80)
    assert server.sent < 2 * path.stat().st_size
    assert fs.cat("sa_000000/sa_7.jpg") == files["sa_7.jpg"]


def test_a_server_that_fails_while_an_archive_is_indexed_is_an_error_of_ours(
    server: Server, make_fs: MakeFs, files: Files
) -> None:
    for kind in ("tar", "gzip", "zip"):
        write_archive(server.root / "sa_000000.tar", files, kind)
        fs = make_fs(url(server))
        fs.ls("")
        server.fails_after = 1
        [info] = fs.build_index()
        assert info.problem.endswith("/sa_000000.tar could not be read this time (503)."), (kind, info)
        server.fails_after = None


def test_a_remote_index_larger_than_any_is_not_taken_in(
    server: Server, make_fs: MakeFs, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(server.root / "sa_000000.tar", files, "tar")
    make_fs(server.root).build_index(sidecar=True)
    monkeypatch.setenv("LLAVA_ZH_MAX_INDEX_BYTES", "500")
    server.sent = 0
    with pytest.raises(BadIndex, match="LLAVA_ZH_MAX_INDEX_BYTES|no index"):
        make_fs(url(server)).cat("sa_000000/sa_7.jpg")
    assert 0 < server.sent < 1000 < (server.root / "sa_000000.tar.sa1bx").stat().st_size


def test_images_are_kept_on_the_local_disk_when_asked(
    server: Server, make_fs: MakeFs, files: Files, index_cache: Path
) -> None:
    write_archive(server.root / "sa_000000.tar", files, "tar")
    make_fs(server.root).build_index(sidecar=True)
    fs = make_fs(url(server), cache_images="1MB")
    assert fs.cat("sa_000000/sa_7.jpg") == files["sa_7.jpg"]
    server.sent = 0
    assert fs.cat("sa_000000/sa_7.jpg") == files["sa_7.jpg"]
    assert fs.cat_file("sa_000000/sa_7.jpg", 3, 9) == files["sa_7.jpg"][3:9]
    assert server.sent == 0
    [kept] = (index_cache / "images").glob("??/*")
    assert kept.read_bytes()[4:] == files["sa_7.jpg"]
    kept.write_bytes(kept.read_bytes()[:-9] + bytes(9))  # a damaged one is fetched again
    assert fs.cat("sa_000000/sa_7.jpg") == files["sa_7.jpg"] and server.sent


def test_the_image_cache_stays_near_its_limit_and_drops_the_oldest(index_cache: Path) -> None:
    cache = ImageCache(100_000)
    for n in range(60):
        cache.put(str(n), bytes([n]) * 5000)
    kept = [n for n in range(60) if cache.get(str(n)) is not None]
    assert kept and kept[-1] == 59 and kept == list(range(kept[0], 60))
    assert 50_000 <= 5000 * len(kept) <= 110_000


def test_clearing_up_takes_away_what_killed_writers_left_and_nothing_that_is_being_written(index_cache: Path) -> None:
    fcntl = pytest.importorskip("fcntl", reason="locks of POSIX")
    folder = index_cache / "images" / "00"
    folder.mkdir(parents=True)
    left, living = folder / ".x.1.tmp", folder / ".x.2.tmp"
    left.write_bytes(bytes(9000))
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ImageCache(1).put("x", b"x")
        assert not left.exists() and living.exists()


def _in_a_fork(read: Callable[[], bytes]) -> bytes:
    """What `read` gives in a forked child."""
    taking, giving = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            try:
                os.write(giving, b"+" + read())
            except BaseException as error:
                os.write(giving, repr(error).encode())
        os._exit(0)
    os.close(giving)
    with open(taking, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    assert answer[:1] == b"+", answer
    return answer[1:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_source_that_was_read_before_a_fork_is_read_after_it(server: Server, files: Files) -> None:
    path = write_archive(server.root / "sa_000000.tar", files, "tar")
    data = path.read_bytes()
    fs = fsspec.filesystem("http", skip_instance_cache=True)
    source = RemoteSource(fs, f"{url(server)}/sa_000000.tar")
    assert source.pread(512, 99) == data[512:611]
    for _ in range(2):
        assert _in_a_fork(lambda: source.pread(512, 99)) == data[512:611]
        assert _in_a_fork(lambda: _in_a_fork(lambda: source.pread(1024, 99))) == data[1024:1123]
        assert source.pread(512, 99) == data[512:611]


def test_a_limit_is_a_size() -> None:
    assert parse_limit("10GB") == 10**10 and parse_limit("1.5 mb") == 1_500_000 and parse_limit(7) == 7
    assert parse_limit(None) == 0
    with pytest.raises(BadArgument, match="10GB"):
        parse_limit("much")
