"""peers.md and peers.svg: what was measured, on what, and how the programs compare."""
import collections
import datetime
import html
import os
import platform
import re
import statistics
import subprocess

DTYPES = ("bfloat16", "float32")
NONE = "-"
# PyTorch with what it offers by itself, and with other libraries put under it.
PYTORCH, TUNED = "PyTorch", "Tuned PyTorch"


def rate(value):
    """Three significant digits at least, as figures that vary by percents deserve."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mebibytes(value):
    return f"{value / (1 << 20):,.0f}"


class Results:
    """Samples by model, number format and program, in the order of the rounds."""

    def __init__(self, models, labels):
        self.models, self.labels = models, labels
        self.samples = collections.defaultdict(list)
        self.failures = []
        self.load_at_start = 0

    def add(self, model, dtype, label, sample):
        self.samples[model.name, dtype, label].append(sample)

    def of(self, model, dtype, label):
        return self.samples.get((model.name, dtype, label), [])

    def median(self, model, dtype, label, quantity):
        """Of the rounds; None where nothing was measured. `quantity`: "rate" or "peak"."""
        values = [getattr(sample, quantity) for sample in self.of(model, dtype, label)]
        return statistics.median(values) if values else None

    def best_of(self, model, dtype, kind, quantity):
        """The fastest of a kind of PyTorch's variants, or the one that needs the least memory."""
        values = [self.median(model, dtype, label, quantity)
                  for label in self.labels if label.startswith(kind)]
        choose = max if quantity == "rate" else min
        return choose((value for value in values if value is not None), default=None)


def first_match(path, pattern):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = re.search(pattern, file.read(), re.MULTILINE)
    except OSError:
        return "unknown"
    return found[1].strip() if found else "unknown"


