#!/usr/bin/env bash
# repeated.sh [TRAINER FLAG...] - the default configuration on 5 KB of text repeated 100 times, with
# windows drawn at random for validation: how well, and how soon, does the model know it by heart?
# Stop it when the validation perplexity is low enough for you; it is made for 100 epochs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

mkdir -p runs/repeated
head -c 5000 datasets/sample.txt |
    build/prepare --custom-text - --repeat 100 --split windows --window 513 \
        --output runs/repeated/tokens.safetensors
build/trainer config/default.ini --set data.dataset_path=runs/repeated/tokens.safetensors \
    --set checkpoint.save_dir=runs/repeated/checkpoints --set logging.log_dir=runs/repeated/logs "$@"
