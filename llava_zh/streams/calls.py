"""The arguments of ``datasets.load_dataset`` that are no fields of a request; they mean here what they mean there.

An argument that can have no meaning here is refused, and the error names the one to give in its place.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import BadArgument, UnknownArgument, UnknownName, known_name
from ..gates.counts import counted
from ..gates.safe_text import get_logger

logger = get_logger(__name__)

# Of arguments that earlier versions of `datasets` took, and of its other readers: what to write now.
_ELSEWHERE = {
    "use_auth_token": "Pass token=.",
    "ignore_verifications": "Pass verification_mode='no_checks'.",
    "script_version": "Pass revision=.",
    "task": "Leave it out; row_format= says which form the rows have.",
    "save_infos": "Leave it out; nothing is written beside the rows.",
    "columns": "Leave it out, and take select_columns() of what is loaded.",
    "filters": "Leave it out, and take filter() of what is loaded.",
    "field": "Leave it out; where a file has its rows is found out.",
    "encoding": "Leave it out; rows are read as UTF-8.",
}
# What of a DownloadConfig is taken over, and what changes no row.
_TAKEN = {"token", "storage_options", "force_download"}
_WITHOUT_EFFECT = {"resume_download", "use_etag", "num_proc", "max_retries", "download_desc", "disable_tqdm"}
_INSTEAD = {
    "cache_dir": "HF_HOME (or MODELSCOPE_CACHE) says where files are kept, cache_dir= where prepared rows are",
    "local_files_only": "set HF_HUB_OFFLINE=1",
    "proxies": "set HTTPS_PROXY",
}
_told_of_code = False


def check_unknown(caller: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise UnknownArgument for an argument that `caller` does not have, and say which is meant.

    ``trust_remote_code`` is taken and has no effect, which is told once.
    """
    global _told_of_code
    for name in given:
        if name in _ELSEWHERE:
            raise UnknownArgument(f"{caller} has no argument {name!r}. {_ELSEWHERE[name]}")
        if name != "trust_remote_code":
            raise UnknownArgument.of(caller, name, known)
        if not _told_of_code:
            _told_of_code = True
            logger.warning("trust_remote_code has no effect: no code of a repository is ever run. Leave it out.")


# -- splits ------------------------------------------------------------------------------------------------


def checked_split(split: Any, streaming: bool) -> Any:
    """`split` as `datasets` takes it: a text, a ``ReadInstruction``, a list of these, or None for a dict.

    Raises:
        UnknownName: A split other than ``train`` (and ``all``).
        BadArgument: A slice of a stream, or no split at all.
    """
    import datasets  # here and below: a misspelt name is an error at once, not after seconds of importing

    if split is None:
        return None
    if isinstance(split, list | tuple):
        return [checked_split(one, streaming) for one in split]
    if not isinstance(split, str | datasets.NamedSplit | datasets.ReadInstruction):
        raise BadArgument(
            "split: expected 'train', a slice such as 'train[:1%]', a datasets.ReadInstruction, or a list of these; "
            f"found {type(split).__name__} {split!r:.100}."
        )
    spec = split.to_spec() if isinstance(split, datasets.ReadInstruction) else str(split)
    spec = "+".join(part.strip() for part in spec.split("+"))
    for part in spec.split("+"):
        name, selected, _ = part.partition("[")
        if name not in ("train", "all"):
            raise UnknownName.of("split", name, ["train"])
        if selected and streaming:
            raise BadArgument(
                f"split: {spec!r} is a slice, which a stream does not have. Use skip(n) and take(n) on it."
            )
        if selected:
            _check_slice(part, name)
    return spec if streaming or not isinstance(split, datasets.ReadInstruction) else split


def _check_slice(part: str, name: str) -> None:
    import datasets

    found = re.fullmatch(r"(?:(-?\d+)%?)?:(?:(-?\d+)%?)?\](?:\([^)]*\))?", part.partition("[")[2].replace("_", ""))
    try:
        datasets.ReadInstruction.from_spec(part)
    except (ValueError, AssertionError) as error:
        why: str | None = f" ({error})"
    else:
        why = None if found is not None and name == "train" else ""
    if why is not None:
        raise BadArgument(
            f"split: {part!r} is no slice of the split train{why}. Expected 'train[:100]', 'train[10%:20%]' or "
            "'train[-100:]', in whole rows or whole percent."
        )
    if found is not None and found[2] is not None and int(found[2]) == 0:
        raise BadArgument(f"split: {part!r} is a slice without a row. Name its end above 0, as in 'train[:100]'.")


