"""Train a vision-language model in plain PyTorch; killed at any moment, it goes on where its last checkpoint was.

    pip install "llava-zh[torch]"
    python examples/train_pytorch.py --data-dir demo/internvl --image-root demo/sa1b --output-dir run
    python examples/train_pytorch.py --data-dir demo/internvl --image-root demo/sa1b --output-dir run   # resumes

(`llava-zh demo demo` writes those folders.) One line of JSON a step says which rows were trained on. On several nodes,
start it with ``torchrun``: each process reads RANK and WORLD_SIZE, takes its share of the rows and keeps its own
checkpoint. (Gradients are not exchanged here; wrap the model in DistributedDataParallel for that.)
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
from pathlib import Path
from typing import Any

import torch
from datasets.distributed import split_dataset_by_node
from tiny_vlm import tiny_model, tiny_processor
from torchdata.stateful_dataloader import StatefulDataLoader

from llava_zh import load_dataset
from llava_zh.streams.shuffle import shuffled
from llava_zh.torch import Collator


def main() -> None:
    parser = argparse.ArgumentParser(description="Train in plain PyTorch, resuming where a killed run stopped.")
    parser.add_argument("--dataset", default="internvl-sa-1b-caption")
    parser.add_argument("--config", default="single_zh")
    parser.add_argument("--data-dir")
    parser.add_argument("--image-root")
    parser.add_argument("--output-dir", type=Path, default=Path("run"))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=5, help="steps between checkpoints")
    args = parser.parse_args()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.manual_seed(0)

    stream = shuffled(
        load_dataset(
            args.dataset,
            args.config,
            split="train",
            streaming=True,
            data_dir=args.data_dir,
            image_root=args.image_root,
            row_format="parts",
        )
    )
    processor = tiny_processor(texts(row) for row in itertools.islice(stream, 200))
    model = tiny_model(processor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    stream = split_dataset_by_node(stream, rank=rank, world_size=world_size)
    loader = StatefulDataLoader(
        stream,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        collate_fn=functools.partial(with_ids, Collator(processor)),
    )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = args.output_dir / f"checkpoint-{rank}.pt"
    step = first_epoch = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, first_epoch = saved["step"], saved["epoch"]
        stream.set_epoch(first_epoch)
        loader.load_state_dict(saved["loader"])

    for epoch in range(first_epoch, args.epochs):
        stream.set_epoch(epoch)
        for ids, batch in loader:
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % args.save_every == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                save(checkpoint, {**state, "loader": loader.state_dict(), "step": step, "epoch": epoch})
            print(json.dumps({"epoch": epoch, "step": step, "loss": loss.item(), "ids": ids}), flush=True)


def with_ids(collator: Collator, rows: list[dict[str, Any]]) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Which rows a batch is of, and the batch; in a worker process, so pictures are opened and resized there."""
    return [row["id"] for row in rows], collator(rows)


def texts(row: dict[str, Any]) -> str:
    """All text of a row, for training a tokenizer."""
    return "\n".join(part["text"] for message in row["messages"] for part in message["content"])


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a kill leaves either the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


if __name__ == "__main__":
    main()
