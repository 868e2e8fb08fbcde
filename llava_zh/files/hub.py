"""Where published files are: a local folder, Hugging Face or ModelScope.

It lists the files of a repository as `files.data_files.DataFile` and reads any range of bytes of one. Files
already in a hub client's cache are read from there. Importing this module imports neither hub client; using it does.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import BadFile, HubError, LlavaZhError, UnknownName
from ..gates.limits import LISTED_FILES
from ..gates.places import checked_name, inside
from ..gates.safe_text import get_logger, keep_secret
from ..storage.http import read_range, refused
from .data_files import SOURCES, DataFile, is_commit, local_files

logger = get_logger(__name__)

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PIECE = 4 << 20


def source_name(source: str | None) -> str:
    """`source`, or what ``LLAVA_ZH_SOURCE`` says, or the default; checked."""
    name = source or os.environ.get("LLAVA_ZH_SOURCE") or SOURCES[0]
    if name not in SOURCES:
        raise UnknownName.of("source", name, SOURCES)
    return name


def offline() -> bool:
    """Whether no hub may be asked: ``HF_HUB_OFFLINE``, kept for ModelScope too, whose client has no such switch."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def read(file: DataFile, offset: int, length: int, token: Any = None) -> Iterator[bytes]:
    """Bytes `offset` to ``offset + length`` of `file`, in pieces.

    Raises:
        BadFile: A local file ends before that.
        HubError: The hub does not give them.
    """
    if file.path is None and file.source == "url":
        from . import url_files

        yield from url_files.read(file, offset, length)
        return
    if file.path is None:
        hub = HUBS[file.source]
        url = hub.url(file)
        yield from read_range(
            url, lambda: hub.headers(token), offset, length, what=file.label, hint=hub.hint, size=file.size
        )
        return
    with open(file.path, "rb") as handle:
        handle.seek(offset)
        while length > 0:
            piece = handle.read(min(length, PIECE))
            if not piece:
                raise BadFile(
                    f"{file.label}: ends at byte {handle.tell()}, {file.size} were expected. "
                    "It was cut short while being read."
                )
            length -= len(piece)
            yield piece


def check_is_data(file: DataFile, token: Any = None) -> None:
    """Raise :class:`BadFile` for an empty file or a Git LFS pointer."""
    if file.size == 0:
        raise BadFile(
            f"{file.label}: the file is empty (0 bytes). Let what writes it end, or fetch it again (llava-zh download)."
        )
    if file.size < 1024:
        head = b"".join(read(file, 0, min(len(LFS_POINTER), file.size), token))
        if head.startswith(LFS_POINTER):
            raise BadFile(
                f"{file.label}: this is a Git LFS pointer of {file.size} bytes, not the data it stands for. "
                "Run `git lfs pull` in that clone, or `llava-zh download`."
            )


# -- hubs --------------------------------------------------------------------------------------------------


