"""One node of a training run that may be killed at any moment: what tests of resuming start as processes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_rows(folder: Path, count: int) -> None:
    """`count` single-image rows in published form, with ids from 0 on."""
    folder.mkdir(parents=True, exist_ok=True)
    turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "A street. " * 5}]
    rows = ({"id": i, "image": f"sa_000000/sa_{i}.jpg", "conversations": turns} for i in range(count))
    path = folder / "internvl_sa1b_caption_11m_single_image_en.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def published(folder: Path, num_shards: int = 32) -> Any:
    """The rows in `folder`, in their order."""
    from llava_zh import load_dataset

    return load_dataset(
        "internvl-sa-1b-caption", "single_en", data_dir=folder, split="train", streaming=True, num_shards=num_shards
    )


def stream(folder: Path, num_shards: int = 32, **arguments: Any) -> Any:
    """The rows in `folder`, shuffled."""
    from llava_zh.streams.shuffle import shuffled

    return shuffled(published(folder, num_shards), **{"seed": 3, **arguments})


def loader(dataset: Any, rank: int, nodes: int, workers: int) -> Any:
    """The share of one node, read by `workers` processes; batches are lists of ids."""
    from datasets.distributed import split_dataset_by_node
    from torchdata.stateful_dataloader import StatefulDataLoader

    share = split_dataset_by_node(dataset, rank=rank, world_size=nodes)
    # A process of a fork server starts its own processes by that server too, which imports everything anew.
    start = "fork" if workers else None
    return StatefulDataLoader(share, batch_size=5, num_workers=workers, collate_fn=_ids, multiprocessing_context=start)


def _ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def train(make: Callable[[Path], Any], data: Path, folder: Path, rank: int, nodes: int, workers: int) -> None:
    """Go through one epoch, saving the rows trained on and the loader's state after every step, in one file."""
    import torch

    os.setsid()  # so that a kill takes the workers too, as a machine that fails does
    torch.set_num_threads(1)
    checkpoint = folder / f"node{rank}.pt"
    batches = loader(make(data), rank, nodes, workers)
    trained: list[str] = []
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        trained = saved["trained"]
        batches.load_state_dict(saved["loader"])
    for batch in batches:
        trained += batch
        time.sleep(0.005)
        temporary = checkpoint.with_suffix(".tmp")
        torch.save({"trained": trained, "loader": batches.state_dict()}, temporary)
        temporary.replace(checkpoint)
    (folder / f"node{rank}.json").write_text(json.dumps(trained))
