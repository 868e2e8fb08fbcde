"""What can be exported to: the rows and files of each target, and the registration file that its trainer reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from . import writers
from .writers import Row, Writer

#: A rule of `internvl_chat_finetune.py`: only `preprocess_internvl2_5` knows a system turn.
INTERNVL_SYSTEM = (
    "InternVL reads rows with a system turn with `--conv_style internvl2_5` alone; its older templates (Hermes-2, "
    "internlm2-chat, phi3-chat) fail on them with `KeyError: 'system'`."
)


@dataclass(frozen=True)
class DataFile:
    """A finished shard: its path relative to the export's folder, the config it is of, and its rows."""

    path: str
    config: str
    rows: int


Register = Callable[[str, Path, Sequence[DataFile]], Mapping[str, str]]


@dataclass(frozen=True)
class Target:
    """One kind of export.

    Args:
        writer: Makes the writer of a shard, from its file, the rows' schema and the shard's name.
        suffix: The ending of a shard's name.
        images: The ways it has with images, the default first.
        row_format: The row format it needs, or None where it takes any.
        register: Makes the files beside the shards, by name, from the dataset's name, the folder and the shards.
        usage: One line that says how it is read; ``{folder}``, ``{files}``, ``{listed}`` (with commas), ``{name}`` and
            ``{names}`` are filled in.
        notes: What the card says besides about its reader, made from the kinds of sample that were written.
        one_file: Whether its reader takes one file alone, so that there is one a configuration unless more are wanted.
        absolute: Whether rows name image files by absolute paths.
        trainer: Whether the images must be files on this machine, for only these it opens.
        sizes: Whether its reader wants the widths and heights of the pictures, so that rows have them unless told not.
        system_warning: What is to be known of rows with a system turn, where its reader has trouble with them.
        system_refused: Why rows cannot have a system turn, where its reader knows none.
    """

    writer: Callable[[BinaryIO, pa.Schema, str], Writer]
    suffix: str
    images: tuple[str, ...]
    usage: str
    row_format: str | None = None
    register: Register = lambda name, folder, files: {}
    notes: Callable[[Sequence[str]], str] = lambda kinds: ""
    one_file: bool = False
    absolute: bool = False
    trainer: bool = False
    sizes: bool = False
    system_warning: str | None = None
    system_refused: str | None = None


def _json_lines(record: Callable[[Row], Row]) -> Callable[[BinaryIO, pa.Schema, str], Writer]:
    return lambda file, schema, name: writers.JsonLinesWriter(file, record)


def _llama_factory(name: str, folder: Path, files: Sequence[DataFile]) -> Mapping[str, str]:
    """``dataset_info.json``, for ``dataset_dir: FOLDER`` (which is then where image paths start, too)."""
    info = {
        name: {
            "file_name": "data",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "images"},
            "tags": {
                "role_tag": "from",
                "content_tag": "value",
                "user_tag": "human",
                "assistant_tag": "gpt",
                "system_tag": "system",
            },
        }
    }
    return {"dataset_info.json": _text(info)}


def _ms_swift(name: str, folder: Path, files: Sequence[DataFile]) -> Mapping[str, str]:
    """``custom_dataset_info.json``, for ``--custom_dataset_info``; its paths start at the file's own folder."""
    info = [
        {"dataset_path": file.path, "dataset_name": label}
        for label, file in zip(labels(name, files), files, strict=True)
    ]
    return {"custom_dataset_info.json": _text(info)}


def _internvl(name: str, folder: Path, files: Sequence[DataFile]) -> Mapping[str, str]:
    """``meta.json``, for ``--meta_path``: one entry a shard, as an entry has one annotation file."""
    meta = {
        label: {
            "root": f"{folder}/",
            "annotation": str(folder / file.path),
            "data_augment": False,
            "repeat_time": 1,
            "length": file.rows,
        }
        for label, file in zip(labels(name, files), files, strict=True)
    }
    return {"meta.json": _text(meta)}


def _qwen_vl(name: str, folder: Path, files: Sequence[DataFile]) -> Mapping[str, str]:
    """``qwen_vl_data.py``, to be copied into ``qwenvl/data/__init__.py``, whose `data_dict` it adds to."""
    names = labels(name, files)
    entries = {
        label: {"annotation_path": str(folder / file.path), "data_path": str(folder)}
        for label, file in zip(names, files, strict=True)
    }
    text = (
        "# For qwen-vl-finetune: append this to qwenvl/data/__init__.py after its data_dict, then pass\n"
        f"#   --dataset_use {','.join(names)}\n"
        f"data_dict.update({json.dumps(entries, indent=4, ensure_ascii=False)})\n"
    )
    return {"qwen_vl_data.py": text}


def _llava(name: str, folder: Path, files: Sequence[DataFile]) -> Mapping[str, str]:
    """``llava_next.yaml``, for LLaVA-NeXT's ``--data_path``, which reads all files that it names."""
    paths = [json.dumps(str(folder / file.path), ensure_ascii=False) for file in files]  # strings of YAML, too
    entries = "".join(f"  - json_path: {path}\n    sampling_strategy: all\n" for path in paths)
    return {"llava_next.yaml": f"datasets:\n{entries}"}


