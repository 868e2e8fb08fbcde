"""What a model's text holds that is no part of what it says: reasoning, special tokens, control characters.

All come from outside and look like text. What a model said is kept only after :func:`without_reasoning` has cut off
the first, :func:`special_tokens` and :func:`controls` have found none of the others, and it does not say nothing
(:func:`says_nothing`).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from llava_zh.gates.safe_text import CONTROLS

# -- reasoning ---------------------------------------------------------------------------------------------

_WORDS = r"(?:(?!start|begin|end)[a-z]{1,12}[:_-])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad)"
# How families open and close a block: the XML words of most (DeepSeek, Qwen, InternVL, GLM, Seed), Mistral's, Kimi's,
# Cohere's, those of distilled long-thought models, and Gemma's. The number of a group is the number of its family.
_FAMILIES = (
    (rf"<{_WORDS}>", rf"</{_WORDS}>"),
    (rf"<\|{_WORDS}\|>", rf"<\|/{_WORDS}\|>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|begin_of_(?:thought|think)\|>", r"<\|end_of_(?:thought|think)\|>"),
    (r"<unused94>", r"<unused95>"),
    (r"<\|channel>thought", r"<channel\|>"),
)
_EDGE = re.compile("|".join(f"({opens})|({closes})" for opens, closes in _FAMILIES), re.IGNORECASE)

# gpt-oss names a channel before every part, and only what is in the channel "final" is said. A server that drops the
# special tokens alone leaves the names: "analysisThe user …assistantfinal一只猫".
_CHANNEL = re.compile(r"<\|channel\|>\s*+(\w++)[^<]*+<\|message\|>")
_BARE_CHANNEL = re.compile(r"\A\s*analysis(?=[A-Z\u2e80-\uffef])")
_BARE_FINAL = "assistantfinal"

# What is left may be in an envelope, which models that were taught to reason by rewards put around all they say.
_ENVELOPE = re.compile(r"\s*<answer>((?:[^<]|<(?!/?answer>))*+)</answer>\s*", re.IGNORECASE)


def without_reasoning(text: str) -> str | None:
    """`text` without its reasoning blocks; None if one never ends, so that nothing in it can be taken for said.

    A block that is only closed began in the prompt, as with DeepSeek's template: all that is before it is cut off too.
    A text without any block comes back as it is.
    """
    rest: str | None = text
    while rest is not None and (_may_hold_marks(rest) or _BARE_CHANNEL.match(rest)):
        before, rest = rest, _without_outer(rest)
        if rest == before:
            break
    return rest


def _without_outer(text: str) -> str | None:
    """`text` without what is reasoning at the first look; what is left may begin with another form of it."""
    rest = _final_channel(text)
    if rest is None:
        return None
    kept: list[str] = []
    inside, at = 0, 0
    for edge in _EDGE.finditer(rest):
        family, closes = divmod((edge.lastindex or 1) - 1, 2)
        if not inside and not closes:
            kept.append(rest[at : edge.start()])
            inside = family + 1
        elif closes and inside == family + 1:
            inside, at = 0, edge.end()
        elif closes and not inside:
            kept, at = [], edge.end()
    if inside:
        return None
    if not (at or len(rest) < len(text)):
        return text
    rest = "".join([*kept, rest[at:]]).strip()
    envelope = _ENVELOPE.fullmatch(rest)
    return envelope[1].strip() if envelope else rest


def _final_channel(text: str) -> str | None:
    if channels := list(_CHANNEL.finditer(text)):
        return text[channels[-1].end() :] if channels[-1][1] == "final" else None
    if _BARE_CHANNEL.match(text):
        _, found, final = text.rpartition(_BARE_FINAL)
        return final if found else None
    return text


# -- special tokens ----------------------------------------------------------------------------------------

_TOKENS = re.compile(
    "|".join(
        (
            # ChatML and all who write alike: Qwen, Llama 3 and 4, Phi, GLM, Yi, Cohere, gpt-oss, Kimi; Gemma 4 leaves
            # out one bar, and DeepSeek and Hunyuan write full-width bars. The last is one that was cut.
            r"<\|[^\s<>|]{1,48}\|?>",
            r"<[a-z_]{1,24}\|>",
            r"<｜[^\s<>｜]{1,48}｜>",
            r"<[|｜][A-Za-z_▁]{2,48}\Z",
            r"(?<!<\|)\bim_(?:start|end)\|>",
            # SentencePiece, whose bytes are tokens too, and T5.
            r"</?s>",
            r"(?i:</?(?:unk|pad|bos|eos|eot|eod|eop|sop|sep|cls|mask)>)",
            r"<0x[0-9A-F]{2}>",
            r"(?i:<extra_id_\d+>)",
            # InternLM, InternVL, Baichuan, Nemotron.
            r"(?i:\[UNUSED_TOKEN_\d+\]|<TOKENS_UNUSED_\d+>|<reserved_\d+>|<SPECIAL_\d+>)",
            r"(?i:<eo[achm]>|<eosys>)",
            # Llama 2, Mistral, GLM, Kimi, MiniMax.
            r"<</?SYS>>|\[/?INST\]|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK)\]",
            r"\[(?:IMG|IMG_BREAK|IMG_END|BOS|EOS|EOT|UNK|gMASK|sMASK|PAD\d*)\]",
            r"\]~!b\[|\]~b\]|\[e~\[",
            # Gemma, PaliGemma, Idefics, SmolVLM, Florence.
            r"(?i:<(?:start|end)_of_(?:turn|image|utterance)>|<unused\d+>|<image_soft_token>)",
            r"(?i:<fake_token_around_image>|<global-img>|<row_\d+_col_\d+>|<loc_?\d{1,4}>|<seg\d{3}>)",
            # Where a picture stands: trainers put one in the place of each, and fail or put the wrong one.
            r"(?i:</?(?:image|video|audio|img|vid|im_patch|im_start|im_end|im_col|im_newline|image_id|slice)>)",
            r"(?i:<(?:image_placeholder|image_token|video_token|image_pad|video_pad|img_context)>)",
            r"(?i:<(?:BOI|EOI|image_newline|image_start|image_end|vision_start|vision_end|patch_index_\d+)>)",
            # Grounding marks of Qwen-VL, InternVL, MiniCPM-V, Kosmos, Seed and Molmo; GLM's and Ling's marks.
            r"(?i:</?(?:box|bbox|ref|quad|poly|polygon|point|points|grounding|phrase|role)>)",
            r"(?i:<points?\s+(?:x|coords)\d*\s*=|<delimiter_of_multi_objects/>)",
            r"</?(?:tool_call|tool_response|tools|function_call|answer)>",
            # Reasoning, where it could not be cut off.
            rf"(?i:</?{_WORDS}>|◁/?think▷)",
        )
    )
)
# Every mark holds one of these; a search for each is quicker than one pattern for all.
_SIGNS = ("<", "[", "◁", "|>", "]~")


def special_tokens(text: str, *, besides: Collection[str] = ()) -> list[str]:
    """The special tokens and grounding marks in `text`, in order, each once; `besides` are those that may be there.

    Known are those of the families that serve captions. What only speaks of a sign (``a < b``, ``<3``, ``[1]``, HTML's
    ``<p>``) is none; ``<image>``, ``<img>`` and ``<s>`` are, since whoever trains on the text takes them for their own.
    """
    if not _may_hold_marks(text):
        return []
    found = dict.fromkeys(match[0] for match in _TOKENS.finditer(text))
    return [token for token in found if token not in besides]


def _may_hold_marks(text: str) -> bool:
    return any(sign in text for sign in _SIGNS)


# -- characters --------------------------------------------------------------------------------------------

# U+FFFD stands where bytes were no text. A carriage return only ends a line.
_CONTROL = re.compile(rf"[{CONTROLS}\ufffd](?<!\r)")
# White space, controls, and what Unicode calls ignorable: fillers, joiners, marks of direction, selectors, tags.
_VISIBLE = re.compile(
    rf"[^\s{CONTROLS}\x00-\x20\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028\u2029"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U0001bca0-\U0001bca3"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def controls(text: str) -> list[str]:
    """The characters in `text` that no text has a use for, as ``U+001B``, in order, each once.

    They are control characters but for newline, tab and carriage return, marks that turn the direction of what is
    around them, and U+FFFD, which stands for bytes that were lost.
    """
    if _CONTROL.search(text) is None:
        return []
    return list(dict.fromkeys(f"U+{ord(character):04X}" for character in _CONTROL.findall(text)))


def says_nothing(text: str) -> bool:
    """Whether no character of `text` can be seen, as of one of white space and zero-width characters."""
    return _VISIBLE.search(text) is None
