#!/usr/bin/env bash
# bad_input.sh - what users and files get wrong: one line that says what and how to go on, exit code
# 2, and nothing on the disk is touched.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# A folder with text, tokens, a configuration and a finished run, made once.
make_run() {
    tiny_tokens 6000
    tiny_config
    expect_exit 0 "done" -- trainer c.ini
    mv "$work/case" "$work/run"
}

in_run() {
    cp -R "$work/run/." .
}

# ---- configuration ----

bad_line() {        # LINE TEXT...: behind the [model] section's keys
    tiny_config
    sed -i "s|^use_rotary_emb = true|&\n$1|" c.ini
    expect_bad "c.ini:10: " "${@:2}" -- trainer c.ini
    expect_bad "c.ini:10: " "${@:2}" -- trainer c.ini --check
}

bad_value() {       # KEY=VALUE TEXT...
    tiny_config "$1"
    expect_bad "c.ini:" "${1%%=*} = ${1#*=}" "${@:2}" -- trainer c.ini
}

unknown_key() {
    bad_line "learning_rte = 1" "unknown key model.learning_rte" "training.learning_rate"
    bad_line "dimm = 32" "unknown key model.dimm: did you mean model.dim?"
    bad_line "zzzzzz = 32" "unknown key model.zzzzzz: the keys of [model] are vocab_size"
}

unknown_section() {
    printf '[modle]\nfrobnicate = 1\n' >c.ini
    expect_bad "c.ini:2: unknown section [modle]" "model, training, data" -- trainer c.ini
    printf 'dim = 32\n' >c.ini
    expect_bad "c.ini:1: " "without a section: did you mean model.dim?" -- trainer c.ini
}

key_twice() {
    bad_line "dim = 64" "model.dim is given twice: line 4 has it already"
}

no_setting() {
    bad_line "just words" "expected [section], key = value or a comment"
    bad_line "[model" "expected [section]"
    printf '\000\001\002' >c.ini
    expect_bad "c.ini:1: control character 0x00" -- trainer c.ini
}

out_of_range() {
    bad_value dropout=1 "of at least 0 and below 1"
    bad_value dropout=-0.1 "of at least 0 and below 1"
    bad_value learning_rate=0 "above 0"
    bad_value learning_rate=nan "a number"
    bad_value batch_size=0 "from 1 to"
    bad_value batch_size=4x "a whole number"
    bad_value batch_size=99999999999999999999 "a whole number"
    bad_value depth=1.5 "a whole number"
    bad_value shuffle=maybe "true or false"
    bad_value max_seq_len= "a whole number"
}

bad_pair() {
    tiny_config heads=3
    expect_bad "model.dim = 32" "model.heads = 3" -- trainer c.ini
    tiny_config heads=32
    expect_bad "model.dim / model.heads = 1 is odd" -- trainer c.ini
}

missing_config() {
    expect_bad "absent.ini" -- trainer absent.ini
    expect_bad "absent.ini" -- trainer absent.ini --check
    mkdir folder.ini
    expect_bad "folder.ini" -- trainer folder.ini
}

too_large() {
    tiny_tokens 6000
    tiny_config dim=65536 depth=1000 mlp_dim=65536
    expect_bad "MiB of memory" "are available" -- trainer c.ini
}

# ---- flags ----

trainer_flags() {
    in_run
    expect_bad "unknown flag --gpu: did you mean --gpus?" -- trainer c.ini --gpu 2
    expect_bad "unknown flag --batch-size: use --set training.batch_size=VALUE" -- \
        trainer c.ini --batch-size 4
    expect_bad "unknown flag -g" -- trainer c.ini -g 2
    expect_bad "--gpus 257" "from 0 to 256" -- trainer c.ini --gpus 257
    expect_bad "--gpus -1" "from 0 to 256" -- trainer c.ini --gpus -1
    expect_bad "--gpus needs a value" -- trainer c.ini --gpus
    expect_bad "distributed.device = cuda: " "; use auto or cpu" -- trainer c.ini --device cuda
    expect_bad "--device tpu" "auto, cpu or cuda" -- trainer c.ini --device tpu
    expect_bad "--resume and --init exclude each other" -- \
        trainer c.ini --resume auto --init checkpoints/final_model.safetensors
    expect_bad "--set dim=3: expected section.key=value" -- trainer c.ini --set dim=3
    expect_bad "--set model.dimm=3: unknown key" "model.dim?" -- trainer c.ini --set model.dimm=3
    expect_bad "--set model.dim=x" "a whole number" -- trainer c.ini --set model.dim=x
    expect_bad "unexpected argument other.ini" -- trainer c.ini other.ini
}

