"""One shard of an export as a file: Parquet, JSON Lines or a WebDataset tar."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BadArgument
from ..gates import pictures
from ..rows.records import MARK

Row = dict[str, Any]

# Rows of a row group: many where they are text, few where they hold pictures, so that a reader needs little memory.
TEXT_ROWS = 20_000
PICTURE_ROWS = 100


class Writer(Protocol):
    """What goes into a file that is open for it; tables come in order.

    `kinds` are the kinds of sample that have been written, by the endings of their members: two of them at most, which
    tells already that they are not all alike. Where a row is no sample there is none.
    """

    @property
    def kinds(self) -> Collection[str]: ...

    def write(self, table: pa.Table) -> None:
        """Add the rows of `table`."""
        ...

    def close(self) -> None:
        """Write what belongs at the end of the file; it stays open."""
        ...


class ParquetWriter:
    """Parquet whose schema carries the features, which `datasets` and others give their types back from."""

    kinds: Collection[str] = ()

    def __init__(self, file: BinaryIO, schema: pa.Schema, name: str) -> None:
        self._writer = pq.ParquetWriter(file, schema, compression="zstd", write_page_index=True)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=TEXT_ROWS)

    def close(self) -> None:
        self._writer.close()


class VerlWriter(ParquetWriter):
    """Parquet for verl: rows of ``messages``, which its SFT reads, with what its reinforcement learning wants besides.

    ``prompt`` is all that was said before the last answer, and that answer is the ``ground_truth`` of `reward_model`.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, name: str) -> None:
        from datasets import Features, Value

        text = Value("string")
        features = Features.from_arrow_schema(schema) | {
            "data_source": text,
            "prompt": [{"role": text, "content": text}],
            "reward_model": {"style": text, "ground_truth": text},
            "extra_info": {"split": text, "index": text},
        }
        self._schema = Features(features).arrow_schema
        super().__init__(file, self._schema, name)

    def write(self, table: pa.Table) -> None:
        for id_, messages in zip(table["id"].to_pylist(), table["messages"].to_pylist(), strict=True):
            if messages[-1]["role"] != "assistant":
                raise BadArgument(f"Row {id_!r} does not end with an answer, which is verl's ground truth.")
        added = [
            {
                "data_source": f"llava_zh/{config}",
                "prompt": messages[:-1],
                "reward_model": {"style": "rule", "ground_truth": messages[-1]["content"]},
                "extra_info": {"split": "train", "index": id_},
            }
            for id_, config, messages in zip(
                *(table[name].to_pylist() for name in ("id", "config", "messages")), strict=True
            )
        ]
        for name in ("data_source", "prompt", "reward_model", "extra_info"):
            field = self._schema.field(name)
            table = table.append_column(field, pa.array([row[name] for row in added], field.type))
        super().write(table.cast(self._schema))


class JsonLinesWriter:
    """JSON Lines; `record` turns a row into the object of its line."""

    kinds: Collection[str] = ()

    def __init__(self, file: BinaryIO, record: Callable[[Row], Row]) -> None:
        self._file = file
        self._record = record
        self._encode = msgspec.json.Encoder().encode_lines

    def write(self, table: pa.Table) -> None:
        record = self._record
        self._file.write(self._encode([record(row) for row in table.to_pylist()]))

    def close(self) -> None:
        pass


