"""Fine-tune a vision-language model with TRL's SFTTrainer on a stream of captions.

    pip install "llava-zh[torch]" "trl>=1.16"
    python examples/train_trl.py --data-dir demo/internvl --image-root demo/sa1b --max-steps 20

(`llava-zh demo demo` writes those folders.) Without ``--model`` a tiny random model is trained, so this runs on a CPU;
``--model Qwen/Qwen2.5-VL-3B-Instruct`` trains a real one. Without ``--data-dir`` the captions come from the hub.
"""

from __future__ import annotations

import argparse
import itertools
import json

import transformers
from tiny_vlm import tiny_model, tiny_processor
from trl import SFTConfig, SFTTrainer

from llava_zh import load_dataset
from llava_zh.streams.shuffle import shuffled
from llava_zh.torch import Collator


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune with TRL on a stream of captions.")
    parser.add_argument("--dataset", default="internvl-sa-1b-caption")
    parser.add_argument("--config", default="single_zh")
    parser.add_argument("--data-dir")
    parser.add_argument("--image-root")
    parser.add_argument("--model", help="a vision-language model on the hub or on disk (default: a tiny random one)")
    parser.add_argument("--output-dir", default="trl-out")
    parser.add_argument("--max-steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--max-length", type=int, default=4096, help="tokens a row may have")
    args = parser.parse_args()
    transformers.set_seed(0)

    # `parts` is TRL's form: `messages` with a content of image and text parts, and `images`. SFTTrainer takes a stream
    # as it is; the collator opens the pictures when a batch is made, and has the answers learned whatever the template.
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
    ).select_columns(["messages", "images"])

    if args.model:
        processor = transformers.AutoProcessor.from_pretrained(args.model)
        model = transformers.AutoModelForImageTextToText.from_pretrained(args.model)
    else:
        processor = tiny_processor(texts(row) for row in itertools.islice(stream, 200))
        model = tiny_model(processor)

    trainer = SFTTrainer(
        model=model,
        processing_class=processor,
        train_dataset=stream,
        data_collator=Collator(processor, max_length=args.max_length, on_too_long="skip"),
        args=SFTConfig(
            output_dir=args.output_dir,
            max_steps=args.max_steps,
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.learning_rate or (2e-5 if args.model else 5e-3),
            max_length=None,  # the collator cuts, and no image token
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            bf16=False,
            gradient_checkpointing=bool(args.model),
        ),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({"steps": len(losses), "first_loss": losses[0], "last_loss": losses[-1], "losses": losses}))


def texts(row: dict) -> str:
    """All text of a row, for training a tokenizer."""
    return "\n".join(part["text"] for message in row["messages"] for part in message["content"])


if __name__ == "__main__":
    main()
