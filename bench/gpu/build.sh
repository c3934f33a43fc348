# build.sh - the programs of run.sh from their sources, with compilers and the CUDA libraries alone.
# To be sourced: uses root, build, jobs, emulator, arch, die and query_gpu of run.sh; sets nvcc, ""
# for emulated GPUs; leaves the programs in $build.

all_programs="test_cuda_ops test_attention check_step kernels steps"
nvcc=
libraries=()

# ---- the toolkit ----

find_toolkit() {
    local line

    includes=
    while read -r line; do
        case $line in
        nvcc=*) nvcc=${line#*=} ;;
        include=*) includes+=" -isystem ${line#*=}" ;;
        library=*) libraries+=("${line#*=}") ;;
        esac
    done < <("$root/kernels/cuda/find_toolkit.sh")
    [ -n "$includes" ] || die "no headers of CUDA, cuBLASLt and NCCL were found; CUDA_HOME says where"
    if $emulator; then
        nvcc=
        libraries=()
        return
    fi
    [ -n "$nvcc" ] || die "nvcc was not found; CUDA_HOME says where"
    [ ${#libraries[@]} -gt 0 ] || die "cudart, cuBLASLt or NCCL was not found; CUDA_HOME says where"
    if [ -z "$arch" ]; then
        arch=$(query_gpu compute_cap)
        arch=${arch//./}
    fi
    [ -n "$arch" ] || die "nvidia-smi shows no GPU; --arch NN says for which one to build"
}

toolkit_version() {
    if [ -z "$nvcc" ]; then echo "no nvcc" && return; fi
    "$nvcc" --version | sed -n 's/.*release/nvcc/p'
}

# ---- sources ----

# the_PROGRAM: what a program is made of, besides the_gpu.
list_sources() {
    local source

    the_gpu=(src/base/{status,tensor,team}.c src/model/*.c src/device/cpu.c src/device/cuda*.c
             src/train/optimizer.c kernels/ops.c kernels/cuda/table.c kernels/cuda/*.cu)
    for source in kernels/cpu/*.c; do
        if [ "$source" != kernels/cpu/matmul_bf16.c ]; then the_gpu+=("$source"); fi
    done
    if $emulator; then
        for source in test/emulator/*.cpp; do
            case $source in *planted* | *race* | *test_*) ;; *) the_gpu+=("$source") ;; esac
        done
    fi
    the_kernels=(bench/gpu/{kernels,cases,bench}.c test/ops/calls.c)
    the_steps=(bench/gpu/{steps,bench}.c)
    the_check_step=(bench/gpu/{check_step,bench}.c)
    the_test_cuda_ops=(test/cuda/test_cuda_ops.c
                       test/ops/{calls,check_*,element,real_types,reference,trial}.c)
    the_test_attention=(test/cuda/test_attention.cpp test/ops/reference.c)
}

# Those that take longest come first, so that none of them is what all wait for at the end.
sources_in_order() {
    local program

    for program in gpu $all_programs; do
        local -n sources=the_$program
        printf '%s\n' "${sources[@]}"
    done | sort -u | awk '{ print ($1 ~ /attention\.(cu|cpp)$/ ? 0 : $1 ~ /\.cu$/ ? 1 : 2), $1 }' |
        sort | cut -d ' ' -f 2
}

# ---- the build ----

# The object is newer than this build's description and all that it was made from.
is_fresh() {
    local file

    for file in "$root/bench/gpu/build.sh" $(sed 's/^[^:]*://; s/\\$//' "$1.d" 2>/dev/null); do
        [ "$1" -nt "$file" ] || return 1
    done
}

# compile SOURCE: to an object in $build.
compile() {
    local source=$1 object=$build/${1//\//-}.o command log
    local optimize="-O2 -g -fno-math-errno -fopenmp-simd -pthread"

    if is_fresh "$object"; then return; fi
    case $source in
    kernels/cpu/*) optimize+=" -O3 -fno-trapping-math -DCPU_VARIANT=double -DCPU_REAL_DOUBLE" ;;
    # Only the CPU kernels in double are built: they need no library, and nothing asks for others.
    src/device/cpu.c)
        optimize+=" -fopenmp -Dcpu_fill_ops_plain=cpu_fill_ops_double"
        optimize+=" -Dcpu_fill_ops_plain_bf16=cpu_fill_ops_double" ;;
    esac
    case $source in
    *.c) command="${CC:-cc} -std=gnu17 $optimize" ;;
    *.cu | test/cuda/*.cpp)
        command="${CXX:-c++} -x c++ -std=gnu++17 $optimize -Wno-unknown-pragmas"
        if [ -n "$nvcc" ]; then
            command="$nvcc -x cu -std=c++17 -O3 -lineinfo"
            command+=" -gencode arch=compute_$arch,code=sm_$arch"
        fi ;;
    *.cpp) command="${CXX:-c++} -std=gnu++17 $optimize" ;;
    esac
    command+=" -D_GNU_SOURCE -I. -Isrc -Itest -Ibench $includes"
    echo "$source"
    log=$($command -MD -MF "$object.d" -c "$source" -o "$object" 2>&1) || {
        printf '%s\n' "$command -c $source" "$log" >&2
        rm -f "$object"
        return 1
    }
}

link_program() {
    local -n sources=the_$1
    local source library parts=()

    for source in "${sources[@]}" "${the_gpu[@]}"; do
        parts+=("$build/${source//\//-}.o")
    done
    for library in "${libraries[@]}"; do
        parts+=("$library" "-Wl,-rpath,$(dirname "$library")")
    done
    ${CXX:-c++} -pthread -fopenmp "${parts[@]}" -lm -o "$build/$1"
}

build_all() {
    local program start=$SECONDS

    mkdir -p "$build"
    find_toolkit
    echo "building in $build: $(toolkit_version)${arch:+, sm_$arch}"
    cd "$root"
    list_sources
    export -f compile is_fresh
    export root build includes nvcc arch
    sources_in_order | xargs -P "$jobs" -n 1 bash -c 'compile "$0"' >"$build/compiled" ||
        die "the build failed"
    for program in $all_programs; do
        link_program "$program"
    done
    cd - >/dev/null
    echo "built $(wc -l <"$build/compiled") files in $((SECONDS - start)) s"
}
