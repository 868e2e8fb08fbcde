"""Published files on both hubs, by the real clients against loopback ones that count requests and bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import INTERNVL_COMMIT, HubServer, VirtualFile
from PIL import Image

from llava_zh.demo import DemoPaths

REPOS = {"huggingface": "OpenGVLab/InternVL-SA-1B-Caption", "modelscope": "thomas/InternVL-SA-1B-Caption"}
LLAVA = "opencsg/llava-instruct-zh-600k"
SINGLE_EN = "internvl_sa1b_caption_11m_single_image_en.jsonl"
SINGLE_ZH = "internvl_sa1b_caption_1m_single_image_zh.jsonl"
SHARD = 32_000_000
SECRET = "hf_ThisMustNeverBeSeen"

QUICK = {"USE_TORCH": "0"}  # `datasets` need not import it
# Reads scripts from stdin, one JSON text a line; answers each with what it left in `result`, or the error.
CLIENT = """
import json, logging, sys, traceback
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from llava_zh import load_dataset
for line in sys.stdin:
    scope = {"load_dataset": load_dataset}
    try:
        exec(json.loads(line), scope)
        answer = {"result": scope.get("result")}
    except Exception as error:
        answer = {"error": type(error).__name__, "text": str(error), "trace": traceback.format_exc()}
    print("ANSWER", json.dumps(answer), flush=True)
"""


class Client:
    """A process of its own with a hub's environment, as the hubs' clients read theirs when they are imported."""

    def __init__(self, hub: HubServer, home: Path, **env: str) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / f"log-{len(list(home.glob('log-*')))}.txt"
        places = {"HF_HOME": "hf", "HF_DATASETS_CACHE": "prepared", "MODELSCOPE_CACHE": "ms", "MODELSCOPE_HOME": "msh"}
        quick = {"MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1", "MODELSCOPE_LOG_LEVEL": "10"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            env={
                **os.environ,
                **{name: str(home / folder) for name, folder in places.items()},
                **quick,
                **hub.env,
                **env,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            text=True,
        )

    def run(self, script: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(textwrap.dedent(script)) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                return dict(json.loads(line.removeprefix("ANSWER ")))
        raise AssertionError(self.log.read_text())

    def result(self, script: str) -> Any:
        answer = self.run(script)
        assert "error" not in answer, answer["trace"]
        return answer["result"]

    def error(self, script: str) -> tuple[str, str]:
        answer = self.run(script)
        assert "error" in answer, answer
        return answer["error"], answer["text"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def line(number: int) -> bytes:
    """A row of `single_en` of about the published mean length; all are equally long."""
    turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "x" * 850}]
    return json.dumps(
        {"id": f"{number:09d}", "image": f"sa_000000/sa_{number:09d}.jpg", "conversations": turns}
    ).encode()


def published(size: int) -> VirtualFile:
    return VirtualFile.lines(line, size // (len(line(0)) + 1))


@pytest.fixture(scope="module", params=["huggingface", pytest.param("modelscope", marks=pytest.mark.slow)])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo: DemoPaths
) -> Iterator[tuple[HubServer, Client]]:
    """A loopback hub with a virtual 1 GB file, the demo's files, and one client process."""
    kind: Any = request.param
    files: dict[str, Any] = {path.name: path for path in demo.internvl.glob("*.jsonl")}
    files[SINGLE_EN] = published(1_000_000_000)
    with HubServer({REPOS[kind]: files, LLAVA: demo.llava}, kind) as hub:
        client = Client(hub, tmp_path_factory.mktemp(kind))
        yield hub, client
        client.close()


@pytest.fixture
def hub(place: tuple[HubServer, Client]) -> HubServer:
    server = place[0]
    server.reset()
    server.require_token = None
    server.gated = set()
    return server


@pytest.fixture
def client(place: tuple[HubServer, Client]) -> Client:
    for folder in ("hf", "ms", "prepared"):
        shutil.rmtree(place[1].home / folder, ignore_errors=True)
    return place[1]


@pytest.fixture(scope="module")
def client_with_token(place: tuple[HubServer, Client]) -> Iterator[Client]:
    """A client that finds a token in its environment."""
    hub, other = place
    variable = "HF_TOKEN" if hub.kind == "huggingface" else "MODELSCOPE_API_TOKEN"
    client = Client(hub, other.home, **QUICK, **{variable: SECRET})
    yield client
    client.close()


def stream(hub: HubServer, name: str = "single_zh", then: str = "len(list(stream))", **arguments: Any) -> str:
    """A script that streams a config of the captions from `hub`."""
    given = {"source": hub.kind, "streaming": True, "split": "train", **arguments}
    return f"stream = load_dataset('internvl-sa-1b-caption', {name!r}, **{given!r})\nresult = {then}"


