#!/usr/bin/env python3
"""Adapters of refusion-train through refusion-convert into PEFT: same gradients, same logits, same text.

    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 h5py==3.16.0
    make all build/release/tests/golden/logits
    venv/bin/python tests/golden/compare_peft.py [build/release]

Tiny random Qwen3 models of Transformers are imported and get adapters by some steps of refusion-train,
which are exported and loaded with PEFT upon the folder that the model came from:
  - PEFT finds every tensor of the file, and nothing is missing;
  - our forward and backward with the adapters: loss and gradients of one more step (debug.dump_step)
    against autograd through PEFT's model: 1e-9 with train.backend=ref64, 1e-5 and 1e-4 in f32;
  - logits of packed samples with permuted positions by our forward with the adapters, and with the merged
    model, against PEFT's model: 1e-5;
  - refusion-convert merge: weights against PEFT's merge_and_unload, and logits of the exported merged
    model in Transformers against those of PEFT's model, 1e-5;
  - refusion-convert import of the folder that PEFT saves: the same continuation;
  - the greedy continuation of PEFT's model is that of refusion-infer --adapter, of refusion-infer with
    the merged model, and of the exported merged model in Transformers.
Prints a line for each and ends with status 1 when one fails.
"""

import math
import os
import sys
import tempfile
import warnings

import h5py
import peft
import torch
import transformers
from safetensors.torch import load_file

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import compare_hf as hf
import compare_step as step
import make_model_golden as golden
from compare_hf import judge, run

STEPS = 20
TRAIN = [
    "lora.rank=4", "optim.schedule=constant", "optim.lr=0.02", "train.batch_rows=2", "data.row_length=96",
    "objective.slot_sizes=[2,4]", "log.valid_every=0", "log.every=1000", "train.threads=1",
]  # fmt: skip
VARIANTS = {
    "qwen3": [],
    "qwen3_tied": ["lora.alpha=2.5", "lora.targets=layers.1.self_attn.q_proj,v_proj,down_proj"],
}


def tune(build, folder, backend, *settings):
    """The adapter file of STEPS steps, and the dump of one more."""
    train = [
        f"{build}/refusion-train", f"{folder}/c.yaml", f"model.init={folder}/m.h5", f"train.backend={backend}",
        f"log.dir={folder}/run-{backend}", *TRAIN, *settings,
    ]  # fmt: skip
    adapter, dump = f"{folder}/run-{backend}/step-{STEPS:09d}.h5", f"{folder}/dump-{backend}.h5"
    run(*train, f"train.steps={STEPS}")
    run(*train, f"train.steps={STEPS + 1}", f"debug.dump_step={dump}", "--resume", adapter)
    return adapter, dump


