#!/usr/bin/env bash
# find_toolkit.sh [FOLDER] - where the CUDA toolkit and NCCL are: in FOLDER, $CUDA_HOME, that of nvcc in
# the PATH, /usr/local/cuda, the packages of pip (both their layouts), or /usr; each part where it is
# found first. Prints what there is:
#
#     nvcc=FILE     include=FOLDER (one line or more; all headers)     library=FILE (three; all or none)
#
# or, of a toolkit before CUDA 12, too_old=VERSION and no includes or libraries.
set -uo pipefail

folders() {
    local found python packages

    [ $# -eq 0 ] || [ -z "$1" ] || echo "$1"
    [ -z "${CUDA_HOME:-}" ] || echo "$CUDA_HOME"
    if found=$(command -v nvcc); then dirname "$(dirname "$(readlink -f "$found")")"; fi
    echo /usr/local/cuda
    for python in python3 python; do
        packages=$($python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' \
            2>/dev/null) || continue
        ls -d "$packages"/nvidia/{cu[0-9]*,cuda_nvcc,cuda_runtime,cublas,nccl} 2>/dev/null
    done
    echo /usr
}

# The first file of these names below the folders; beside one of pip's packages lie the others.
first() {           # PATTERN...
    local folder pattern file

    while read -r folder; do
        for pattern in "$@"; do
            for file in "$folder"/$pattern "$folder"/../nccl/$pattern; do
                if [ -e "$file" ]; then
                    echo "$(cd "$(dirname "$file")" && pwd)/$(basename "$file")"
                    return
                fi
            done
        done
    done <<<"$all"
    return 1
}

all=$(folders "$@" | awk '!seen[$0]++')
if found=$(first bin/nvcc); then echo "nvcc=$found"; fi

includes=()
for name in cuda_runtime_api.h cublasLt.h nccl.h; do
    found=$(first include/$name targets/x86_64-linux/include/$name) || { includes=(); break; }
    includes+=("include=$(dirname "$found")")
done

# Older ones do not know all that the kernels use.
if [ ${#includes[@]} -gt 0 ]; then
    version=$(sed -n 's/^#define CUDART_VERSION *//p' "${includes[0]#*=}/cuda_runtime_api.h")
    if [ "${version:-0}" -lt 12000 ]; then
        echo "too_old=$((${version:-0} / 1000)).$((${version:-0} % 1000 / 10))"
        exit
    fi
fi
[ ${#includes[@]} -eq 0 ] || printf '%s\n' "${includes[@]}" | awk '!seen[$0]++'

# pip's packages have no libX.so, only libX.so.N.
libraries=()
for name in cudart cublasLt nccl; do
    found=$(first {lib64,lib,targets/x86_64-linux/lib,lib/x86_64-linux-gnu}/lib$name.so{,.*}) ||
        { libraries=(); break; }
    libraries+=("library=$found")
done
[ ${#libraries[@]} -eq 0 ] || printf '%s\n' "${libraries[@]}"