def content_requests(hub: HubServer) -> list[Any]:
    return [request for request in hub.requests if request.file]


# -- streams -----------------------------------------------------------------------------------------------


def test_ten_rows_of_a_gigabyte_cost_less_than_one_shard(hub: HubServer, client: Client) -> None:
    rows = client.result(stream(hub, "single_en", "[row['id'] for row in stream.take(10)]"))
    assert rows == [f"{i:09d}" for i in range(10)]
    assert hub.bytes_sent <= SHARD
    assert {request.file for request in content_requests(hub)} == {SINGLE_EN}
    assert all(request.range for request in content_requests(hub))


def test_rows_across_the_border_of_two_shards_cost_two_shards(hub: HubServer, client: Client) -> None:
    rows = client.result(stream(hub, "single_en", "[row['id'] for row in stream.take(40_000)]"))
    assert rows == [f"{i:09d}" for i in range(40_000)]
    assert SHARD < hub.bytes_sent <= 2 * SHARD
    assert len(content_requests(hub)) == 2


def test_the_first_row_of_an_11_gb_file_costs_one_shard_at_most(hub: HubServer, client: Client) -> None:
    repo = REPOS[hub.kind]
    whole = hub.repos[repo]
    hub.repos[repo] = {SINGLE_EN: published(11_400_000_000)}
    try:
        assert client.result(stream(hub, "single_en", "[stream.num_shards, next(iter(stream))['id']]")) == [
            512,
            "0" * 9,
        ]
    finally:
        hub.repos[repo] = whole
    assert hub.bytes_sent <= 11_400_000_000 // 512
    assert len(hub.requests) <= 3


def test_a_resumed_stream_fetches_its_own_shard_and_none_before(hub: HubServer, client: Client) -> None:
    prelude = """
    def at(stream, shard, row):
        next(iter(stream))
        state = stream.state_dict()
        inner = state["examples_iterable"]
        while "examples_iterable" in inner:
            inner = inner["examples_iterable"]
        inner["shard_idx"], inner["shard_example_idx"] = shard, row
        return state
    """
    begin = textwrap.dedent(prelude) + stream(hub, "single_en", "None") + "\nstate = at(stream, 20, 3)\n"
    end = "stream.load_state_dict(state)\nimport itertools\nresult = len(list(itertools.islice(stream, 5)))"
    assert client.result(begin + end) == 5
    starts = [int(request.range.split("=")[1].split("-")[0]) for request in content_requests(hub)]
    assert starts[-1] == 20 * published(1_000_000_000).size // 32 - 1
    assert len(starts) == 2


def test_data_loader_workers_each_read_their_own_shards(hub: HubServer, client: Client) -> None:
    pytest.importorskip("torch", reason="DataLoader is torch's, which the torch extra brings")
    count = "sorted(int(row['id']) for row in torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2))"
    script = "import torch.utils.data\n" + stream(hub, "single_zh", count, num_shards=4)
    assert client.result(script) == list(range(80))


def test_both_ways_give_the_demos_rows(hub: HubServer, client: Client, demo: DemoPaths) -> None:
    local = f"list(load_dataset('internvl-sa-1b-caption', 'multi_zh', data_dir={str(demo.internvl)!r}, split='train'))"
    prepared = f"list(load_dataset('internvl-sa-1b-caption', 'multi_zh', source={hub.kind!r}, split='train'))"
    assert client.result(stream(hub, "multi_zh", f"list(stream) == {local} == {prepared}"))


# -- the client's cache ------------------------------------------------------------------------------------


def prepare(hub: HubServer, then: str = "prepared.cache_files[0]['filename']", **arguments: Any) -> str:
    given = {"source": hub.kind, "split": "train", **arguments}
    return f"prepared = load_dataset('internvl-sa-1b-caption', 'single_zh', **{given!r})\nresult = {then}"


def test_preparing_downloads_through_the_clients_cache(hub: HubServer, client: Client, demo: DemoPaths) -> None:
    assert client.result(prepare(hub, "len(prepared)")) == 80
    cache = client.home / ("hf/hub" if hub.kind == "huggingface" else "ms")
    (cached,) = (path for path in cache.rglob(SINGLE_ZH) if "snapshots" in path.parts)
    assert cached.read_bytes() == (demo.internvl / SINGLE_ZH).read_bytes()


def test_what_was_prepared_and_what_was_fetched_are_used_again(hub: HubServer, client: Client) -> None:
    first = client.result(prepare(hub))
    hub.reset()
    assert client.result(prepare(hub)) == first
    assert content_requests(hub) == []
    assert client.result(stream(hub)) == 80
    assert content_requests(hub) == []
    if hub.kind == "huggingface":
        assert hub.requests == [], "the captions are pinned to a commit, so nothing has to be asked"