class HuggingFace:
    """The Hugging Face hub, by `huggingface_hub`: its token look-up, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and cache."""

    name = "huggingface"
    hint = "For a gated or private dataset set HF_TOKEN or pass token=; `llava-zh doctor` shows what is reachable."

    def endpoint(self) -> str:
        """URL of the hub that is asked."""
        from huggingface_hub import constants

        return str(constants.ENDPOINT)

    def has_token(self) -> bool:
        """Whether the client has a token, from the environment or a login."""
        from huggingface_hub import get_token

        return bool(get_token())

    def cache_folder(self) -> Path:
        """Where the client keeps what it downloads."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE)

    def list_files(self, repo: str, revision: str, token: Any, names: Sequence[str] | None) -> list[DataFile]:
        """The files of a dataset repository: those in `names` (whichever exist), or all."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        if names and (cached := self._cached_all(repo, revision, names)):
            return cached
        if offline():
            return self._snapshot(repo, revision, names)
        api = HfApi(token=token)
        try:
            commit = revision if is_commit(revision) else str(api.dataset_info(repo, revision=revision).sha)
            if not is_commit(commit):
                raise HubError(f"huggingface:{repo}@{revision}: the hub names {commit[:80]!r}, which is no commit.")
            if names is not None:
                entries = api.get_paths_info(repo, list(names), repo_type="dataset", revision=commit)
            else:
                entries = _bounded(api.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True), repo)
        except LlavaZhError:
            raise
        except Exception as error:
            raise self._explain(error, f"huggingface:{repo}@{revision}") from None
        listed = [
            _listed(self.name, repo, commit, entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in entries
            if isinstance(entry, RepoFile) and (names is None or entry.path in names)
        ]
        return [self._with_cache(file) for file in _each_once(listed)]

    def url(self, file: DataFile) -> str:
        from huggingface_hub import hf_hub_url

        if offline():
            raise _offline(file.label)
        return hf_hub_url(file.repo, file.name, repo_type="dataset", revision=file.revision)

    def headers(self, token: Any) -> Mapping[str, str]:
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # public by its docs

        headers = dict(build_hf_headers(token=token))
        keep_secret(headers.get("authorization", "").removeprefix("Bearer "))
        return headers

    def download(self, file: DataFile, token: Any, *, force: bool = False) -> DataFile:
        """The file on this machine, in the client's cache.

        The client itself (1.33 and 2.4, read in their source) joins a hub's ETag to the cache's path as it comes, so
        that a hub could have it write anywhere, and begins a broken download anew. Our own fetch writes below the
        commit's folder, where the client looks for files on systems without symbolic links.
        """
        from .fetch import into_snapshot

        return into_snapshot(file, self.snapshot(file.repo, file.revision), token, force=force)

    def snapshot(self, repo: str, commit: str) -> Path:
        """The folder of the client's cache that holds the files of a commit."""
        from huggingface_hub.file_download import repo_folder_name

        folder = repo_folder_name(repo_id=repo, repo_type="dataset")
        return inside(self.cache_folder(), f"{folder}/snapshots/{commit}", f"huggingface:{repo}")

    def _cached_all(self, repo: str, revision: str, names: Sequence[str]) -> list[DataFile]:
        """The named files if all of them are in the cache at a pinned revision, which no network can make staler."""
        if not is_commit(revision):
            return []
        bare = [DataFile(name=n, size=0, source=self.name, repo=repo, revision=revision) for n in names]
        found = [self._with_cache(file) for file in bare]
        return found if all(file.path for file in found) else []

    def _with_cache(self, file: DataFile) -> DataFile:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(file.repo, file.name, revision=file.revision, repo_type="dataset")
        if not isinstance(path, str):
            return file
        # The listed size stays where there is one: a damaged copy must not pass for the file.
        return replace(file, path=path, size=file.size or os.stat(path).st_size)

    def _snapshot(self, repo: str, revision: str, names: Sequence[str] | None) -> list[DataFile]:
        """What the cache holds of a repository, when nothing else may be asked."""
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True))
        except FileNotFoundError as error:
            # What was fetched by its commit, as we do, is not entered under the branch's name.
            cached = self.snapshot(repo, "x").parent
            commits = [] if is_commit(revision) else sorted(cached.glob("*"), key=lambda path: path.stat().st_mtime)
            if not commits:
                raise _offline(f"huggingface:{repo}@{revision}") from error
            folder = commits[-1]
            logger.warning("%s: offline, so %r is taken to be the commit cached last, %s", repo, revision, folder.name)
        return [
            replace(file, source=self.name, repo=repo, revision=folder.name)
            for file in local_files(str(folder), None, published=True)
            if names is None or file.name in names
        ]

    def _explain(self, error: Exception, what: str) -> HubError:
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            return refused(403, what, self.hint)
        if isinstance(error, errors.OfflineModeIsEnabled):
            return _offline(what)
        return _explained(error, what, self.hint, "HF_ENDPOINT")


