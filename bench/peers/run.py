#!/usr/bin/env python3
"""Octet beside nanoGPT on PyTorch and llm.c's CPU trainer: speed and memory on the same models.

    ninja -C build bench/step
    bench/peers/run.py --nanogpt CHECKOUT --llmc CHECKOUT --step build/bench/step \\
        --python VENV/bin/python

The programs take turns, one run after the other, in several rounds; what counts are medians over
the rounds. The report, peers.md with peers.svg, is written anew after each round. Needs gcc, a
Python with PyTorch, git, and 1.2 GB in the temporary folder; the peers are at their fastest
where jemalloc and LLVM's OpenMP are installed (Debian: libjemalloc2, libomp-14-dev)."""
import argparse
import glob
import os
import sys
import tempfile

import report
from programs import (Failure, LlmC, NanoGPT, Octet, llmc_environment, pytorch_environment,
                      read_model, run)

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models")


def positive(kind):
    def parse(text):
        value = kind(text)
        if not 0 < value < 1e6:
            raise argparse.ArgumentTypeError("expected a number above 0")
        return value
    return parse


def parse_arguments():
    known = sorted(os.path.splitext(os.path.basename(path))[0]
                   for path in glob.glob(os.path.join(MODELS, "*.ini")))
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", required=True, metavar="CHECKOUT",
                        help="of https://github.com/karpathy/nanoGPT")
    parser.add_argument("--llmc", required=True, metavar="CHECKOUT",
                        help="of https://github.com/karpathy/llm.c")
    parser.add_argument("--step", required=True, metavar="PROGRAM", help="build/bench/step")
    parser.add_argument("--python", default=sys.executable, help="a Python with PyTorch (this one)")
    parser.add_argument("--cc", default="gcc", help="compiler of llm.c (gcc)")
    parser.add_argument("--models", default=",".join(known), metavar="a,b",
                        help=f"files of bench/models ({','.join(known)})")
    parser.add_argument("--rounds", type=positive(int), default=3, help="(3)")
    parser.add_argument("--seconds", type=positive(float), default=8,
                        help="timed steps in each run (8)")
    parser.add_argument("--out", default="build/peers", metavar="FOLDER",
                        help="where peers.md and peers.svg go (build/peers)")
    args = parser.parse_args()
    args.models = args.models.split(",")
    for name in args.models:
        if name not in known:
            parser.error(f"--models: no model {name!r} in bench/models; known: {', '.join(known)}")
    return args


def competitors(args, folder):
    """(program, number formats) in the order of their turns; notes on the settings, by program."""
    both = ["bfloat16", "float32"]
    tuned, pytorch_notes = pytorch_environment(folder, args.cc)
    llmc_settings, llmc_notes = llmc_environment()
    octet = Octet(args.step)
    variants = [NanoGPT(label + suffix, args.python, args.nanogpt, settings, folder, compiled)
                for label, settings in ((report.PYTORCH, {}), (report.TUNED, tuned))
                for suffix, compiled in (("", False), (" compiled", True))]
    try:
        run([args.python, "-c", "import torch"])
    except Failure as error:
        raise Failure(f"--python {args.python}: no PyTorch there (pip install torch numpy, or name "
                      f"another Python): {error}") from error
    peer = LlmC(args.llmc, args.cc, llmc_settings, folder)
    return [(octet, both), *[(variant, both) for variant in variants], (peer, ["float32"])], {"PyTorch": pytorch_notes, "llm.c": llmc_notes}


def measure(program, model, dtype, seconds, results, turn):
    title = f"{turn} {model.name:3} {dtype:9} {program.label:21}"
    try:
        sample = program.measure(model, dtype, seconds)
    except Failure as error:
        print(f"{title} failed: {error}", flush=True)
        results.failures.append(f"{model.name}, {dtype}, {program.label}, {turn}: {error}")
        return
    results.add(model, dtype, program.label, sample)
    print(f"{title} {report.rate(sample.rate):>9} tokens/s {report.mebibytes(sample.peak):>7} MiB",
          flush=True)


def compare(args, folder):
    models = [read_model(os.path.join(MODELS, name + ".ini")) for name in args.models]
    programs, notes = competitors(args, folder)
    results = report.Results(models, [program.label for program, _ in programs])
    results.load_at_start = os.getloadavg()[0]

    for i in range(1, args.rounds + 1):
        for model in models:
            for program, dtypes in programs:
                for dtype in dtypes:
                    measure(program, model, dtype, args.seconds, results,
                            f"round {i}/{args.rounds}")
        report.write(args, results, programs, notes)
    return 1 if results.failures else 0


def main():
    args = parse_arguments()
    try:
        os.makedirs(args.out, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="octet_peers_") as folder:
            return compare(args, folder)
    except (Failure, OSError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run.py: interrupted; the report holds the rounds that were complete",
              file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