def test_force_redownload_fetches_the_file_again(hub: HubServer, client: Client) -> None:
    client.result(prepare(hub))
    hub.reset()
    client.result(prepare(hub, download_mode="force_redownload"))
    assert sum(request.sent for request in content_requests(hub)) > 10_000


@pytest.mark.slow
def test_offline_reads_the_cache_and_asks_nobody(hub: HubServer, client: Client) -> None:
    client.result(prepare(hub))
    llava = f"load_dataset('llava-instruct-zh-600k', source={hub.kind!r}, split='train')"
    client.result(f"result = len({llava})")
    hub.reset()
    offline = Client(hub, client.home, **QUICK, HF_HUB_OFFLINE="1")
    try:
        assert offline.result(stream(hub)) == 80
        assert offline.result(f"result = len({llava})") == 40
        name, text = offline.error(stream(hub, "multi_en"))
    finally:
        offline.close()
    assert name == "HubError"
    assert "HF_HUB_OFFLINE" in text or "has no file" in text
    assert hub.requests == []


# -- tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_token_is_shown_to_the_hub_and_kept_from_everything_else(
    hub: HubServer, client: Client, how: str, request: pytest.FixtureRequest
) -> None:
    hub.require_token = SECRET
    arguments = {"token": SECRET} if how == "argument" else {}
    private = client if how == "argument" else request.getfixturevalue("client_with_token")
    assert private.result(stream(hub, **arguments)) == 80
    assert private.result(prepare(hub, "len(prepared)", **arguments)) == 80
    hub.add_fault("GET cdn", status=403, times=None)
    answer = private.run(stream(hub, "single_en", **arguments))
    assert "403 Forbidden" in answer["text"]
    assert SECRET not in answer["trace"]
    assert SECRET not in private.log.read_text()
    assert any(request.had_authorization for request in hub.requests if request.host == "hub")
    assert not any(request.had_authorization for request in hub.requests if request.host == "cdn")
    for file in (client.home / "prepared").rglob("*"):
        assert SECRET not in str(file)
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()


def test_a_private_dataset_without_a_token_says_what_to_set(hub: HubServer, client: Client) -> None:
    hub.require_token = SECRET
    name, text = client.error(stream(hub))
    assert name == "HubError"
    assert "401" in text or "404" in text
    assert ("HF_TOKEN" if hub.kind == "huggingface" else "MODELSCOPE_API_TOKEN") in text


def test_a_wrong_token_is_refused_and_not_repeated(hub: HubServer, client: Client) -> None:
    hub.require_token = SECRET
    answer = client.run(stream(hub, token="hf_wrong"))
    assert "401 Unauthorized" in answer["text"]
    assert "hf_wrong" not in answer["trace"]


def test_token_false_shows_none(hub: HubServer, client_with_token: Client) -> None:
    assert client_with_token.result(stream(hub, token=False)) == 80
    assert not any(request.had_authorization for request in hub.requests)


@pytest.mark.parametrize("way", [stream, prepare])
def test_a_gated_dataset_is_refused_with_where_to_agree(hub: HubServer, client: Client, way: Any) -> None:
    hub.gated = {REPOS[hub.kind]}
    name, text = client.error(way(hub))
    assert name == "HubError"
    assert "terms have not been agreed to on its page" in text or "401 Unauthorized" in text


# -- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_hub_that_refuses_the_listing_is_told_of(hub: HubServer, client: Client, status: int) -> None:
    hub.add_fault("(POST|GET) hub .*(paths-info|/tree|tree\\?|revision)", status=status, times=None)
    name, text = client.error(stream(hub))
    assert name == "HubError"
    assert f"{hub.kind}:{REPOS[hub.kind]}" in text
    assert str(status) in text


def test_a_busy_hub_and_cut_connections_lose_no_row(hub: HubServer, client: Client) -> None:
    hub.add_fault("GET cdn .*en.jsonl", status=503)
    hub.add_fault("GET cdn .*en.jsonl", status=429, headers={"Retry-After": "1"})
    cut = hub.add_fault("GET cdn .*en.jsonl", cut_after=1_234_567)
    again = hub.add_fault("GET cdn .*en.jsonl", cut_after=2_345_678)
    rows = client.result(stream(hub, "single_en", "[row['id'] for row in stream.take(20_000)]"))
    assert rows == [f"{i:09d}" for i in range(20_000)]
    assert (cut.used, again.used) == (1, 1)
    starts = [int(request.range.split("=")[1].split("-")[0]) for request in content_requests(hub)]
    assert starts[-2:] == [1_234_567, 1_234_567 + 2_345_678]


