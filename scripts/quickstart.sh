#!/usr/bin/env bash
# quickstart.sh - from a fresh Debian or Ubuntu machine to a model that has learned to write a little:
# installs what is missing, builds, prepares the sample text, trains for a few minutes, samples.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

install_packages
build_in "$root/build"

cd "$root"
say "preparing the sample text"
build/prepare
say "training config/quickstart.ini (a few minutes on two cores; Ctrl-C saves and stops)"
build/trainer config/quickstart.ini
say "a paragraph from the model"
build/sample --checkpoint runs/quickstart/checkpoints/best_model.safetensors --max-length 500 \
    --prompt "In the morning "
say "what next"
cat <<'TEXT'
build/sample --checkpoint runs/quickstart/checkpoints/best_model.safetensors --interactive
                                        try prompts of your own
tensorboard --logdir runs/quickstart/logs/tensorboard
                                        see the curves (pip install tensorboard)
build/prepare --custom-text YOUR.txt --output datasets/mine.safetensors
build/trainer config/tiny.ini --set data.dataset_path=datasets/mine.safetensors
                                        train on a text of your own
TEXT
