"""How the loopback hubs answer: HTTP with ranges and faults, a storage host, Hugging Face, ModelScope."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from hub_files import RepoFile, lfs_pointer, listing

if TYPE_CHECKING:
    from hub_server import HubServer

DATE = "2024-09-21T08:00:00.000Z"


@dataclass
class Request:
    """What a client asked for and got. `line` is the method, ``hub`` or ``cdn``, and the unquoted path and query."""

    line: str
    range: str | None
    had_authorization: bool
    file: str | None = None  # the repository path of the file whose bytes were sent
    status: int = 0
    sent: int = 0  # bytes of the body

    @property
    def method(self) -> str:
        return self.line.split(" ", 1)[0]

    @property
    def host(self) -> str:
        return self.line.split(" ", 2)[1]

    @property
    def path(self) -> str:
        return self.line.split(" ", 2)[2]


@dataclass
class Fault:
    """What goes wrong with the first `times` requests (None: with all) whose `Request.line` matches `pattern`.

    With `status` the answer is that error. The others change the answer in which a file's bytes are sent, and wait
    for one: `cut_after` closes the connection after so many bytes of the body (where it is longer), `ignore_range`
    answers 200 with the whole file, `short_by` leaves the last bytes out of a body that is otherwise well formed,
    `corrupt` changes its first byte. `used` counts the answers changed.
    """

    pattern: str
    times: int | None = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    ignore_range: bool = False
    short_by: int = 0
    corrupt: bool = False
    used: int = 0


class Handler(BaseHTTPRequestHandler):
    """HTTP itself: ranges, recording, faults. What is where is for `route` in the classes below."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body go out in two writes, which Nagle would hold apart for 40 ms
    host = "hub"
    hub: HubServer

    def handle_request(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        self.where = urllib.parse.unquote(url.path)
        line = f"{self.command} {self.host} {urllib.parse.unquote(self.path)}"
        self.record = Request(line, self.headers.get("Range"), self.token is not None)
        if url.path == "/_requests":
            return self.send_json([dataclasses.asdict(request) for request in self.hub.requests])
        self.hub.record(self.record)
        self.hub.wait()
        if fault := self.hub.use_fault(self.record, lambda fault: fault.status is not None):
            return self.send_error_answer(fault.status or 500, "as the test asked", fault.headers)
        return self.route()

    do_GET = do_HEAD = do_POST = handle_request

    def route(self) -> None:
        raise NotImplementedError

    def send_error_answer(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        raise NotImplementedError

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed: `HubServer.requests` is the log."""

    @property
    def token(self) -> str | None:
        """The token the client showed, as a header or as ModelScope's cookie."""
        cookie = re.search(r"\bm_session_id=([^;]*)", self.headers.get("Cookie", ""))
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme else cookie[1] if cookie else None

    def send_headers(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.record.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_json(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value, ensure_ascii=False).encode()
        self.send_headers(status, len(body), {"Content-Type": "application/json; charset=utf-8", **(headers or {})})
        if self.command != "HEAD":
            self.record.sent += len(body)
            self.wfile.write(body)

    def send_file(self, file: RepoFile, headers: Mapping[str, str], *, ranges: bool = True) -> None:
        """The bytes of `file`, or the range asked for, changed by the fault that waits for them."""
        self.record.file = file.path
        wanted = _parse_range(self.headers.get("Range"), file.size) if ranges else None
        start, end = wanted or (0, file.size)
        if wanted and start >= file.size:
            return self.send_headers(416, 0, {"Content-Range": f"bytes */{file.size}"})

        def changes_the_body(fault: Fault) -> bool:
            cuts = fault.cut_after is not None and fault.cut_after < end - start
            return cuts or (fault.ignore_range and wanted is not None) or fault.short_by > 0 or fault.corrupt

        fault = self.hub.use_fault(self.record, changes_the_body) if self.command == "GET" else None
        fault = fault or Fault("")
        headers = {"Content-Type": "application/octet-stream", **headers}
        if ranges:
            headers["Accept-Ranges"] = "bytes"
        if wanted and not fault.ignore_range:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        else:
            start, end = 0, file.size
        end = max(start, end - fault.short_by)
        self.send_headers(206 if "Content-Range" in headers else 200, end - start, headers)
        if self.command == "GET":
            self._send_body(file, start, end, fault)
        return None

    def _send_body(self, file: RepoFile, start: int, end: int, fault: Fault) -> None:
        if fault.cut_after is not None:
            end = start + fault.cut_after
            self.close_connection = True
        for chunk in file.chunks(start, end):
            if fault.corrupt and self.record.sent == 0:
                chunk = bytes([chunk[0] ^ 0xFF]) + chunk[1:]
            self.record.sent += len(chunk)  # counted first: the client may look as soon as it has the last byte
            self.wfile.write(chunk)

    def redirect_to_storage(self, repo: str, file: RepoFile, headers: Mapping[str, str]) -> None:
        """Send the client to the storage host, with a signature in place of the token."""
        path = urllib.parse.quote(f"/{repo}/{file.path}")
        self.send_headers(302, 0, {**headers, "Location": f"{self.hub.storage_url}{path}?Signature=for-one-file"})


def _parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one past the last that a ``Range: bytes=a-b``, ``a-`` or ``-n`` asks for, if it does."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").strip())
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    start, end = int(match[1]), int(match[2]) + 1 if match[2] else size
    return (start, min(size, end)) if start < end or start >= size else None


class StorageHandler(Handler):
    """The storage host that large files are fetched from. Like S3 it refuses a token beside its own signature."""

    host = "cdn"

    def route(self) -> None:
        owner, name, path = [*self.where.lstrip("/").split("/", 2), "", ""][:3]
        file = (self.hub.files(f"{owner}/{name}") or {}).get(path)
        if self.token is not None:
            return self.send_error_answer(400, "Only one auth mechanism allowed")
        if file is None or self.query.get("Signature") != "for-one-file":
            return self.send_error_answer(403, "No object has this path and signature")
        return self.send_file(file, {"ETag": f'"{file.sha256}"', "X-Linked-ETag": f'"{file.sha256}"'})

    def send_error_answer(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_json({"error": message}, status, headers)


class HuggingFaceHandler(Handler):
    """https://huggingface.co as far as reading datasets goes; what it answers is in huggingface_hub's sources."""

    def route(self) -> None:
        if self.where.startswith("/api/telemetry/"):
            return self.send_headers(200, 0, {})
        if self.hub.require_token not in (None, self.token) and self.token:
            return self.send_error_answer(401, "Invalid credentials in Authorization header")
        if self.where == "/api/whoami-v2":
            return self._whoami()
        api = r"/api/datasets/(?P<repo>[^/]+/[^/]+)(/(?P<what>[^/]+)(/(?P<revision>[^/]+)(?P<path>/.*)?)?)?"
        resolve = r"/datasets/(?P<repo>[^/]+/[^/]+)/(?P<what>resolve)/(?P<revision>[^/]+)(?P<path>/.+)"
        match = re.fullmatch(api, self.where) or re.fullmatch(resolve, self.where)
        if match is None:
            return self.send_error_answer(404, "Sorry, we can't find the page you are looking for.")
        repo, what, revision = match["repo"], match["what"], match["revision"] or "main"
        files = self.hub.files(repo)
        if files is None or (self.hub.require_token and not self.token):
            # The real hub hides what is private: with no token, a missing repository and a private one are both 401.
            status = 404 if self.token else 401
            return self.send_error_answer(status, "Repository not found", {"X-Error-Code": "RepoNotFound"})
        if not self.hub.has_revision(revision):
            message = f"Invalid rev id: {revision}"
            return self.send_error_answer(404, message, {"X-Error-Code": "RevisionNotFound"})
        return self._answer(repo, what, files, (match["path"] or "").strip("/"))

    def _answer(self, repo: str, what: str | None, files: dict[str, RepoFile], path: str) -> None:
        match what:
            case None | "revision":
                return self.send_json(self._dataset_info(repo, files))
            case "refs":
                branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.hub.commit}
                return self.send_json({"branches": [branch], "tags": [], "converts": []})
            case "paths-info":
                entries = listing(files, "", recursive=True)
                wanted = urllib.parse.parse_qs(self.body.decode()).get("paths", [])
                return self.send_json([_tree_entry(p, entries[p]) for p in wanted if p in entries])
            case "tree":
                entries = listing(files, path, self.query.get("recursive", "").lower() == "true")
                if entries or not path:
                    return self.send_json([_tree_entry(p, file) for p, file in entries.items()])
            case "resolve" if repo in self.hub.gated:
                message = f"Access to dataset {repo} is restricted and you are not in the authorized list."
                return self.send_error_answer(403 if self.token else 401, message, {"X-Error-Code": "GatedRepo"})
            case "resolve" if path in files:
                return self._resolve(repo, files[path])
        headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.commit}
        return self.send_error_answer(404, "Entry not found", headers)

    def _resolve(self, repo: str, file: RepoFile) -> None:
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{file.git_sha1}"'}
        if not file.lfs:
            return self.send_file(file, headers)
        linked = {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size), "Accept-Ranges": "bytes"}
        return self.redirect_to_storage(repo, file, {**headers, **linked})

    def _dataset_info(self, repo: str, files: dict[str, RepoFile]) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in files]
        if self.query.get("blobs", "").lower() == "true":
            for sibling, file in zip(siblings, files.values(), strict=True):
                sibling |= {"size": file.size, "blobId": file.git_sha1}
                if file.lfs:
                    pointer_size = len(lfs_pointer(file))
                    sibling["lfs"] = {"size": file.size, "sha256": file.sha256, "pointerSize": pointer_size}
        return {
            "_id": hashlib.sha1(repo.encode()).hexdigest()[:24],
            "id": repo,
            "author": repo.split("/")[0],
            "sha": self.hub.commit,
            "createdAt": DATE,
            "lastModified": DATE,
            "private": self.hub.require_token is not None,
            "gated": "manual" if repo in self.hub.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        }

    def _whoami(self) -> None:
        if not self.token:
            return self.send_error_answer(401, "Invalid username or password.")
        user = {"type": "user", "id": "0" * 24, "name": "tester", "fullname": "Tester", "orgs": []}
        access = {"displayName": "test", "role": "read", "createdAt": DATE}
        return self.send_json({**user, "auth": {"type": "access_token", "accessToken": access}})

    def send_error_answer(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_json({"error": message}, status, {"X-Error-Message": message, **(headers or {})})


def _tree_entry(path: str, file: RepoFile | None) -> dict[str, Any]:
    if file is None:
        return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    entry: dict[str, Any] = {"type": "file", "oid": file.git_sha1, "size": file.size, "path": path}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(lfs_pointer(file))}
    return entry


