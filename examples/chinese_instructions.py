"""Make a Chinese instruction set out of SA-1B images, the way llava-instruct-zh-600k was made.

python examples/chinese_instructions.py --base-url http://127.0.0.1:8000/v1 --model Qwen/Qwen2.5-VL-32B-Instruct
python examples/chinese_instructions.py --base-url ... --model ... --data-dir /data/internvl --image-root /data/sa1b

Every image gets one of the three prompts of that dataset's card, drawn in the card's proportions: a conversation of up
to five rounds, a question that takes reasoning, or a detailed description. Without --data-dir a miniature is made in
./llava-zh-demo.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from llava_zh import load_dataset
from llava_zh.demo import write_demo
from llava_zh.regenerate import regenerate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True, help="root of the API")
    parser.add_argument("--model", required=True, help="name the server knows the model by")
    parser.add_argument("--data-dir", help="folder with the published captions; by default a miniature is made")
    parser.add_argument("--image-root", help="folder or URL of SA-1B")
    parser.add_argument(
        "--output-dir", default="new-instructions", help="folder of the run (default: ./new-instructions)"
    )
    parser.add_argument("--limit", type=int, default=20, help="only the first so many images (default: 20)")
    args = parser.parse_args()
    if args.data_dir is None:
        demo = write_demo("llava-zh-demo")
        args.data_dir, args.image_root = str(demo.internvl), str(demo.sa1b)

    report = regenerate(
        "internvl-sa-1b-caption",
        "single_zh",
        output_dir=args.output_dir,
        base_url=args.base_url,
        model=args.model,
        prompt="llava",
        parameters={"temperature": 0.7, "max_tokens": 2048},
        limit=args.limit,
        data_dir=args.data_dir,
        image_root=args.image_root,
    )
    print(report.summary())

    tasks: Counter[str] = Counter()
    for path in sorted((Path(args.output_dir) / "data").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            tasks.update(json.loads(line)["task"] for line in lines)
    print(dict(tasks))
    rows = load_dataset(
        "internvl-sa-1b-caption", "single_zh", split="train", data_dir=args.output_dir, image_root=args.image_root
    )
    for turn in rows[0]["conversations"]:
        print(f"{turn['from']}: {turn['value']}")


if __name__ == "__main__":
    main()
