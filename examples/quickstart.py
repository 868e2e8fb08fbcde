"""Load a configuration both ways and look at a row, on the miniature that `llava-zh demo` writes.

python examples/quickstart.py                       # on a miniature made in ./llava-zh-demo; needs no network
python examples/quickstart.py --data-dir /data/internvl --image-root /data/sa1b
"""

from __future__ import annotations

import argparse

from llava_zh import load_dataset
from llava_zh.demo import write_demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with the published files; by default a miniature is made")
    parser.add_argument("--image-root", help="folder or URL of SA-1B")
    args = parser.parse_args()
    if args.data_dir is None:
        demo = write_demo("llava-zh-demo")
        args.data_dir, args.image_root = str(demo.internvl), str(demo.sa1b)

    # Prepared: an Arrow table on disk, with random access. In memory only what is looked at.
    rows = load_dataset(
        "internvl-sa-1b-caption", "single_zh", split="train", data_dir=args.data_dir, image_root=args.image_root
    )
    print(rows)
    print(rows.features)
    row = rows[0]
    print(row["image"])
    for turn in row["conversations"]:
        print(f"{turn['from']}: {turn['value']}")

    # Streamed: nothing is prepared; byte ranges of the file are read as the loop gets to them.
    stream = load_dataset(
        "internvl-sa-1b-caption",
        "single_zh",
        split="train",
        streaming=True,
        data_dir=args.data_dir,
        image_root=args.image_root,
    )
    first = next(iter(stream))
    assert first["conversations"] == row["conversations"]
    print(f"streamed the same row from the first of {stream.num_shards} shards")


if __name__ == "__main__":
    main()