def load(model_class, folder, exported):
    base = model_class.from_pretrained(f"{folder}/hf", dtype=torch.float32, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(base, exported)


def compare_keys(title, model, exported):
    there = load_file(f"{exported}/adapter_model.safetensors")
    here = peft.get_peft_model_state_dict(model)
    judge(f"{title}: tensors of only one of export and PEFT", len(there.keys() ^ here.keys()), 0)
    differing = sum(not torch.equal(there[k], here[k]) for k in there.keys() & here.keys())
    judge(f"{title}: of {len(there)} tensors differ in PEFT", differing, 0)


def logits_of(model, token, position, spans):
    mask = hf.mask_of(spans)
    for i in range(len(token)):  # padding, seen by nobody, sees itself
        if torch.isinf(mask[0, 0, i]).all():
            mask[0, 0, i, i] = 0.0
    logits = model(
        input_ids=token[None], position_ids=position[None], attention_mask=mask, use_cache=False
    ).logits[0]
    assert logits.dtype == torch.float64
    return logits


def loss_of(model, batch):
    total = torch.zeros((), dtype=torch.float64)
    for token, position, target, weight, spans in zip(
        *(batch[k] for k in ("token", "position", "target", "weight", "spans"))
    ):
        entropy = torch.nn.functional.cross_entropy(
            logits_of(model, token, position, spans), target, ignore_index=-1, reduction="none"
        )
        total = total + (weight.double() * entropy).sum()
    return total


def compare_dump(title, model, path, limits):
    """model in f64; takes the dump's weights, which the export has rounded to f32."""
    tensors, batch, a, _ = step.read_dump(path)
    weights = {
        k.removeprefix("base_model.model.").replace(".default.", "."): p
        for k, p in model.named_parameters()
        if ".lora_" in k
    }
    ours = {k: v for k, v in tensors["params"].items() if ".lora_" in k}
    rounded = {k: v.to(torch.float32).double() for k, v in ours.items()}
    value, _ = step.worst(rounded, {k: p.detach() for k, p in weights.items()})
    judge(f"{title}: {len(ours)} tensors of the dump against PEFT's", value, 0)
    if not math.isfinite(value):
        return
    for k, p in weights.items():
        p.data.copy_(ours[k])
        p.requires_grad_()
    loss = loss_of(model, batch)
    loss.backward()
    n = int((batch["target"] >= 0).sum())
    off = abs(loss.item() - float(a["loss"])) / abs(loss.item())
    judge(f"{title}: our loss with the adapter, {loss:.6f} of {n} targets", off if n > 0 else math.nan, limits[0])
    grads = {k: v for k, v in tensors["grads"].items() if ".lora_" in k}
    step.compare_names(f"{title}: our gradients", grads, {k: p.grad for k, p in weights.items()}, limits[1])


def compare_logits(title, model, batch, build, folder, files):
    """files: base and adapter, or the merged model."""
    token, position, _, _, spans = batch
    path, out = f"{folder}/batch.h5", f"{folder}/logits.h5"
    with h5py.File(path, "w") as file:
        file["token"], file["position"], file["spans"] = (v.to(torch.int32).numpy() for v in (token, position, spans))
    with torch.no_grad():
        expected = logits_of(model, token, position, spans)
    for backend in ("ref64", "ref32", "cpu"):
        run(f"{build}/tests/golden/logits", files[0], path, out, *files[1:], backend=backend)
        with h5py.File(out) as file:
            judge(f"{title}, RF_BACKEND={backend}", hf.gap(torch.from_numpy(file["logits"][()]), expected), 1e-5)


def compare_merged(title, model, base, merged, batch):
    """All in f64, of weights of f32."""
    token, position, _, _, spans = batch
    with torch.no_grad():
        expected = logits_of(model, token, position, spans)
        plain = logits_of(base, token, position, spans)
        judge(f"{title}: 1 if the adapter moves no logit by 1 %", hf.gap(plain, expected) < 0.01, 0)
        value = hf.gap(logits_of(merged, token, position, spans), expected)
        judge(f"{title}: logits, merged and exported", value, 1e-5)
        text = hf.their_text(model)
        judge(f"{title}: 1 if the adapter moves no token of the continuation", hf.their_text(base) == text, 0)
        hf.judge_text(f"{title}: merged and exported", hf.their_text(merged), text)
    theirs = model.merge_and_unload().state_dict()
    step.compare_names(f"{title}: merged weights", merged.state_dict(), theirs, 1e-6)


def compare_backend(name, build, folder, backend, seed):
    model_class = hf.MODELS[name][0]
    title = f"{name}, {backend}"
    convert, base = f"{build}/refusion-convert", f"{folder}/m.h5"
    adapter, dump = tune(build, folder, backend, *VARIANTS[name])
    exported, whole, merged = (f"{folder}/{what}-{backend}" for what in ("peft", "whole.h5", "merged"))
    run(convert, "export", adapter, exported, "--quiet")
    run(convert, "merge", base, adapter, whole, "--quiet")
    run(convert, "export", whole, merged, "--quiet")

    model = load(model_class, folder, exported)
    compare_keys(title, model, exported)
    theirs, back = f"{folder}/theirs-{backend}", f"{folder}/back-{backend}.h5"
    model.save_pretrained(theirs)
    run(convert, "import", theirs, back, "--base", base, "--quiet")
    model.double().eval()
    text = hf.their_text(model)
    hf.judge_text(f"{title}: saved by PEFT, imported", hf.our_text(build, base, "--adapter", back), text)
    hf.judge_text(f"{title}: --adapter", hf.our_text(build, base, "--adapter", adapter), text)
    hf.judge_text(f"{title}: merged", hf.our_text(build, whole), text)
    compare_dump(title, model, dump, (1e-9, 1e-9) if backend == "ref64" else (1e-5, 1e-4))

    plain, other = (
        model_class.from_pretrained(f, dtype=torch.float32, attn_implementation="eager").double()
        for f in (f"{folder}/hf", merged)
    )
    batch = golden.make_batch(torch.Generator().manual_seed(seed), plain.config.vocab_size)
    model = load(model_class, folder, exported).double().eval()
    compare_logits(f"{title}: our logits with the adapter", model, batch, build, folder, (base, adapter))
    compare_logits(f"{title}: our logits, merged", model, batch, build, folder, (whole,))
    compare_merged(title, model, plain, other, batch)


def compare_model(name, build, folder, seed):
    model_class, config_class, extra = hf.MODELS[name]
    model = model_class(config_class(**{**hf.SIZES, **extra}, architectures=[model_class.__name__]))
    golden.fill(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(f"{folder}/hf")
    run(f"{build}/refusion-convert", "import", f"{folder}/hf", f"{folder}/m.h5", "--tokenizer", "byte", "--quiet")
    run(f"{build}/refusion-data", "synth", "sort", "--n", "200", "--seed", "1", "--out", f"{folder}/s.jsonl")
    run(f"{build}/refusion-data", "build", "--out", f"{folder}/c.h5", f"{folder}/s.jsonl")
    open(f"{folder}/c.yaml", "w").write(f"data:\n  train: [{folder}/c.h5]\n")
    for backend in ("ref64", "cpu"):
        compare_backend(name, build, folder, backend, seed)


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else "build/release"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # PEFT's calls of Transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    golden.see_f64()
    for seed, name in enumerate(VARIANTS):
        with tempfile.TemporaryDirectory() as folder:
            compare_model(name, build, folder, seed)
    failures = hf.failures + step.failures
    print("all agree" if failures == 0 else f"{failures} failed")
    sys.exit(failures != 0)


if __name__ == "__main__":
    main()