def labels(name: str, files: Sequence[DataFile]) -> list[str]:
    """A name for each shard; the dataset's own when there is one shard."""
    if len(files) == 1:
        return [name]
    return [f"{name}_{i:05d}" for i in range(len(files))]


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _trainer(
    record: Callable[[Row], Row],
    register: Register,
    usage: str,
    *,
    row_format: str = "sharegpt",
    images: tuple[str, ...] = ("files", "url"),
    absolute: bool = False,
    notes: str = "",
    sizes: bool = False,
    system_warning: str | None = None,
    system_refused: str | None = None,
) -> Target:
    """JSON Lines for a trainer, which opens the image files itself."""
    return Target(
        writer=_json_lines(record),
        suffix=".jsonl",
        images=images,
        usage=usage,
        row_format=row_format,
        register=register,
        notes=lambda kinds: notes,
        absolute=absolute,
        trainer=True,
        sizes=sizes,
        system_warning=system_warning,
        system_refused=system_refused,
    )


def _webdataset_notes(kinds: Sequence[str]) -> str:
    """What else reads the tars: others than `webdataset` want the same members in every sample."""
    if not kinds:  # of shards that an earlier version wrote
        return ""
    if len(kinds) == 1:
        return "`datasets.load_dataset` of this folder and `ray.data.read_webdataset` of its `data/` read it, too."
    return (
        f"A sample has as many members as its row has pictures, and so they differ (`{kinds[0]}`, `{kinds[1]}`, …). "
        "`datasets.load_dataset` wants the same members in all samples and fails on this folder, and so does "
        "`ray.data.read_webdataset` unless it leaves the pictures undecoded (`decoder=None`). `webdataset` reads it, "
        "and so does `llava_zh.load_dataset(…, data_dir=FOLDER)`. For the others there is "
        '`to="parquet", images="embed"`.'
    )


TARGETS: Mapping[str, Target] = {
    "parquet": Target(
        writer=writers.ParquetWriter,
        suffix=".parquet",
        images=("url", "embed", "files"),
        usage="datasets.load_dataset({folder!r})",
        absolute=True,
    ),
    "jsonl": Target(
        writer=_json_lines(writers.plain_record),
        suffix=".jsonl",
        images=("url", "files", "embed"),
        usage="datasets.load_dataset({folder!r})",
    ),
    "webdataset": Target(
        writer=writers.WebDatasetWriter,
        suffix=".tar",
        images=("embed", "url"),
        usage="webdataset.WebDataset(sorted(glob.glob({folder!r} + '/data/*.tar')))",
        notes=_webdataset_notes,
    ),
    "verl": Target(
        writer=writers.VerlWriter,
        suffix=".parquet",
        images=("embed",),
        usage="main_ppo … data.train_files=[{listed}] custom_reward_function.path=…",
        row_format="messages",
        notes=lambda kinds: (
            "verl's reinforcement learning reads `prompt`, `images` and `reward_model`, whose `ground_truth` is the "
            "last answer. For this `data_source` it knows no reward by itself: name yours by "
            "`custom_reward_function.path`. Its SFT (`MultiTurnSFTDataset`) reads `messages` and `images` of the "
            "same files."
        ),
    ),
    "llama-factory": _trainer(
        writers.sharegpt_record, _llama_factory, "llamafactory-cli train … --dataset_dir {folder} --dataset {name}"
    ),
    "ms-swift": _trainer(
        writers.messages_record,
        _ms_swift,
        "swift sft … --custom_dataset_info {folder}/custom_dataset_info.json --dataset {names}",
        row_format="messages",
        images=("files", "url", "embed"),
        absolute=True,
    ),
    "internvl": _trainer(
        writers.internvl_record,
        _internvl,
        "internvl_chat_finetune.py … --meta_path {folder}/meta.json",
        notes=INTERNVL_SYSTEM,
        sizes=True,
        system_warning=INTERNVL_SYSTEM,
    ),
    "qwen-vl": _trainer(
        writers.qwen_record,
        _qwen_vl,
        "append {folder}/qwen_vl_data.py to qwenvl/data/__init__.py",
        system_refused="Qwen-VL's fine-tuning code knows no system turn; set the prompt in the chat template.",
    ),
    "llava": Target(
        writer=lambda file, schema, name: writers.JsonArrayWriter(file, writers.llava_record),
        suffix=".json",
        images=("files", "url"),
        usage="train_mem.py … --data_path {files} --image_folder {folder}\n"
        "LLaVA-NeXT: --data_path {folder}/llava_next.yaml --image_folder {folder}",
        row_format="sharegpt",
        register=_llava,
        notes=lambda kinds: (
            "LLaVA itself takes one file and one image a row. LLaVA-NeXT takes several of both, by the YAML file."
        ),
        one_file=True,
        trainer=True,
        system_refused="LLaVA's code knows no system turn; set the prompt in its --version.",
    ),
}
