"""compare_step.py: the training step of bench_step.c beside PyTorch's, in one run.

Usage: python3 compare_step.py path/to/bench_step [part of a case's name] [--modes eager,compile]

For each model of bench_step.c that is wanted: PyTorch (from PyPI) runs the same step in f32 and under
bf16 autocast, eagerly and compiled, each in a process of its own; then bench_step runs. Prints a table and
appends to runs/bench/bench.jsonl, with PyTorch's best f32 configuration as the peer (bench_step is f32).
Threads and clock: OMP_NUM_THREADS and BENCH_CLOCK (bench.h), the same for both. A configuration that fails is reported and left out.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time

ROWS, ROW, HEAD = 4, 512, 64
CASES = {
    "step 9.4M V=4096": (384, 6, 6, 2, 1024, 4096),
    "step 9.4M V=32000": (384, 6, 6, 2, 1024, 32000),
    "step 30M V=4096": (512, 10, 8, 2, 1536, 4096),
    "step 30M V=32000": (512, 10, 8, 2, 1536, 32000),
}
TYPES = ("f32", "bf16")


def make_model(d, layers, h, g, f, v):
    """The model of bench_step.c: Qwen3 blocks with q/k norms, RoPE, SwiGLU and a tied head."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    angle = torch.outer(torch.arange(ROW).float(), 1e6 ** (-torch.arange(0, HEAD, 2).float() / HEAD))
    cos, sin = torch.cat([angle.cos()] * 2, 1), torch.cat([angle.sin()] * 2, 1)

    def rotate(x):
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(d, 1e-6), nn.RMSNorm(d, 1e-6)
            self.q_norm, self.k_norm = nn.RMSNorm(HEAD, 1e-6), nn.RMSNorm(HEAD, 1e-6)
            self.q, self.o = nn.Linear(d, h * HEAD, bias=False), nn.Linear(h * HEAD, d, bias=False)
            self.k, self.v = nn.Linear(d, g * HEAD, bias=False), nn.Linear(d, g * HEAD, bias=False)
            self.gate, self.up = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
            self.down = nn.Linear(f, d, bias=False)

        def forward(self, x):
            y = self.norm1(x)
            q, k, v = (p(y).unflatten(-1, (-1, HEAD)) for p in (self.q, self.k, self.v))
            q, k = (rotate(norm(z).transpose(1, 2)) for norm, z in ((self.q_norm, q), (self.k_norm, k)))
            v = v.transpose(1, 2).to(q.dtype)
            k, v = (z.repeat_interleave(h // g, 1) for z in (k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.o(y.transpose(1, 2).flatten(2))
            y = self.norm2(x)
            return x + self.down(F.silu(self.gate(y)) * self.up(y))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(v, d)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.norm = nn.RMSNorm(d, 1e-6)

        def forward(self, token, target):
            x = self.embed(token)
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm(x), self.embed.weight)
            return F.cross_entropy(logits.float().flatten(0, 1), target.flatten())

    torch.manual_seed(1)
    model = Model()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0.0, 0.02)
    return model


def run_peer(name, mode, kind):
    """One configuration, in this process: prints tokens/s and peak memory as JSON."""
    import torch

    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    model = make_model(*CASES[name])
    vocab = CASES[name][-1]
    token, target = (torch.randint(0, vocab, (ROWS, ROW)) for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.0, fused=True)
    forward = torch.compile(model) if mode == "compile" else model

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            loss = forward(token, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    clock = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter
    first, seconds = step(), []
    step()
    for _ in range(5):
        begin = clock()
        last = step()
        seconds.append(clock() - begin)
    if not last < first:
        sys.exit(f"the loss went from {first} to {last}")
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"speed": ROWS * ROW / statistics.median(seconds), "memory": rss}))


def measure_peer(name, modes):
    """{(mode, type): {"speed", "memory"}} of the configurations that ran."""
    found = {}
    for mode in modes:
        for kind in TYPES:
            command = [sys.executable, os.path.abspath(__file__), "--peer", name, mode, kind]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                print(f"{name}: PyTorch {mode} {kind} failed: {done.stderr.strip().splitlines()[-1:]}")
                continue
            found[mode, kind] = json.loads(done.stdout.strip().splitlines()[-1])
            print(f"{name}: PyTorch {mode} {kind}: {found[mode, kind]['speed']:.0f} tokens/s, "
                  f"{found[mode, kind]['memory']:.0f} MiB", flush=True)
    return found


def measure_own(program, name):
    """tokens/s, MiB, and the machine's name as bench_step prints them."""
    done = subprocess.run([program, name], capture_output=True, text=True, check=True)
    speed = re.search(r"speed +([0-9.]+) tokens/s", done.stdout)
    memory = re.search(r"peak memory +([0-9.]+) MiB", done.stdout)
    return float(speed[1]), float(memory[1]), done.stdout.splitlines()[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("filter", nargs="?", default="")
    parser.add_argument("--modes", default="eager,compile")
    arguments = parser.parse_args()
    os.makedirs("runs/bench", exist_ok=True)
    for name in (n for n in CASES if arguments.filter in n):
        peers = measure_peer(name, arguments.modes.split(","))
        speed, memory, machine = measure_own(arguments.program, name)
        f32 = [p for (_, kind), p in peers.items() if kind == "f32"]
        if not f32:
            print(f"{name}: {speed:.0f} tokens/s, {memory:.0f} MiB; no PyTorch to compare with")
            continue
        peer = max(f32, key=lambda p: p["speed"])
        print(f"{name}: {speed:.0f} tokens/s, {memory:.0f} MiB; "
              f"{speed / peer['speed']:.2f} times the best f32 PyTorch, "
              f"{memory / peer['memory']:.2f} of its memory", flush=True)
        with open("runs/bench/bench.jsonl", "a", encoding="utf-8") as out:
            for what, value, unit, other in (("speed", speed, "tokens/s", peer["speed"]),
                                             ("peak memory", memory, "MiB", peer["memory"])):
                out.write(json.dumps({"name": f"{name} {what} beside PyTorch", "value": value, "unit": unit,
                                      "limit": None, "share": None, "peer": other, "ratio": value / other,
                                      "machine": machine}) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        run_peer(*sys.argv[2:5])
    else:
        main()
