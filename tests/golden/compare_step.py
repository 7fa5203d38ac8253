#!/usr/bin/env python3
"""Training steps of refusion-train against PyTorch: loss, every gradient, clipping, AdamW, schedule.

    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 h5py==3.16.0
    make
    venv/bin/python tests/golden/compare_step.py [build/release]      trains tiny models and compares
    venv/bin/python tests/golden/compare_step.py DUMP.h5 [TOLERANCE]  compares one debug.dump_step

The model below is written from the papers, with autograd, in f64, and shares nothing with the C
code or with Transformers. Attention sees what the spans of the dump say, and for `mdm`
and `block` also what their papers' masks say, computed anew from tokens and positions; the loss is
sum_i weight_i * cross_entropy_i. Comparisons are max|a-b| / max|b| for each tensor: 1e-9 with
train.backend=ref64, 1e-4 in f32. Twenty steps with clipping, warm-up and cosine in f64, each from
PyTorch's own weights and moments (torch.optim.AdamW), must end within 1e-8.
"""

import json
import math
import os
import subprocess
import sys
import tempfile

import h5py
import torch
import torch.nn.functional as F

failures = 0


def judge(what, value, limit):
    global failures
    ok = value <= limit  # NaN fails
    failures += not ok
    print(f"{'ok  ' if ok else 'FAIL'} {what}: {value:.3g} (at most {limit:g})", flush=True)


# --- The model ------------------------------------------------------------------------------------


