"""Remote roots on the loopback: nothing outside is asked for, no secret stays, and forked workers read on."""

from __future__ import annotations

import base64
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pytest
from PIL import Image

from llava_zh.errors import BadImage, ImageNotFound
from llava_zh.images.locations import FolderImages, Sa1bImages, with_token
from llava_zh.sa1b import access, image_url
from llava_zh.sa1b.filesystem import Sa1bFileSystem

PASSWORD = "correct-horse-battery"
MakeFs = Callable[..., Sa1bFileSystem]


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "JPEG")
    return out.getvalue()


class Server(ThreadingHTTPServer):
    """Files by exact, decoded path below /x; everything else is private. Listings are answered with `listing`."""

    daemon_threads = True
    listing = 403
    missing = 404
    password: str | None = None
    announced: int | None = None  # what HEAD says of a file's length
    cut: int | None = None  # where the body of a file ends
    loops: str | None = None  # paths that start so are redirected to themselves

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/x"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        wanted = "Basic " + base64.b64encode(f"user:{self.server.password}".encode()).decode()
        name = unquote(self.path)
        data, status = b"", self.server.missing
        if self.server.password and self.headers.get("Authorization") != wanted:
            status = 401
        elif name.rstrip("/") == "/x":
            status = self.server.listing
        elif name.startswith("/x/") and name[3:] in self.server.files:
            data, status = self.server.files[name[3:]], 200
        elif not name.startswith("/x/"):
            data, status = b"private", 200
        if self.server.loops and name.startswith(self.server.loops):
            status = 302
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.path)
        lied = self.command == "HEAD" and self.server.announced is not None and data
        self.send_header("Content-Length", str(self.server.announced if lied else len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: self.server.cut])
            self.close_connection = self.server.cut is not None


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    access._known.clear()
    yield server
    server.shutdown()
    server.server_close()


def opened(url: str) -> bytes:
    from datasets.utils.file_utils import xopen

    with xopen(url, "rb") as file:  # as datasets.Image does
        return bytes(file.read())


NASTY = [
    "%2e%2e/%2e%2e/admin?x=1",
    "a?x=1.jpg",
    "a#b.jpg",
    "%252e%252e/admin",
    "..%2fadmin",
    "*.jpg",
    "a b/ü.jpg",
    "%00",
]


@pytest.mark.parametrize("name", NASTY)
def test_a_server_is_asked_for_a_file_of_exactly_the_rows_name_and_nothing_outside(server: Server, name: str) -> None:
    for images in (FolderImages(server.url), Sa1bImages((server.url,))):
        server.files.clear()
        server.asked.clear()
        [url] = images.urls(pa.array([name])).to_pylist()
        with pytest.raises(FileNotFoundError):
            opened(url)
        assert server.asked and all(path.startswith("/x") and "/../" not in path for path in server.asked)
        server.files[name] = jpeg()
        assert opened(url) == jpeg()
        assert images.present(pa.array([name, "absent.jpg"])).tolist() == [True, False]
        assert all(path.startswith("/x") for path in server.asked)


@pytest.mark.parametrize("listing", [403, 404, 405])
def test_where_a_server_lists_nothing_the_file_itself_is_asked_for(
    server: Server, make_fs: MakeFs, listing: int
) -> None:
    server.listing = listing
    server.files["sa_1.jpg"] = jpeg()
    fs = make_fs(server.url)
    assert fs.cat_file("sa_1.jpg") == fs.cat_file("sa_000000/sa_1.jpg") == jpeg()
    server.asked.clear()
    assert fs.cat_file("sa_000000/sa_1.jpg") == jpeg()
    assert len(server.asked) <= 2  # what was found flat is looked for there first
    with pytest.raises(ImageNotFound, match=r"sa_2\.jpg"):
        fs.cat_file("sa_000000/sa_2.jpg")
    assert fs.have(["sa_000000/sa_1.jpg", "sa_000000/sa_2.jpg", "sa_1.jpg"]).tolist() == [True, False, True]


