"""What the arguments of a collator may be."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from ..errors import BadArgument

_ON_TROUBLE = ("raise", "skip")
# What the collator tells the chat template and the processor itself, and by what it is told.
_OF_TEMPLATE = {
    "messages": "they come from the rows",
    "conversations": "they come from the rows",
    "chat_template": "the processor has it",
    "add_generation_prompt": "a row ends with what is learned",
    "continue_final_message": "a row ends with what is learned",
    "return_assistant_tokens_mask": "labels are what the collator makes",
}
_OF_PROCESSOR = {
    "text": "it comes from the rows",
    "images": "they come from the rows",
    "padding": "the collator pads on the right",
    "padding_side": "the collator pads on the right",
    "pad_to_multiple_of": "use the collator's own pad_to_multiple_of",
    "truncation": "use the collator's own max_length, which cuts no image token",
    "max_length": "use the collator's own max_length, which cuts no image token",
    "return_tensors": "a batch is of torch tensors",
    "return_offsets_mapping": "the collator asks for it",
}
_GROUPS = ("text_kwargs", "common_kwargs")  # in which processors take arguments of their tokenizer, too


def check(
    numbers: Mapping[str, Any], choices: Mapping[str, Any], template_arguments: Any, processor_arguments: Any
) -> None:
    """Look at all arguments.

    Raises:
        BadArgument: One cannot work.
    """
    for name, value in numbers.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise BadArgument(f"{name}: expected a positive whole number or None, found {value!r}.")
    for name, value in choices.items():
        if value not in _ON_TROUBLE:
            raise BadArgument(f"{name}: expected {' or '.join(map(repr, _ON_TROUBLE))}, found {value!r}.")
    _check_further("template_arguments", template_arguments, _OF_TEMPLATE)
    _check_further("processor_arguments", processor_arguments, _OF_PROCESSOR)
    for group in _GROUPS:
        given = (processor_arguments or {}).get(group)
        _check_further(f"processor_arguments[{group!r}]", given, _OF_PROCESSOR)


def _check_further(name: str, given: Any, taken: Mapping[str, str]) -> None:
    if given is None:
        return
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise BadArgument(f"{name}: expected a dict of names and values, found {given!r}.")
    for key in given:
        if key in taken:
            raise BadArgument(f"{name}: {key!r} cannot be given: {taken[key]}.")
