#!/usr/bin/env python3
"""Writes model_*.h5: what the Hugging Face models compute, for tests/model/test_golden.c.

    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.23.0 h5py==3.16.0
    venv/bin/python tests/golden/make_model_golden.py tests/golden

Each file holds one tiny random model in f64 (weights are values of f32) and one batch of packed
samples with permuted positions and an explicit attention mask:

    attribute config            config.json of the model, as Transformers writes it
    /params/<name>              weights, f32
    /batch/token, position, target (-1: none) [N] i32, weight [N] f32, spans [N,2,2] i32
    /logits [N,V] f64, /loss [N] f64 (0 without target)
    /grads/<name>               of sum_i weight_i * loss_i, f64

Transformers computes norms, softmax and rotary angles in f32 whatever the model's type: below, the
modules are made to see f64 where they ask for f32.
"""

import json
import os
import sys

import h5py
import torch
import transformers
from transformers import modeling_rope_utils
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3


class TorchInF64:
    """The torch module, with float32 (alias float) replaced by float64."""

    float32 = torch.float64
    float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def see_f64():
    for module in (modeling_llama, modeling_mistral, modeling_qwen2, modeling_qwen3, modeling_rope_utils):
        module.torch = TorchInF64()
    torch.Tensor.float = torch.Tensor.double


SIZES = dict(
    vocab_size=19,
    hidden_size=8,
    intermediate_size=14,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=200,
    rms_norm_eps=1e-6,
    rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    hidden_act="silu",
    attn_implementation="eager",
)

MODELS = {
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, dict(tie_word_embeddings=False)),
    "qwen3_tied": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, dict(tie_word_embeddings=True)),
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, dict(tie_word_embeddings=True)),
    "llama": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig,
        dict(tie_word_embeddings=False, attention_bias=True),
    ),
    "llama3": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig,
        dict(
            tie_word_embeddings=False,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 1000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
    ),
    "yarn": (
        transformers.Qwen3ForCausalLM,
        transformers.Qwen3Config,
        dict(
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1000.0,
                "factor": 4.0,
                "beta_fast": 8.0,
                "original_max_position_embeddings": 64,
            },
        ),
    ),
}


def fill(model, generator):
    """Random weights of a size at which each matters; values of f32, so that f32 code holds them too."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if name.endswith("norm.weight"):
            value = 1.0 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embed" in name:
            value = noise
        else:
            value = noise / p.shape[1] ** 0.5
        p.data.copy_(value.to(torch.float32).to(torch.float64))


def make_batch(generator, vocab):
    """Causal, with positions in a random order · slots side by side (two spans) · bidirectional · a
    sample of one place."""
    position, spans, has_target = [], [], []

    def add(pos, first, second, target):
        position.append(pos)
        spans.append([first, second])
        has_target.append(target)

    n, begin = 13, 0
    for i, pos in enumerate(torch.randperm(n, generator=generator).tolist()):
        add(pos + 187, [begin, begin + i + 1], [0, 0], i % 3 != 1)
    begin, prompt, slot_size = len(position), 5, 3
    for i in range(prompt):
        add(i, [begin, begin + i + 1], [0, 0], False)
    for i in range(2 * slot_size):
        slot = begin + prompt + i // slot_size * slot_size
        add(prompt + i, [begin, begin + prompt], [slot, begin + prompt + i + 1], True)
    begin, n = len(position), 6
    for i in range(n):
        add(n - i, [begin, begin + n], [0, 0], i % 2 == 0)
    begin = len(position)
    add(3, [begin, begin + 1], [0, 0], True)

    n = len(position)
    token = torch.randint(vocab, (n,), generator=generator)
    target = torch.randint(vocab, (n,), generator=generator)
    weight = (0.5 + torch.rand(n, generator=generator)).to(torch.float32)
    for i in range(n):
        if not has_target[i]:
            target[i], weight[i] = -1, 0.0
    return token, torch.tensor(position), target, weight, torch.tensor(spans)


def make(path, model_class, config_class, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    config = config_class(**{**SIZES, **extra}, architectures=[model_class.__name__])
    model = model_class(config).double()
    model.train()
    fill(model, generator)
    token, position, target, weight, spans = make_batch(generator, config.vocab_size)

    n = len(token)
    mask = torch.full((1, 1, n, n), -torch.inf, dtype=torch.float64)
    for i in range(n):
        for begin, end in spans[i].tolist():
            mask[0, 0, i, begin:end] = 0.0
    logits = model(
        input_ids=token[None], position_ids=position[None], attention_mask=mask, use_cache=False
    ).logits[0]
    assert logits.dtype == torch.float64
    loss = torch.nn.functional.cross_entropy(logits, target, ignore_index=-1, reduction="none")
    (weight.to(torch.float64) * loss).sum().backward()

    bounds = ("v110", "v110")  # readable by HDF5 1.10
    with h5py.File(path, "w", libver=bounds) as file:
        file.attrs["config"] = json.dumps(config.to_dict())
        file.attrs["made_with"] = f"torch {torch.__version__}, transformers {transformers.__version__}"
        for group in ("batch", "params", "grads"):  # groups made in passing carry the time of day
            file.create_group(group)
        file["batch/token"] = token.to(torch.int32).numpy()
        file["batch/position"] = position.to(torch.int32).numpy()
        file["batch/target"] = target.to(torch.int32).numpy()
        file["batch/weight"] = weight.numpy()
        file["batch/spans"] = spans.to(torch.int32).numpy()
        file["logits"] = logits.detach().numpy()
        file["loss"] = loss.detach().numpy()
        for name, p in model.named_parameters():
            file[f"params/{name}"] = p.detach().to(torch.float32).numpy()
            file[f"grads/{name}"] = p.grad.numpy()


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_model_golden.py FOLDER")
    see_f64()
    for seed, (name, (model_class, config_class, extra)) in enumerate(MODELS.items()):
        make(os.path.join(sys.argv[1], f"model_{name}.h5"), model_class, config_class, extra, seed)


if __name__ == "__main__":
    main()
