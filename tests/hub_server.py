"""A Hugging Face hub and a ModelScope on 127.0.0.1, for the real clients to talk to.

    with HubServer({"OpenGVLab/InternVL-SA-1B-Caption": folder}) as hub:
        os.environ.update(hub.env)  # before huggingface_hub is imported: it reads HF_ENDPOINT once
        hub.add_fault("GET cdn .*single_en", cut_after=1_000_000)
        ...
        assert hub.bytes_sent < 64_000_000

Only the standard library is used. The endpoints, headers and JSON are those that huggingface_hub 0.30 to 2.4 and
modelscope 1.38 to 1.40 ask for and parse. As on the real hubs, large ("LFS") files are answered with a redirect to a
storage host, here a second port, which must not be shown the token. No Xet header is sent, so clients use plain HTTP.

Runs as a process of its own too: ``python tests/hub_server.py OWNER/NAME=FOLDER --latency 0.05`` prints its URL and
serves until its standard input ends; ``GET URL/_requests`` then gives what `HubServer.requests` holds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from hub_files import CHUNK, RepoFile, Tree, VirtualFile
from hub_handlers import Fault, Handler, HuggingFaceHandler, ModelScopeHandler, Request, StorageHandler

__all__ = ["INTERNVL_COMMIT", "Fault", "HubServer", "Request", "VirtualFile"]

INTERNVL_COMMIT = "eaf6bc78cb23d4c654f0db7b8684cf5e1a9957a0"


class HubServer:
    """A hub that serves `repos`, dataset ids with a folder or a mapping of paths to contents, in threads of its own.

    Every repository has one commit, `commit`, which ``main`` and ``master`` name too. Files of at least
    `lfs_threshold` bytes are LFS files. `latency` is the seconds that every request waits. With `require_token` the
    repositories are private. A repository in `gated` is listed, but its files are refused to everybody.
    """

    def __init__(
        self,
        repos: Mapping[str, Tree],
        kind: Literal["huggingface", "modelscope"] = "huggingface",
        *,
        commit: str = INTERNVL_COMMIT,
        lfs_threshold: int = 1000,
        latency: float = 0.0,
        require_token: str | None = None,
        gated: frozenset[str] | set[str] = frozenset(),
    ) -> None:
        self.repos = dict(repos)
        self.kind = kind
        self.commit = commit
        self.lfs_threshold = lfs_threshold
        self.latency = latency
        self.require_token = require_token
        self.gated = set(gated)
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        hub_handler = HuggingFaceHandler if kind == "huggingface" else ModelScopeHandler
        self._servers = [_Server(self, hub_handler), _Server(self, StorageHandler)]
        port, storage_port = (server.server_address[1] for server in self._servers)
        self.url = f"http://127.0.0.1:{port}"
        # Another host name, not only another port: cookies are kept by host and must not follow the redirect.
        self.storage_url = f"http://localhost:{storage_port}"

    def __enter__(self) -> HubServer:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and drop every open connection: the hub is then unreachable."""
        if not self._closing.is_set():
            self._closing.set()
            for server in self._servers:
                server.shutdown()
                server.drop_connections()
                server.server_close()

    @property
    def env(self) -> dict[str, str]:
        """The environment that sends a client here; huggingface_hub reads it at import, modelscope when used."""
        ours = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        if self.kind == "modelscope":
            return {**ours, "MODELSCOPE_ENDPOINT": self.url}
        return {**ours, "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_TELEMETRY": "1"}

    @property
    def bytes_sent(self) -> int:
        """Bytes of file content sent, from the hub and its storage together."""
        return sum(request.sent for request in self.requests if request.file)

    def add_fault(self, pattern: str = "", **fault: Any) -> Fault:
        """Arrange for a `Fault`; the first of several that fit a request is the one that happens."""
        self.faults.append(Fault(pattern, **fault))
        return self.faults[-1]

    def reset(self) -> None:
        """Forget requests and faults."""
        with self._lock:
            self.requests.clear()
            self.faults.clear()

    def files(self, repo: str) -> dict[str, RepoFile] | None:
        """The files of `repo` by path, sorted, or None where there is no such repository."""
        tree = self.repos.get(repo)
        if tree is None:
            return None
        if isinstance(tree, Path):
            tree = {path.relative_to(tree).as_posix(): path for path in tree.rglob("*") if path.is_file()}
        files = {path: RepoFile(path, tree[path], lfs=False) for path in sorted(tree)}
        return {path: dataclasses.replace(f, lfs=f.size >= self.lfs_threshold) for path, f in files.items()}

    def has_revision(self, revision: str) -> bool:
        return revision in {"main", "master", self.commit}

    def record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def use_fault(self, request: Request, applies: Callable[[Fault], bool]) -> Fault | None:
        """The first fault left that fits `request` and `applies`, counted as used."""
        with self._lock:
            for fault in self.faults:
                left = fault.times is None or fault.used < fault.times
                if left and applies(fault) and re.search(fault.pattern, request.line):
                    fault.used += 1
                    return fault
        return None

    def wait(self) -> None:
        """Hold a request back for `latency` seconds, or until the server closes."""
        if self.latency:
            self._closing.wait(self.latency)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: HubServer, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": hub}))
        # A small send buffer keeps "bytes sent" close to what the client took before it hung up.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        """End them by shutdown, not close: a worker forked from the test holds the same sockets open."""
        for connection in [self.socket, *self._open]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news; anything else is a bug of this server and must be seen."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def main() -> None:
    """Serve folders from a process of its own until standard input ends."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("repos", nargs="+", metavar="OWNER/NAME=FOLDER")
    parser.add_argument("--kind", choices=["huggingface", "modelscope"], default="huggingface")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--commit", default=INTERNVL_COMMIT)
    args = parser.parse_args()
    repos = {name: Path(folder) for name, _, folder in (repo.partition("=") for repo in args.repos)}
    with HubServer(repos, args.kind, commit=args.commit, latency=args.latency) as hub:
        print(hub.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
