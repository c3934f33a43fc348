#!/usr/bin/env bash
# sample.sh - text from a trained model: equal commands write equal texts, and every prompt gets an
# answer or a reason.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

model=$work/model.safetensors
count_characters() { LC_ALL=C.UTF-8 wc -m; }

# A model of characters of one to four bytes, for the cases below.
make_model() {
    {
        head -c 4000 "$here/../../datasets/sample.txt"
        for _ in {1..100}; do
            printf 'häß → 𝄞.\n'
        done
    } >text.txt
    run prepare --custom-text text.txt --tokenizer char --output tokens.safetensors
    tiny_config max_steps=60
    expect_exit 0 "done" -- trainer c.ini
    cp checkpoints/final_model.safetensors "$model"
}

# text NAME [FLAG...]: a file with what `sample` writes.
text() {
    run sample --checkpoint "$model" --max-length 60 "${@:2}" ||
        fail "sample ${*:2}: $(tail -n 1 "$work/stderr")"
    cp "$work/stdout" "$1"
}

check_same() { cmp -s "$1" "$2" || fail "$1 and $2 differ"; }
check_differ() { ! cmp -s "$1" "$2" || fail "$1 and $2 are equal"; }

seeds() {
    text a --prompt "The "
    text b --prompt "The "
    check_same a b
    text c --prompt "The " --seed 1
    text d --prompt "The " --seed 1
    text e --prompt "The " --seed 2
    check_same c d
    check_differ c e
    check_equal "the beginning" "$(head -c 4 c)" "The "
    check_equal "characters" "$(count_characters <c)" 65
    text f
    check_equal "characters without a prompt" "$(count_characters <f)" 61
    text g --prompt "The " --max-length 1
    check_equal "characters" "$(count_characters <g)" 6
}

greedy() {
    text a --prompt "The " --temperature 0 --seed 1
    text b --prompt "The " --temperature 0 --seed 2
    text c --prompt "The " --top-k 1 --temperature 5
    text d --prompt "The " --top-p 1e-9 --temperature 5
    check_same a b
    check_same a c
    check_same a d
    text e --prompt "The " --temperature 5 --top-k 0 --top-p 1
    check_differ a e
}

several() {
    text one --prompt "The " --seed 3
    text three --prompt "The " --seed 3 --num-samples 3
    check_equal "separators" "$(grep -cx -- --- three)" 2
    check_equal "the first text" "$(head -c "$(wc -c <one)" three)" "$(cat one)"
    check_equal "characters" "$(count_characters <three)" $((3 * 65 + 2 * 4))
}

# Every character of a text is one of the vocabulary, and none is cut.
multi_byte() {
    local vocabulary

    text a --prompt "häß → " --temperature 3 --top-k 0 --top-p 1 --max-length 500
    check_equal "the beginning" "$(head -c 10 a)" "häß → "
    iconv -f UTF-8 -t UTF-8 a >/dev/null || fail "the text is not UTF-8"
    vocabulary=$(tensors metadata "$model" tokenizer | sed 's/.*"characters":"\(.*\)"}/\1/')
    LC_ALL=C.UTF-8 grep -o . a | sort -u | while read -r character; do
        [[ $vocabulary == *"$character"* ]] || fail "$character is not in the vocabulary"
    done
}

output_file() {
    text stdout --prompt "The "
    echo old >file
    expect_exit 0 "the text is in file" -- \
        sample --checkpoint "$model" --max-length 60 --prompt "The " --output file
    [ ! -s "$work/stdout" ] || fail "with --output it writes to stdout too"
    check_same file stdout
    cp "$model" copy.safetensors
    expect_bad "copy.safetensors is the checkpoint itself" -- \
        sample --checkpoint copy.safetensors --output ./copy.safetensors
    expect_exit 2 "absent/file" -- sample --checkpoint "$model" --output absent/file
    expect_exit 2 "U+20AC" -- sample --checkpoint "$model" --prompt "€" --output file
    check_same file stdout
    check_files . copy.safetensors file stdout
}

# ask INPUT: what an interactive session answers.
ask() {
    printf %b "$1" | timeout "$time_limit" \
        sample --checkpoint "$model" --interactive --max-length 5 >answers 2>"$work/stderr" ||
        fail "exit code $? of an interactive session: $(tail -n 1 "$work/stderr")"
}

interactive() {
    local word text

    for word in quit exit; do
        ask "The \n$word\nThe \n"
        check_equal "characters before $word" "$(count_characters <answers)" 10
    done
    ask "The \nhäß\n"
    check_equal "characters" "$(count_characters <answers)" 19
    text=$(cat answers)
    check_equal "the second answer" "$(LC_ALL=C.UTF-8 && echo "${text:10:3}")" "häß"
    ask "no newline"
    check_equal "the beginning" "$(head -c 10 answers)" "no newline"
    ask ""
    [ ! -s answers ] || fail "an answer to nothing"
    ask "\n"
    check_equal "characters for an empty line" "$(count_characters <answers)" 6
}

# A line that cannot be answered is no reason to end.
interactive_goes_on() {
    ask "€\nThe \n\377\nThe \n"
    check_text "$work/stderr" "sample: prompt, byte 0: the vocabulary has no €, U+20AC"
    check_text "$work/stderr" "sample: prompt, byte 0: the text is not valid UTF-8"
    check_equal "characters" "$(count_characters <answers)" 20
}

