#!/usr/bin/env python3
"""Training steps of nanoGPT's model on PyTorch's CPU backend; run.py starts it.

    python nanogpt.py CHECKOUT --dim N --depth N --heads N --batch N --length N --vocabulary N
        --dtype {bfloat16,float32} [--compile] [--threads N] [--seconds S]

A step is that of nanoGPT's train.py: forward and backward under autocast, clipping at 1, AdamW,
gradients set to None; AdamW is the fused one. Tokens are random, dropout is 0. The last line of the
output is JSON: PyTorch's version, the seconds of each step, the last loss, the peak memory in bytes
once PyTorch was imported and at the end.

What of PyTorch's settings made it faster is set before it starts, through the environment: see
pytorch_environment() in programs.py. Tried on Zen 5 and of no use there:
torch.backends.mkldnn.matmul.fp32_precision (float32 products through oneDNN: slower than MKL, once
MKL uses AVX-512), THP_MEM_ALLOC_ENABLE (beside jemalloc's own huge pages), KMP_AFFINITY, tcmalloc
(as fast, but for long windows), glibc's malloc told to keep its memory (slower than either).
"""
import argparse
import json
import os
import resource
import sys
import time

WARMUP = 2
FEWEST_STEPS = 3


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkout", help="folder of nanoGPT's source")
    for name in ("dim", "depth", "heads", "batch", "length", "vocabulary"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], required=True)
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=8, help="time to spend on timed steps")
    return parser.parse_args()


def import_peers(checkout):
    if not os.path.isfile(os.path.join(checkout, "model.py")):
        sys.exit(f"nanogpt.py: no model.py in {checkout}; expected a checkout of "
                 "https://github.com/karpathy/nanoGPT")
    try:
        import torch
    except ImportError as error:
        sys.exit(f"nanogpt.py: {sys.executable} cannot import PyTorch ({error}); "
                 "pip install torch numpy, or name another Python")
    sys.path.insert(0, checkout)
    import model
    return torch, model


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    args = parse_arguments()
    torch, nanogpt = import_peers(args.checkout)
    imported = peak_bytes()

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = nanogpt.GPT(nanogpt.GPTConfig(
        block_size=args.length, vocab_size=args.vocabulary, n_layer=args.depth,
        n_head=args.heads, n_embd=args.dim, dropout=0.0, bias=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95),
                                  weight_decay=0.1, fused=True)
    forward = torch.compile(model) if args.compile else model
    tokens = torch.randint(args.vocabulary, (args.batch, args.length + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bfloat16"):
            _, loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    for _ in range(WARMUP):
        step()
    times = []
    while len(times) < FEWEST_STEPS or sum(times) < args.seconds:
        start = time.perf_counter()
        loss = step()
        times.append(time.perf_counter() - start)
    print(json.dumps({"torch": torch.__version__, "seconds": times, "loss": loss,
                      "imported": imported, "peak": peak_bytes()}), flush=True)
    os._exit(0)     # PyTorch's ordinary end reads in up to 100 MiB more of its libraries


if __name__ == "__main__":
    main()