class ModelScope:
    """ModelScope, by `modelscope`: its token look-up, ``MODELSCOPE_ENDPOINT`` and ``MODELSCOPE_CACHE``."""

    name = "modelscope"
    hint = "For a private dataset set MODELSCOPE_API_TOKEN or pass token=; `llava-zh doctor` shows what is reachable."

    def endpoint(self) -> str:
        """URL of the hub that is asked."""
        return str(self._config().endpoint)

    def has_token(self) -> bool:
        """Whether the client has a token, from the environment or a login."""
        return bool(self._config().token)

    def cache_folder(self) -> Path:
        """Where the client keeps what it downloads."""
        return Path(self._config().cache_dir)

    def _config(self) -> Any:
        from modelscope_hub.config import HubConfig

        return HubConfig()

    def _api(self, token: Any) -> Any:
        # `modelscope` itself imports torch where it is installed, for 2 s; its hub client is this package.
        from modelscope_hub import HubApi
        from modelscope_hub.config import HubConfig

        if "MODELSCOPE_LOG_LEVEL" not in os.environ:
            # At the level it chooses, the client tells of every page of a listing.
            logging.getLogger("modelscope_hub").setLevel(logging.WARNING)
        # A config of our own: the client's shared one keeps the environment as it was at its first use.
        return HubApi(config=HubConfig(token=token if isinstance(token, str) else "" if token is False else None))

    def list_files(self, repo: str, revision: str, token: Any, names: Sequence[str] | None) -> list[DataFile]:
        """The files of a dataset repository: those in `names` (whichever exist), or all."""
        api = self._api(token)
        if offline():
            return self._snapshot(repo, revision, names, api)
        try:
            entries = api.list_repo_files(repo, "dataset", revision=revision, recursive=True)
        except Exception as error:
            raise self._explain(error, f"modelscope:{repo}@{revision}") from None
        files = [
            _listed(self.name, repo, revision, entry.path, entry.size or 0, entry.sha256)
            for entry in _bounded(entries, repo)
            if entry.type != "tree" and (names is None or entry.path in names)
        ]
        return [self._with_cache(file, api) for file in _each_once(files)]

    def url(self, file: DataFile) -> str:
        return str(self._api(None).legacy.get_download_url(file.repo, "dataset", file.name, file.revision))

    def headers(self, token: Any) -> Mapping[str, str]:
        secret = token if isinstance(token, str) else None if token is False else self._config().token
        keep_secret(secret)
        return {"Authorization": f"Bearer {secret}", "Cookie": f"m_session_id={secret}"} if secret else {}

    def download(self, file: DataFile, token: Any, *, force: bool = False) -> DataFile:
        """The file on this machine, fetched into the client's cache."""
        try:
            path = self._api(token).download_file(
                file.repo,
                "dataset",
                file.name,
                revision=file.revision,
                force=force,
                expected_sha256=file.digest if file.digest and len(file.digest) == 64 else None,
            )
        except Exception as error:
            raise self._explain(error, file.label) from None
        return replace(file, path=str(path))

    def _with_cache(self, file: DataFile, api: Any) -> DataFile:
        from modelscope_hub.errors import CacheNotFound

        try:
            path = api.download_file(file.repo, "dataset", file.name, revision=file.revision, local_files_only=True)
        except CacheNotFound:
            return file
        # A branch moves on; the cached copy of an older commit must not stand in for the listed one.
        return replace(file, path=str(path)) if os.stat(path).st_size == file.size else file

    def _snapshot(self, repo: str, revision: str, names: Sequence[str] | None, api: Any) -> list[DataFile]:
        """What the cache holds of a repository, when nothing else may be asked."""
        from modelscope_hub.errors import CacheError

        where = f"modelscope:{repo}@{revision}"
        try:
            if names:
                folder = Path(api.download_file(repo, "dataset", names[0], revision=revision, local_files_only=True))
                folder = folder.parents[names[0].count("/")]
            else:
                folder = Path(api.download_repo(repo, "dataset", revision=revision, local_files_only=True))
        except CacheError as error:
            raise _offline(where) from error
        return [
            replace(file, source=self.name, repo=repo, revision=revision)
            for file in local_files(str(folder), None, published=True)
            if names is None or file.name in names
        ]

    def _explain(self, error: Exception, what: str) -> HubError:
        return _explained(error, what, self.hint, "MODELSCOPE_ENDPOINT")


