"""Run by ms-swift's own Python: what `swift sft` reads out of an export, written as JSON.

    python read_ms_swift.py EXPORT_FOLDER WORK_FOLDER

The export is registered as ``--custom_dataset_info`` does it, loaded by `swift.dataset.load_dataset`, and each row is
encoded by a template, which opens its images. The model is of our own making, as no hub is reachable.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))


def main(export: str, work: str) -> None:
    from swift.arguments import SftArguments
    from swift.dataset import load_dataset, register_dataset_info
    from swift.model import get_processor
    from swift.template import get_template
    from tiny_vlm import tiny_model, tiny_processor

    processor = tiny_processor(path.read_text("utf-8") for path in Path(export, "data").iterdir())
    processor.save_pretrained(f"{work}/model")
    tiny_model(processor).save_pretrained(f"{work}/model")
    template = get_template(get_processor(f"{work}/model", model_type="llava1_5_hf"))
    template.set_mode("train")
    info = Path(export, "custom_dataset_info.json")
    register_dataset_info(str(info))
    names = [entry["dataset_name"] for entry in json.loads(info.read_text("utf-8"))]
    rows, _ = load_dataset(names, strict=True, load_from_cache_file=False)
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    found = []
    for row in rows:
        encoded = template.encode(row)
        found.append(
            {
                "messages": row["messages"],
                "images": [image["path"] if isinstance(image, dict) else image for image in row["images"]],
                "image_tokens": encoded["input_ids"].count(image_token),
                "pictures": len(encoded["pixel_values"]),
                "learned": template.safe_decode([token for token in encoded["labels"] if token >= 0]),
            }
        )
    Path(work, "found.json").write_text(json.dumps(found), "utf-8")
    options = [field.name for field in dataclasses.fields(SftArguments)]
    Path(work, "options.json").write_text(json.dumps(options), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
