"""Run by LLaMA-Factory's own Python: what its data pipeline makes of an export, written as JSON.

    python read_llama_factory.py EXPORT_FOLDER DATASET_NAME WORK_FOLDER

The settings are those of examples/llama_factory, as far as a CPU can follow them, and the model is a tiny one, as no
hub is reachable. `get_dataset` is what `llamafactory-cli train` calls: it reads dataset_info.json, converts the rows,
checks marks against images, opens these, and tokenizes.
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
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))


def main(export: str, name: str, work: str) -> None:
    import yaml
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    from tiny_vlm import tiny_model, tiny_processor

    processor = tiny_processor(path.read_text("utf-8") for path in Path(export, "data").iterdir())
    processor.save_pretrained(f"{work}/model")
    tiny_model(processor).save_pretrained(f"{work}/model")
    settings = yaml.safe_load((EXAMPLES / "llama_factory" / "qwen2_5vl_lora_sft.yaml").read_text("utf-8"))
    here = {"model_name_or_path": f"{work}/model", "template": "llava", "bf16": False, "preprocessing_num_workers": 1}
    here |= {"dataset": name, "dataset_dir": export, "output_dir": f"{work}/out"}
    model_args, data_args, training_args, _, _ = get_train_args({**settings, **here})
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
