"""The loopback hubs speak to the real clients as the real hubs do, and count what they send."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import sys
import textwrap
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import INTERNVL_COMMIT, HubServer, VirtualFile

REPO = "OpenGVLab/InternVL-SA-1B-Caption"
GIB = 1 << 30
# Further interpreters, each with another huggingface_hub, to hold the hub to: a list as in PATH.
PYTHONS = [sys.executable, *filter(None, os.environ.get("LLAVA_ZH_HUB_PYTHONS", "").split(os.pathsep))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_bytes(b"# captions\n")
    (root / "data" / "notes.txt").write_bytes("说明".encode())
    lines = (json.dumps({"id": i, "value": "图" * 40}, ensure_ascii=False) + "\n" for i in range(2000))
    (root / "big.jsonl").write_bytes("".join(lines).encode())
    return root


@pytest.fixture
def huggingface(folder: Path) -> Iterator[HubServer]:
    with HubServer({REPO: folder}) as hub:
        yield hub


@pytest.fixture
def modelscope(folder: Path) -> Iterator[HubServer]:
    with HubServer({REPO: folder}, "modelscope") as hub:
        yield hub


def get(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """One request without a client library's help: no redirect is followed, nothing is retried."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, url.split(parts.netloc, 1)[1], headers=headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


Run = Callable[..., Any]


@pytest.fixture
def run_client(tmp_path: Path) -> Run:
    """Run a script in a fresh process, as the clients read the environment at import; its `show(value)` comes back."""

    def run(hub: HubServer, script: str, python: str = sys.executable, **env: str) -> Any:
        keep = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
        home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
        home["MODELSCOPE_CACHE"] = str(tmp_path / "modelscope")
        prelude = f"""\
        import json, sys
        REPO, COMMIT = {REPO!r}, {hub.commit!r}
        def show(value): print("RESULT", json.dumps(value))
        def error(call, *args, **kwargs):
            try:
                call(*args, **kwargs)
            except Exception as e:
                status = getattr(e, "status_code", None) or getattr(getattr(e, "response", None), "status_code", None)
                return [type(e).__name__, status]
            return None
        """
        done = subprocess.run(
            [python, "-c", textwrap.dedent(prelude) + textwrap.dedent(script)],
            env={**keep, **home, **hub.env, **env},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.rsplit("RESULT ", 1)[1])

    return run


with_each_python = pytest.mark.parametrize("python", PYTHONS, ids=[str(Path(p).parents[1].name) for p in PYTHONS])


# -- files and ranges --------------------------------------------------------------------------------------


def captions(count: int) -> VirtualFile:
    return VirtualFile.lines(lambda i: json.dumps({"id": f"{i:012d}", "value": "x" * 1000}).encode(), count)


def test_a_virtual_file_gives_the_same_bytes_however_it_is_cut() -> None:
    file = captions(100)
    whole = file.read(0, file.size)
    assert whole.count(b"\n") == 100 and len(whole) == file.size
    assert b"".join(file.read(at, 777) for at in range(0, file.size, 777)) == whole


