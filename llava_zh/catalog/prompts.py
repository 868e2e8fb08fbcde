r"""The prompts that made the published datasets, word for word, and prompts of the user's own.

The Chinese texts are those of the two dataset cards (ModelScope ``thomas/InternVL-SA-1B-Caption`` and
``opencsg/llava-instruct-zh-600k``), the English one that of ``OpenGVLab/InternVL-SA-1B-Caption`` on Hugging Face.
Line breaks, half-width punctuation and the literal ``\n\n`` inside the llava prompts are the cards' own: the models
saw them, so they stay.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal, cast, get_args

from llava_zh.errors import BadArgument, BadFile, UnknownName, nearest

Kind = Literal["caption", "conversation", "qa", "original"]


@dataclass(frozen=True)
class Prompt:
    """What a model is asked, and the form its answer must have.

    Attributes:
        id: Name of the prompt: a key of :data:`PROMPTS`, or the file name of a user's prompt.
        text: The words sent to the model; empty for ``original``.
        kind: Form of the answer: ``caption`` (one text), ``conversation`` (rounds of 用户 and 助手), ``qa`` (one
            问题 with its 回答) or ``original`` (one text in reply to the row's own human turn).
        language: ``"zh"`` or ``"en"``; ``None`` for ``original``, which speaks the row's language.
        task: llava task (``conversation``, ``complex_reasoning``, ``detail``), or ``None``.
        single_paragraph: Whether the text asks for one paragraph, so that line breaks in a caption are a defect.
    """

    id: str
    text: str
    kind: Kind
    language: str | None
    task: str | None = None
    single_paragraph: bool = False

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of the text's UTF-8 bytes."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


_CAPTION_EN = (
    "Generate an accurate, single-paragraph description based on the given image. Do not use multiple paragraphs or "
    "line breaks. Avoid generating speculative content. Ensure that the description is based on clearly visible "
    "information in the image and avoid any over-speculation."
)
_CAPTION_ZH = (
    "生成基于给定图像的准确单段描述。请勿使用多段或换行。避免生成带有推测性质的内容。"
    "确保描述基于图像中清晰可见的信息,避免过度推测。"
)
_CONVERSATION = r"""设计一个你和一个询问这张照片的人之间的对话。答案应该是视觉AI助手看到图像并回答问题的语气。
你需要提出不同的问题并给出相应的答案。问题可以包括询问图像视觉内容的问题,包括对象类型、对象计数、对象动作、对象位置、对象之间的相对位置等。必须是有明确答案的问题,即
(1) 人们可以在图像中明确看到问题所问的内容,并且可以自信地回答;
(2) 人们可以从图像中肯定地确定它不在图像中。
问题还可以包括与图像中的内容相关的复杂问题,例如,询问图像中对象的背景知识,要求讨论图像中发生的事件等。同样,不要问不确定的细节。
在回答复杂问题时要提供详细的答案。例如,给出详细的例子或推理步骤,使内容更具说服力和组织性。如有必要,您可以包含多个段落。最多不超过5轮对话。
以 用户:...\n\n助手:...\n\n用户:...\n\n助手:...\n\n 的格式返回。"""
_COMPLEX_REASONING = r"""设计一个关于这张照片的问题,并提供详细的答案。必须是除了描述场景以外的复杂问题。
要回答这些问题,首先需要理解视觉内容,然后根据背景知识进行推理,来解释事情为什么会这样发生,或者为用户的请求提供指导和帮助。你可以通过不在问题中包含视觉内容的细节来使问题具有挑战性,这样回答问题时必须先根据视觉内容进行推理。
以 问题:...\n\n回答:...\n\n 的格式返回。"""
_DETAIL = """详细描述这张照片的场景。包括对象计数、对象位置、对象之间的相对位置等详细信息。
当图片中存在文字时,需要将文字提取出来进行描述。描述应尽可能全面,尽量覆盖所有对象。"""

PROMPTS: dict[str, Prompt] = {
    prompt.id: prompt
    for prompt in (
        Prompt("caption_en", _CAPTION_EN, "caption", "en", single_paragraph=True),
        Prompt("caption_zh", _CAPTION_ZH, "caption", "zh", single_paragraph=True),
        Prompt("conversation", _CONVERSATION, "conversation", "zh", task="conversation"),
        Prompt("complex_reasoning", _COMPLEX_REASONING, "qa", "zh", task="complex_reasoning"),
        Prompt("detail", _DETAIL, "caption", "zh", task="detail"),
        Prompt("original", "", "original", None),
    )
}

#: Rows of each task that were published with the prompts of these tasks (the llava-instruct-zh card): 日常对话,
#: 复杂推理, 描述图片. The prompt ``llava`` draws the tasks in these proportions.
TASK_ROWS: dict[str, int] = {"conversation": 247_431, "complex_reasoning": 194_646, "detail": 199_791}


def caption_prompt(language: str) -> Prompt | None:
    """The prompt for captions in `language` that were published, if any were."""
    fitting = (one for one in PROMPTS.values() if (one.kind, one.language, one.task) == ("caption", language, None))
    return next(fitting, None)


def draw_task(key: str, seed: int, rows: Mapping[str, int] = TASK_ROWS) -> str:
    """The task for one image, drawn in the proportions of the numbers of `rows` that were published of each.

    The draw is a hash of `key` (what identifies the image) and `seed`: the same in every process, whatever the order
    of the rows.
    """
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    draw = int.from_bytes(digest, "big") * sum(rows.values()) >> 64
    upper_bounds = accumulate(rows.values())
    return next(task for task, bound in zip(rows, upper_bounds, strict=True) if draw < bound)


def load_prompt(name_or_path: str) -> Prompt:
    """The prompt of that name in :data:`PROMPTS`, or the one in a file of the user's.

    A plain UTF-8 text file is a ``caption`` prompt, in Chinese if it holds a Chinese character and in English
    otherwise; white space around the text is dropped. A ``.toml`` file says more::

        text = "Describe the picture. Answer as User: ... Assistant: ..."
        kind = "conversation"       # caption (the default), conversation or qa
        language = "en"             # zh or en; told from the text by default
        task = "conversation"       # conversation, complex_reasoning or detail; none by default
        single_paragraph = false    # captions only: join the lines of an answer into one paragraph

    Raises:
        UnknownName: Neither a known prompt nor a file.
        BadFile: The file is empty, not UTF-8, not TOML or cannot be read.
        BadArgument: A field has a value that cannot work, or the text lacks the words its kind needs: a conversation
            must ask for ``用户`` and ``助手`` (or ``User`` and ``Assistant``), a qa for ``问题`` and ``回答`` (or
            ``Question`` and ``Answer``), because the answer is cut at them.
    """
    if name_or_path in PROMPTS:
        return PROMPTS[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise UnknownName(
            f"Unknown prompt {name_or_path!r}: not the name of one, nor a file.{nearest(name_or_path, PROMPTS)} "
            f"Known: {', '.join(PROMPTS)}; or give the path of a UTF-8 text or .toml file."
        )
    text = _read(path)
    return _prompt(path, _toml_fields(path, text) if path.suffix.lower() == ".toml" else {"text": text})


#: Words of which every group must appear in a prompt of the kind, since the answer is cut at them.
_NEEDED: dict[str, list[tuple[str, str]]] = {
    "conversation": [("用户", "助手"), ("User", "Assistant")],
    "qa": [("问题", "回答"), ("Question", "Answer")],
}
_FIELD_TYPES: dict[str, type] = {"text": str, "kind": str, "language": str, "task": str, "single_paragraph": bool}
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": tuple(kind for kind in get_args(Kind) if kind != "original"),
    "language": ("zh", "en"),
    "task": tuple(TASK_ROWS),
}


def _read(path: Path) -> str:
    try:
        # A text editor's byte order mark is no part of the prompt.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile(
            f"Prompt file {path}: not UTF-8 at byte {error.start} ({error.reason}). Save it as UTF-8."
        ) from None
    except OSError as error:
        raise BadFile(f"Prompt file {path} cannot be read: {error.strerror}.") from error


def _toml_fields(path: Path, text: str) -> dict[str, object]:
    try:
        fields: dict[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadFile(f"Prompt file {path}: not TOML: {error}.") from None
    for name, value in fields.items():
        if name not in _FIELD_TYPES:
            raise BadArgument(
                f"Prompt file {path}: unknown field {name!r}.{nearest(name, _FIELD_TYPES)} "
                f"Known: {', '.join(_FIELD_TYPES)}."
            )
        if type(value) is not _FIELD_TYPES[name]:
            raise BadArgument(
                f"Prompt file {path}: field {name!r} must be {_FIELD_TYPES[name].__name__}, "
                f"found {type(value).__name__} {value!r}."
            )
        if name in _CHOICES and value not in _CHOICES[name]:
            raise BadArgument(
                f"Prompt file {path}: {name} must be one of {', '.join(_CHOICES[name])}, found {value!r}."
            )
    return fields


def _prompt(path: Path, fields: dict[str, object]) -> Prompt:
    """The prompt of checked fields; checks what only the text as a whole can show."""
    text = str(fields.get("text", "")).strip()
    if not text:
        raise BadFile(f"Prompt file {path} has no text. Write what the model is to be asked.")
    if "<image>" in text:
        raise BadArgument(f"Prompt file {path} holds the marker <image>, which is placed for you. Remove it.")
    kind = cast(Kind, fields.get("kind", "caption"))
    groups = _NEEDED.get(kind, [])
    if groups and not any(all(word.lower() in text.lower() for word in group) for group in groups):
        wanted = " or ".join(" and ".join(repr(word) for word in group) for group in groups)
        raise BadArgument(
            f"Prompt file {path}: a {kind} prompt must ask for an answer marked by {wanted}, where it is cut; "
            f"the text holds neither pair."
        )
    language = str(fields.get("language") or ("zh" if re.search(r"[\u3400-\u9fff]", text) else "en"))
    task = cast("str | None", fields.get("task"))
    return Prompt(path.name, text, kind, language, task, bool(fields.get("single_paragraph", False)))
