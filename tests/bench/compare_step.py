"""compare_step.py: the training step of bench_step.c beside PyTorch's, by turns in one run.

Usage: python3 compare_step.py path/to/bench_step [part of a case's name]
           [--modes eager,compile] [--types f32,bf16] [--compute f32|bf16]
           [--recompute block] [--rounds 5] [--warm-up 600]

For each model of bench_step.c that is wanted and each type: bench_step writes its first weights and
its batch; PyTorch (from PyPI) loads them, eagerly and compiled, each in a process of its own. The
losses before the first and after the first updates must agree. Then the sides make one step each by
turns, so that a busy machine is as busy for all; medians are compared. bf16 is autocast. --compute:
what our side computes in (the type itself unless given); --recompute: our side alone, too.

The table goes to stdout; JSON lines are appended to runs/bench/bench.jsonl: each side's speed, then
ours with PyTorch's best configuration of that type as the peer. Threads and clock: OMP_NUM_THREADS and
BENCH_CLOCK (bench.h), the same for all. PyTorch gets jemalloc with huge pages where
libjemalloc.so.2 is installed. A configuration that fails or is not warm in time is reported and left out.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time

import turns

ROWS, ROW, HEAD, WARM_STEPS = 4, 512, 64, 3
CASES = {
    "step 9.4M V=4096": (384, 6, 6, 2, 1024, 4096),
    "step 9.4M V=32000": (384, 6, 6, 2, 1024, 32000),
    "step 30M V=4096": (512, 10, 8, 2, 1536, 4096),
    "step 30M V=32000": (512, 10, 8, 2, 1536, 32000),
}
TOLERANCE = {"f32": 1e-5, "bf16": 3e-3}


# --- PyTorch's side, in a process of its own ---------------------------------------------------------


def read_start(path):
    """{name: flat array} as bench_step wrote it."""
    import numpy

    with open(path, "rb") as file:
        names = [line.split() for line in iter(lambda: file.readline().decode().strip(), "")]
        return {name: numpy.fromfile(file, numpy.int32 if name in ("token", "target") else numpy.float32,
                                     int(count)) for name, count in names}


def make_model(d, layers, h, g, f, v):
    """The model of bench_step.c under Hugging Face's names: Qwen3 blocks and a tied head."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    angle = torch.outer(torch.arange(ROW).float(), 1e6 ** (-torch.arange(0, HEAD, 2).float() / HEAD))
    cos, sin = torch.cat([angle.cos()] * 2, 1), torch.cat([angle.sin()] * 2, 1)

    class Norm(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))

        def forward(self, x):
            return F.rms_norm(x.float(), x.shape[-1:], self.weight, 1e-6).to(x.dtype)

    def linear(inner, outer):
        return nn.Linear(inner, outer, bias=False)

    def rotate(x):
        first, second = x.chunk(2, -1)
        return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_norm, self.k_norm = Norm(HEAD), Norm(HEAD)
            self.q_proj, self.o_proj = linear(d, h * HEAD), linear(h * HEAD, d)
            self.k_proj, self.v_proj = linear(d, g * HEAD), linear(d, g * HEAD)

        def forward(self, y):
            q, k, v = (p(y).unflatten(-1, (-1, HEAD)) for p in (self.q_proj, self.k_proj, self.v_proj))
            q, k = (rotate(norm(z).transpose(1, 2)) for norm, z in ((self.q_norm, q), (self.k_norm, k)))
            k, v = (z.repeat_interleave(h // g, 1) for z in (k, v.transpose(1, 2)))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o_proj(y.transpose(1, 2).flatten(2))

    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = linear(d, f), linear(d, f), linear(f, d)

        def forward(self, y):
            return self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.input_layernorm, self.post_attention_layernorm = Norm(d), Norm(d)
            self.self_attn, self.mlp = Attention(), Mlp()

        def forward(self, x):
            x = x + self.self_attn(self.input_layernorm(x))
            return x + self.mlp(self.post_attention_layernorm(x))

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens = nn.Embedding(v, d)
            self.layers = nn.ModuleList(Block() for _ in range(layers))
            self.norm = Norm(d)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Stack()

        def forward(self, token, target):
            x = self.model.embed_tokens(token)
            for block in self.model.layers:
                x = block(x)
            logits = F.linear(self.model.norm(x), self.model.embed_tokens.weight)
            return F.cross_entropy(logits.float().flatten(0, 1), target.flatten())

    return Model()


def load_model(case, path):
    """The model with bench_step's weights, and the batch."""
    import torch

    start = {name: torch.from_numpy(values) for name, values in read_start(path).items()}
    token, target = (start.pop(name).long().view(ROWS, ROW) for name in ("token", "target"))
    model = make_model(*case)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(start.pop(name).view_as(parameter))
    if start:
        sys.exit(f"tensors without a place: {list(start)}")
    return model, token, target


def run_peer(name, mode, kind, path):
    """One configuration: a step for each line read, answered by "seconds loss MiB"."""
    import torch

    turns.set_threads()
    model, token, target = load_model(CASES[name], path)
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

    for _ in sys.stdin:
        begin = turns.clock()
        loss = step()
        seconds = turns.clock() - begin
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(seconds, loss, rss, flush=True)


# --- The comparison ----------------------------------------------------------------------------------


class Stepper(turns.Side):
    """A side that makes training steps."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seconds, self.losses, self.memory = [], [], 0.0

    def step(self, limit, timed):
        seconds, loss, self.memory = self.ask("", limit)
        self.losses.append(loss)
        if timed:
            self.seconds.append(seconds)

    def speed(self):
        return ROWS * ROW / statistics.median(self.seconds)


def warm(side, limit):
    """Compiles and settles; False where that fails."""
    begin = time.monotonic()
    try:
        for _ in range(WARM_STEPS):
            side.step(limit - (time.monotonic() - begin), False)
    except RuntimeError as error:
        print(f"{side.label}: left out: {error}", flush=True)
        side.close()
        return False
    return True


def check_losses(own, peer, kind):
    for step, (a, b) in enumerate(zip(own.losses, peer.losses)):
        if not abs(a - b) <= TOLERANCE[kind] * abs(b):
            sys.exit(f"{peer.label}: the loss of step {step} is {b}, ours is {a}: nothing is compared")


def compare(name, kind, arguments, path):
    """All sides of one model and one type by turns: (own, [peers], machine, peak, FLOP of a step)."""
    command = [arguments.program, "--turns", path, name]
    compute = arguments.compute or kind
    if arguments.recompute != "none":
        command[1:1] = ["--recompute", arguments.recompute]
    if compute != "f32":
        command[1:1] = ["--compute", compute]
    label = f"{name} {compute}" + (" recompute" if arguments.recompute == "block" else "")
    own, sides = Stepper(label, command, os.environ), []
    try:
        machine, peak, flop = own.line(arguments.warm_up), float(own.line(60)), float(own.line(60))
        if not warm(own, arguments.warm_up):
            return None
        for mode in arguments.modes.split(","):
            peer = Stepper(f"{name} {kind} PyTorch {mode}",
                           [sys.executable, os.path.abspath(__file__), "--peer", name, mode, kind, path],
                           turns.peer_environment())
            if warm(peer, arguments.warm_up):
                sides.append(peer)
                check_losses(own, peer, kind)
        for _ in range(arguments.rounds):
            for side in [own] + sides:
                side.step(arguments.warm_up, True)
        return own, sides, machine, peak, flop
    except RuntimeError as error:
        print(f"{own.label}: left out: {error}", flush=True)
        return None
    finally:
        for side in [own] + sides:
            side.close()


def report(own, peers, machine, peak, flop):
    best = max(peers, key=Stepper.speed, default=None)
    for side in peers + [own]:
        work = flop / (ROWS * ROW) * 1e-9
        peer = best if side is own else None
        print(f"{side.label:40s} {side.speed():8.0f} tokens/s {side.speed() * work:7.1f} GFLOP/s "
              f"{side.speed() * work / peak:5.1%} {side.memory:6.0f} MiB"
              + (f"  {side.speed() / peer.speed():.2f} times the best, "
                 f"{side.memory / peer.memory:.2f} of its memory" if peer else ""), flush=True)
        turns.write_line(machine, f"{side.label} speed", side.speed(), "tokens/s", None,
                         peer and peer.speed())
        turns.write_line(machine, side.label, side.speed() * work, "GFLOP/s", peak,
                         peer and peer.speed() * work)
        turns.write_line(machine, f"{side.label} peak memory", side.memory, "MiB", None,
                         peer and peer.memory)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("filter", nargs="?", default="")
    parser.add_argument("--modes", default="eager,compile")
    parser.add_argument("--types", default="f32,bf16")
    parser.add_argument("--compute", choices=("f32", "bf16"))
    parser.add_argument("--recompute", choices=("none", "block"), default="none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=float, default=600.0, help="seconds")
    arguments = parser.parse_args()
    for name in (n for n in CASES if arguments.filter in n):
        for kind in arguments.types.split(","):
            with tempfile.TemporaryDirectory() as folder:
                found = compare(name, kind, arguments, os.path.join(folder, "start"))
            if found:
                report(*found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        run_peer(*sys.argv[2:6])
    else:
        main()