def _listed(source: str, repo: str, revision: str, name: object, size: object, digest: object) -> DataFile:
    """A file as a hub lists it, with nothing in it that a hub could choose a place or a length without end by.

    Raises:
        UnsafeName: Its name leads out of the repository.
        HubError: Its size is none.
    """
    where = f"{source}:{repo}@{revision[:12]}"
    if not isinstance(name, str):
        raise HubError(f"{where}: the hub lists a file whose name is no text: {str(name)[:40]!r}.")
    checked = checked_name(name, where)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 60:
        raise HubError(f"{where}: the hub lists {checked} with a size of {str(size)[:40]!r} bytes.")
    known = isinstance(digest, str) and re.fullmatch(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}", digest)
    return DataFile(checked, size, source, None, repo, revision, str(digest).lower() if known else None)


def _each_once(files: list[DataFile]) -> list[DataFile]:
    """`files` without those that are listed again.

    Raises:
        HubError: One name is listed with two contents.
    """
    named: dict[str, DataFile] = {}
    for file in files:
        if named.setdefault(file.name, file) != file:
            raise HubError(f"{file.label}: the hub lists it twice, with different sizes or hashes.")
    return list(named.values())


def _bounded(entries: Iterable[Any], repo: str) -> list[Any]:
    """All of a listing, unless it goes on beyond the limit."""
    listed = list(itertools.islice(entries, LISTED_FILES.value + 1))
    if len(listed) > LISTED_FILES.value:
        raise HubError(f"{repo}: {LISTED_FILES.exceeded()}")
    return listed


def _offline(what: str) -> HubError:
    return HubError(
        f"{what} is not in the cache and HF_HUB_OFFLINE is set. Unset it, or load files on disk with data_dir=."
    )


def _explained(error: Exception, what: str, hint: str, endpoint: str) -> HubError:
    """Why a client failed: refused (with the status), no room or right to store the file, or unreachable."""
    cause: BaseException | None = error
    while cause is not None:  # a refused download is told of as "not in the cache", with the refusal as its cause
        status = getattr(cause, "status_code", None) or getattr(getattr(cause, "response", None), "status_code", None)
        if status:
            return refused(int(status), what, hint)
        cause = cause.__cause__
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ConnectionError | TimeoutError):
        return HubError(f"{what}: cannot be stored in the cache: {error.strerror}: {error.filename}")
    if isinstance(error, LookupError | TypeError | ValueError | AttributeError) and not isinstance(error, OSError):
        return HubError(f"{what}: the hub's answer is not what a hub answers ({type(error).__name__}). {hint}")
    return HubError(
        f"{what}: the hub is unreachable ({type(error).__name__}). Check the network and {endpoint}; {hint}"
    )


#: The client of each hub that is known, by its name.
HUBS: Mapping[str, HuggingFace | ModelScope] = {client.name: client for client in (HuggingFace(), ModelScope())}


def hub_files(source: str, repo: str, revision: str, token: Any, names: Sequence[str] | None = None) -> list[DataFile]:
    """The files of a dataset's repository on a hub: those in `names`, or all of them.

    Raises:
        HubError: The hub cannot be asked, or has none of `names`.
    """
    files = HUBS[source].list_files(repo, revision, token, names)
    missing = [name for name in names or () if name not in {file.name for file in files}]
    if missing:
        raise HubError(
            f"{source}:{repo}@{revision} has no file {', '.join(missing)}. "
            "Was it renamed? Pass revision= or data_files=."
        )
    return files
