"""`Collator` against the plain loop that people write: `apply_chat_template` and the processor, a row at a time.

    python benchmarks/collate.py                  # 64 rows of the miniature, batches of 8, 3 rounds
    python benchmarks/collate.py --rows 256 --side 672

Both make input_ids, pixel_values and labels of the same decoded rows with a Qwen2.5-VL processor made on the spot (the
real image processor; pip install "llava-zh[torch]"). The loop finds the answer as loops do: the prompt is rendered and
processed a second time, and its tokens are masked. Figures are medians of the rounds, in which both take turns. Every
label of every row is compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def loop(processor: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch, row by row."""
    import torch

    made = []
    for row in rows:
        pictures = [part["image"] for turn in row["messages"] for part in turn["content"] if part["type"] == "image"]
        text = processor.apply_chat_template(row["messages"])
        prompt = processor.apply_chat_template(row["messages"][:-1], add_generation_prompt=True)
        whole = processor(text=[text], images=pictures, return_tensors="pt")
        asked = processor(text=[prompt], images=pictures, return_tensors="pt")["input_ids"].shape[1]
        labels = whole["input_ids"][0].clone()
        labels[:asked] = -100
        made.append((whole, labels))
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([whole["input_ids"][0] for whole, _ in made], True, processor.tokenizer.pad_token_id),
        "attention_mask": pad([whole["attention_mask"][0] for whole, _ in made], True, 0),
        "pixel_values": torch.cat([whole["pixel_values"] for whole, _ in made]),
        "image_grid_thw": torch.cat([whole["image_grid_thw"] for whole, _ in made]),
        "labels": pad([labels for _, labels in made], True, -100),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--side", type=int, default=448, help="pixels of a picture's longer side (default: 448)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    import tempfile

    import torch
    from training.families import FAMILIES, image_processor, template, tokenizer
    from transformers import Qwen2_5_VLProcessor

    from llava_zh import decode_images, load_dataset
    from llava_zh.demo import write_demo
    from llava_zh.torch import Collator

    kind = type("Qwen2_5_VLProcessor", (Qwen2_5_VLProcessor,), {"check_argument_for_proper_class": lambda *_: None})
    images = image_processor("qwen2_vl", "Qwen2VLImageProcessor", min_pixels=28 * 28, max_pixels=1280 * 28 * 28)
    tokens = tokenizer([*FAMILIES["qwen2.5-vl"][2], "<|endoftext|>"], "<|im_end|>", None, {})
    processor = kind(images, tokens, None, chat_template=template("qwen2_5_vl"))
    with tempfile.TemporaryDirectory() as folder:
        demo = write_demo(Path(folder))
        inline = {"row_format": "parts", "options": {"images": "inline"}, "streaming": True}
        rows = load_dataset(
            "internvl-sa-1b-caption", "single_zh", split="train", data_dir=demo.internvl, image_root=demo.sa1b, **inline
        )
        some = list(decode_images(rows, max_side=args.side).take(args.rows))
    batches = [some[i : i + args.batch_size] for i in range(0, len(some), args.batch_size)]
    collator = Collator(processor)
    newline = tokens.convert_tokens_to_ids("Ċ")
    for batch in batches:
        ours, theirs = collator(batch), loop(processor, batch)
        same = ours["labels"] == theirs["labels"]
        # The loop has the newline after <|im_end|> learned, which no model is asked for.
        last = theirs["labels"][~same].tolist() == [newline] * len(batch) and (ours["labels"][~same] == -100).all()
        if not last or not all(torch.equal(ours[k], theirs[k]) for k in theirs if k != "labels"):
            raise SystemExit("The batches differ.")
    seconds: dict[str, list[float]] = {"Collator": [], "loop": []}
    work = [("Collator", collator), ("loop", lambda batch: loop(processor, batch))]
    for _ in range(args.rounds):
        for name, make in work:
            start = time.perf_counter()
            for batch in batches:
                make(batch)
            seconds[name].append(time.perf_counter() - start)
        work.reverse()
    rate = {name: len(batches) / statistics.median(times) for name, times in seconds.items()}
    print(f"{len(some)} rows in batches of {args.batch_size}, medians of {args.rounds}; all labels right")
    print(
        f"  Collator {rate['Collator']:8.2f} batches/s, of the loop's {rate['Collator'] / rate['loop']:.2f} (aim 1.00)"
    )
    print(f"  loop     {rate['loop']:8.2f} batches/s")


if __name__ == "__main__":
    main()