def test_a_download_that_is_cut_is_continued(hub: HubServer, client: Client) -> None:
    cut = hub.add_fault(f"GET .*{SINGLE_ZH}", cut_after=10_000)
    assert client.result(prepare(hub, "len(prepared)")) == 80
    assert cut.used == 1


def test_a_server_that_ignores_range_is_refused_for_a_large_file(hub: HubServer, client: Client) -> None:
    hub.add_fault("GET cdn .*en.jsonl", ignore_range=True, times=None)
    name, text = client.error(stream(hub, "single_en", "[row['id'] for row in stream.skip(40_000).take(1)]"))
    assert name == "RangeNotSupported"
    assert "data_dir=" in text


def test_a_small_file_that_is_not_served_by_range_is_read_all_the_same(hub: HubServer, client: Client) -> None:
    hub.lfs_threshold = 1 << 30
    try:
        hub.add_fault("GET hub .*resolve", ignore_range=True, times=None)
        assert client.result(stream(hub, "single_zh", "[row['id'] for row in stream]", num_shards=4)) == [
            str(i) for i in range(80)
        ]
    finally:
        hub.lfs_threshold = 1000


def test_a_revision_or_a_file_that_is_not_there_is_told_of(hub: HubServer, client: Client) -> None:
    name, text = client.error(stream(hub, revision="v9"))
    assert (name, "v9" in text, "404" in text) == ("HubError", True, True)
    repo = REPOS[hub.kind]
    whole = hub.repos[repo]
    hub.repos[repo] = {"README.md": b"# moved"}
    try:
        name, text = client.error(stream(hub))
    finally:
        hub.repos[repo] = whole
    assert name == "HubError"
    assert f"has no file {SINGLE_ZH}. Was it renamed? Pass revision= or data_files=." in text


@pytest.mark.slow
def test_an_unreachable_hub_is_told_of(hub: HubServer, client: Client) -> None:
    with HubServer({}, hub.kind) as gone:
        pass
    lost = Client(gone, client.home / "lost", **QUICK)
    try:
        for script in (stream(gone), prepare(gone)):
            name, text = lost.error(script)
            assert name == "HubError"
            assert "the hub is unreachable" in text
            assert ("HF_ENDPOINT" if hub.kind == "huggingface" else "MODELSCOPE_ENDPOINT") in text
    finally:
        lost.close()


def test_the_source_can_be_set_in_the_environment(hub: HubServer, client: Client) -> None:
    script = f"""
    import os
    os.environ["LLAVA_ZH_SOURCE"] = {hub.kind!r}
    try:
        result = load_dataset("internvl-sa-1b-caption", "single_zh", streaming=True, split="train").num_shards
    finally:
        del os.environ["LLAVA_ZH_SOURCE"]
    """
    assert client.result(script) == 1
    assert hub.requests


# -- llava-instruct on a hub -------------------------------------------------------------------------------


def test_the_layout_of_a_repository_is_found_and_its_rows_stream(
    hub: HubServer, client: Client, demo: DemoPaths
) -> None:
    script = f"""
    stream = load_dataset('llava-instruct-zh-600k', 'detail', source={hub.kind!r}, streaming=True, split='train')
    rows = list(stream)
    image = rows[0]['image']
    result = [len(rows), rows[0]['task'], image if isinstance(image, dict) else list(image.size)]
    """
    count, task, image = client.result(script)
    assert (count, task) == (13, "detail")
    if hub.kind == "huggingface":
        with Image.open(demo.llava / "images" / "000003.jpg") as picture:
            assert image == list(picture.size)
    else:
        assert image == {"bytes": None, "path": "images/000003.jpg"}


def test_images_in_remote_archives_are_named_and_a_warning_says_how_to_see_them(hub: HubServer, client: Client) -> None:
    whole = hub.repos[LLAVA]
    assert isinstance(whole, Path)
    hub.repos[LLAVA] = {"train.parquet": next(whole.glob("*.parquet")), "images.tar": bytes(20_000)}
    try:
        script = f"""
        stream = load_dataset('llava-instruct-zh-600k', source={hub.kind!r}, streaming=True, split='train')
        result = next(iter(stream))['image']
        """
        assert client.result(script) == {"bytes": None, "path": "images/000001.jpg"}
    finally:
        hub.repos[LLAVA] = whole
    assert "the images are in 1 archive (images.tar …) that cannot be read at random over the network" in (
        client.log.read_text()
    )


def test_the_captions_are_pinned_to_a_commit() -> None:
    from llava_zh.builders.internvl_sa1b_caption import FACTS

    assert FACTS.revisions["huggingface"] == INTERNVL_COMMIT