def test_a_file_that_is_refused_is_an_error_and_no_missing_image(server: Server, make_fs: MakeFs) -> None:
    server.missing = 403
    with pytest.raises(BadImage, match=r"refused \(403\).*SA1B_ROOT"):
        make_fs(server.url).cat_file("sa_1.jpg")
    server.missing = 500
    with pytest.raises(BadImage, match="could not be read this time"):
        make_fs(server.url).cat_file("sa_1.jpg")


@pytest.mark.parametrize("listing", [500, 503, 429])
def test_a_listing_that_fails_is_an_error_of_ours_with_the_public_url(
    server: Server, make_fs: MakeFs, listing: int
) -> None:
    server.listing, server.files = listing, {"sa_1.jpg": jpeg()}
    fs = make_fs(server.url.replace("://", f"://user:{PASSWORD}@"))
    for ask in (lambda: fs.cat_file("sa_1.jpg"), lambda: fs.ls(""), lambda: fs.info("sa_1.jpg")):
        with pytest.raises(BadImage, match=rf"^http://127[^@]*/x could not be read this time \({listing}\)\.$"):
            ask()


@pytest.mark.parametrize("loops", ["/x", "/x/sa"])
def test_a_redirect_without_end_is_an_error_of_ours(server: Server, make_fs: MakeFs, loops: str) -> None:
    server.loops, server.files = loops, {"sa_1.jpg": jpeg()}
    with pytest.raises(BadImage, match=r"could not be read this time \(its redirects do not end\)\.$"):
        make_fs(server.url).cat_file("sa_1.jpg")


@pytest.mark.parametrize("announced", [0, 100, 100_000])
def test_a_file_with_other_bytes_than_were_announced_is_no_image(
    server: Server, make_fs: MakeFs, announced: int
) -> None:
    server.announced, server.files = announced, {"sa_1.jpg": jpeg()}
    with pytest.raises(BadImage, match=rf"ended after {len(jpeg())} bytes where .* announced {announced:,}\.$"):
        make_fs(server.url).cat_file("sa_1.jpg")
    with pytest.raises(BadImage, match="ended after"), make_fs(server.url).open("sa_1.jpg") as file:
        file.read()


def test_a_file_that_breaks_off_says_so_on_one_line(server: Server, make_fs: MakeFs) -> None:
    server.cut, server.files = 300, {"sa_1.jpg": jpeg()}
    with pytest.raises(BadImage, match=r"read this time \(its answer ended before all of its bytes had come\)\.$"):
        make_fs(server.url).cat_file("sa_1.jpg")


def test_a_web_page_in_the_place_of_a_picture_is_no_picture(server: Server, make_fs: MakeFs) -> None:
    server.files = {"sa_1.jpg": b"\n<!DOCTYPE html><html>Log in</html>"}
    with pytest.raises(BadImage, match=r"sa_1\.jpg is an HTML page, not a picture"):
        make_fs(server.url).cat_file("sa_1.jpg")


def test_a_server_that_nobody_is_at_is_an_error_of_ours(server: Server, make_fs: MakeFs) -> None:
    url = server.url.replace(f":{server.server_address[1]}", ":1")
    with pytest.raises(BadImage, match=r"http://127\.0\.0\.1:1/x could not be read this time \(") as caught:
        make_fs(url).cat_file("sa_1.jpg")
    assert "\n" not in str(caught.value)


def test_a_part_of_a_file_is_the_same_with_and_without_byte_ranges(server: Server, make_fs: MakeFs) -> None:
    server.files = {"sa_1.jpg": jpeg()}
    assert make_fs(server.url).cat_file("sa_1.jpg", 10, 50) == jpeg()[10:50]