long_prompt() {
    local prompt

    prompt=$(head -c 300 "$here/../../datasets/sample.txt" | tr '\n' ' ')
    text a --prompt "$prompt"
    check_text "$work/stderr" \
               "notice: the prompt has ${#prompt} tokens: the model reads only the last 32"
    check_equal "the beginning" "$(head -c ${#prompt} a)" "$prompt"
    check_equal "characters" "$(count_characters <a)" $((${#prompt} + 61))
    text b --prompt "${prompt: -32}"
    check_equal "the rest" "$(tail -c +$((${#prompt} + 1)) a)" "$(tail -c +33 b)"
}

missing_character() {
    expect_exit 2 "sample: prompt, byte 4: the vocabulary has no €, U+20AC" -- \
        sample --checkpoint "$model" --prompt "The €"
    [ ! -s "$work/stdout" ] || fail "text is written all the same"
}

ids_without_text() {
    local oracle=$test_data/rope_tiny.safetensors

    tensors tokens "$oracle" stream tokens.safetensors 64
    tiny_config generate_samples=true
    expect_exit 0 "done" -- trainer c.ini
    expect_exit 0 "" -- sample --max-length 10 --prompt "1 2 63"
    grep -qxE '1 2 63( [0-9]+){10}' "$work/stdout" || fail "not ids but $(cat "$work/stdout")"
    expect_exit 2 "byte 2: expected token ids from 0 to 63" -- sample --prompt "1 64"
    expect_exit 2 "byte 0: expected token ids" -- sample --prompt "text"
}

bytes() {
    tiny_tokens 6000
    tiny_config max_steps=5
    expect_exit 0 "done" -- trainer c.ini
    expect_exit 0 "" -- sample --prompt "€" --temperature 100 --top-k 0 --top-p 1 --max-length 300
    check_equal "the beginning" "$(head -c 3 "$work/stdout")" "€"
    iconv -f UTF-8 -t UTF-8 "$work/stdout" >/dev/null || fail "the text is not UTF-8"
}

# Without a name: the best model, else the final, else the newest; and all of it is in the file.
found_checkpoint() {
    local name

    tiny_tokens 6000
    tiny_config max_steps=0 num_epochs=2 save_optimizer=false
    expect_exit 0 "done" -- trainer c.ini
    rm -r logs c.ini text.txt tokens.safetensors
    for name in best_model final_model checkpoint_epoch_2 checkpoint_epoch_1; do
        expect_exit 0 "checkpoints/$name.safetensors: step" -- sample --max-length 5
        expect_exit 0 "$name" -- sample --checkpoint "$PWD/checkpoints" --max-length 5
        rm checkpoints/$name.safetensors
    done
    expect_bad "no checkpoint" "train a model" -- sample
    expect_bad "absent" "--checkpoint" -- sample --checkpoint absent
}

damaged_checkpoint() {
    local bytes size data offset

    bytes=$(wc -c <"$model")
    for size in 0 4 100 5000 $((bytes / 2)) $((bytes - 1)); do
        head -c "$size" "$model" >cut.safetensors
        expect_bad "cut.safetensors" -- sample --checkpoint cut.safetensors
    done
    data=$(tensors data-offset "$model")
    for offset in 0 8 20 $((data / 2)) $((data - 1)) "$data" -1; do
        cp "$model" flipped.safetensors
        tensors flip flipped.safetensors "$offset"
        expect_bad "flipped.safetensors: " -- sample --checkpoint flipped.safetensors
    done
    tensors extract "$test_data/rope_tiny.safetensors" init. weights.safetensors
    expect_bad "not an Octet checkpoint" -- sample --checkpoint weights.safetensors
}

bad_flags() {
    cp "$model" m.safetensors
    expect_bad "unknown flag --temprature: did you mean --temperature?" -- \
        sample --checkpoint m.safetensors --temprature 1
    expect_bad "--max-length 0" "from 1 to" -- sample --checkpoint m.safetensors --max-length 0
    expect_bad "--temperature -1" "from 0 to" -- sample --checkpoint m.safetensors --temperature -1
    expect_bad "--top-p 0" "above 0" -- sample --checkpoint m.safetensors --top-p 0
    expect_bad "--top-k x" "a whole number" -- sample --checkpoint m.safetensors --top-k x
    expect_bad "--prompt and --interactive exclude each other" -- \
        sample --checkpoint m.safetensors --prompt a --interactive
    expect_bad "--device cuda: " "; use --device cpu" -- sample --checkpoint m.safetensors --device cuda
    expect_bad "unexpected argument m.safetensors" -- sample m.safetensors
}

reader_gone() {
    timeout "$time_limit" sample --checkpoint "$model" --max-length 20000 2>"$work/stderr" |
        head -c 10 >first || true
    check_equal "bytes" "$(wc -c <first)" 10
    check_no_text "$work/stderr" "sample: standard output"
}

# What was written so far stays; --output is not written.
stopped() {
    in_background sample --checkpoint "$model" --max-length 100000000
    wait_until test -s "$work/stdout"
    stop_background INT 130
    check_equal "the end" "$(tail -c 1 "$work/stdout" | od -An -c | tr -d ' ')" '\n'
    in_background sample --checkpoint "$model" --max-length 100000000 --output file
    wait_until grep -q tokens "$work/stderr"
    stop_background TERM 143
    check_equal "what is in the folder" "$(ls -A)" ""
}

run_case make_model
for name in seeds greedy several multi_byte output_file interactive interactive_goes_on \
            long_prompt missing_character ids_without_text bytes found_checkpoint \
            damaged_checkpoint bad_flags reader_gone stopped; do
    run_case $name
done
finish
