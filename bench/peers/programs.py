"""The programs that are compared: how each is started on a model, and what it reports."""
import collections
import configparser
import contextlib
import ctypes.util
import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import threading

import llmc

LIMIT_SECONDS = 3600
# A Python that inherits these would no longer run with the settings that the report names.
CLEARED = ("OMP_", "KMP_", "GOMP_", "MKL_", "MALLOC_", "DNNL_", "ONEDNN_", "TORCH", "THP_",
           "LD_PRELOAD", "GLIBC_TUNABLES")

# On processors of other makers MKL stays at AVX2; this function is where it asks.
MKL_ANY_MAKER = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"

Sample = collections.namedtuple("Sample", "rate peak")     # tokens/s, bytes
Model = collections.namedtuple("Model", "name path dim depth heads batch length vocabulary")


class Failure(Exception):
    """One line that says what is wrong and, where known, what to do."""


def read_model(path):
    """The shape in a configuration; what the models of the peers are not is refused."""
    parser = configparser.ConfigParser()
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
        section = parser["model"]
        model = Model(name=os.path.splitext(os.path.basename(path))[0].upper(), path=path,
                      dim=section.getint("dim"), depth=section.getint("depth"),
                      heads=section.getint("heads"), batch=parser.getint("training", "batch_size"),
                      length=section.getint("max_seq_len"),
                      vocabulary=section.getint("vocab_size"))
        rules = [("mlp_dim", section.getint("mlp_dim") == 4 * model.dim, "4 times dim"),
                 ("use_rotary_emb", section.getboolean("use_rotary_emb") is False, "false"),
                 ("dropout", section.getfloat("dropout") == 0, "0"),
                 ("vocab_size", 0 < model.vocabulary <= 1 << 16, "from 1 to 65536")]
    except (OSError, configparser.Error, KeyError, ValueError, TypeError) as error:
        raise Failure(f"{path}: not a model for this comparison: {error}") from error
    for key, right, expected in rules:
        if not right:
            raise Failure(f"{path}: {key} must be {expected}, as in the models of the peers")
    return model


def last_error(text):
    lines = text.splitlines() or ["no message"]
    return ([line for line in lines if "rror" in line] or lines)[-1].strip()


def run(argv, env=None, cwd=None):
    """Output and peak memory of a program; the memory is what the kernel reports at its end."""
    name = os.path.basename(argv[1] if argv[1:] and argv[1].endswith(".py") else argv[0])
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
                                       env=env, cwd=cwd, start_new_session=True)
        except OSError as error:
            raise Failure(f"cannot start {argv[0]}: {error.strerror}") from error
        timer = threading.Timer(LIMIT_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            timer.cancel()
            with contextlib.suppress(ProcessLookupError):      # what it may have left behind
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        errors.seek(0)
        text = output.read().decode(errors="replace")
        complaint = errors.read().decode(errors="replace").strip() or text.strip()
    if process.returncode:
        end = f"exit code {process.returncode}"
        if process.returncode < 0:
            end = f"signal {-process.returncode}"
        if process.returncode == -signal.SIGKILL:
            end += f" (out of memory, or slower than {LIMIT_SECONDS} s)"
        raise Failure(f"{name} ended with {end}: {last_error(complaint)}")
    return text, usage.ru_maxrss * 1024


def clean_environment(**more):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(CLEARED)}
    return {**kept, **more}


class Octet:
    """Octet's bench/step, with the settings that it has by itself."""
    label = "Octet"

    def __init__(self, step):
        self.step = os.path.abspath(step)
        self.step_seconds = {}      # by model and dtype
        self.devices = {}           # what it computed with, by dtype
        if not os.access(self.step, os.X_OK):
            raise Failure(f"{step}: no such program; build it: ninja -C build bench/step")

    def run(self, model, dtype, steps):
        amp = "true" if dtype == "bfloat16" else "false"
        text, peak = run([self.step, os.path.abspath(model.path), "--gpus", "1",
                          "--steps", str(steps), "--warmup", "2",
                          "--set", "distributed.device=cpu",
                          "--set", f"training.use_amp={amp}"],
                         clean_environment())
        found = re.search(r"^step ([\d.]+) ms .*?, (\d+) tokens/s", text, re.MULTILINE)
        device = re.search(r"^model .*?; \d+ x (.*)$", text, re.MULTILINE)
        if not found or not device:
            raise Failure(f"{self.step}: no line \"step ... ms, ... tokens/s\" in its output")
        self.devices[dtype] = device[1]
        return float(found[1]) / 1e3, Sample(float(found[2]), peak)

    def measure(self, model, dtype, seconds):
        key = model.name, dtype
        if key not in self.step_seconds:
            self.step_seconds[key], _ = self.run(model, dtype, 2)
        return self.run(model, dtype, max(3, round(seconds / self.step_seconds[key])))[1]


def preload(environment, *libraries):
    """The environment with these libraries in front of those of the program."""
    already = environment.get("LD_PRELOAD", "").split(":")
    return {**environment, "LD_PRELOAD": ":".join(filter(None, [*already, *libraries]))}