prepare_flags() {
    in_run
    expect_bad "--repeat 0" "from 1 to" -- prepare --output tokens.safetensors --repeat 0
    expect_bad "--train-split 0" "above 0 and at most 1" -- \
        prepare --output tokens.safetensors --train-split 0
    expect_bad "--train-split 2" "above 0 and at most 1" -- \
        prepare --output tokens.safetensors --train-split 2
    expect_bad "--tokenizer word" "byte or char" -- \
        prepare --output tokens.safetensors --tokenizer word
    expect_bad "--split lines" "text or windows" -- \
        prepare --output tokens.safetensors --split lines
    expect_bad "unknown flag --tokeniser: did you mean --tokenizer?" -- \
        prepare --output tokens.safetensors --tokeniser char
    expect_bad "unexpected argument text.txt" -- prepare text.txt
}

# ---- texts ----

bad_text() {
    in_run
    : >empty.txt
    printf 'caf\303\251 caf\351' >latin.txt
    expect_bad "empty.txt is empty" -- \
        prepare --custom-text empty.txt --output tokens.safetensors
    expect_bad "absent.txt: cannot open" -- \
        prepare --custom-text absent.txt --output tokens.safetensors
    expect_bad ". is a folder" -- prepare --custom-text . --output tokens.safetensors
    expect_bad "latin.txt: invalid UTF-8 at byte 9" "--tokenizer byte" -- \
        prepare --custom-text latin.txt --output tokens.safetensors --tokenizer char
    expect_bad "none is left for training" -- \
        prepare --custom-text latin.txt --output tokens.safetensors --train-split 0.01
    expect_bad "standard input is empty" -- \
        prepare --custom-text - --output tokens.safetensors </dev/null
}

bad_output() {
    in_run
    expect_bad "is the text itself" -- prepare --custom-text text.txt --output ./text.txt
    expect_bad "logs: is a folder" -- prepare --custom-text text.txt --output logs
}

# ---- token files ----

# The same message from a run and, behind a cross, from --check.
bad_tokens() {      # FILE TEXT...
    expect_bad "$@" -- trainer c.ini --set "data.dataset_path=$1"
    expect_exit 1 "✗" -- trainer c.ini --check --set "data.dataset_path=$1"
    check_text "$work/stdout" "$2"
}

token_file() {
    local size bytes

    in_run
    bad_tokens absent.safetensors "no such token file: make one with prepare"
    bad_tokens text.txt "is not a safetensors file"
    bad_tokens checkpoints/best_model.safetensors "no tensor \"train\""
    bytes=$(wc -c <tokens.safetensors)
    for size in 0 4 100 1000 $((bytes - 1)); do
        head -c "$size" tokens.safetensors >cut.safetensors
        bad_tokens cut.safetensors "cut.safetensors"
    done
    bad_tokens cut.safetensors "the file is cut off"
    cp tokens.safetensors flipped.safetensors
    tensors flip flipped.safetensors -100
    bad_tokens flipped.safetensors "does not match its checksum"
    cp tokens.safetensors flipped.safetensors
    tensors flip flipped.safetensors 100
    bad_tokens flipped.safetensors "flipped.safetensors: "
    bad_tokens . ".: "
}

foreign_ids() {
    local oracle=$test_data/rope_tiny.safetensors largest first

    in_run
    tensors tokens "$oracle" stream tokens.safetensors 64
    expect_exit 0 "done" -- trainer c.ini
    largest=$(tensors values "$oracle" stream | sort -n | tail -n 1)
    first=$(tensors values "$oracle" stream | grep -nx "$largest" | head -n 1 | cut -d : -f 1)
    tensors tokens "$oracle" stream foreign.safetensors "$largest"
    bad_tokens foreign.safetensors "token $((first - 1)) of \"train\"" "vocabulary of $largest"
}

