"""Images straight out of SA-1B's archives: look, index, open, load the rows whose images are there, check them.

python examples/images_from_archives.py                       # on a miniature made in ./llava-zh-demo; needs no network
python examples/images_from_archives.py --data-dir /data/internvl --image-root /data/sa1b
"""

from __future__ import annotations

import argparse

import fsspec
from PIL import Image

from llava_zh import load_dataset
from llava_zh.demo import write_demo
from llava_zh.sa1b import image_url
from llava_zh.sa1b.tools.status import locate, status
from llava_zh.sa1b.tools.verify import verify

NAME, CONFIG = "internvl-sa-1b-caption", "single_zh"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with the published files; by default a miniature is made")
    parser.add_argument("--image-root", help="folder or URL of SA-1B")
    parser.add_argument("--output-dir", default="sa1b-verify", help="where the report on the images goes")
    args = parser.parse_args()
    if args.data_dir is None:
        demo = write_demo("llava-zh-demo")
        args.data_dir, args.image_root = str(demo.internvl), str(demo.sa1b)

    # SA-1B is an fsspec filesystem, whatever lies on disk: gzip tars as published, plain tars, zips, folders.
    fs = fsspec.filesystem("sa1b", fo=args.image_root)
    fs.build_index()  # on first use it would be built anyway
    for info in status(fs):
        print(f"{info.name}: {info.kind}, {info.members} members, ids {info.ids}")

    # One image by its URL, with any library that speaks fsspec, and where it lies.
    some = fs.ls(next(info.name for info in status(fs) if info.name), detail=False)[0]
    with fsspec.open(image_url(some, args.image_root)) as file, Image.open(file) as image:
        print(f"{some}: {image.format} {image.size}, {locate(fs, some)}")

    # Read and decode everything once. What is bad goes into a list that load_dataset leaves out.
    report = verify(fs, args.output_dir)
    print(f"{sum(one.images for one in report.archives)} images are good, {len(report.bad_images)} are bad")

    # Only rows whose images are there, told by indexes and listings; no image is opened for that.
    rows = load_dataset(
        NAME,
        CONFIG,
        split="train",
        streaming=True,
        data_dir=args.data_dir,
        image_root=args.image_root,
        archives="available",
        bad_images=f"{args.output_dir}/bad-images.txt",
    )
    for row in rows.take(3):
        print(row["image"].size, row["conversations"][-1]["value"][:40])


if __name__ == "__main__":  # verify starts processes, which import this file
    main()
