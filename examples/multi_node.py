"""Give every node whole shards of one file, and every worker of a node its own: nobody reads a byte for another.

    python examples/multi_node.py                       # two nodes with two workers each, one after the other

On a cluster, take `rank` and `world_size` from torch.distributed. The number of shards is a power of two that depends
on the file's size alone, so it divides among 2, 4, 8 … nodes, and a later run finds the same shards.
Needs torch: pip install "llava-zh[torch]"
"""

from __future__ import annotations

import argparse

from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from llava_zh import load_dataset
from llava_zh.demo import write_demo


def rows_of_node(data_dir: str, rank: int, world_size: int, workers: int, shards: int | None) -> list[str]:
    """The ids of the rows that one node reads in one epoch."""
    stream = load_dataset(
        "internvl-sa-1b-caption", "single_en", split="train", streaming=True, data_dir=data_dir, num_shards=shards
    )
    stream = stream.shuffle(seed=7, buffer_size=100)  # the same order of shards on every node
    stream = split_dataset_by_node(stream, rank=rank, world_size=world_size)
    stream.set_epoch(0)
    return [
        row["id"] for batch in DataLoader(stream, num_workers=workers, batch_size=16, collate_fn=list) for row in batch
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with the published files; by default a miniature is made")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    data_dir, shards = args.data_dir, None
    if data_dir is None:
        # The miniature would be a single shard.
        data_dir, shards = str(write_demo("llava-zh-demo").internvl), 8

    read = [rows_of_node(data_dir, rank, args.nodes, args.workers, shards) for rank in range(args.nodes)]
    for rank, ids in enumerate(read):
        print(f"node {rank}: {len(ids)} rows, the first {', '.join(ids[:5])}")
    together = [row for ids in read for row in ids]
    assert len(together) == len(set(together)), "no row was read twice"
    print(f"all nodes together: {len(together)} rows, each once")


if __name__ == "__main__":
    main()