too_short() {
    in_run
    tiny_config batch_size=200
    bad_tokens tokens.safetensors "the training part has 5400 tokens" "at least 6401" \
               "lower batch_size"
}

small_vocabulary() {
    in_run
    tiny_config vocab_size=255
    expect_bad "model.vocab_size = 255: the tokenizer has 256 tokens" -- trainer c.ini
}

# ---- checkpoints ----

bad_checkpoint() {  # FILE TEXT...
    expect_bad "$@" -- trainer c.ini --resume "$1"
}

damaged_checkpoint() {
    local good=checkpoints/final_model.safetensors size bytes data

    in_run
    bad_checkpoint absent.safetensors "cannot open"
    bad_checkpoint text.txt "is not a safetensors file"
    bad_checkpoint tokens.safetensors "not an Octet checkpoint"
    mkdir none
    bad_checkpoint none "there are no checkpoints in this folder"
    bytes=$(wc -c <$good)
    for size in 0 4 100 5000 $((bytes / 2)) $((bytes - 1)); do
        head -c "$size" $good >cut.safetensors
        bad_checkpoint cut.safetensors "cut.safetensors"
    done
    data=$(tensors data-offset $good)
    for offset in 0 8 20 100 $((data / 2)) $((data - 1)); do
        cp $good flipped.safetensors
        tensors flip flipped.safetensors "$offset"
        bad_checkpoint flipped.safetensors "flipped.safetensors: "
        expect_bad "flipped.safetensors: " -- trainer c.ini --init flipped.safetensors
    done
    for offset in "$data" $((data + 1000)) -1; do
        cp $good flipped.safetensors
        tensors flip flipped.safetensors "$offset"
        bad_checkpoint flipped.safetensors "is damaged: its checksum"
    done
}

other_model() {
    local file=checkpoints/final_model.safetensors longer=(--set training.max_steps=30)

    in_run
    expect_bad "$file: a checkpoint of another model: model.dim is 32 there and 64 here" -- \
        trainer c.ini --resume $file "${longer[@]}" --set model.dim=64
    expect_bad "model.max_seq_len is 32 there and 16 here" -- \
        trainer c.ini --resume $file "${longer[@]}" --set model.max_seq_len=16
    expect_bad "model.use_rotary_emb is 1 there and 0 here" -- \
        trainer c.ini --resume $file "${longer[@]}" --set model.use_rotary_emb=false
}

other_weights() {
    local file=checkpoints/final_model.safetensors

    in_run
    expect_bad "$file: tensor token_emb.weight is (256, 32), this model needs (256, 64)" -- \
        trainer c.ini --init $file --set model.dim=64
    expect_bad "$file: tensor blocks.2." "is missing" -- \
        trainer c.ini --init $file --set model.depth=3
    expect_bad "$file: tensor pos_emb.weight is missing" -- \
        trainer c.ini --init $file --set model.use_rotary_emb=false
    expect_bad "text.txt: is not a safetensors file" -- trainer c.ini --init text.txt
    expect_bad "absent.safetensors: cannot open" -- trainer c.ini --init absent.safetensors
}

# ---- folders ----

bad_folder() {
    in_run
    expect_bad "text.txt" -- trainer c.ini --set checkpoint.save_dir=text.txt
    expect_bad "text.txt: cannot create the folder" -- \
        trainer c.ini --set checkpoint.save_dir=text.txt/checkpoints
    expect_bad "/proc/octet" -- trainer c.ini --set checkpoint.save_dir=/proc/octet
    expect_bad "text.txt: cannot create the folder" -- \
        trainer c.ini --set logging.log_dir=text.txt/logs
    expect_bad "checkpoint.save_dir is empty" -- trainer c.ini --set checkpoint.save_dir=
}

run_case make_run
for name in unknown_key unknown_section key_twice no_setting out_of_range bad_pair missing_config \
            too_large trainer_flags prepare_flags bad_text bad_output token_file foreign_ids \
            too_short small_vocabulary damaged_checkpoint other_model other_weights bad_folder; do
    run_case $name
done
finish
