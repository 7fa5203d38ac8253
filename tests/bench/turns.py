"""turns.py: processes that work when asked, a line in and a line out; used by compare_*.py."""

import ctypes.util
import json
import os
import select
import subprocess
import tempfile
import time


class Side:
    """One side of a comparison, in a process of its own."""

    def __init__(self, label, command, environment):
        self.label, self.pending = label, b""
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors, env=environment, bufsize=0)

    def line(self, limit):
        """The next line; RuntimeError with the cause where none comes within `limit` seconds."""
        end = time.monotonic() + limit
        while b"\n" not in self.pending:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise RuntimeError(f"no answer within {limit:.0f} s")
            got = os.read(self.process.stdout.fileno(), 65536)
            if not got:
                self.errors.seek(0)
                raise RuntimeError((self.errors.read().decode().strip().splitlines() or ["ended"])[-1])
            self.pending += got
        first, self.pending = self.pending.split(b"\n", 1)
        return first.decode()

    def ask(self, question, limit):
        try:
            self.process.stdin.write(question.encode() + b"\n")
        except BrokenPipeError:
            pass  # line() says why it ended
        return [float(word) for word in self.line(limit).split()]

    def close(self):
        self.process.kill()
        self.process.wait()


def peer_environment():
    """PyTorch's: jemalloc with huge pages, where it is installed."""
    environment = dict(os.environ)
    if ctypes.util.find_library("jemalloc"):
        environment["LD_PRELOAD"] = "libjemalloc.so.2"
        environment["MALLOC_CONF"] = "thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1"
    else:
        print("libjemalloc.so.2 is not installed: PyTorch runs with the C library's allocator")
    return environment


def clock():
    """Seconds of bench.h's clock."""
    return time.process_time() if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter()


def set_threads():
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0)))


def write_line(machine, name, value, unit, limit=None, peer=None):
    """Appends to runs/bench/bench.jsonl (bench.h)."""
    os.makedirs("runs/bench", exist_ok=True)
    with open("runs/bench/bench.jsonl", "a", encoding="utf-8") as out:
        out.write(json.dumps({"name": name, "value": value, "unit": unit, "limit": limit,
                              "share": value / limit if limit else None, "peer": peer,
                              "ratio": value / peer if peer else None, "machine": machine}) + "\n")