def rows_of(builder: Any, split: Any, in_memory: bool) -> Any:
    """What was prepared of a split, or of each of a list, or the dict of all.

    Raises:
        BadArgument: A slice in which no row is.
    """
    try:
        return builder.as_dataset(split=split, in_memory=in_memory)
    except ValueError as error:
        if "corresponds to no data" not in str(error):
            raise
        have = builder.info.splits["train"].num_examples
        raise BadArgument(f"split: {split!r} is a slice without a row of the {counted(have, 'rows')} there.") from None


def streamed(builder: Any, split: Any) -> Any:
    """The stream of a split, or of each of a list, or the dict of all."""
    if isinstance(split, list):
        return [streamed(builder, one) for one in split]
    return builder.as_streaming_dataset(split=split)


# -- the form of rows --------------------------------------------------------------------------------------


def check_features(features: Any, builder: Any) -> Any:
    """`features` that the builder's rows can be cast to; None where they have these already.

    Raises:
        BadArgument: Other columns than the rows have, or types that theirs cannot become.
    """
    if features is None:
        return None
    import datasets

    if not isinstance(features, datasets.Features):
        raise BadArgument(f"features: expected datasets.Features, found {type(features).__name__} {features!r:.100}.")
    have = builder.info.features
    if set(features) != set(have):
        raise BadArgument(
            f"features: the rows have the columns {', '.join(have)}; these are {', '.join(features)}. row_format= "
            "says which columns rows have; take select_columns() or rename_columns() of what is loaded for others."
        )
    try:
        datasets.table.table_cast(have.arrow_schema.empty_table(), features.arrow_schema)
    except (TypeError, ValueError, NotImplementedError) as error:  # Arrow's errors are these
        raise BadArgument(
            f"features: the rows cannot be cast to these: {str(error).splitlines()[0]}. They have {have}."
        ) from None
    return None if features == have else features


def cast(loaded: Any, features: Any) -> Any:
    """What was loaded with the features that were asked for; as it is where none were."""
    if features is None:
        return loaded
    if isinstance(loaded, list):
        return [one.cast(features) for one in loaded]
    return loaded.cast(features)


# -- how files are fetched ---------------------------------------------------------------------------------


def download_settings(given: Any) -> dict[str, Any]:
    """The arguments of loading that a ``datasets.DownloadConfig`` stands for.

    Raises:
        BadArgument: It is none, or asks for what is not done here; says which argument or variable does it.
    """
    if given is None:
        return {}
    import datasets

    if not isinstance(given, datasets.DownloadConfig):
        raise BadArgument(
            f"download_config: expected datasets.DownloadConfig, found {type(given).__name__} {given!r:.50}."
        )
    usual = datasets.DownloadConfig()
    for each in dataclasses.fields(given):
        if each.name not in _TAKEN | _WITHOUT_EFFECT and getattr(given, each.name) != getattr(usual, each.name):
            what = _INSTEAD.get(each.name, "leave it out; files are read as they are, compressed ones too")
            raise BadArgument(f"download_config: {each.name} is not looked at: {what}.")
    # `datasets` itself puts the token and the endpoint of its hub there.
    options = {name: value for name, value in given.storage_options.items() if name != "hf"}
    found = {"token": given.token, "storage_options": options, "download_mode": "force_redownload"}
    if not given.force_download:
        found.pop("download_mode")
    return {name: value for name, value in found.items() if value}


def modes(download_mode: Any, verification_mode: Any) -> tuple[Any, Any]:
    """Both as `datasets` has them, by name or as they are.

    Raises:
        UnknownName: There is no such mode.
    """
    import datasets

    return (
        _mode("download_mode", download_mode, datasets.DownloadMode.REUSE_DATASET_IF_EXISTS),
        _mode("verification_mode", verification_mode, datasets.VerificationMode.BASIC_CHECKS),
    )


def _mode(name: str, given: Any, usual: Any) -> Any:
    kind = type(usual)
    return kind(known_name(name, getattr(given, "value", given), [one.value for one in kind])) if given else usual
