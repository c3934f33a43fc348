#!/usr/bin/env bash
# verify.sh - trainer --verify: every file that a run saves is in order, and whatever is wrong with one
# is found.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

final=checkpoints/final_model.safetensors

# Two epochs of 42 steps, with files of all kinds.
saved_run() {       # WORKERS [KEY=VALUE...]
    tiny_tokens 6000
    tiny_config dropout=0.1 max_steps=0 num_epochs=2 "batch_size=$((4 / $1))" "${@:2}"
    expect_exit 0 "done: 84 steps" -- trainer c.ini --gpus "$1" --set checkpoint.save_minutes=0.0001
}

# passes FILE TEXT... -- [FLAG...]: no cross, and the report says each TEXT.
passes() {
    local file=$1 texts=() text

    shift
    while [ "$1" != -- ]; do
        texts+=("$1")
        shift
    done
    expect_exit 0 "$file is in order" -- trainer --verify "$file" "${@:2}"
    check_no_text "$work/stdout" "✗"
    for text in "${texts[@]}"; do
        check_text "$work/stdout" "$text"
    done
}

# crosses FILE N TEXT...: so many crosses and exit code 1; the report says each TEXT.
crosses() {
    local text

    expect_exit 1 "$1 is not in order" -- trainer --verify "$1"
    check_equal "the number of crosses" "$(grep -c "^✗ " "$work/stdout")" "$2"
    check_equal "lines on stderr" "$(wc -l <"$work/stderr")" 0
    for text in "${@:3}"; do
        check_text "$work/stdout" "$text"
    done
}

# Only the file is needed, and it stays as it is.
whole() {           # WORKERS MOMENTS [KEY=VALUE...]
    local before file

    saved_run "$1" "${@:3}"
    rm -r tokens.safetensors c.ini logs
    before=$(fingerprint .)
    for file in best_model checkpoint_epoch_1 checkpoint_epoch_2 final_model; do
        passes "checkpoints/$file.safetensors" "✓ checksums of " "✓ sizes: " "$2" \
               "✓ step replayed on CPU worker" "the same bits" --
    done
    check_text "$work/stdout" "✓ metadata: step 84 of 84, 2 epochs done, 10752 tokens, best "
    check_text "$work/stdout" ", finished"
    passes checkpoints/last_checkpoint.safetensors "and both moments of each" "the same bits" --
    check_equal "the files" "$(fingerprint .)" "$before"
}

# Where the CPU has instructions for bfloat16, this is another arithmetic.
other_type() {
    saved_run 1 use_amp=false
    passes $final "in float32 (recorded in float32)" -- --device cpu --gpus 1
    passes $final "✓ step replayed" -- --set training.use_amp=true
    saved_run 1 use_amp=true
    passes $final "in float32 (recorded in " -- --set training.use_amp=false
}

# Recording a step changes nothing in the run.
undisturbed() {     # WORKERS
    tiny_tokens 6000
    tiny_config dropout=0.1 max_steps=0 num_epochs=2 batch_size=1 eval_every=0 \
        gradient_accumulation_steps=2
    expect_exit 0 "done" -- trainer c.ini --gpus "$1" --set checkpoint.save_every=0 \
        --set checkpoint.save_dir=few --set logging.log_dir=few
    expect_exit 0 "done" -- trainer c.ini --gpus "$1" --set checkpoint.save_minutes=0.000000001
    check_text "$work/stdout" "saved checkpoints/last_checkpoint.safetensors (step 7)"
    check_tensors $final few/final_model.safetensors 0
    check_same_run logs few
}

flipped_bits() {
    saved_run 1
    cp $final good
    tensors flip $final "$(tensors data-offset $final)"
    crosses $final 1 "✗ $final: tensor \"token_emb.weight\" is damaged" "✓ step replayed"
    # Behind the moments there are 33 tokens.
    tensors flip $final -140
    crosses $final 2 "✗ $final: tensor \"adam.v.norm.bias\" is damaged"
    tensors flip $final -1
    crosses $final 4 "✗ $final: tensor \"probe.tokens\" is damaged" "outside the vocabulary of 256"
    cp good $final
    tensors flip $final 100
    crosses $final 1 "✗ $final: the header is damaged"
}

cut_off() {
    saved_run 1
    truncate -s -1 $final
    crosses $final 1 "✗ $final: tensor \"probe.tokens\": ends at byte"
    truncate -s 100 $final
    crosses $final 1 "cut off"
    truncate -s 0 $final
    crosses $final 1 "✗ $final: is empty"
}

