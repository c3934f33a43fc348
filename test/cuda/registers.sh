#!/usr/bin/env bash
# registers.sh REPORT... - registers, static shared memory and spills of every kernel, from what ptxas
# said when they were compiled. Kernels that a training step's time depends on must not spill.
set -euo pipefail

c++filt <<<"" >/dev/null || { echo "registers.sh: c++filt (binutils) is missing" >&2; exit 2; }

cat "$@" | c++filt | sed 's/(anonymous namespace):://g' | awk '
    /Compiling entry function/ {
        match($0, /\047[^\047]*\047 for/)
        kernel = substr($0, RSTART + 1, RLENGTH - 6)
        sub(/^void /, "", kernel)
        match($0, /sm_[0-9]+/)
        arch = substr($0, RSTART, RLENGTH)
        name = kernel
        sub(/[<(].*/, "", name)
    }
    /bytes spill stores/ {
        for (i = 1; i <= NF; i++)
            if ($i == "spill")
                spill += $(i - 2)
    }
    /Used [0-9]+ registers/ {
        match($0, /Used [0-9]+/)
        registers = substr($0, RSTART + 5, RLENGTH - 5) + 0
        shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH) + 0 : 0
        if (!(name in variants))
            names[++n_names] = name
        if (!(arch in is_arch)) {
            is_arch[arch] = 1
            archs[++n_archs] = arch
        }
        if (!seen[name, kernel]++)
            variants[name]++
        if (registers > most[name, arch])
            most[name, arch] = registers
        if (shared > memory[name])
            memory[name] = shared
        spilled[name] += spill
        if (spill && name ~ /^(attention|layernorm|cross_entropy|adamw)/)
            bad[++n_bad] = sprintf("%s, %s: %d bytes spilled", kernel, arch, spill)
        spill = 0
    }
    END {
        printf "most registers of a thread; static shared memory and spills in bytes\n%-34s %8s", \
               "kernel", "variants"
        for (a = 1; a <= n_archs; a++)
            printf " %6s", archs[a]
        printf " %7s %6s\n", "shared", "spills"
        for (k = 1; k <= n_names; k++) {
            name = names[k]
            printf "%-34s %8d", name, variants[name]
            for (a = 1; a <= n_archs; a++)
                printf " %6d", most[name, archs[a]]
            printf " %7d %6d\n", memory[name], spilled[name]
        }
        for (b = 1; b <= n_bad; b++)
            print "FAILED " bad[b]
        if (n_names == 0)
            print "FAILED: no kernel was found"
        print (n_names > 0 && n_bad == 0 ? "1 passed, 0 failed" : "0 passed, 1 failed")
        exit n_names == 0 || n_bad > 0
    }'
