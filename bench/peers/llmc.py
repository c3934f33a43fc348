"""llm.c's CPU trainer, built for one shape: a copy of its train_gpt2.c that only trains, and
the files that it reads, random weights and random tokens."""
import array
import os
import random
import re

# What is replaced in the copy; each must be there once. STEPS is an environment variable.
REPLACEMENTS = [
    (r"\bint B = \d+;", "int B = {batch};"),
    (r"\bint T = \d+;", "int T = {length};"),
    (r"step <= \d+;", 'step < atoi(getenv("STEPS"));'),
    (r"if \(step % \d+ == 0\)", "if (0)"),                      # validation
    (r"if \(step > 0 && step % \d+ == 0\)", "if (0)"),          # generation
]
# Those of its Makefile.
FLAGS = ["-Ofast", "-march=native", "-fopenmp", "-DOMP"]
STEP_TIME = re.compile(r"^step \d+: train loss (\S+) \(took ([\d.]+) ms\)$", re.MULTILINE)

WEIGHTS_MAGIC, WEIGHTS_VERSION = 20240326, 3
TOKENS_MAGIC, TOKENS_VERSION = 20240520, 1
HEADER_INTS = 256
VOCABULARY_MULTIPLE = 128


def trainer_source(checkout, model):
    """The changed text of train_gpt2.c; ValueError says what is not as expected."""
    with open(os.path.join(checkout, "train_gpt2.c"), encoding="utf-8") as file:
        text = file.read()
    for pattern, replacement in REPLACEMENTS:
        text, count = re.subn(pattern, replacement.format(batch=model.batch, length=model.length),
                              text)
        if count != 1:
            raise ValueError(f"train_gpt2.c has {count} matches of {pattern!r}, expected 1: "
                             "another version of llm.c?")
    return text


def header(*values):
    return array.array("i", [*values, *[0] * (HEADER_INTS - len(values))])


def weight_tensors(model, padded):
    """(count, mean, deviation) of each tensor, in the order of the file."""
    dim, depth = model.dim, model.depth
    matrix, zeros, ones = (0, 0.02), (0, 0), (1, 0)
    return [(padded * dim, *matrix), (model.length * dim, *matrix),
            (depth * dim, *ones), (depth * dim, *zeros),
            (depth * 3 * dim * dim, *matrix), (depth * 3 * dim, *zeros),
            (depth * dim * dim, *matrix), (depth * dim, *zeros),
            (depth * dim, *ones), (depth * dim, *zeros),
            (depth * 4 * dim * dim, *matrix), (depth * 4 * dim, *zeros),
            (depth * dim * 4 * dim, *matrix), (depth * dim, *zeros),
            (dim, *ones), (dim, *zeros)]


def write_weights(path, model):
    """Pieces of one pool of random numbers, drawn at random: quick, and no two rows are alike."""
    rng = random.Random(1)
    pool_size = 1 << 16
    padded = -(-model.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    normal = array.array("f", (rng.gauss(0, 1) for _ in range(pool_size)))
    with open(path, "wb") as file:
        header(WEIGHTS_MAGIC, WEIGHTS_VERSION, model.length, model.vocabulary, model.depth,
               model.heads, model.dim, padded).tofile(file)
        for count, mean, deviation in weight_tensors(model, padded):
            pool = array.array("f", (mean + deviation * x for x in normal))
            while count:
                piece = min(count, rng.randrange(1, pool_size))
                start = rng.randrange(pool_size - piece + 1)
                pool[start:start + piece].tofile(file)
                count -= piece


def write_tokens(path, model):
    rng = random.Random(2)
    count = 4 * model.batch * model.length + 1
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        header(TOKENS_MAGIC, TOKENS_VERSION, count).tofile(file)
        array.array("H", (rng.randrange(model.vocabulary) for _ in range(count))).tofile(file)


def write_inputs(folder, model):
    write_weights(os.path.join(folder, "gpt2_124M.bin"), model)
    for split in ("train", "val"):
        write_tokens(os.path.join(folder, "dev", "data", "tinyshakespeare",
                                  f"tiny_shakespeare_{split}.bin"), model)
