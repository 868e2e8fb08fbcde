"""One image at a time: the helper for a script, a notebook or a service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from llava_zh.catalog.prompts import load_prompt
from llava_zh.errors import BadAnswer, BadArgument
from llava_zh.images.names import ImageSource
from llava_zh.regenerate.client import Client
from llava_zh.regenerate.dialogue import Messages, Turns, converse
from llava_zh.regenerate.faults import Transient
from llava_zh.regenerate.images import load_picture
from llava_zh.regenerate.protocol import Answer, Body
from llava_zh.regenerate.tasks import run_blocking
from llava_zh.storage.retries import backoff


class Captioner:
    """A captioning model behind one or several OpenAI-compatible servers.

    ::

        captioner = Captioner("http://127.0.0.1:8000/v1", "OpenGVLab/InternVL2-Llama3-76B")
        captioner.caption("street.jpg")                        # a caption in Chinese
        captioner.ask("street.jpg", prompt="conversation")     # turns, as a row has them

        async with captioner:                                  # many at once
            captions = await asyncio.gather(*map(captioner.acaption, paths))

    Args:
        base_url: Root of the API, or several.
        model: Name the server knows the model by.
        api_key: Bearer token; by default the environment variable ``LLAVA_ZH_API_KEY``.
        parameters: Passed on in every request, such as ``{"temperature": 0.7, "max_tokens": 512}``.
        max_pixels: Downscale larger images to so many pixels; by default the original bytes are sent.
        timeout: Seconds a request may take.
        max_retries: Transient faults before giving up.
        answer_attempts: Answers that may be empty, cut off or unparsable before giving up.

    A server that is not there fails after `max_retries`, or when it was sick for `timeout` seconds. The blocking
    methods connect anew each time; inside ``async with`` connections are kept.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        *,
        api_key: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        max_pixels: int | None = None,
        timeout: float = 600.0,
        max_retries: int = 8,
        answer_attempts: int = 3,
    ) -> None:
        self._base_url, self._model, self._api_key = base_url, model, api_key
        self._parameters = dict(parameters or {})
        self._max_pixels, self._timeout = max_pixels, timeout
        self._max_retries, self._answer_attempts = max_retries, answer_attempts
        self._client: Client | None = None

    async def __aenter__(self) -> Captioner:
        self._client = await self._new_client().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(kind, error, trace)

    def _new_client(self) -> Client:
        return Client(self._base_url, self._model, api_key=self._api_key, timeout=self._timeout, patience=self._timeout)

    def caption(self, image: ImageSource, prompt: str = "caption_zh") -> str:
        """The caption of one image.

        Args:
            image: A path, a URL (``sa1b://`` too), encoded bytes, a PIL image, or an undecoded ``datasets`` image.
            prompt: A name in ``PROMPTS`` that asks for one text, or a file.

        Raises:
            ServerError: No server can be used, or it refuses the request.
            BadAnswer: The model gave no whole answer, or none of the form asked for.
            BadImage, ImageNotFound: The image cannot be read.
        """
        return _text_of(self.ask(image, _one_text(prompt)))

    async def acaption(self, image: ImageSource, prompt: str = "caption_zh") -> str:
        """:meth:`caption`, inside ``async with``."""
        return _text_of(await self.aask(image, _one_text(prompt)))

    def ask(self, image: ImageSource | list[ImageSource], prompt: str) -> Turns:
        """The conversation that a prompt asks for: turns ``{"from", "value"}``, the first with the image markers.

        Args:
            image: One image, or a list of several that belong together.
            prompt: A name in ``PROMPTS``, or a file.
        """

        async def alone() -> Turns:
            async with self:
                return await self.aask(image, prompt)

        return run_blocking(alone())

    async def aask(self, image: ImageSource | list[ImageSource], prompt: str) -> Turns:
        """:meth:`ask`, inside ``async with``."""
        if self._client is None:
            raise BadArgument("Use the asynchronous methods inside 'async with captioner:'.")
        if prompt == "original":
            raise BadArgument("The prompt 'original' repeats a row's own questions, and an image alone has none.")
        chosen = load_prompt(prompt)
        images = image if isinstance(image, list) else [image]
        retries = bad_answers = 0
        while True:
            pictures = await asyncio.gather(
                *(asyncio.to_thread(load_picture, each, max_pixels=self._max_pixels) for each in images)
            )
            seed = {"seed": bad_answers} if bad_answers else {}
            try:
                turns, _ = await converse({}, list(pictures), chosen, partial(self._send, self._client, seed))
                return turns
            except Transient as fault:
                retries += 1
                if retries > self._max_retries:
                    raise
                await asyncio.sleep(backoff(retries, fault.retry_after))
            except BadAnswer:
                bad_answers += 1
                if bad_answers >= self._answer_attempts:
                    raise

    async def _send(self, client: Client, seed: Mapping[str, int], messages: Messages) -> Answer:
        return await client.ask(Body(self._model, messages, {**self._parameters, **seed}))


def _one_text(prompt: str) -> str:
    if load_prompt(prompt).kind != "caption":
        raise BadArgument(f"The prompt {prompt!r} does not ask for one text; use ask(image, prompt).")
    return prompt


def _text_of(turns: Turns) -> str:
    return turns[-1]["value"]
