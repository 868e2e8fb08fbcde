#!/usr/bin/env bash
# bash train.sh INTERNVL_CHAT_FOLDER: InternVL's own fine-tuning on an export of `llava-zh export … --to internvl data`
set -euo pipefail
meta=$(realpath data/meta.json)
output=$(realpath -m output)
cd "$1"
export LAUNCHER=pytorch PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
torchrun --nproc_per_node="${GPUS:-8}" internvl/train/internvl_chat_finetune.py \
  --model_name_or_path "${MODEL:-OpenGVLab/InternVL2_5-8B}" \
  --conv_style internvl2_5 \
  --meta_path "$meta" \
  --output_dir "$output" \
  --overwrite_output_dir True \
  --use_fast_tokenizer False \
  --force_image_size 448 \
  --dynamic_image_size True \
  --max_dynamic_patch 6 \
  --use_thumbnail True \
  --down_sample_ratio 0.5 \
  --ps_version v2 \
  --freeze_llm True \
  --freeze_mlp True \
  --freeze_backbone True \
  --use_llm_lora 16 \
  --vision_select_layer -1 \
  --max_seq_length 4096 \
  --dataloader_num_workers 4 \
  --bf16 True \
  --num_train_epochs 1 \
  --per_device_train_batch_size 2 \
  --gradient_accumulation_steps 8 \
  --learning_rate 4e-5 \
  --weight_decay 0.05 \
  --warmup_ratio 0.03 \
  --lr_scheduler_type cosine \
  --do_train True \
  --grad_checkpoint True \
  --group_by_length True \
  --deepspeed zero_stage1_config.json \
  --report_to none
