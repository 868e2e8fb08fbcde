"""Write new Chinese captions with a model of your own, and load them beside the old ones.

python examples/regenerate_captions.py --base-url http://127.0.0.1:8000/v1 --model OpenGVLab/InternVL2-Llama3-76B
python examples/regenerate_captions.py --base-url ... --model ... --data-dir /data/internvl --image-root /data/sa1b

Any OpenAI-compatible server will do (lmdeploy, vLLM, SGLang, a hosted one). Without --data-dir a miniature is made in
./llava-zh-demo. The run can be killed and started again: it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llava_zh import load_dataset
from llava_zh.demo import write_demo
from llava_zh.regenerate import Captioner, regenerate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True, help="root of the API")
    parser.add_argument("--model", required=True, help="name the server knows the model by")
    parser.add_argument("--data-dir", help="folder with the published files; by default a miniature is made")
    parser.add_argument("--image-root", help="folder or URL of SA-1B")
    parser.add_argument("--output-dir", default="new-captions", help="folder of the run (default: ./new-captions)")
    parser.add_argument("--limit", type=int, default=20, help="only the first so many rows (default: 20)")
    args = parser.parse_args()
    if args.data_dir is None:
        demo = write_demo("llava-zh-demo")
        args.data_dir, args.image_root = str(demo.internvl), str(demo.sa1b)
    published = {"data_dir": args.data_dir, "image_root": args.image_root}

    # One image first: does the model do what is wanted?
    rows = load_dataset("internvl-sa-1b-caption", "single_zh", split="train", streaming=True, **published)
    print(Captioner(args.base_url, args.model).caption(next(iter(rows))["image"], prompt="caption_zh"))

    # Then all of them.
    report = regenerate(
        "internvl-sa-1b-caption",
        "single_zh",
        output_dir=args.output_dir,
        base_url=args.base_url,
        model=args.model,
        prompt="caption_zh",
        limit=args.limit,
        **published,
    )
    print(report.summary())

    # The output is the dataset again, with new text; the files also say how each row came to be, and what it replaced.
    new = load_dataset(
        "internvl-sa-1b-caption", "single_zh", split="train", data_dir=args.output_dir, image_root=args.image_root
    )
    print(f"{len(new)} rows, the first image is {new[0]['image'].size}")
    with next((Path(args.output_dir) / "data").glob("*.jsonl")).open(encoding="utf-8") as lines:
        row = json.loads(next(lines))
    print("old:", row["regenerated"]["previous"][-1]["value"])
    print("new:", row["conversations"][-1]["value"])


if __name__ == "__main__":
    main()