def openmp_environment():
    """LLVM's OpenMP in place of GNU's, whose barriers suffer most when a core is taken away."""
    library = ctypes.util.find_library("iomp5") or ctypes.util.find_library("omp")
    if not library:
        return {}, "LLVM's OpenMP not installed (Debian: libomp-14-dev), which is faster"
    return ({"LD_PRELOAD": library, "KMP_BLOCKTIME": "1"},
            f"{library} in place of GNU's OpenMP, KMP_BLOCKTIME=1")


def llmc_environment():
    """Settings that make llm.c fastest, and a line on each."""
    environment, note = openmp_environment()
    return ({**environment, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
            [note, "huge pages from glibc's malloc"])


def pytorch_environment(folder, compiler):
    """Settings that make PyTorch fastest on a CPU, and a line on each: the allocator and the OpenMP
    of its tuning guide, and MKL with all the vector instructions that the processor has."""
    environment, note = openmp_environment()
    notes = [note]
    jemalloc = ctypes.util.find_library("jemalloc")
    if jemalloc:
        environment = preload(environment, jemalloc)
        environment["MALLOC_CONF"] = ("thp:always,metadata_thp:auto,"
                                      "dirty_decay_ms:-1,muzzy_decay_ms:-1")
        notes.append(f"{jemalloc} with huge pages, keeping freed memory")
    else:
        notes.append("jemalloc not installed (Debian: libjemalloc2), which is faster")
    library = os.path.join(folder, "mkl_any_maker.so")
    source = os.path.join(folder, "mkl_any_maker.c")
    with open(source, "w", encoding="utf-8") as file:
        file.write(MKL_ANY_MAKER)
    run([compiler, "-shared", "-fPIC", "-o", library, source])
    notes.append("a preloaded function that lets MKL use AVX-512 on any maker's processor")
    return preload(environment, library), notes


class NanoGPT:
    """nanoGPT on PyTorch in one of its variants; `environment` holds the settings."""

    def __init__(self, label, python, checkout, environment, folder, compiled=False):
        self.label, self.compiled = label, compiled
        self.python, self.checkout = python, os.path.abspath(checkout)
        self.environment = clean_environment(
            **environment, TORCHINDUCTOR_CACHE_DIR=os.path.join(folder, "inductor"))
        self.version, self.imported = None, 0
        if not os.path.isfile(os.path.join(checkout, "model.py")):
            raise Failure(f"{checkout}: no model.py; --nanogpt expects a checkout of "
                          "https://github.com/karpathy/nanoGPT")

    def measure(self, model, dtype, seconds):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nanogpt.py")
        shape = [f"--{key}={getattr(model, key)}"
                 for key in ("dim", "depth", "heads", "batch", "length", "vocabulary")]
        text, peak = run([self.python, script, self.checkout, *shape, "--dtype", dtype,
                          "--seconds", str(seconds), *["--compile"] * self.compiled],
                         self.environment)
        try:
            result = json.loads(text.strip().splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise Failure("nanogpt.py: the last line of its output is not JSON") from error
        self.version, self.imported = result["torch"], result["imported"]
        tokens = model.batch * model.length
        return Sample(tokens / statistics.median(result["seconds"]), peak)


class LlmC:
    """llm.c's CPU trainer, compiled for each model as its Makefile does; float32 only."""
    label = "llm.c"

    def __init__(self, checkout, compiler, environment, folder):
        self.checkout, self.compiler = os.path.abspath(checkout), compiler
        self.environment = clean_environment(
            **environment, OMP_NUM_THREADS=str(len(os.sched_getaffinity(0))))
        self.folder = os.path.join(folder, "llmc")
        self.step_seconds = {}      # by model
        if not os.path.isfile(os.path.join(checkout, "train_gpt2.c")):
            raise Failure(f"{checkout}: no train_gpt2.c; --llmc expects a checkout of "
                          "https://github.com/karpathy/llm.c")

    def build(self, model):
        folder = os.path.join(self.folder, model.name)
        source = os.path.join(folder, "train.c")
        os.makedirs(folder, exist_ok=True)
        try:
            text = llmc.trainer_source(self.checkout, model)
        except ValueError as error:
            raise Failure(f"{self.checkout}: {error}") from error
        with open(source, "w", encoding="utf-8") as file:
            file.write(text)
        run([self.compiler, *llmc.FLAGS, "-I", self.checkout, "-o", os.path.join(folder, "train"),
             source, "-lm"])
        llmc.write_inputs(folder, model)

    def run(self, model, steps):
        """The median step after a first one that allocates, where there is more than one."""
        folder = os.path.join(self.folder, model.name)
        text, peak = run([os.path.join(folder, "train")],
                         {**self.environment, "STEPS": str(steps)}, folder)
        times = [float(step[2]) / 1e3 for step in llmc.STEP_TIME.finditer(text)]
        if len(times) != steps:
            raise Failure(f"llm.c: {len(times)} of {steps} steps in its output")
        return statistics.median(times[1:] or times), peak

    def measure(self, model, dtype, seconds):
        if model.name not in self.step_seconds:
            self.build(model)
            self.step_seconds[model.name], _ = self.run(model, 1)
        steps = 1 + max(1, round(seconds / self.step_seconds[model.name]))
        step_seconds, peak = self.run(model, steps)
        return Sample(model.batch * model.length / step_seconds, peak)