def test_a_file_of_eleven_gigabytes_is_served_by_range_without_existing() -> None:
    width = captions(1).size
    file = captions(11 * GIB // width)
    with HubServer({REPO: {"en.jsonl": file}}) as hub:
        status, headers, _ = get(f"{hub.url}/datasets/{REPO}/resolve/main/en.jsonl")
        assert status == 302 and headers["x-linked-size"] == str(file.size)
        last = {"Range": f"bytes={file.size - width}-"}
        status, headers, body = get(headers["location"], last)
        assert status == 206 and headers["content-range"] == f"bytes {file.size - width}-{file.size - 1}/{file.size}"
        assert json.loads(body)["id"] == f"{file.size // width - 1:012d}"
        assert hub.bytes_sent == width


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=2-5", 206, b"2345"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, b""),
        ("bytes=5-2", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_ranges_are_answered_as_rfc_9110_says(asked: str, status: int, expected: bytes) -> None:
    with HubServer({REPO: {"digits": b"0123456789"}}) as hub:
        got, headers, body = get(f"{hub.url}/datasets/{REPO}/resolve/main/digits", {"Range": asked})
        assert (got, body) == (status, expected)
        assert headers.get("content-range", "").endswith("/10") == (status in (206, 416))


def test_the_storage_host_refuses_a_token_and_an_unsigned_request(huggingface: HubServer) -> None:
    _, headers, _ = get(f"{huggingface.url}/datasets/{REPO}/resolve/main/big.jsonl")
    assert get(headers["location"], {"Authorization": "Bearer t"})[0] == 400
    assert get(headers["location"].split("?")[0])[0] == 403


# -- faults ------------------------------------------------------------------------------------------------


def storage_url(hub: HubServer) -> str:
    return get(f"{hub.url}/datasets/{REPO}/resolve/main/big.jsonl")[1]["location"]


def test_a_cut_connection_ends_the_body_early_and_only_as_often_as_asked(huggingface: HubServer, folder: Path) -> None:
    url = storage_url(huggingface)
    fault = huggingface.add_fault("GET cdn", cut_after=1000)
    with pytest.raises(http.client.IncompleteRead) as cut:
        get(url)
    assert cut.value.partial == (folder / "big.jsonl").read_bytes()[:1000]
    assert get(url)[2] == (folder / "big.jsonl").read_bytes()
    assert fault.used == 1


def test_a_cut_waits_for_a_body_that_is_long_enough(huggingface: HubServer) -> None:
    url = storage_url(huggingface)
    fault = huggingface.add_fault("GET cdn", cut_after=1000)
    assert len(get(url, {"Range": "bytes=0-499"})[2]) == 500
    assert fault.used == 0


def test_an_error_status_comes_n_times_with_its_headers(huggingface: HubServer) -> None:
    huggingface.add_fault("GET hub /api/", status=429, headers={"Retry-After": "3"}, times=2)
    answers = [get(f"{huggingface.url}/api/datasets/{REPO}") for _ in range(3)]
    assert [status for status, _, _ in answers] == [429, 429, 200]
    assert answers[0][1]["retry-after"] == "3"


def test_a_server_can_ignore_range_send_too_little_or_the_wrong_bytes(huggingface: HubServer, folder: Path) -> None:
    url, data = storage_url(huggingface), (folder / "big.jsonl").read_bytes()
    huggingface.add_fault("cdn", ignore_range=True)
    huggingface.add_fault("cdn", short_by=3)
    huggingface.add_fault("cdn", corrupt=True)
    asked = {"Range": "bytes=10-29"}
    assert get(url, asked)[::2] == (200, data)
    assert get(url, asked)[::2] == (206, data[10:27])
    assert get(url, asked)[::2] == (206, bytes([data[10] ^ 0xFF]) + data[11:30])
    assert get(url, asked)[::2] == (206, data[10:30])


def test_every_request_waits_for_the_latency(huggingface: HubServer) -> None:
    huggingface.latency = 0.2
    begin = time.monotonic()
    get(storage_url(huggingface))
    assert time.monotonic() - begin >= 0.4


def test_reset_forgets_requests_and_faults(huggingface: HubServer) -> None:
    huggingface.add_fault(status=500, times=None)
    assert get(f"{huggingface.url}/api/datasets/{REPO}")[0] == 500
    huggingface.reset()
    assert huggingface.requests == []
    assert get(f"{huggingface.url}/api/datasets/{REPO}")[0] == 200


def test_a_closed_hub_is_unreachable_even_over_a_kept_connection(huggingface: HubServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(huggingface.url.rsplit(":", 1)[1]), timeout=20)
    connection.request("GET", f"/api/datasets/{REPO}")
    assert connection.getresponse().read()
    huggingface.close()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connection.request("GET", f"/api/datasets/{REPO}")
        connection.getresponse()
    with pytest.raises(ConnectionError):
        get(huggingface.url)


def test_it_runs_as_a_process_that_ends_with_its_standard_input(folder: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py")), f"{REPO}={folder}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        url = process.stdout.readline().strip()
        assert json.loads(get(f"{url}/api/datasets/{REPO}")[2])["sha"] == INTERNVL_COMMIT
        assert [r["line"] for r in json.loads(get(f"{url}/_requests")[2])] == [f"GET hub /api/datasets/{REPO}"]
        process.stdin.close()
        assert process.wait(20) == 0


# -- huggingface_hub ---------------------------------------------------------------------------------------


@with_each_python
def test_huggingface_hub_lists_reads_ranges_and_downloads(
    huggingface: HubServer, folder: Path, run_client: Run, python: str
) -> None:
    got = run_client(
        huggingface,
        """
        from huggingface_hub import (
            HfApi, HfFileSystem, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
        )
        api = HfApi()
        info = api.dataset_info(REPO, files_metadata=True)
        tree = api.list_repo_tree(REPO, repo_type="dataset", recursive=True)
        meta = get_hf_file_metadata(hf_hub_url(REPO, "big.jsonl", repo_type="dataset", revision=COMMIT))
        with HfFileSystem().open(f"datasets/{REPO}/big.jsonl", "rb", cache_type="none") as file:
            file.seek(100)
            part = file.read(20)
        path = hf_hub_download(REPO, "big.jsonl", repo_type="dataset", revision=COMMIT)
        show({
            "sha": info.sha,
            "siblings": [[s.rfilename, s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings],
            "tree": [[type(entry).__name__, entry.path] for entry in tree],
            "paths": [p.path for p in api.get_paths_info(REPO, ["big.jsonl", "none", "data"], repo_type="dataset")],
            "meta": [meta.commit_hash, meta.etag, meta.size],
            "part": part.decode("latin-1"),
            "path": path,
            "cached": try_to_load_from_cache(REPO, "big.jsonl", revision=COMMIT, repo_type="dataset"),
        })
        """,
        python,
    )
    data = (folder / "big.jsonl").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    assert got["sha"] == INTERNVL_COMMIT
    readme = hashlib.sha1(b"blob 11\0# captions\n").hexdigest()  # what `git hash-object` says
    assert got["siblings"][0] == ["README.md", 11, readme, None]
    assert got["siblings"][1][:2] + got["siblings"][1][3:] == ["big.jsonl", len(data), sha256]
    assert ["RepoFolder", "data"] in got["tree"] and ["RepoFile", "data/notes.txt"] in got["tree"]
    assert got["paths"] == ["big.jsonl", "data"]
    assert got["meta"] == [INTERNVL_COMMIT, sha256, len(data)]
    assert got["part"].encode("latin-1") == data[100:120]
    assert got["cached"] == got["path"] and Path(got["path"]).read_bytes() == data
    sent = [request.sent for request in huggingface.requests if request.file]
    assert sum(sent) == huggingface.bytes_sent == len(data) + 20


@with_each_python
def test_huggingface_hub_raises_its_own_errors(folder: Path, run_client: Run, python: str) -> None:
    script = """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    api = HfApi()
    show([
        error(api.dataset_info, REPO),
        error(api.dataset_info, REPO, token="wrong"),
        error(api.dataset_info, "a/missing", token="right"),
        error(api.dataset_info, REPO, revision="none", token="right"),
        error(get_hf_file_metadata, hf_hub_url(REPO, "none", repo_type="dataset"), token="right"),
        error(get_hf_file_metadata, hf_hub_url("a/gated", "big.jsonl", repo_type="dataset"), token="right"),
        api.whoami(token="right")["name"],
    ])
    """
    with HubServer({REPO: folder, "a/gated": folder}, require_token="right", gated={"a/gated"}) as hub:
        *errors, entry, gated, name = run_client(hub, script, python)
        assert errors == [
            ["RepositoryNotFoundError", 401],
            ["HfHubHTTPError", 401],
            ["RepositoryNotFoundError", 404],
            ["RevisionNotFoundError", 404],
        ]
        assert entry in (["EntryNotFoundError", 404], ["RemoteEntryNotFoundError", 404])
        assert (gated, name) == (["GatedRepoError", 403], "tester")


def test_the_token_reaches_the_hub_and_never_the_storage(folder: Path, run_client: Run) -> None:
    with HubServer({REPO: folder}, require_token="right") as hub:
        script = """
        from huggingface_hub import hf_hub_download
        show(hf_hub_download(REPO, "big.jsonl", repo_type="dataset"))
        """
        run_client(hub, script, HF_TOKEN="right")
        assert {(r.host, r.had_authorization) for r in hub.requests} == {("hub", True), ("cdn", False)}


@pytest.mark.slow
def test_stock_datasets_streams_a_virtual_file_from_it(run_client: Run) -> None:
    with HubServer({REPO: {"en.jsonl": captions(GIB // 1000)}}) as hub:
        script = """
        from datasets import load_dataset
        rows = load_dataset(REPO, data_files="en.jsonl", split="train", streaming=True, revision=COMMIT)
        show([row["id"] for row in rows.take(3)])
        """
        assert run_client(hub, script) == [f"{i:012d}" for i in range(3)]
        assert 0 < hub.bytes_sent < GIB // 10


# -- modelscope --------------------------------------------------------------------------------------------


def test_modelscope_lists_reads_ranges_and_downloads(modelscope: HubServer, folder: Path, run_client: Run) -> None:
    got = run_client(
        modelscope,
        """
        from modelscope_hub import HubApi
        api = HubApi()
        files = api.list_repo_files(REPO, "dataset")
        part = api.legacy.download_stream(REPO, "dataset", "big.jsonl", headers={"Range": "bytes=100-119"})
        small = api.legacy.download_stream(REPO, "dataset", "README.md", headers={"Range": "bytes=0-1"})
        path = api.download_file(REPO, "dataset", "big.jsonl")
        show({
            "files": [[f.path, f.type, f.size, f.sha256] for f in files],
            "part": [part.status_code, part.content.decode("latin-1")],
            "small": [small.status_code, small.text],
            "path": str(path),
            "cached": str(api.download_file(REPO, "dataset", "big.jsonl", local_files_only=True)),
        })
        """,
    )
    data = (folder / "big.jsonl").read_bytes()
    assert ["big.jsonl", "blob", len(data), hashlib.sha256(data).hexdigest()] in got["files"]
    assert ["data", "tree", 0, None] in got["files"] and len(got["files"]) == 4
    assert got["part"] == [206, data[100:120].decode("latin-1")]
    assert got["small"] == [200, "# captions\n"]  # as on the real hub, Range is ignored without a redirect
    assert got["cached"] == got["path"] and Path(got["path"]).read_bytes() == data
    assert modelscope.bytes_sent == 20 + 11 + len(data)


def test_the_older_modelscope_functions_work_too(modelscope: HubServer, folder: Path, run_client: Run) -> None:
    listed, snapshot, path = run_client(
        modelscope,
        """
        from modelscope.hub.api import HubApi
        from modelscope.hub.file_download import dataset_file_download
        from modelscope.hub.snapshot_download import dataset_snapshot_download
        pages = [HubApi().get_dataset_files(REPO, page_number=page, page_size=3) for page in (1, 2, 3)]
        snapshot = dataset_snapshot_download(REPO, allow_patterns=["data/*"])
        show([[[f["Path"] for f in page] for page in pages], snapshot, dataset_file_download(REPO, "README.md")])
        """,
    )
    assert listed == [["README.md", "big.jsonl", "data"], ["data/notes.txt"], []]
    assert [p.name for p in Path(snapshot).rglob("*") if p.is_file() and p.parent.name == "data"] == ["notes.txt"]
    assert Path(path).read_bytes() == (folder / "README.md").read_bytes()


def test_modelscope_raises_its_own_errors_and_keeps_the_token_from_storage(folder: Path, run_client: Run) -> None:
    script = """
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig
    def api(token): return HubApi(config=HubConfig(token=token))
    def files(token, repo=REPO, **kwargs): return api(token).list_repo_files(repo, "dataset", **kwargs)
    show([
        error(files, ""),
        error(files, "wrong"),
        error(files, "right", "a/missing"),
        error(files, "right", revision="none"),
        error(api("right").download_file, REPO, "dataset", "none"),
        error(api("right").download_file, "a/gated", "dataset", "big.jsonl"),
        api(None).whoami().username and api(None).download_file(REPO, "dataset", "big.jsonl").name,
    ])
    """
    with HubServer({REPO: folder, "a/gated": folder}, "modelscope", require_token="right", gated={"a/gated"}) as hub:
        assert run_client(hub, script, MODELSCOPE_API_TOKEN="right") == [
            ["NotExistError", 404],
            ["AuthenticationError", 401],
            ["NotExistError", 404],
            ["NotExistError", 404],
            ["NotExistError", 404],
            ["PermissionDeniedError", 403],
            "big.jsonl",
        ]
        assert [r.had_authorization for r in hub.requests if r.host == "cdn"] == [False]


def test_modelscope_resumes_a_cut_download_and_notices_a_corrupt_one(
    modelscope: HubServer, folder: Path, run_client: Run
) -> None:
    data = (folder / "big.jsonl").read_bytes()
    faults = [modelscope.add_fault("GET cdn", corrupt=True), modelscope.add_fault("GET cdn", cut_after=100_000)]
    script = f"""
    from modelscope_hub import HubApi
    path = HubApi().download_file(
        REPO, "dataset", "big.jsonl", expected_sha256={hashlib.sha256(data).hexdigest()!r}, file_size={len(data)}
    )
    show(str(path))
    """
    assert Path(run_client(modelscope, script)).read_bytes() == data
    assert [fault.used for fault in faults] == [1, 1]
    ranges = [request.range for request in modelscope.requests if request.host == "cdn"]
    assert ranges == [None, None, "bytes=100000-"]
