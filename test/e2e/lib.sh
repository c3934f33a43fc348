# lib.sh - what the end-to-end tests share. Each sources it with the folder of the programs:
#
#     set -euo pipefail
#     . "$(dirname "$0")/lib.sh"
#     a_case() { expect_exit 0 "text" -- trainer c.ini; }     # run in an empty folder of its own
#     run_case a_case
#     finish                                                  # prints "N passed, N failed"
#
# The first check that fails ends its case; the next case runs all the same.

if [ $# -ne 1 ] || [ ! -x "$1/trainer" ]; then
    echo "usage: $0 BUILD_FOLDER" >&2
    exit 2
fi
programs=$(cd "$1" && pwd)
PATH=$programs:$programs/test:$PATH
export LC_ALL=C UBSAN_OPTIONS=${UBSAN_OPTIONS:-halt_on_error=1}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
test_data=$here/../data
work=$(mktemp -d "${TMPDIR:-/tmp}/octet.XXXXXX")
trap 'rm -rf "$work"' EXIT
n_passed=0
n_failed=0

# Seconds for one command; instrumented builds are slow.
time_limit=120

# emulated_gpus N: from here on trainer and sample are those of the emulator, with N GPUs; the others
# keep their names with -cpu.
emulated_gpus() {
    local name

    mkdir "$work/bin"
    for name in trainer sample; do
        ln -s "$programs/test/emulator/$name-emulated" "$work/bin/$name"
        ln -s "$programs/$name" "$work/bin/$name-cpu"
    done
    PATH=$work/bin:$PATH
    export OCTET_TEST_DEVICE=cuda OCTET_EMULATED_GPUS=$1
}

# shim_disk: from here on trainer sees the disk that OCTET_SHIM_... describe (tools/disk_shim.c).
shim_disk() {
    mkdir "$work/shim"
    cat >"$work/shim/trainer" <<END
#!/bin/sh
LD_PRELOAD=$programs/test/libdisk_shim.so ASAN_OPTIONS=verify_asan_link_order=0 \\
    exec $programs/trainer "\$@"
END
    chmod +x "$work/shim/trainer"
    PATH=$work/shim:$PATH
}

fail() {
    printf '%s\n' "$*" >>"$work/why"
    exit 1
}

# In a subshell, whose exit ends the case and nothing else.
run_case() {
    local name=$* status=0

    : >"$work/why"
    rm -rf "$work/case" && mkdir "$work/case"
    set +e
    (
        set -eE
        trap 'echo "line $LINENO: $BASH_COMMAND" >>"$work/why"' ERR
        trap 'jobs -p | xargs -r kill -9 2>/dev/null || true' EXIT
        cd "$work/case"
        "$@"
    )
    status=$?
    set -e
    if [ $status -eq 0 ]; then
        n_passed=$((n_passed + 1))
        echo "ok     $name"
    else
        n_failed=$((n_failed + 1))
        echo "FAILED $name: $(head -n 1 "$work/why")"
        sed 's/^/    /' "$work/stderr" 2>/dev/null | tail -n 5
    fi
}

skip_case() {
    echo "skipped $1: $2"
}

finish() {
    echo "$n_passed passed, $n_failed failed"
    [ $n_failed -eq 0 ]
    exit
}

# ---- running programs ----

# What they print is in $work/stdout and $work/stderr afterwards.
run() {
    timeout "$time_limit" "$@" >"$work/stdout" 2>"$work/stderr"
} 2>/dev/null   # not even "Killed"

# expect_exit CODE TEXT -- COMMAND...: TEXT is somewhere in what it prints; "" for any.
expect_exit() {
    local code=$1 text=$2 status=0

    shift 3
    run "$@" || status=$?
    [ $status -eq "$code" ] ||
        fail "exit code $status of \"$*\", expected $code: $(tail -n 1 "$work/stderr")"
    grep -qF -- "$text" "$work/stdout" "$work/stderr" ||
        fail "\"$*\" does not say \"$text\" but: $(tail -n 1 "$work/stderr" "$work/stdout")"
}

# expect_bad TEXT... -- PROGRAM...: exit code 2, and one line on stderr that has each TEXT. Neither
# the folder nor anything in it changes.
expect_bad() {
    local texts=() text before

    while [ "$1" != -- ]; do
        texts+=("$1")
        shift
    done
    shift
    before=$(fingerprint .)
    expect_exit 2 "" -- "$@"
    [ "$(wc -l <"$work/stderr")" -eq 1 ] ||
        fail "\"$*\" wrote $(wc -l <"$work/stderr") lines to stderr, expected 1"
    grep -q "^$1: " "$work/stderr" ||
        fail "the message does not begin with \"$1: \": $(cat "$work/stderr")"
    for text in "${texts[@]}"; do
        grep -qF -- "$text" "$work/stderr" ||
            fail "the message does not say \"$text\": $(cat "$work/stderr")"
    done
    [ "$(fingerprint .)" = "$before" ] || fail "\"$*\" changed files"
}

# Names, types and contents of all there is in a folder.
fingerprint() {
    (
        cd "$1"
        find . -printf '%p %y\n' | sort
        find . -type f -print0 | sort -z | xargs -0r sha256sum
    )
}

# in_background PROGRAM...: its number is in $pid. Whether or not the tests run under nohup, it does not.
in_background() {
    env --default-signal=HUP "$@" >"$work/stdout" 2>"$work/stderr" &
    pid=$!
}

# stop_background SIGNAL CODE: send the signal and expect this exit code.
stop_background() {
    kill -s "$1" "$pid" || fail "the run ended before SIG$1 was sent: $(tail -n 1 "$work/stderr")"
    ends_with "$2"
}

ends_with() {       # CODE
    local status=0

    wait "$pid" 2>/dev/null || status=$?
    check_equal "the exit code" $status "$1"
}

# to_be_held CALL PROGRAM...: in the background, under disk_shim; it will wait in this call (there is a
# file hold.held then) until released.
to_be_held() {
    : >hold
    OCTET_SHIM_HOLD=$1:$PWD/hold in_background "${@:2}"
}

# held CALL PROGRAM...: it waits there already.
held() {
    to_be_held "$@"
    wait_until test -e hold.held
}

release() {
    rm hold
}

# wait_until COMMAND...: poll until it succeeds, while the program in the background runs.
wait_until() {
    while ! "$@" 2>/dev/null; do
        kill -0 "$pid" 2>/dev/null || fail "the run ended before: $*"
        sleep 0.01
    done
}

# ---- checks ----

check_text() {      # FILE TEXT
    grep -qF -- "$2" "$1" || fail "$1 does not say \"$2\""
}

check_no_text() {   # FILE TEXT
    ! grep -qF -- "$2" "$1" || fail "$1 says \"$2\""
}

check_equal() {     # WHAT VALUE EXPECTED
    [ "$2" = "$3" ] || fail "$1 is \"$2\", expected \"$3\""
}

check_files() {     # FOLDER NAME...: these and no others
    local folder=$1
    shift
    check_equal "what is in $folder" "$(ls -A "$folder" | sort | tr '\n' ' ')" \
                "$(printf '%s\n' "$@" | sort | tr '\n' ' ')"
}

# check_near WHAT FILE EXPECTED abs|rel TOLERANCE: the last numbers of their lines.
check_near() {
    [ -s "$3" ] || fail "there are no values of $1"
    check_equal "the number of values of $1" "$(wc -l <"$2")" "$(wc -l <"$3")"
    awk -v what="$1" -v mode="$4" -v tolerance="$5" '
        NR == FNR { value[FNR] = $NF; next }
        {
            difference = value[FNR] > $NF ? value[FNR] - $NF : $NF - value[FNR]
            size = mode == "abs" ? 1 : $NF > 0 ? $NF : -$NF
            if (!(difference <= tolerance * size)) {
                printf "%s, line %d: %s, expected %s\n", what, FNR, value[FNR], $NF
                exit 1
            }
        }' "$2" "$3" >>"$work/why" || exit 1
}

check_tensors() {   # FILE FILE TOLERANCE [PREFIX]
    tensors compare "$@" 2>>"$work/why" || exit 1
}

# check_whole FOLDER: the checksums of all checkpoints in it are right.
check_whole() {
    local file

    for file in "$1"/*.safetensors; do
        [ ! -e "$file" ] || tensors list "$file" >/dev/null 2>>"$work/why" || exit 1
    done
}

# check_same_run FOLDER FOLDER: equal rows of metrics.jsonl, speed left out.
check_same_run() {
    local key

    for key in loss grad_norm lr tokens epoch val_loss; do
        metrics values "$1/metrics.jsonl" $key >"$work/a"
        metrics values "$2/metrics.jsonl" $key >"$work/b"
        cmp -s "$work/a" "$work/b" ||
            fail "$key differs: $({ diff "$work/a" "$work/b" || true; } | tail -n 1)"
    done
}

# check_near_run FOLDER FOLDER FIRST LAST TOLERANCE: the losses of these steps.
check_near_run() {
    metrics values "$1/metrics.jsonl" loss | within "$3" "$4" >"$work/a"
    metrics values "$2/metrics.jsonl" loss | within "$3" "$4" >"$work/b"
    check_near "the loss" "$work/a" "$work/b" abs "$5"
}

# within FIRST LAST: the lines that begin with a number of these.
within() {
    awk -v first="$1" -v last="$2" '$1 >= first && $1 <= last'
}

has_steps() {       # FILE N: so many steps are done
    [ "$(wc -l <"$1")" -ge "$2" ]
}

# ---- inputs ----

# tiny_config KEY=VALUE...: write c.ini for a small run with these values in place of its own.
tiny_config() {
    local assignment key

    cat >c.ini <<END
[model]
vocab_size = 0
max_seq_len = 32
dim = 32
depth = 2
heads = 2
mlp_dim = 64
dropout = 0
use_rotary_emb = true
[training]
batch_size = 4
num_epochs = 1
max_steps = 20
learning_rate = 1e-3
weight_decay = 0.1
warmup_steps = 5
max_grad_norm = 1.0
gradient_accumulation_steps = 1
adam_beta1 = 0.9
adam_beta2 = 0.95
adam_epsilon = 1e-8
lr_schedule = cosine
min_lr_ratio = 0.1
use_amp = false
amp_dtype = bfloat16
[data]
dataset_path = tokens.safetensors
shuffle = true
[distributed]
device = ${OCTET_TEST_DEVICE:-cpu}
cuda_graphs = true
share_gpu = false
[checkpoint]
save_dir = checkpoints
save_every = 1
keep_last = 3
save_optimizer = true
background = true
[logging]
log_dir = logs
log_every = 100
[evaluation]
eval_every = 1
generate_samples = false
num_samples = 1
sample_length = 20
END
    for assignment in "$@"; do
        key=${assignment%%=*}
        grep -q "^$key = " c.ini || fail "tiny_config has no $key"
        sed -i "s|^$key = .*|$key = ${assignment#*=}|" c.ini
    done
}

# tiny_tokens BYTES [FLAG...]: tokens.safetensors from so much English text, with flags of prepare.
tiny_tokens() {
    head -c "$1" "$here/../../datasets/sample.txt" >text.txt
    run prepare --custom-text text.txt --output tokens.safetensors "${@:2}"
}

# The configuration that a file of the oracle describes, with its tokens and first weights; its batch
# is shared by the workers, and by the micro-batches of each.
oracle_config() {   # ORACLE WORKERS ACCUMULATION [KEY=VALUE...]
    local settings=() key

    for key in max_seq_len dim depth heads mlp_dim use_rotary_emb learning_rate warmup_steps \
               min_lr_ratio weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm; do
        settings+=("$key=$(tensors metadata "$1" $key)")
    done
    tiny_config "${settings[@]}" shuffle=false "max_steps=$(tensors metadata "$1" steps)" \
        "batch_size=$(($(tensors metadata "$1" batch) / $2 / $3))" \
        "gradient_accumulation_steps=$3" "${@:4}"
    tensors tokens "$1" stream tokens.safetensors "$(tensors metadata "$1" vocab_size)"
    tensors extract "$1" init. init.safetensors
}
