"""Mix both datasets, and English with Chinese, by weights; stop anywhere and go on with exactly the rows that follow.

    python examples/mix_datasets.py                     # on a miniature made in ./llava-zh-demo; needs no network
    python examples/mix_datasets.py --captions /data/internvl --dialogues /data/llava --image-root /data/sa1b

Half of the rows are captions, three English ones to each Chinese one, and half are Chinese dialogues. On a cluster,
pass `rank` and `world_size` of torch.distributed to `split_dataset_by_node`; a `StatefulDataLoader` saves the state.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import islice
from typing import Any

from datasets.distributed import split_dataset_by_node

from llava_zh import load_dataset
from llava_zh.demo import write_demo
from llava_zh.streams.shuffle import mix, shuffled


def mixture(args: argparse.Namespace) -> Any:
    """The stream of all three, the same at every call."""
    common = {"split": "train", "streaming": True, "row_format": "messages"}
    captions = {"data_dir": args.captions, "image_root": args.image_root, **common}
    return mix(
        [
            shuffled(load_dataset("internvl-sa-1b-caption", "single_en", **captions), seed=args.seed),
            shuffled(load_dataset("internvl-sa-1b-caption", "single_zh", **captions), seed=args.seed),
            # Each dialogue twice an epoch, and half of them, chosen at random, a third time.
            shuffled(
                load_dataset("llava-instruct-zh-600k", data_dir=args.dialogues, **common), seed=args.seed, repeat=2.5
            ),
        ],
        weights=[3, 1, 4],
        seed=args.seed,
        stopping_strategy="all_exhausted_without_replacement",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", help="folder with InternVL-SA-1B-Caption; by default a miniature is made")
    parser.add_argument("--dialogues", help="folder with llava-instruct-zh-600k; by default a miniature is made")
    parser.add_argument("--image-root", help="folder or URL of SA-1B")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.captions is None or args.dialogues is None:
        demo = write_demo("llava-zh-demo")
        args.captions, args.dialogues, args.image_root = str(demo.internvl), str(demo.llava), str(demo.sa1b)

    rows = [name(row) for row in islice(mixture(args), 120)]
    print("of the first 120 rows:", dict(Counter(config for config, _ in rows).most_common()))

    stopped = mixture(args)
    before = [name(row) for row in islice(stopped, 50)]
    resumed = mixture(args)
    resumed.load_state_dict(stopped.state_dict())
    after = [name(row) for row in islice(resumed, 70)]
    print("stopped after 50 rows and resumed:", "the same rows" if before + after == rows else "OTHER ROWS")

    shares = [split_dataset_by_node(mixture(args), rank=rank, world_size=args.nodes) for rank in range(args.nodes)]
    print("rows of each node:", [sum(1 for _ in share.remove_columns("images")) for share in shares])


def name(row: dict[str, Any]) -> tuple[str, str]:
    return row["config"], row["id"]


if __name__ == "__main__":
    main()
