"""Offline batches: requests as files in OpenAI's Batch format, and the results read back into the same run.

``vllm run-batch -i OUT/batch/000000.jsonl -o results.jsonl`` takes the files, and so do batch services, OpenAI's and
others. Results may come in any order and in any number of files; rows without one are in the next :func:`write_batch`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from llava_zh.catalog.row_files import BATCH
from llava_zh.errors import BadAnswer, BadFile, LlavaZhError, RootNotFound
from llava_zh.gates import limits
from llava_zh.gates.safe_text import keep_environment_secrets
from llava_zh.images.names import image_name
from llava_zh.regenerate.dialogue import Messages, PromptChoice, converse, row_turns
from llava_zh.regenerate.faults import Refused, Transient
from llava_zh.regenerate.first_look import first_events
from llava_zh.regenerate.images import Picture, keep_image, load_picture
from llava_zh.regenerate.jobs import Job, failure, finished_row, make_job, passed_key
from llava_zh.regenerate.manifest import manifest_of
from llava_zh.regenerate.protocol import Answer, Body, excerpt, fault_of_status, read_answer
from llava_zh.regenerate.report import Report, Session
from llava_zh.regenerate.run import Settings, check_counts, events_of
from llava_zh.regenerate.selection import open_ledger
from llava_zh.regenerate.source import Event, Over, Passed, Row, Source, open_source
from llava_zh.storage.durable import check_kind
from llava_zh.storage.lines import write_lines

T = TypeVar("T")

#: What a result holds beside the answer, at most.
RESULT_BYTES = 64 << 10
#: OpenAI takes files of at most 50,000 requests and 200 MB; vLLM has no limit but reads a file at once.
FILE_REQUESTS, FILE_BYTES = 50_000, 100_000_000


class _Response(msgspec.Struct):
    status_code: int = 200
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Result(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Result).decode


def write_batch(path_or_rows: Any, name: str | None = None, **given: Any) -> list[Path]:
    """Write a request for every row that is not done, to ``output_dir/batch/*.jsonl``; the files.

    Arguments are those of :func:`llava_zh.regenerate.regenerate` that do not concern a server: `output_dir`, `model`,
    `prompt`, `limit`, `parameters`, `max_pixels`, `send_paths`, `seed`, `unit_rows`, `widen` and those of
    ``load_dataset``. Rows whose images cannot be read are given up at once.
    """
    batch = _Batch(path_or_rows, name, **given)
    try:
        return batch.write()
    finally:
        batch.close()


def read_batch(path_or_rows: Any, name: str | None = None, *, results: Sequence[str | Path], **given: Any) -> Report:
    """Read the results of batches into the run; the arguments are those that :func:`write_batch` was given.

    A refused request and an answer that does not parse are given up; a fault that may pass leaves its row for the next
    :func:`write_batch`, as does a result that is missing.

    Raises:
        BadFile: A results file holds something else.
    """
    batch = _Batch(path_or_rows, name, **given)
    status = "stopped"
    try:
        batch.read([Path(path) for path in results])
        status = "finished" if not batch.left else "interrupted"
    finally:
        report = batch.close(status)
    return report


class _Batch:
    def __init__(
        self,
        path_or_rows: Any,
        name: str | None,
        *,
        output_dir: str | Path,
        model: str,
        prompt: str | None = None,
        limit: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        max_pixels: int | None = None,
        send_paths: bool = False,
        seed: int = 0,
        unit_rows: int = 10_000,
        widen: bool = False,
        **loading: Any,
    ) -> None:
        check_counts(unit_rows=unit_rows, limit=limit, max_pixels=max_pixels)
        keep_environment_secrets()  # a service may repeat the key that the files were sent with
        self.settings = Settings(model, dict(parameters or {}), limit, max_pixels, send_paths, seed)
        self.source: Source = open_source(path_or_rows, name, loading)
        self.choice = PromptChoice(prompt, self.source.config, seed, self.source.facts)
        self.folder = Path(output_dir).expanduser().absolute()
        manifest = manifest_of(self.source, self.choice, self.settings, unit_rows)
        self.ledger, self.notes = open_ledger(self.folder, self.source, unit_rows, manifest, widen)
        self.session = Session()
        self.left = 0  # rows that still want a result

    def close(self, status: str = "interrupted") -> Report:
        self.ledger.close()
        report = Report.of(self.ledger, status, self.session, 1, self.notes)
        report.write()
        if report.distinct != report.rows:
            raise self.ledger.twice()
        return report

    def _events(self) -> Iterator[Event]:
        return events_of(self.source, self.ledger, self.settings)

    def _jobs(self, events: Iterator[Event]) -> Iterator[Job]:
        """The rows that are not done; the ledger is told of units on the way."""
        ledger = self.ledger
        for event in events:
            if isinstance(event, Row):
                job = make_job(self.source, self.choice, event)
                if not ledger.is_known(job.place):
                    yield job
            elif isinstance(event, Passed):
                ledger.check_first(event.position, passed_key(self.source, self.choice, event))
            else:
                ledger.tell(event)
                if isinstance(event, Over):
                    ledger.sync()

    def _give_up(self, job: Job, reason: str, error: LlavaZhError) -> None:
        self.ledger.failed(job.place, reason, failure(job, error))
        self.session.failed += 1

    # -- requests ------------------------------------------------------------------------------------------

    def write(self) -> list[Path]:
        folder = self.folder / BATCH
        check_kind(folder, folder=True)
        folder.mkdir(exist_ok=True)
        files: list[Path] = []
        lines = self._requests()
        while chunk := _file_of(lines):
            files.append(folder / f"{len(files):06d}.jsonl")
            write_lines(files[-1], chunk)
        for old in set(folder.glob("*.jsonl")) - set(files):
            old.unlink()  # of an earlier call; what was still wanted of it has been written anew
        return files

    def _requests(self) -> Iterator[bytes]:
        events = self._events()
        begun = self.ledger.tally.rows > 0
        first = first_events(events, self.source, self.choice, self.settings, begun=begun)
        for job in self._jobs(chain(first, events)):
            try:
                pictures = [self._picture(image) for image in job.images]
                body = _first_request(job, pictures, self.settings)
            except (RootNotFound, Transient):
                raise
            except LlavaZhError as error:
                self._give_up(job, type(error).__name__, error)
                continue
            request = {"custom_id": job.place.key, "method": "POST", "url": "/v1/chat/completions"}
            yield msgspec.json.encode({**request, "body": msgspec.Raw(body)}) + b"\n"

    def _picture(self, image: Any) -> Picture:
        return load_picture(image, max_pixels=self.settings.max_pixels, as_path=self.settings.send_paths)

    # -- results -------------------------------------------------------------------------------------------

    def read(self, paths: Sequence[Path]) -> None:
        places = _index(paths)
        files: list[BinaryIO] = []
        try:
            files += [path.open("rb") for path in paths]
            for job in self._jobs(self._events()):
                found = places.get(job.place.key)
                if found is None:
                    self.left += 1
                    continue
                file, at = files[found[0]], found[1]
                file.seek(at)
                result = _result(paths[found[0]], at, _line(file, paths[found[0]], at))
                if result is None or result.custom_id != job.place.key:
                    raise BadFile(f"{paths[found[0]]} was changed while it was read. Read it again when it is whole.")
                self._take(job, result)
        finally:
            for file in files:
                file.close()

    def _take(self, job: Job, result: _Result) -> None:
        job.asked = 1
        self.session.asked += 1
        try:
            answer = _answer_of(result)
            placeholders = [Picture(b"", b"") for _ in job.images]
            turns, _ = _at_once(converse(job.row, placeholders, job.prompt, _Given(answer)))
        except Transient as fault:
            self.session.retries[fault.reason] += 1
            self.left += 1
        except (BadAnswer, Refused) as error:
            self._give_up(job, str(getattr(error, "reason", "answer does not parse")), error)
        else:
            names = [
                image_name(image, self.source.image_base) or keep_image(self.folder, image) for image in job.images
            ]
            self.ledger.done(job.place, finished_row(job, self.settings.model, names, turns, answer))
            self.session.done += 1
            self.session.completion_tokens += answer.completion_tokens


class _Given:
    """Answers the only question of a row with what the batch has answered."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, messages: Messages) -> Answer:
        return self._answer


class _Asked(Exception):
    """The first question of a row, caught instead of being asked."""


def _first_request(job: Job, pictures: list[Picture], settings: Settings) -> bytes:
    """The body of the only request of a row.

    Raises:
        Refused: The row takes several requests, each with the answers to those before; a batch cannot ask them.
    """
    turns = [turn for turn in row_turns(job.row) if turn["from"] == "human"]
    if job.prompt.kind == "original" and len(turns) > 1:
        raise Refused(
            f"Row {job.row.get('id')!r} has {len(turns)} human turns; a batch can ask only rows with one. "
            "Ask such rows of a server, with regenerate.",
            reason="several turns",
        )
    bodies: list[bytes] = []

    async def ask(messages: Messages) -> Answer:
        bodies.append(b"".join(Body(settings.model, messages, settings.parameters).take()))
        raise _Asked

    with contextlib.suppress(_Asked):
        _at_once(converse(job.row, pictures, job.prompt, ask))
    return bodies[0]


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of asynchronous work that waits for nothing, without an event loop for every row."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("this work waits for nothing")


def _answer_of(result: _Result) -> Answer:
    if result.response is None:
        raise Transient(f"The batch gave an error: {excerpt(bytes(result.error))}", reason="error in a batch")
    body = bytes(result.response.body)
    if result.response.status_code != 200:
        raise fault_of_status(result.response.status_code, body, None)
    return read_answer(body)


def _index(paths: Sequence[Path]) -> dict[str, tuple[int, int]]:
    """Where the result of each request is: number of the file and byte."""
    places: dict[str, tuple[int, int]] = {}
    for number, path in enumerate(paths):
        try:
            with path.open("rb") as file:
                at = 0
                while line := _line(file, path, at):
                    if (result := _result(path, at, line)) is not None:
                        places[result.custom_id] = number, at
                    at += len(line)
        except FileNotFoundError:
            raise BadFile(f"Results {path} are not there.") from None
        except OSError as error:
            raise BadFile(f"Results {path} cannot be read: {error.strerror}.") from error
    return places


def _line(file: BinaryIO, path: Path, at: int) -> bytes:
    """The next line, empty at the end of the file.

    Raises:
        BadFile: It is longer than an answer may be.
    """
    most = limits.ANSWER.value + RESULT_BYTES
    line = file.readline(most + 1)
    if len(line) > most:
        raise BadFile(f"{path}, byte {at}: a result is too long: {limits.ANSWER.exceeded()}")
    return line


def _result(path: Path, at: int, line: bytes) -> _Result | None:
    """The result in a line; None of a blank one."""
    if not line.strip():
        return None
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = excerpt(str(error), 100)
    raise BadFile(f"{path}, byte {at}: no result of a batch ({said}); expected custom_id and response.")


def _file_of(lines: Iterator[bytes]) -> list[bytes]:
    """So many of the lines as one file takes."""
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line)
        if len(chunk) == FILE_REQUESTS or size >= FILE_BYTES:
            break
    return chunk
