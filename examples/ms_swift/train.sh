#!/usr/bin/env bash
# swift sft on an export of `llava-zh export … --to ms-swift data`
set -euo pipefail
datasets=$(python -c 'import json; print(*(d["dataset_name"] for d in json.load(open("data/custom_dataset_info.json"))))')
MAX_PIXELS=${MAX_PIXELS:-589824} swift sft \
  --model "${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}" \
  --custom_dataset_info data/custom_dataset_info.json \
  --dataset $datasets \
  --strict true \
  --tuner_type lora \
  --target_modules all-linear \
  --lora_rank 16 \
  --torch_dtype bfloat16 \
  --max_length 4096 \
  --per_device_train_batch_size 2 \
  --gradient_accumulation_steps 8 \
  --learning_rate 1e-4 \
  --num_train_epochs 1 \
  --dataloader_num_workers 4 \
  --output_dir output
