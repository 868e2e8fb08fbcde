"""Run by LLaMA-Factory's own Python: what its data pipeline makes of an export, written as JSON.

    python read_llama_factory.py EXPORT_FOLDER DATASET_NAME WORK_FOLDER

`get_dataset` is the function that `llamafactory-cli train` calls: it reads dataset_info.json, converts the rows, checks
marks against images, opens these, and tokenizes. The model is a processor of our own making, as no hub is reachable.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import types
from pathlib import Path

# mm_plugin imports torchaudio, of which there is no build for every CPU torch; it is called for audio only.
if importlib.util.find_spec("torchaudio") is None:
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", loader=None)
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))


def main(export: str, name: str, work: str) -> None:
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    from tiny_vlm import tiny_model, tiny_processor

    processor = tiny_processor(path.read_text("utf-8") for path in Path(export, "data").iterdir())
    processor.save_pretrained(f"{work}/model")
    tiny_model(processor).save_pretrained(f"{work}/model")
    model_args, data_args, training_args, _, _ = get_train_args(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": f"{work}/model",
            "dataset": name,
            "dataset_dir": export,
            "template": "llava",
            "finetuning_type": "full",
            "output_dir": f"{work}/out",
            "cutoff_len": 4096,
            "report_to": "none",
        }
    )
    tokenizing = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokenizing["tokenizer"], data_args)
    rows = _get_merged_dataset([name], model_args, data_args, training_args, "sft")
    tokenized = get_dataset(template, model_args, data_args, training_args, stage="sft", **tokenizing)["train_dataset"]
    image = tokenizing["tokenizer"].convert_tokens_to_ids("<image>")
    found = [
        {
            "messages": [*row["_prompt"], *row["_response"]],
            "images": row["_images"],
            "image_tokens": tokens["input_ids"].count(image),
            "learned": tokenizing["tokenizer"].decode([token for token in tokens["labels"] if token >= 0]),
        }
        for row, tokens in zip(rows, tokenized, strict=True)
    ]
    Path(work, "found.json").write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
