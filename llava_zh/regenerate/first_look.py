"""A look at the images of the first rows, before any server is started or asked: a wrong place is told at once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from llava_zh.errors import BadArgument, BadImage, ImageNotFound, LlavaZhError
from llava_zh.gates.counts import counted
from llava_zh.regenerate.dialogue import Asking
from llava_zh.regenerate.faults import Transient
from llava_zh.regenerate.images import load_picture
from llava_zh.regenerate.jobs import make_job
from llava_zh.regenerate.run import CHUNK, Settings
from llava_zh.regenerate.source import Event, Row, Source

#: Rows whose images may all fail for once, as a network does, before that is taken for how things are.
_PASSING = 3


def first_events(
    events: Iterator[Event], source: Source, choice: Asking, settings: Settings, *, begun: bool
) -> list[Event]:
    """The first of `events`, after a look at the images of the rows among them; the first readable one is enough.

    Args:
        begun: The run has finished rows: whatever images are missing now are faults of their rows.

    Raises:
        RootNotFound: There is no place to look for images in.
        ImageNotFound, BadImage: No image of these rows can be read; says what to do.
        BadArgument: No image is of the kind that `send_paths` needs.
    """
    first = list(islice(events, CHUNK))
    errors: list[LlavaZhError] = []
    for event in first:
        if not isinstance(event, Row):
            continue
        try:
            for image in make_job(source, choice, event).images:
                load_picture(image, max_pixels=settings.max_pixels, as_path=settings.send_paths)
            return first
        except (ImageNotFound, BadImage, Transient, BadArgument) as error:
            errors.append(error)
        if begun:
            return first
    if errors and not (len(errors) < _PASSING and all(isinstance(error, Transient) for error in errors)):
        raise _unreadable(errors, source)
    return first


def _unreadable(errors: list[LlavaZhError], source: Source) -> LlavaZhError:
    first = errors[0]
    if isinstance(first, BadArgument):
        return first
    kind = ImageNotFound if isinstance(first, ImageNotFound) else BadImage
    rows = "the first row" if len(errors) == 1 else f"the first {counted(len(errors), 'rows')}"
    return kind(f"No image of {rows} can be read, so no model was asked. The first: {first} {_what_to_do(source)}")


def _what_to_do(source: Source) -> str:
    if source.published is None:
        return "Give rows whose images are there."
    if source.facts is not None and source.facts.in_sa1b:
        return (
            "Pass the place of SA-1B as image_root=; `llava-zh sa1b status` says which archives a place has, and "
            "`llava-zh sa1b download` fetches more."
        )
    return "Pass the folder or URL that the paths of the images begin in as image_root=."
