#!/usr/bin/env python3
"""Encoding speed beside Hugging Face's `tokenizers`, one core each, on the same texts.

    pip install tokenizers
    make build/release/tests/bench/bench_tokenizer
    python3 tests/bench/compare_tokenizer.py [SHARED]

SHARED (default: $RF_SHARED, or ../shared) has data/tokenizers/qwen3 and data/corpora. The ids of
both must be equal before any speed is printed. Of the ways in which `tokenizers` encodes (encode,
encode_batch, encode_batch_fast) the fastest counts. "first" is the pass of a fresh tokenizer, the others
(median) know the words already; both sides keep words. BENCH_CLOCK=cpu: CPU time, for a machine that others
use too.
"""
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers  # noqa: E402

ROUNDS = 5
PRIME = 1000000007


def texts_of(path):
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") if path.endswith(".gz") else open(
            path, encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")
    if lines[-1] == "":
        lines.pop()
    return [json.loads(line)["text"] for line in lines] if ".jsonl" in path else lines


def checksum(batches):
    total = 0
    for ids in batches:
        for i in ids:
            total = (total * 31 + i) % PRIME
    return total


def measure(run, rounds=ROUNDS):
    clock = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter
    times = []
    for _ in range(rounds):
        begin = clock()
        run()
        times.append(clock() - begin)
    return statistics.median(times)


def main():
    shared = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("RF_SHARED", "../shared")
    bench = os.environ.get("BENCH", "build/release/tests/bench/bench_tokenizer")
    data = os.path.join(shared, "data")
    files = [os.path.join(data, "corpora", name) for name in os.listdir(
        os.path.join(data, "corpora")) if name.startswith(("wikitext2_valid_raw",
                                                           "python_stdlib_train"))]
    # One core for everybody.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        with gzip.open(os.path.join(data, "tokenizers", "qwen3", "tokenizer.json.gz")) as packed:
            with open(path, "wb") as out:
                out.write(packed.read())
        for file in sorted(files):
            texts = texts_of(file)
            size = sum(len(text.encode()) for text in texts)
            ours = json.loads(subprocess.run([bench, path, file], check=True,
                                             capture_output=True).stdout)
            fresh = tokenizers.Tokenizer.from_file(path)
            first = size / 1e6 / measure(
                lambda: fresh.encode_batch_fast(texts, add_special_tokens=False), 1)
            theirs = tokenizers.Tokenizer.from_file(path)
            ids = [e.ids for e in theirs.encode_batch(texts, add_special_tokens=False)]
            if (checksum(ids), sum(map(len, ids))) != (ours["checksum"], ours["ids"]):
                sys.exit(f"{file}: the ids differ")
            ways = {
                "encode": lambda: [theirs.encode(t, add_special_tokens=False) for t in texts],
                "encode_batch": lambda: theirs.encode_batch(texts, add_special_tokens=False),
                "encode_batch_fast":
                    lambda: theirs.encode_batch_fast(texts, add_special_tokens=False),
            }
            speeds = {name: size / 1e6 / measure(run) for name, run in ways.items()}
            best = max(speeds, key=speeds.get)
            print(f"{os.path.basename(file)}: {len(texts)} texts, {size / 1e6:.2f} MB, "
                  f"{ours['ids']} ids, equal\n"
                  f"  {'MB/s':<30}{'first':>8}{'later':>8}\n"
                  f"  {'here':<30}{ours['first_mb_s']:8.2f}{ours['median_mb_s']:8.2f}\n"
                  f"  {'tokenizers ' + tokenizers.__version__ + ', ' + best:<30}{first:8.2f}"
                  f"{speeds[best]:8.2f}\n"
                  f"  {'ratio':<30}{ours['first_mb_s'] / first:8.2f}"
                  f"{ours['median_mb_s'] / speeds[best]:8.2f}")


if __name__ == "__main__":
    main()