class JsonArrayWriter:
    """One JSON array, a record a line, for readers that know nothing else; `record` is as for `JsonLinesWriter`."""

    kinds: Collection[str] = ()

    def __init__(self, file: BinaryIO, record: Callable[[Row], Row]) -> None:
        self._file = file
        self._record = record
        self._encode = msgspec.json.Encoder().encode
        self._before = b"[\n"

    def write(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._file.write(self._before + self._encode(self._record(row)))
            self._before = b",\n"

    def close(self) -> None:
        self._file.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


class WebDatasetWriter:
    """A tar of samples: ``KEY.json`` with the row, its pictures as ``KEY.jpg``, or ``KEY.0.jpg``, ``KEY.1.jpg`` …"""

    def __init__(self, file: BinaryIO, schema: pa.Schema, name: str) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by close)
        self._name, self._rows = name, 0
        self._kinds: set[str] = set()

    @property
    def kinds(self) -> Collection[str]:
        return self._kinds

    def write(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            key = f"{self._name}-{self._rows:08d}"
            self._rows += 1
            column, images = images_of(row)
            row[column] = _paths(row[column])
            members = [(".json", msgspec.json.encode(row))]
            for i, image in enumerate(images):
                if image["bytes"] is not None:
                    suffix = PurePosixPath(image["path"]).suffix or ".jpg"
                    members.append((f"{f'.{i}' if len(images) > 1 else ''}{suffix}", image["bytes"]))
            for ending, data in members:
                self._add(f"{key}{ending}", data)
            if len(self._kinds) < 2:
                self._kinds.add(" ".join(ending for ending, _ in members))

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        self._tar.close()


def images_of(row: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The name of the image column, and its images as a list."""
    column = "images" if "images" in row else "image"
    images = row[column]
    return column, images if isinstance(images, list) else [] if images is None else [images]


def _paths(images: Any) -> Any:
    """A stored image as its path or URL; a picture in the row itself as a data URI is :func:`_inline`."""
    if isinstance(images, list):
        return [None if image is None else image["path"] for image in images]
    return None if images is None else images["path"]


def _inline(image: Mapping[str, Any] | None) -> Any:
    """An image as its path or URL, or as a data URI when it has bytes."""
    if image is None or image["bytes"] is None:
        return None if image is None else image["path"]
    mime = pictures.header(image["bytes"], image["path"]).mime  # the name may say otherwise
    return f"data:{mime};base64,{base64.b64encode(image['bytes']).decode()}"


# -- records of JSON Lines ---------------------------------------------------------------------------------


def plain_record(row: Row) -> Row:
    """A row with all its columns; images as URLs, paths or data URIs."""
    column = "images" if "images" in row else "image"
    images = row[column]
    row[column] = [_inline(image) for image in images] if isinstance(images, list) else _inline(images)
    return row


def sharegpt_record(row: Row) -> Row:
    """`id`, `conversations`, `images` (paths): LLaMA-Factory."""
    return {"id": row["id"], "conversations": row["conversations"], "images": _paths(row["images"])}


def messages_record(row: Row) -> Row:
    """`id`, `messages`, `images` (paths or data URIs): ms-swift."""
    return {"id": row["id"], "messages": row["messages"], "images": [_inline(image) for image in row["images"]]}


def internvl_record(row: Row) -> Row:
    """`id`, `image` (a path, or a list) with widths and heights, `conversations`: InternVL.

    Its `multi_modal_get_item`, which is for a path, adds a mark to the first turn if there is none, whoever speaks it.
    Where that is a system turn, or the mark stands in a later one, the added mark would stay text or take the place of
    the real one. `multi_modal_multi_image_get_item`, for a list, leaves the turns as they are.
    """
    paths, width, height = _paths(row["images"]), row.get("width"), row.get("height")
    turns = row["conversations"]
    alone = len(paths) == 1 and turns[0]["from"] == "human" and MARK in turns[0]["value"]
    record: Row = {"id": row["id"]}
    if paths:  # a row without the key is one of text alone
        record["image"] = paths[0] if alone else paths
    if paths and width and height:
        record |= {"width": width[0], "height": height[0]} if alone else {"width_list": width, "height_list": height}
    return record | {"conversations": turns}


def llava_record(row: Row) -> Row:
    """`id`, `image` (a path, a list of several, no key at all without one), `conversations`: LLaVA and LLaVA-NeXT."""
    _check_no_system(row, "LLaVA's training code knows no such speaker")
    return {"id": row["id"], **_image_of(_paths(row["images"])), "conversations": row["conversations"]}


def qwen_record(row: Row) -> Row:
    """`id`, `image` (a path, or a list of several), `conversations` of human and gpt: Qwen-VL's fine-tuning code."""
    # Its reader takes every turn that is not human for the assistant's.
    _check_no_system(row, "Qwen-VL's fine-tuning code takes it for an answer")
    return {"id": row["id"], **_image_of(_paths(row["images"])), "conversations": row["conversations"]}


def _image_of(paths: list[str]) -> Row:
    """`image` as a path, or a list of several; no such key in a row of text alone, by which these readers know it."""
    if not paths:
        return {}
    return {"image": paths[0] if len(paths) == 1 else paths}


def _check_no_system(row: Row, why: str) -> None:
    if any(turn["from"] == "system" for turn in row["conversations"]):
        raise BadArgument(f"Row {row['id']!r} has a system turn, and {why}.")