def output_of(*argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (done.stdout.strip().splitlines() or ["unknown"])[0]


def commit(folder):
    return output_of("git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=10",
                     "--exclude=*")


def ratio(a, b):
    return NONE if not a or not b else f"{a / b:.2f}"


def conditions(args, results, programs, notes):
    """Lines on the machine, the programs and their settings."""
    cores = len(os.sched_getaffinity(0))
    memory = int(first_match("/proc/meminfo", r"^MemTotal:\s+(\d+)").replace("unknown", "0"))
    processor = first_match("/proc/cpuinfo", r"^model name\s*: (.*)")
    system = first_match("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)')
    huge = first_match("/sys/kernel/mm/transparent_hugepage/enabled", r"\[(\w+)\]")
    octet, pytorch = programs[0][0], programs[1][0]
    here = os.path.dirname(os.path.abspath(__file__))
    command = (f"bench/peers/run.py --nanogpt nanoGPT --llmc llm.c --step build/bench/step "
               f"--models {','.join(args.models)} --rounds {args.rounds} "
               f"--seconds {args.seconds:g}")
    computed = "; ".join(f"{dtype}: {device}" for dtype, device in sorted(octet.devices.items()))
    return [
        f"- Command: `{command}`; {datetime.date.today().isoformat()}",
        f"- Machine: {processor}, {cores} cores, {memory / (1 << 20):.0f} GiB; {system}, "
        f"Linux {platform.release()}, huge pages `{huge}`; load average at the start "
        f"{results.load_at_start:.1f}",
        f"- Octet: commit {commit(here)}, one worker with all cores ({computed})",
        f"- PyTorch {pytorch.version}, which takes {mebibytes(pytorch.imported)} MiB once imported;"
        f" nanoGPT: commit {commit(args.nanogpt)}. Settings: autocast, fused AdamW, as many threads as "
        f"cores. Tuned, that is with other libraries under it: {'; '.join(notes['PyTorch'])}.",
        f"- llm.c: commit {commit(args.llmc)}, `train_gpt2.c` by {output_of(args.cc, '--version')} "
        f"with the flags of its Makefile. Settings: {'; '.join(notes['llm.c'])}.",
    ]


def model_lines(results):
    return [f"- **{m.name}**: {m.dim} wide, {m.depth} blocks, {m.heads} heads, vocabulary "
            f"{m.vocabulary:,}; {m.batch} x {m.length:,} tokens a step" for m in results.models]


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
            *["| " + " | ".join(row) + " |" for row in rows]]


def comparison(results, quantity):
    """Medians of all programs, and how many times better Octet is than its peers at their best."""
    form = rate if quantity == "rate" else mebibytes
    rows = []
    for model in results.models:
        for dtype in DTYPES:
            values = [results.median(model, dtype, label, quantity) for label in results.labels]
            octet = results.median(model, dtype, "Octet", quantity)
            pairs = [(octet, results.best_of(model, dtype, PYTORCH, quantity)),
                     (octet, results.best_of(model, dtype, TUNED, quantity)),
                     (octet, results.median(model, "float32", "llm.c", quantity))]
            if quantity == "peak":
                pairs = [(b, a) for a, b in pairs]
            rows.append([model.name, dtype, *[form(v) if v else NONE for v in values],
                         *[f"**{ratio(a, b)}**" for a, b in pairs]])
    last = (["Octet : PyTorch", "Octet : tuned PyTorch", "Octet : llm.c"] if quantity == "rate" else
            ["PyTorch : Octet", "tuned PyTorch : Octet", "llm.c : Octet"])
    return table(["Model", "Format", *results.labels, *last], rows)


def rounds(results):
    rows = []
    for model in results.models:
        for dtype in DTYPES:
            for label in results.labels:
                samples = results.of(model, dtype, label)
                if samples:
                    rows.append([model.name, dtype, label,
                                 ", ".join(rate(sample.rate) for sample in samples),
                                 ", ".join(mebibytes(sample.peak) for sample in samples)])
    return table(["Model", "Format", "Program", "Tokens/s", "Peak MiB"], rows)


def markdown(args, results, programs, notes):
    lines = [
        "# Octet beside PyTorch and llm.c, on CPU", "",
        "Training steps of the same models: forward, backward, clipping, AdamW; random tokens, no "
        "dropout. llm.c does not clip, and has float32 alone: Octet's bfloat16 is compared with "
        "that too. nanoGPT and llm.c have biases in attention, where Octet has none. The programs "
        "took turns; on a machine that does other work at the same time the figures mean little.",
        "", "![Tokens per second](peers.svg)", "",
        *conditions(args, results, programs, notes), "", *model_lines(results), "",
        "## Tokens/s, medians of the rounds", "", *comparison(results, "rate"), "",
        "## Peak resident memory, MiB, medians of the rounds", "",
        "Of the whole process, as the kernel reports it at the end.", "",
        *comparison(results, "peak"), "",
        "## Each round", "", *rounds(results), ""]
    if results.failures:
        lines += ["## Failed", "", *[f"- {failure}" for failure in results.failures], ""]
    return "\n".join(lines)


# The drawing: one group of bars for each model, lengths relative to PyTorch at its best in that format.
WIDTH, LEFT, RIGHT, BAR, GAP = 760, 190, 170, 16, 5
STYLE = """
    text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 } .model { font-weight: 600 }
    .note { fill: #59636e; font-size: 12px }
    .ground { fill: #ffffff } .line { stroke: #59636e; stroke-dasharray: 3 3 }
    .octet { fill: #0969da } .pytorch { fill: #d4702a } .llmc { fill: #818b98 }
    .tuned { fill: #e3a16f }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .note { fill: #9198a1 } .ground { fill: #0d1117 }
      .line { stroke: #9198a1 } .octet { fill: #4493f8 } .pytorch { fill: #e0823d }
      .llmc { fill: #7d8590 } .tuned { fill: #a3623a }
    }"""


def bars_of(results, model):
    """(label, class, tokens/s, relative to PyTorch) from the top down; None is a gap."""
    bars = []
    for dtype in DTYPES:
        best = results.best_of(model, dtype, PYTORCH, "rate")
        for label, style, value in (
                ("Octet", "octet", results.median(model, dtype, "Octet", "rate")),
                ("Tuned PyTorch", "tuned", results.best_of(model, dtype, TUNED, "rate")),
                ("PyTorch", "pytorch", best),
                ("llm.c", "llmc", results.median(model, dtype, "llm.c", "rate"))):
            if best and value:
                bars.append((f"{label}, {dtype}", style, value, value / best))
        bars.append(None)
    return bars


def drawing(results):
    groups = [(model, bars_of(results, model)) for model in results.models]
    longest = max([bar[3] for _, bars in groups for bar in bars if bar], default=1)
    scale = (WIDTH - LEFT - RIGHT) / max(longest, 1)
    one = LEFT + scale
    parts, y = [], 34

    def text(x, style, words, anchor="start"):
        parts.append(f'<text x="{x:.0f}" y="{y + BAR - 4}" class="{style}" '
                     f'text-anchor="{anchor}">{html.escape(words)}</text>')

    text(one, "note", "PyTorch = 1", "middle")
    y += BAR + GAP
    for model, bars in groups:
        text(12, "model", f"{model.name}: {model.dim} wide, {model.depth} blocks, vocabulary "
             f"{model.vocabulary:,}, {model.batch} x {model.length:,} tokens")
        y += BAR + GAP
        top = y
        for bar in bars:
            if not bar:
                y += GAP
                continue
            label, style, value, relative = bar
            text(LEFT - 8, "label", label, "end")
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{max(relative * scale, 1):.1f}" '
                         f'height="{BAR}" class="{style}"/>')
            text(LEFT + max(relative, 1) * scale + 8, "value",
                 f"{rate(value)} tokens/s ({relative:.2f})")
            y += BAR + GAP
        parts.append(f'<line x1="{one:.1f}" y1="{top}" x2="{one:.1f}" y2="{y - GAP}" '
                     'class="line"/>')
        y += GAP
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 6}" width="{WIDTH}" '
        f'height="{y + 6}" role="img" aria-label="Training speed on CPU, relative to PyTorch">',
        f"<style>{STYLE}\n</style>",
        f'<rect width="{WIDTH}" height="{y + 6}" class="ground"/>',
        '<text x="12" y="24" class="title">Training on CPU: tokens per second</text>',
        *parts, "</svg>", ""])


def write(args, results, programs, notes):
    for name, text in (("peers.md", markdown(args, results, programs, notes)),
                       ("peers.svg", drawing(results))):
        with open(os.path.join(args.out, name), "w", encoding="utf-8") as file:
            file.write(text)