class ModelScopeHandler(Handler):
    """https://modelscope.cn as far as reading datasets goes; what it answers is in modelscope_hub's sources."""

    def route(self) -> None:
        if self.where == "/api/v1/repos/internalAccelerationInfo":
            return self.send_data({"InternalRegionQueryAddress": ""})
        if self.hub.require_token not in (None, self.token) and self.token:
            return self.send_error_answer(401, "AccessToken is invalid or expired")
        if self.where == "/openapi/v1/users/me":
            return self._whoami()
        known = {str(number): repo for number, repo in enumerate(self.hub.repos, 1)}
        match = re.fullmatch(
            r"/(?:api|openapi)/v1/datasets/(\d+|[^/]+/[^/]+)(?:/(repo|repo/tree|revisions))?", self.where
        )
        repo = known.get(match[1], match[1]) if match else ""
        files = self.hub.files(repo)
        if match is None or files is None or (self.hub.require_token and not self.token):
            return self.send_error_answer(404, "数据集不存在")
        if not self.hub.has_revision(self.query.get("Revision", "master")):
            return self.send_error_answer(404, f"no such revision: {self.query['Revision']}")
        return self._answer(repo, match[2], files)

    def _answer(self, repo: str, what: str | None, files: dict[str, RepoFile]) -> None:
        match what:
            case "repo":
                return self._repo_file(repo, files.get(self.query.get("FilePath", "")))
            case "repo/tree":
                return self._tree(files)
            case "revisions":
                branch = {"Revision": "master", "CreatedAt": 1726905600}
                return self.send_data({"RevisionMap": {"Branches": [branch], "Tags": []}})
        owner, name = repo.split("/")
        number = list(self.hub.repos).index(repo) + 1
        visibility = 1 if self.hub.require_token else 5
        return self.send_data(
            {"Id": number, "Type": 1, "Name": name, "Namespace": owner, "Owner": owner, "Visibility": visibility}
        )

    def _repo_file(self, repo: str, file: RepoFile | None) -> None:
        if repo in self.hub.gated:
            return self.send_error_answer(403, "access denied: apply for this dataset on its page first")
        if file is None:
            return self.send_error_answer(404, "File does not exist")
        if file.lfs:
            return self.redirect_to_storage(repo, file, {"X-Linked-ETag": f'"{file.sha256}"'})
        # modelscope_hub's sources say so: files served without a redirect ignore Range.
        return self.send_file(file, {}, ranges=False)

    def _tree(self, files: dict[str, RepoFile]) -> None:
        root = self.query.get("Root", "").strip("/")
        entries = listing(files, root, self.query.get("Recursive", "True").lower() == "true")
        if root and not entries:
            return self.send_error_answer(404, f"no such folder: {root}")
        size = int(self.query.get("PageSize", 100))
        first = (int(self.query.get("PageNumber", 1)) - 1) * size
        page = [self._tree_entry(path, file) for path, file in list(entries.items())[first : first + size]]
        return self.send_data({"Files": page, "TotalCount": len(entries)})

    def _tree_entry(self, path: str, file: RepoFile | None) -> dict[str, Any]:
        return {
            "Path": path,
            "Name": path.rsplit("/", 1)[-1],
            "Type": "blob" if file else "tree",
            "Size": file.size if file else 0,
            "Sha256": file.sha256 if file else "",
            "IsLFS": bool(file and file.lfs),
            "Revision": self.hub.commit,
            "CommittedDate": 1726905600,
        }

    def _whoami(self) -> None:
        if not self.token:
            return self.send_error_answer(401, "user not logged in")
        return self.send_data({"username": "tester", "preferred_username": "tester", "email": "tester@example.com"})

    def send_data(self, data: object) -> None:
        key = "data" if self.where.startswith("/openapi/") else "Data"
        self.send_json({"Code": 200, "Message": "success", "RequestId": "test", "Success": True, key: data})

    def send_error_answer(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_json({"Code": status, "Message": message, "RequestId": "test", "Success": False}, status, headers)
