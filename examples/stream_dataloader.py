"""Stream one file through a DataLoader with several workers, stop in the middle, and go on from there.

    python examples/stream_dataloader.py                # on a miniature made in ./llava-zh-demo; needs no network

Needs torch and torchdata: pip install "llava-zh[torch]"
"""

from __future__ import annotations

import argparse
from typing import Any

from torchdata.stateful_dataloader import StatefulDataLoader

from llava_zh import load_dataset
from llava_zh.demo import write_demo


def loader(data_dir: str, workers: int) -> Any:
    """Batches of 8 rows in `messages` form, each worker reading shards of its own."""
    stream = load_dataset(
        "internvl-sa-1b-caption",
        "single_en",
        split="train",
        streaming=True,
        row_format="messages",
        data_dir=data_dir,
        num_shards=8,  # the miniature is small; a published file is cut into a power of two of shards by its size
    )
    return StatefulDataLoader(stream, batch_size=8, num_workers=workers, collate_fn=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with the published files; by default a miniature is made")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    data_dir = args.data_dir or str(write_demo("llava-zh-demo").internvl)

    whole = [row["id"] for batch in loader(data_dir, args.workers) for row in batch]

    first = loader(data_dir, args.workers)
    seen = []
    for step, batch in enumerate(first, start=1):
        seen += [row["id"] for row in batch]
        if step == 3:
            break
    state = first.state_dict()  # save it beside the model's checkpoint
    del first

    second = loader(data_dir, args.workers)
    second.load_state_dict(state)
    seen += [row["id"] for batch in second for row in batch]

    assert seen == whole, "a resumed loader gives the rows that were left, once each"
    print(f"{len(seen)} rows with {args.workers} workers; stopped after batch 3 and went on, none lost or repeated")


if __name__ == "__main__":
    main()
