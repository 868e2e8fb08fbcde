"""A dataset of your own in forty lines: ShareGPT4V's captions of COCO, LAION-CC-SBU and SA-1B.

python examples/own_dataset.py --data-dir sharegpt4v --image-root /data
llava-zh show examples/own_dataset.py captions --data-dir sharegpt4v --image-root /data

Its rows name SA-1B's images without their archives, sam/images/sa_1.jpg: they are found in archives all the same.
"""

import argparse

from llava_zh import load_dataset, register
from llava_zh.catalog.facts import ConfigFacts, DatasetFacts

FACTS = DatasetFacts(
    name="sharegpt4v",
    title="ShareGPT4V",
    repos={"huggingface": "Lin-Chen/ShareGPT4V"},
    licence="cc-by-nc-4.0",
    image_licence="SA-1B research licence; COCO; LAION-CC-SBU",
    configs=(
        ConfigFacts("captions", language="en", file="share-captioner_coco_lcs_sam_1246k_1107.json", prompt="original"),
        ConfigFacts("gpt4v", language="en", file="sharegpt4v_instruct_gpt4-vision_cap100k.json", prompt="original"),
    ),
    images={"sam/": "sa1b", "coco/": "own", "llava/": "own"},
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with the published files (default: the hub)")
    parser.add_argument("--image-root", help="folder that holds sam/, coco/ and llava/")
    args = parser.parse_args()
    register(FACTS)
    where = {"data_dir": args.data_dir, "image_root": args.image_root}
    for row in load_dataset("sharegpt4v", "captions", split="train", streaming=True, **where).take(3):
        print(row["id"], row["image"], row["conversations"][-1]["value"][:60], sep="\n  ")