# -- fork ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_remote_root_used_before_a_fork_works_in_the_child(server: Server, make_fs: MakeFs) -> None:
    server.files |= {"sa_1.jpg": jpeg(), "sa_2.jpg": jpeg()}
    fs = make_fs(server.url)
    assert fs.cat_file("sa_1.jpg") == jpeg()
    url = image_url("sa_2.jpg", server.url)
    assert opened(image_url("sa_1.jpg", server.url)) == jpeg()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(fs.cat_file, ["sa_1.jpg", "sa_2.jpg"]).get(30) == [jpeg()] * 2
        assert pool.map_async(opened, [url, url]).get(30) == [jpeg()] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_workers_of_a_data_loader_read_a_remote_root_that_was_used_before(server: Server) -> None:
    torch_data = pytest.importorskip("torch.utils.data", reason="DataLoader is torch's, which the torch extra brings")
    server.files |= {f"sa_{n}.jpg": jpeg() for n in range(8)}
    urls = [image_url(f"sa_{n}.jpg", server.url) for n in range(8)]
    assert opened(urls[0]) == jpeg()
    loader = torch_data.DataLoader(urls, num_workers=2, collate_fn=lambda batch: [opened(url) for url in batch])
    assert [data for batch in loader for data in batch] == [jpeg()] * 8


# -- passwords and tokens --------------------------------------------------------------------------------------


def test_a_password_in_a_root_stays_out_of_rows_and_opens_them_here_in_workers_and_by_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch, make_fs: MakeFs
) -> None:
    server.password = PASSWORD
    server.files |= {"sa_1.jpg": jpeg(), "a/1.png": jpeg()}
    root = server.url.replace("http://", f"http://user:{PASSWORD}@")
    sa1b, folder = Sa1bImages((root,)), FolderImages(root)
    for images, name in ((sa1b, "sa_1.jpg"), (folder, "a/1.png"), (folder, "sa_1.jpg")):
        [url] = images.urls(pa.array([name])).to_pylist()
        assert PASSWORD not in url + images.identity + repr(images) and "user" not in url
        assert opened(url) == jpeg()
        assert images.present(pa.array([name])).all()
    assert PASSWORD not in image_url("sa_1.jpg", root)
    with pytest.raises(ImageNotFound) as caught:
        opened(sa1b.urls(pa.array(["sa_2.jpg"])).to_pylist()[0])
    assert PASSWORD not in str(caught.value)

    # A worker that is started anew is sent the root with its secret; any other process needs it by itself.
    code = "import sys, pickle, fsspec; {}; print(len(fsspec.open(sys.argv[1]).open().read()))"
    url = f"sa1b://sa_1.jpg::{server.url}"
    sent = code.format(f"pickle.loads(bytes.fromhex('{pickle.dumps(sa1b).hex()}'))")
    assert run(sent, url).stdout.strip() == str(len(jpeg()))
    failed = run(code.format("pass"), url)
    assert "401" in failed.stderr and "SA1B_ROOT" in failed.stderr
    monkeypatch.setenv("SA1B_ROOT", root)
    assert run(code.format("pass"), url).stdout.strip() == str(len(jpeg()))


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_keys_of_a_bucket_become_options_of_its_filesystem() -> None:
    access._known.clear()
    assert access.remember("s3://KEYID:sec%2Fret-key@bucket/sa1b") == "s3://bucket/sa1b"
    url, options = access.resolve("s3://bucket/sa1b", {"anon": None})
    assert (url, options) == ("s3://bucket/sa1b", {"anon": None, "key": "KEYID", "secret": "sec/ret-key"})
    assert access.public("sftp://me@host/x") == "sftp://me@host/x"
    assert access.public("sftp://me:pass@host/x") == "sftp://host/x"
    assert access.public("https://host/x?sig=abc") == "https://host/x"
    assert access.public("hf://datasets/u/r@main/x") == "hf://datasets/u/r@main/x"


def test_a_token_goes_with_a_place_on_the_hub_and_into_no_row() -> None:
    images = with_token(FolderImages("hf://datasets/u/private@abc"), "hf_secret_token_value")
    [url] = images.urls(pa.array(["images/1.jpg"])).to_pylist()
    assert url == "sa1b://images/1.jpg::hf://datasets/u/private@abc"
    assert "hf_secret" not in repr(images) + images.identity + url
    fs, _ = fsspec.core.url_to_fs(url, hf={"token": None})
    assert fs.roots[0].fs.token == "hf_secret_token_value"
    assert with_token(FolderImages("/data"), "hf_secret_token_value").urls(pa.array(["1.jpg"])).to_pylist() == [
        "/data/1.jpg"
    ]