# A program that put the checksums right again does not put the loss right.
changed_values() {
    saved_run 1
    tensors set $final weight norm.weight 5 4
    crosses weight 1 "✓ checksums of 70 tensors" "✗ weight: step replayed" "more than 0.01% apart"
    tensors set $final token probe.tokens 3 7
    crosses token 1 "✗ token: step replayed"
    tensors set $final nan token_emb.weight 0 nan
    crosses nan 2 "✗ nan: tensor token_emb.weight: value 0 is nan" "✗ nan: step replayed"
    tensors set $final moment adam.m.norm.bias 3 inf
    crosses moment 1 "✗ moment: tensor adam.m.norm.bias: value 3 is inf" "✓ step replayed"
    tensors set $final square adam.v.norm.bias 1 -1e-9
    crosses square 1 "✗ square: tensor adam.v.norm.bias: value 1 is -1e-09" "✓ step replayed"
    # Nor does a run begin with such numbers.
    expect_bad "tensor token_emb.weight: value 0 is nan" -- trainer c.ini --init nan
    expect_bad "tensor adam.v.norm.bias: value 1 is -1e-09" -- trainer --resume square
    tensors set-metadata $final loss probe_loss 5
    crosses loss 1 "(recorded 5.000000)"
    tensors set-metadata $final norm probe_grad_norm 5
    crosses norm 1 "(recorded 5)"
}

bad_step() {
    saved_run 1
    tensors set $final file probe.tokens 32 256
    crosses file 1 "✗ file: damaged: number 32 of probe.tokens is 256, outside the vocabulary of 256"
    tensors set $final file probe.tokens 0 -1
    crosses file 1 "✗ file: damaged: number 0 of probe.tokens is -1"
    tensors drop $final file probe.tokens
    crosses file 1 "✗ file: damaged: tensor probe.tokens is not there"
    tensors set-metadata $final file probe_loss inf
    crosses file 1 "✗ file: damaged: a recorded step with loss inf"
}

other_configuration() {
    saved_run 1
    tensors metadata $final config >config
    tensors set-metadata $final file config "$(sed 's/^depth = 2/depth = 1/' config)"
    crosses file 1 "✗ file: tensor blocks.1." "does not belong to the model that its configuration"
    tensors set-metadata $final file config "$(sed 's/^depth = 2/depth = 3/' config)"
    crosses file 1 "✗ file: tensor blocks.2.norm1.weight is missing"
    tensors set-metadata $final file config "$(sed 's/^dim = 32/dim = 64/' config)"
    crosses file 1 "✗ file: tensor token_emb.weight does not fit"
    tensors set-metadata $final file config "$(sed 's/^dim = 32/dim = 33/' config)"
    crosses file 1 "✗ file: its configuration: model.dim = 33"
    tensors drop $final file adam.v.norm.weight
    crosses file 1 "✗ file: tensor adam.v.norm.weight is missing"
    tensors set-metadata $final file step -1
    crosses file 1 "✗ file: damaged: metadata \"step\" is \"-1\""
}

# The device of a run that failed is asked for no more than its memory.
after_failure() {   # WORKERS
    tiny_tokens 6000
    tiny_config
    expect_exit 1 "a fault for a test" -- \
        env OCTET_TEST_FAULT="fail:rank=0:phase=forward:step=5" trainer c.ini --gpus "$1"
    passes checkpoints/last_checkpoint.safetensors "✓ metadata: step 5 of 20" \
           "notice: no step was recorded in checkpoints/last_checkpoint.safetensors" --
    check_no_text "$work/stdout" "replayed on"
    expect_exit 0 "done: 20 steps" -- trainer c.ini --resume auto
}

no_checkpoint() {
    saved_run 1
    crosses c.ini 1 "✗ c.ini: is not a safetensors file"
    crosses tokens.safetensors 1 "✓ checksums of 2 tensors" \
            "✗ tokens.safetensors: not an Octet checkpoint"
    expect_bad "checkpoints is a folder: name one of the checkpoints in it" -- \
        trainer --verify checkpoints
    expect_bad "nothing: No such file or directory" -- trainer --verify nothing
    expect_bad "--verify takes no configuration (c.ini)" -- trainer c.ini --verify $final
    expect_bad "--verify excludes --check, --resume and --init" -- \
        trainer --verify $final --resume auto
    expect_bad "--verify excludes" -- trainer --verify $final --check
    expect_bad "--verify excludes" -- trainer --verify $final --init $final
}

run_case whole 1 "and both moments of each"
run_case whole 2 "and both moments of each"
run_case whole 1 "and both moments of each" use_amp=true
run_case whole 2 "without moments" use_amp=true save_optimizer=false use_rotary_emb=false
run_case other_type
run_case undisturbed 1
run_case undisturbed 2
run_case flipped_bits
run_case cut_off
run_case changed_values
run_case bad_step
run_case other_configuration
run_case after_failure 1
run_case after_failure 2
run_case no_checkpoint
finish