def norm(x, gain, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * gain


def frequencies(c):
    k = c["head_dim"]
    f = torch.tensor([c["rope_theta"] ** (-2.0 * i / k) for i in range(k // 2)], dtype=torch.float64)
    s = c.get("rope_scaling") or {}
    if s.get("rope_type") == "linear":
        f = f / s["factor"]
    if s.get("rope_type") == "llama3":
        turns = s["original_max_position_embeddings"] * f / (2 * math.pi)
        fast = (turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
        fast = fast.clamp(0, 1)
        f = f * fast + f / s["factor"] * (1 - fast)
    return f


def rotate(x, angle):
    """x [N,H,K], angle [N,K/2]: pairs (i, i + K/2) turn."""
    a, b = x.chunk(2, -1)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def logits_of_row(p, c, token, position, mask):
    """One row; mask [T,T]: who sees whom. Places that see nobody attend to nothing."""
    H, G, K, eps = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["rms_norm_eps"]
    x = p["model.embed_tokens.weight"][token]
    angle = position[:, None].double() * frequencies(c)
    blind = ~mask.any(1)
    for layer in range(c["num_hidden_layers"]):
        at = lambda name: p.get(f"model.layers.{layer}.{name}")
        h = norm(x, at("input_layernorm.weight"), eps)
        q, k, v = (
            F.linear(h, at(f"self_attn.{n}_proj.weight"), at(f"self_attn.{n}_proj.bias")).unflatten(1, (-1, K))
            for n in "qkv"
        )
        if at("self_attn.q_norm.weight") is not None:
            q, k = norm(q, at("self_attn.q_norm.weight"), eps), norm(k, at("self_attn.k_norm.weight"), eps)
        q, k = rotate(q, angle), rotate(k, angle)
        k, v = k.repeat_interleave(H // G, 1), v.repeat_interleave(H // G, 1)
        score = torch.einsum("ihk,jhk->hij", q, k) / math.sqrt(K)
        score = score.masked_fill(~mask, -torch.inf)
        score = torch.where(blind[None, :, None], torch.zeros_like(score), score)
        share = score.softmax(-1) * (~blind)[None, :, None]
        o = torch.einsum("hij,jhk->ihk", share, v).flatten(1)
        x = x + F.linear(o, at("self_attn.o_proj.weight"), at("self_attn.o_proj.bias"))
        h = norm(x, at("post_attention_layernorm.weight"), eps)
        gate, up = F.linear(h, at("mlp.gate_proj.weight")), F.linear(h, at("mlp.up_proj.weight"))
        x = x + F.linear(gate * torch.sigmoid(gate) * up, at("mlp.down_proj.weight"))
    x = norm(x, p["model.norm.weight"], eps)
    head = p.get("lm_head.weight")
    return F.linear(x, p["model.embed_tokens.weight"] if head is None else head)


def mask_of_spans(spans):
    """Who sees whom [T,T], of the spans [T,2,2] of a row."""
    place = torch.arange(len(spans))
    mask = torch.zeros(len(spans), len(spans), dtype=torch.bool)
    for s in range(2):
        mask |= (place[None] >= spans[:, s, :1]) & (place[None] < spans[:, s, 1:])
    return mask


def mask_of_paper(position, padding, block_size, sees_prompt):
    """The same from positions alone, as LLaDA (block_size 0) and BD3-LM have it. A sample begins at
    position 0; in BD3-LM's row its noisy copy follows, which begins at the response."""
    T = len(position)
    sample, noisy, prompt = torch.full((T,), -1), torch.zeros(T, dtype=torch.bool), torch.zeros(T, dtype=torch.long)
    starts = [i for i in range(T) if not padding[i] and (i == 0 or position[i] != position[i - 1] + 1)] + [T]
    for begin, end in zip(starts, starts[1:]):
        first = position[begin]
        here = ~padding & (torch.arange(T) >= begin) & (torch.arange(T) < end)
        noisy[here] = bool(first > 0)
        sample[here] = sample[begin - 1] if first > 0 else begin
        prompt[sample == sample[begin]] = first if block_size > 0 else 0
    block = torch.where(position < prompt, -1, (position - prompt) // max(block_size, 1))
    same = (sample[:, None] == sample[None]) & (sample >= 0)[:, None]
    if block_size == 0:
        return same
    bq, bk, nq, nk = block[:, None], block[None], noisy[:, None], noisy[None]
    in_prompt = (bq < 0) & (bk < 0) & (sees_prompt | (position[None] <= position[:, None]))
    clean = ~nk & torch.where(nq, bk < bq, torch.where(bq < 0, in_prompt, bk <= bq))
    return same & (clean | nk & nq & (bk == bq))


def loss_of(p, c, batch):
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(batch["token"])):
        token, position, target, weight, spans = (
            batch[k][row] for k in ("token", "position", "target", "weight", "spans")
        )
        mask = mask_of_spans(spans)
        logits = logits_of_row(p, c, token, position, mask)
        entropy = F.cross_entropy(logits, target, ignore_index=-1, reduction="none")
        total = total + (weight.double() * entropy).sum()
    return total


# --- A dumped step --------------------------------------------------------------------------------


def read_dump(path):
    with h5py.File(path) as file:
        tensors = {
            group: {name: torch.from_numpy(values[()]).double() for name, values in file[group].items()}
            for group in ("params", "grads", "params_after")
        }
        batch = {k: torch.from_numpy(v[()]) for k, v in file["batch"].items()}
        attributes = dict(file.attrs)
    for k in ("token", "position", "target", "spans"):
        batch[k] = batch[k].long()
    text = attributes["model_config"]
    config = json.loads((text.decode() if isinstance(text, bytes) else str(text)).rstrip("\0"))
    return tensors, batch, attributes, config


def gap(a, b):
    top = b.abs().max()
    return ((a - b).abs().max() / top).item() if top > 0 else a.abs().max().item()


def worst(ours, theirs):
    if ours.keys() != theirs.keys():
        return math.inf, f"tensors {sorted(ours.keys() ^ theirs.keys())}"
    return max((gap(ours[k], theirs[k]), k) for k in theirs)


def compare_names(what, ours, theirs, limit):
    value, name = worst(ours, theirs)
    judge(f"{what} of {len(theirs)} tensors (worst: {name})", value, limit)


def gradients(p, config, batch):
    p = {k: v.clone().requires_grad_() for k, v in p.items()}
    loss = loss_of(p, config, batch)
    loss.backward()
    return loss.item(), {k: v.grad if v.grad is not None else torch.zeros_like(v) for k, v in p.items()}


def clip_scale(grads, clip):
    total = math.sqrt(sum((g * g).sum().item() for g in grads.values()))
    return clip / total if clip > 0 and total > clip else 1.0


def optimizer_of(p, a):
    """Weight decay applies to matrices only."""
    groups = [
        {"params": [v for v in p.values() if v.dim() == d], "weight_decay": decay}
        for d, decay in ((1, 0.0), (2, float(a["weight_decay"])))
    ]
    return torch.optim.AdamW(groups, lr=float(a["lr"]), betas=(float(a["beta1"]), float(a["beta2"])), eps=float(a["eps"]))


def take_step(optimizer, p, grads, scale, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr
    for name, value in p.items():
        value.grad = grads[name] * scale
    optimizer.step()


def compare_masks(title, batch, block_size, sees_prompt):
    off = 0
    for position, spans in zip(batch["position"], batch["spans"]):
        padding = (spans == 0).all(2).all(1)
        off += (mask_of_spans(spans) != mask_of_paper(position, padding, block_size, sees_prompt)).sum().item()
    judge(f"{title}: pairs that see each other and should not, or the reverse", off, 0)


def compare_dump(title, path, limit, masks=None):
    """masks: (block_size, sees_prompt) where the paper's mask is known."""
    tensors, batch, a, config = read_dump(path)
    if masks is not None:
        compare_masks(title, batch, *masks)
    n_targets = int((batch["target"] >= 0).sum())
    judge(f"{title}: rows without a target", len(batch["token"]) if n_targets == 0 else 0, 0)
    loss, grads = gradients(tensors["params"], config, batch)
    judge(f"{title}: loss {loss:.6f} of {n_targets} targets", abs(loss - float(a["loss"])) / abs(loss), limit)
    compare_names(f"{title}: gradients", tensors["grads"], grads, limit)
    if int(a["update"]) == 1:  # the first step of an optimizer without history
        p = {k: v.clone() for k, v in tensors["params"].items()}
        take_step(optimizer_of(p, a), p, grads, float(a["gradient_scale"]), float(a["lr"]))
        # Where a gradient is 0 but for rounding, Adam's first step is the sign of the rounding.
        moved = {k: torch.where(grads[k].abs() > limit * grads[k].abs().max(), p[k], tensors["params_after"][k]) for k in p}
        compare_names(f"{title}: weights after the step", tensors["params_after"], moved, limit)


# --- Runs -----------------------------------------------------------------------------------------

SIZES = [
    "model.hidden_size=24", "model.intermediate_size=40", "model.num_hidden_layers=2", "model.num_attention_heads=4",
    "model.num_key_value_heads=2", "model.head_dim=8", "data.row_length=96", "train.batch_rows=4",
    "train.micro_rows=2", "objective.slot_sizes=[2,4]", "log.every=1000", "log.valid_every=0", "train.threads=1",
    "model.initializer_range=0.2",
]  # fmt: skip
VARIANTS = {
    "refusion": [],
    "refusion, paper's masking and weights": ["objective.masking=exact", "objective.mdm_weight=mean", "objective.lambda_mdm=0.7"],
    "refusion, untied, biases": ["model.tie_word_embeddings=false", "model.qk_norm=false", "model.qkv_bias=true", "model.output_bias=true"],
    "ar": ["objective.kind=ar"],
    "ar, all tokens": ["objective.kind=ar", "objective.ar_all=true"],
    "mdm": ["objective.kind=mdm", "objective.pad_length=24"],
    "mdm, no padding, mean over tokens": ["objective.kind=mdm", "objective.pad=none", "objective.mdm_norm=token"],
    "block": ["objective.kind=block"],
    "block of 3, clipped, prompt sees itself": [
        "objective.kind=block", "objective.block_size=3", "objective.block_prompt=bidirectional",
        "objective.noise_low=0.3", "objective.noise_high=0.8",
    ],
}  # fmt: skip


def masks_of(settings):
    """What compare_masks needs; None where positions do not tell the mask."""
    value = dict(s.removeprefix("objective.").split("=") for s in settings)
    size = {"mdm": 0, "block": int(value.get("block_size", 4))}.get(value.get("kind"))
    return None if size is None else (size, value.get("block_prompt") == "bidirectional")


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: status {result.returncode}: {result.stderr}")


def train(build, folder, name, *settings):
    config = f"{folder}/{name}.yaml"
    open(config, "w").write(f"data:\n  train: [{folder}/corpus.h5]\n")
    run(f"{build}/refusion-train", config, f"log.dir={folder}/{name}", *SIZES, *settings)


def schedule(step, steps, lr, warmup, least):
    """Linear warm-up, then half a cosine down to least * lr, for step 0, 1, ..."""
    if step < warmup:
        return lr * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return lr * (least + (1 - least) * (1 + math.cos(math.pi * done)) / 2)


def compare_twenty(build, folder):
    steps, lr, warmup, least, clip = 20, 3e-3, 4, 0.1, 0.5
    settings = [
        f"train.steps={steps}", f"optim.lr={lr}", f"optim.warmup={warmup}", f"optim.min_lr={least}",
        f"optim.clip={clip}", "train.backend=ref64", "checkpoint.keep=0", "optim.schedule=cosine",
        "optim.weight_decay=0.1",
    ]  # fmt: skip
    train(build, folder, "long", *settings, "checkpoint.every=1", f"debug.dump_step={folder}/0.h5")
    for k in range(1, steps):
        train(
            build, folder, f"from{k}", *settings, "checkpoint.every=0", f"debug.dump_step={folder}/{k}.h5",
            "--resume", f"{folder}/long/step-{k:09d}.h5",
        )  # fmt: skip
    tensors, _, a, config = read_dump(f"{folder}/0.h5")
    p = {k: v.clone() for k, v in tensors["params"].items()}
    optimizer = optimizer_of(p, a)
    clipped, off = 0, 0.0
    for k in range(steps):
        tensors, batch, a, config = read_dump(f"{folder}/{k}.h5")
        rate = schedule(k, steps, lr, warmup, least)
        off = max(off, abs(rate - float(a["lr"])) / rate)
        _, grads = gradients(p, config, batch)
        scale = clip_scale(grads, clip)
        clipped += scale < 1
        take_step(optimizer, p, grads, scale, rate)
    judge("20 steps: schedule", off, 1e-12)
    judge("20 steps: those without clipping", steps - clipped, steps - 1)
    compare_names(f"20 steps ({clipped} clipped): weights", tensors["params_after"], p, 1e-8)


def compare_all(build):
    with tempfile.TemporaryDirectory() as folder:
        run(f"{build}/refusion-data", "synth", "sort", "--n", "400", "--seed", "5", "--out", f"{folder}/s.jsonl")
        run(f"{build}/refusion-data", "build", "--out", f"{folder}/corpus.h5", f"{folder}/s.jsonl")
        for i, (name, settings) in enumerate(VARIANTS.items()):
            for backend, limit in (("ref64", 1e-9), ("cpu", 1e-4)):
                dump = f"{folder}/dump.h5"
                train(
                    build, folder, f"{i}-{backend}", *settings, "train.steps=1", f"train.backend={backend}",
                    "optim.clip=0.1", f"debug.dump_step={dump}",
                )  # fmt: skip
                compare_dump(f"{name}, {backend}", dump, limit, masks_of(settings))
        compare_twenty(build, folder)


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else "build/release"
    torch.set_num_threads(2)
    if os.path.isfile(target):
        compare_dump(os.path.basename(target), target, float(sys.argv[2]) if len(sys.argv) > 2 else 1e-9)
    else:
        compare_all(target)
    print("all agree" if failures == 0 else f"{failures} failed")
    sys.exit(failures != 0)


if __name__ == "__main__":
    main()
