"""A model server of the run's own: started, watched, restarted when it dies or hangs, and stopped at the end.

The server runs under a keeper, a small process that holds a pipe from this one. When this process ends, however it
does, the pipe closes and the keeper ends the server and everything it started: a killed run leaves no GPU occupied.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from llava_zh.errors import MissingExtra, OutputError, ServerError, UnknownName
from llava_zh.gates.safe_text import cut, get_logger, keep_secret
from llava_zh.regenerate.keeper import GRACE
from llava_zh.regenerate.report import Session
from llava_zh.regenerate.tasks import first_error

#: Seconds that a server may take to load its model.
READY_WITHIN = 1800.0
#: Seconds between looks at the server, seconds it may take to answer one, and looks in vain until it counts as hung.
LOOK_EVERY, LOOK_TIMEOUT, LOOKS_IN_VAIN = 5.0, 20.0, 3
#: Starts in a row that never came to be ready, after which the server is given up.
FAILED_STARTS = 3

#: The command lines, from the engines' own documentation. ``{python}`` is this interpreter; other first words are
#: looked for beside it and on PATH.
ENGINES: dict[str, list[str]] = {
    "lmdeploy": [
        *("lmdeploy", "serve", "api_server", "{model}", "--model-name", "{model}"),
        *("--server-name", "127.0.0.1", "--server-port", "{port}"),
    ],
    "vllm": ["vllm", "serve", "{model}", "--served-model-name", "{model}", "--host", "127.0.0.1", "--port", "{port}"],
    "sglang": [
        *("{python}", "-m", "sglang.launch_server", "--model-path", "{model}", "--served-model-name", "{model}"),
        *("--host", "127.0.0.1", "--port", "{port}"),
    ],
    "transformers": ["transformers", "serve", "{model}", "--host", "127.0.0.1", "--port", "{port}"],
}


#: Options that engines read from the environment too, where ``ps`` does not show them to everyone on the machine.
BY_ENVIRONMENT = {("vllm", "--api-key"): "VLLM_API_KEY"}
_SECRET_OPTION = re.compile(r"--[\w-]*(?:key|keys|token|password|secret)", re.IGNORECASE)
#: Of an engine's log an error quotes so many lines and characters at most.
SHOWN_LINES, SHOWN_CHARACTERS = 20, 4000

_log = get_logger(__name__)


class Served:
    """A server for the time of an ``async with``.

    Args:
        engine: A key of :data:`ENGINES`.
        model: Hub id or folder of the model.
        arguments: More arguments of the server's command line, such as ``["--tp", "8"]``.
        log: File that the server's output is appended to.
        session: Counts the restarts.
        say: Called with a line for the reader.

    Raises:
        UnknownName, MissingExtra: There is no such engine, or it is not installed.
        ServerError: The server does not come to be ready; the message holds the end of its log.
    """

    def __init__(
        self,
        engine: str,
        model: str,
        arguments: Sequence[str],
        log: Path,
        session: Session,
        say: Callable[[str], None],
    ) -> None:
        if engine not in ENGINES:
            raise UnknownName.of("engine", engine, ENGINES)
        self._engine, self._log, self._session, self._say = engine, log, session, say
        port = _free_port()
        shown, self._secret_environment = _without_secrets(engine, arguments)
        self._command = _command(engine, model, port) + shown
        self.url = f"http://127.0.0.1:{port}/v1"
        #: Answers 200 when the server is well; all four engines have it, while `transformers serve` lists no models.
        self.health_url = f"http://127.0.0.1:{port}/health"
        self._keeper: subprocess.Popen[bytes] | None = None
        self._restart_for = ""  # why a restart was asked for

    async def __aenter__(self) -> Served:
        import aiohttp

        self._errors = (aiohttp.ClientError, OSError, TimeoutError)
        self._session_http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=LOOK_TIMEOUT), cookie_jar=aiohttp.DummyCookieJar()
        )
        try:
            await self._start()
        except BaseException:
            await self._session_http.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session_http.close()
        await asyncio.shield(asyncio.to_thread(self._stop))

    def restart_soon(self, reason: str) -> None:
        """Restart the server at the next look, because it hangs although it answers looks."""
        self._restart_for = reason

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` while watching over the server.

        Raises:
            ServerError: The server cannot be brought back.
        """
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                await work
                watch.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None

    async def _watch(self) -> None:
        in_vain = 0
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._ended():
                self._restart_for = "it ended by itself"
            elif await self._answers():
                in_vain = 0
            else:
                in_vain += 1
                if in_vain >= LOOKS_IN_VAIN:
                    self._restart_for = f"it does not answer since {in_vain} looks"
            if self._restart_for:
                self._say(f"{self._engine} is restarted: {self._restart_for}")
                self._restart_for, in_vain = "", 0
                self._session.restarts += 1
                await asyncio.to_thread(self._stop)
                await self._start()

    async def _start(self) -> None:
        """Start the server and wait until it is ready; try again if it ends before."""
        for _ in range(FAILED_STARTS):
            self._launch()
            deadline = time.monotonic() + READY_WITHIN
            while not self._ended() and time.monotonic() < deadline:
                if await self._answers():
                    return
                await asyncio.sleep(0.25)
            await asyncio.to_thread(self._stop)
        raise ServerError(
            f"{self._engine} did not become ready in {FAILED_STARTS} starts: {' '.join(self._command)}\n"
            f"The end of its log, {self._log}:\n{_end_of(self._log)}"
        )

    def _launch(self) -> None:
        keeper = Path(__file__).with_name("keeper.py")
        try:
            # For its owner only: engines write their arguments and some requests into it.
            with open(self._log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
                self._keeper = subprocess.Popen(
                    [sys.executable, str(keeper), *self._command],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self._secret_environment},
                    start_new_session=True,  # Ctrl-C is for the run; the run stops the server
                )
        except OSError as error:
            raise OutputError(f"{self._engine} cannot be started, or {self._log} not written: {error}.") from error

    def _stop(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        assert keeper.stdin is not None
        keeper.stdin.close()
        try:
            keeper.wait(GRACE + 10)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()

    def _ended(self) -> bool:
        return self._keeper is None or self._keeper.poll() is not None

    async def _answers(self) -> bool:
        try:
            async with self._session_http.get(self.health_url, allow_redirects=False) as response:
                return response.status == 200
        except (*self._errors, ValueError):
            return False


def _without_secrets(engine: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments as a command line may have them, and what goes by the environment; secrets are known from now on.

    A secret that the engine takes by no other way stays on the command line, which is said.
    """
    left: list[str] = []
    environment: dict[str, str] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        option, joined, value = word.partition("=")
        if _SECRET_OPTION.fullmatch(option) is None:
            left.append(word)
            continue
        values = [value] if joined else []
        while not joined and words and not words[0].startswith("--"):
            values.append(words.pop(0))
        for each in values:
            keep_secret(each)
        if len(values) == 1 and (variable := BY_ENVIRONMENT.get((engine, option))):
            environment[variable] = values[0]
            continue
        left += [word] if joined else [word, *values]
        if values:
            _log.warning("%s is on %s's command line, where everyone on this machine can read it.", option, engine)
    return left, environment


def _command(engine: str, model: str, port: int) -> list[str]:
    words = [word.format(python=sys.executable, model=model, port=port) for word in ENGINES[engine]]
    beside = Path(sys.executable).parent / words[0]
    program = str(beside) if beside.exists() else shutil.which(words[0])
    if program is None or (words[1] == "-m" and find_spec(words[2].partition(".")[0]) is None):
        raise MissingExtra.of(engine, engine, f"serve={engine!r}")
    return [program, *words[1:]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_of(log: Path) -> str:
    """The last lines of a log, without the line that begins before what is read: half a secret may be all it holds."""
    with log.open("rb") as file:
        start = max(0, log.stat().st_size - 2 * SHOWN_CHARACTERS)
        file.seek(start)
        text = file.read(2 * SHOWN_CHARACTERS).decode("utf-8", "replace")
    if start:
        text = text.partition("\n")[2] or "(one long line)"
    return cut("\n".join(text.splitlines()[-SHOWN_LINES:]), SHOWN_CHARACTERS)
