#!/usr/bin/env python3
"""Models of Transformers through refusion-convert and back: same logits, same weights, same text.

    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.23.0 h5py==3.16.0
    make all build/release/tests/golden/logits
    venv/bin/python tests/golden/compare_hf.py [build/release]

For tiny random models (Qwen3 tied and untied, Qwen2, Qwen3 with rope scaling yarn, Llama with llama3 and linear, Mistral), as
one file and as shards, in f32, bf16 and f16:
  - imported here, logits of packed samples with permuted positions against Transformers (explicit 4-D
    mask): 1e-9 with RF_BACKEND=ref64, 1e-5 in f32;
  - exported again: no missing or unexpected keys for Transformers, every weight bit for bit the same;
    imported once more: the same checkpoint byte for byte;
  - Transformers' greedy continuation is that of refusion-infer, also with a repetition penalty.
Prints a line for each and ends with status 1 when one fails.
"""

import json
import os
import subprocess
import sys
import tempfile

import h5py
import torch
import transformers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_model_golden as golden

SIZES = dict(golden.SIZES, vocab_size=320, hidden_size=24, intermediate_size=40, head_dim=8)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 64,
}
T = transformers
MODELS = {
    "qwen3": (T.Qwen3ForCausalLM, T.Qwen3Config, dict(tie_word_embeddings=False)),
    "qwen3_tied": (T.Qwen3ForCausalLM, T.Qwen3Config, dict(tie_word_embeddings=True)),
    "qwen2": (T.Qwen2ForCausalLM, T.Qwen2Config, dict(tie_word_embeddings=True)),
    "llama3": (T.LlamaForCausalLM, T.LlamaConfig, dict(rope_parameters=LLAMA3)),
    "linear": (
        T.LlamaForCausalLM,
        T.LlamaConfig,
        dict(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}, attention_bias=True),
    ),
    "yarn": (T.Qwen3ForCausalLM, T.Qwen3Config, dict(rope_parameters=YARN)),
    "mistral": (T.MistralForCausalLM, T.MistralConfig, dict(sliding_window=None)),
}
failures = 0


def judge(what, value, limit):
    global failures
    ok = value <= limit  # NaN fails
    failures += not ok
    print(f"{'ok  ' if ok else 'FAIL'} {what}: {value:.3g} (at most {limit:g})", flush=True)


def run(*command, backend=""):
    env = dict(os.environ, RF_BACKEND=backend) if backend else os.environ
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: status {result.returncode}: {result.stderr}")
    return result.stdout


def gap(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def mask_of(spans):
    n = len(spans)
    mask = torch.full((1, 1, n, n), -torch.inf, dtype=torch.float64)
    for i in range(n):
        for begin, end in spans[i].tolist():
            mask[0, 0, i, begin:end] = 0.0
    return mask


def compare_logits(name, model, checkpoint, folder, build, seed):
    generator = torch.Generator().manual_seed(seed)
    token, position, _, _, spans = golden.make_batch(generator, model.config.vocab_size)
    batch, out = f"{folder}/batch.h5", f"{folder}/logits.h5"
    with h5py.File(batch, "w") as file:
        file["token"] = token.to(torch.int32).numpy()
        file["position"] = position.to(torch.int32).numpy()
        file["spans"] = spans.to(torch.int32).numpy()
    with torch.no_grad():
        expected = model(
            input_ids=token[None], position_ids=position[None], attention_mask=mask_of(spans), use_cache=False
        ).logits[0]
    assert expected.dtype == torch.float64
    for backend, limit in (("ref64", 1e-9), ("ref32", 1e-5), ("cpu", 1e-5)):
        run(f"{build}/tests/golden/logits", checkpoint, batch, out, backend=backend)
        with h5py.File(out) as file:
            judge(f"{name}: logits, {backend}", gap(torch.from_numpy(file["logits"][()]), expected), limit)


def compare_export(name, model, dtype, exported):
    again, info = type(model).from_pretrained(exported, dtype=dtype, output_loading_info=True)
    troubles = [k for k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs") if info.get(k)]
    judge(f"{name}: keys of the export that trouble Transformers {troubles}", len(troubles), 0)
    there, back = model.state_dict(), again.state_dict()
    differing = sum(not torch.equal(there[k].to(dtype), back[k]) for k in there)
    judge(f"{name}: weights that differ after export", differing + (there.keys() != back.keys()), 0)
    again.config.architectures = model.config.architectures
    for field in ("rope_parameters", "head_dim", "vocab_size", "tie_word_embeddings", "rms_norm_eps"):
        if getattr(again.config, field, None) != getattr(model.config, field, None):
            judge(f"{name}: {field} {getattr(again.config, field, None)} of {getattr(model.config, field, None)}", 1, 0)


PROMPT, N_TOKENS = "The quick brown fox", 24


def their_text(model, **settings):
    """Tokens of the greedy continuation by Transformers, up to and including an end of text."""
    ids = torch.tensor([[260] + list(PROMPT.encode()) + [261]])  # user mark, text, assistant mark
    never = [257, 258] + list(range(262, model.config.vocab_size))  # mask, begin, padding rows
    answer = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=N_TOKENS,
        pad_token_id=0, suppress_tokens=never, **settings,
    )  # fmt: skip
    tokens = answer[0, ids.shape[1] :].tolist()
    return tokens[: tokens.index(256) + 1] if 256 in tokens else tokens


def our_text(build, checkpoint, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write(json.dumps({"query": PROMPT}) + "\n")
        file.flush()
        out = run(
            f"{build}/refusion-infer", "--model", checkpoint, "--prompts", file.name, *options,
            "decode.kind=ar", f"decode.gen_length={N_TOKENS}",
        )  # fmt: skip
    return json.loads(out)["ids"]


def judge_text(name, ours, expected):
    differing = sum(a != b for a, b in zip(ours, expected)) + abs(len(ours) - len(expected))
    judge(f"{name}: of {len(expected)} tokens of the greedy continuation differ", differing, 0)


def compare_text(name, exported, checkpoint, build, model_class):
    model = model_class.from_pretrained(exported, dtype=torch.float32).double()
    judge_text(name, our_text(build, checkpoint), their_text(model))
    ours = our_text(build, checkpoint, "decode.repetition_penalty=1.3")
    judge_text(f"{name}, repetition penalty", ours, their_text(model, repetition_penalty=1.3))


def compare_model(name, build, parent, dtype, shards, seed):
    model_class, config_class, extra = MODELS[name]
    config = config_class(**{**SIZES, **extra}, architectures=[model_class.__name__])
    model = model_class(config)
    golden.fill(model.double(), torch.Generator().manual_seed(seed))
    model.to(dtype)
    folder = f"{parent}/{name}-{str(dtype)[6:]}{'-shards' if shards else ''}"
    title = os.path.basename(folder)
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if shards else {}))
    checkpoint, exported = f"{folder}/m.h5", f"{folder}/exported"
    kind = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    convert = f"{build}/refusion-convert"
    run(convert, "import", folder, checkpoint, "--tokenizer", "byte", "--quiet")
    size = ["--max-shard-size", "20k"] if shards else []
    run(convert, "export", checkpoint, exported, "--dtype", kind, "--quiet", *size)
    run(convert, "import", exported, f"{folder}/again.h5", "--tokenizer", "byte", "--quiet")
    same = open(checkpoint, "rb").read() == open(f"{folder}/again.h5", "rb").read()
    judge(f"{title}: export and import change the checkpoint", not same, 0)
    compare_export(title, model, dtype, exported)
    precise = model_class(config).double()  # its rotary tables have never been rounded
    precise.load_state_dict(model.state_dict())
    compare_logits(title, precise, checkpoint, folder, build, seed)
    if dtype == torch.float32:
        compare_text(title, exported, checkpoint, build, model_class)


def compare_tuned(name, build, parent):
    """A model of Transformers, trained here for some steps: the export still loads and says the same."""
    folder = f"{parent}/tuned"
    model_class, config_class, extra = MODELS[name]
    model = model_class(config_class(**{**SIZES, **extra}, architectures=[model_class.__name__]))
    model.save_pretrained(f"{folder}/hf")
    convert = f"{build}/refusion-convert"
    run(convert, "import", f"{folder}/hf", f"{folder}/m.h5", "--tokenizer", "byte", "--quiet")
    run(f"{build}/refusion-data", "synth", "sort", "--n", "200", "--seed", "1", "--out", f"{folder}/s.jsonl")
    run(f"{build}/refusion-data", "build", "--out", f"{folder}/c.h5", f"{folder}/s.jsonl")
    open(f"{folder}/c.yaml", "w").write(f"data:\n  train: [{folder}/c.h5]\n")
    run(
        f"{build}/refusion-train", f"{folder}/c.yaml", f"model.init={folder}/m.h5", f"log.dir={folder}/run",
        "train.steps=20", "train.batch_rows=2", "data.row_length=96", "optim.lr=0.01", "log.valid_every=0",
    )  # fmt: skip
    tuned, exported = f"{folder}/run/step-000000020.h5", f"{folder}/exported"
    run(convert, "export", tuned, exported, "--quiet")
    again, info = model_class.from_pretrained(exported, dtype=torch.float32, output_loading_info=True)
    troubles = [k for k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs") if info.get(k)]
    judge(f"tuned {name}: keys of the export that trouble Transformers {troubles}", len(troubles), 0)
    moved = gap(again.state_dict()["model.norm.weight"], model.state_dict()["model.norm.weight"])
    judge(f"tuned {name}: 1 if no weight has moved", moved == 0, 0)
    compare_text(f"tuned {name}", exported, tuned, build, model_class)


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else "build/release"
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    golden.see_f64()
    with tempfile.TemporaryDirectory() as parent:
        for seed, name in enumerate(MODELS):
            compare_model(name, build, parent, torch.float32, seed % 2 == 0, seed)
        compare_model("qwen3", build, parent, torch.bfloat16, False, 10)
        compare_model("qwen2", build, parent, torch.bfloat16, True, 11)
        compare_model("llama3", build, parent, torch.float16, False, 12)
        for name in ("qwen3_tied", "llama3"):
            compare_tuned(name, build, f"{parent}/{name}")
    print("all agree" if failures == 0 else f"{failures} failed")
    sys.exit(failures != 0)


if __name__ == "__main__":
    main()
