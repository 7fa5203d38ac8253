#!/usr/bin/env python3
"""Writes masked.h5 and masked_vectors.json: what the released decoders of masked diffusion generate, for
tests/infer/test_masked_golden.c.

    git clone https://github.com/ML-GSAI/LLaDA         (b7e6c35)
    git clone https://github.com/NVlabs/Fast-dLLM      (24cc59e)
    git clone https://github.com/JetAstra/SDAR         (c2041a8)
    pip install torch==2.15.0 h5py==3.16.0
    python3 tests/golden/make_masked_golden.py LLaDA Fast-dLLM SDAR tests/golden

masked.h5 holds a tiny random model of Qwen3's form: attribute config, /params/<name>. A case of masked_vectors.json is
{"from", "prompt", "index", "decode": {settings of decode.*}, "objective": {...}, "tokens"}: the whole response, also
behind an end of text.

The functions of the three repositories run as they are, on this model in f64, but for: the ids of LLaDA's end-of-text
tokens, which are those of its own vocabulary in the source; its random numbers, which are those of the decoder under
test (Philox streams, Gumbel noise); torch.topk, which takes the first of equals; and SDAR's sampling of a token, which
takes the likeliest.
"""

import itertools
import json
import math
import os
import sys
import types

import h5py
import numpy as np
import torch

torch.set_num_threads(1)
EOS, MASK, BEGIN, N_TOKENS = 256, 257, 258, 262  # of the byte tokenizer
V, D, F, L, H, G, K = 272, 16, 24, 2, 2, 1, 8
THETA, EPS, POSITIONS = 1000.0, 1e-6, 96
LIKELY = {EOS: 3.3, **{ord(c): 3.0 for c in "abcdefghijklmnop"}}

# --- Randomness, as common/base/rng.h and common/kernels/gumbel.h have it ------------------------------


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & 0xFFFFFFFF, (p >> 32) ^ c[3] ^ k[1], p & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def stream(seed, *words):
    """The first two 64-bit numbers of the stream."""
    key = [seed & 0xFFFFFFFF, seed >> 32]
    state = philox([len(words), 0, 0, 0], key)
    for w in words:
        state = philox([state[0] ^ (w & 0xFFFFFFFF), state[1] ^ (w >> 32), state[2], state[3]], key)
    b = philox([0, 0, state[2], state[3]], state[:2])
    return b[0] | b[1] << 32, b[2] | b[3] << 32


def mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(key):
    """Of all tokens."""
    step = np.uint64(0x9E3779B97F4A7C15)
    bits = mix(mix(np.array([key], np.uint64) + step) + step * np.arange(1, V + 1, dtype=np.uint64))
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


RNG_DECODE = 5

# --- The model -----------------------------------------------------------------------------------------


def make_weights(seed, sharpness):
    """Few tokens are likely, predictions depend on the context, forbidden tokens never win; values of f32."""
    g = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    w = {"model.embed_tokens.weight": noise(V, D), "model.norm.weight": 1 + 0.3 * noise(D)}
    w["model.embed_tokens.weight"][MASK] *= 0.2
    w["model.embed_tokens.weight"][:, 0] = 4
    for i in range(L):
        at, mlp = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
        w[f"model.layers.{i}.input_layernorm.weight"] = 1 + 0.3 * noise(D)
        w[f"model.layers.{i}.post_attention_layernorm.weight"] = 1 + 0.3 * noise(D)
        w[at + "q_proj.weight"] = noise(H * K, D) / D**0.5
        w[at + "k_proj.weight"] = noise(G * K, D) / D**0.5
        w[at + "v_proj.weight"] = noise(G * K, D) / D**0.5
        w[at + "o_proj.weight"] = 2 * noise(D, H * K)
        w[at + "o_proj.weight"][0] = 0  # column 0 of the stream stays as it is: the priors' in the head
        w[at + "q_norm.weight"] = 5 * noise(K)
        w[at + "k_norm.weight"] = 1 + 0.3 * noise(K)
        w[mlp + "gate_proj.weight"] = noise(F, D) / D**0.5
        w[mlp + "up_proj.weight"] = noise(F, D) / D**0.5
        w[mlp + "down_proj.weight"] = noise(D, F) / F**0.5
        w[mlp + "down_proj.weight"][0] = 0
    w["model.norm.weight"][0] = 1
    head = 0.05 * noise(V, D)
    for token, prior in LIKELY.items():
        head[token] = sharpness * noise(D)
        head[token, 0] = prior
    for token in [MASK, BEGIN, *range(N_TOKENS, V)]:
        head[token, 0] = -40
    w["lm_head.weight"] = head
    return {name: value.to(torch.float32).to(torch.float64) for name, value in w.items()}


def rms(x, gain):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * gain


def rotate(x, positions):
    angle = positions[:, None] * THETA ** (-torch.arange(0, K, 2, dtype=torch.float64) / K)
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    half = torch.cat([-x[..., K // 2 :], x[..., : K // 2]], -1)
    return x * cos + half * sin


class Cache(list):
    """Keys and values [B,G,n,K] of each block of the model, of all passes that were stored."""


class Model:
    """Called as each of the three repositories calls its model."""

    device = torch.device("cpu")

    def __init__(self, weights):
        self.w = weights
        self.calls, self.first = 0, 0  # number of passes, first position of the last one

    def eval(self):
        return self

    def __call__(self, x, attention_mask=None, position_ids=None, past_key_values=None, use_cache=False,
                 replace_position=None, store_kv=None):
        past = past_key_values if past_key_values else None
        n_past = past[0][0].shape[2] if past else 0
        if position_ids is not None:
            positions = position_ids[0]
        elif replace_position is not None:
            positions = replace_position[0].nonzero()[:, 0]
        else:
            positions = torch.arange(n_past, n_past + x.shape[1])
        self.calls, self.first = self.calls + 1, int(positions[0])
        allowed = attention_mask if attention_mask is not None and attention_mask.dim() == 3 else None
        logits, kept = self.run(x, positions.double(), past, replace_position, allowed)
        if store_kv:
            past_key_values[:] = kept
        return types.SimpleNamespace(logits=logits, past_key_values=kept)

    def run(self, x, positions, past, replaced, allowed):
        w, h, kept = self.w, self.w["model.embed_tokens.weight"][x], []
        n = x.shape[1]
        for i in range(L):
            at, mlp = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
            y = rms(h, w[f"model.layers.{i}.input_layernorm.weight"])

            def heads(name, count):
                return (y @ w[at + name].T).view(len(x), n, count, K).transpose(1, 2)

            q = rotate(rms(heads("q_proj.weight", H), w[at + "q_norm.weight"]), positions)
            k = rotate(rms(heads("k_proj.weight", G), w[at + "k_norm.weight"]), positions)
            v = heads("v_proj.weight", G)
            if replaced is not None:
                k_all, v_all = past[i][0].clone(), past[i][1].clone()
                k_all[:, :, replaced[0]], v_all[:, :, replaced[0]] = k, v
                k, v = k_all, v_all
            elif past:
                k, v = torch.cat([past[i][0], k], 2), torch.cat([past[i][1], v], 2)
            kept.append((k, v))
            score = q @ k.repeat_interleave(H // G, 1).transpose(2, 3) / math.sqrt(K)
            if allowed is not None:
                score = score.masked_fill(allowed[:, None] == 0, -math.inf)
            o = score.softmax(-1) @ v.repeat_interleave(H // G, 1)
            h = h + o.transpose(1, 2).reshape(len(x), n, H * K) @ w[at + "o_proj.weight"].T
            y = rms(h, w[f"model.layers.{i}.post_attention_layernorm.weight"])
            gate = y @ w[mlp + "gate_proj.weight"].T
            h = h + (gate * gate.sigmoid() * (y @ w[mlp + "up_proj.weight"].T)) @ w[mlp + "down_proj.weight"].T
        return rms(h, w["model.norm.weight"]) @ w["lm_head.weight"].T, kept


# --- The released functions ----------------------------------------------------------------------------


class Noise:
    """Stands for the module torch: its random numbers are the decoder's, and of equals it takes the first."""

    def __init__(self):
        self.model, self.n_prompt, self.index = None, 0, 0

    def __getattr__(self, name):
        return getattr(torch, name)

    def of(self, i):
        at = self.model.first + i - self.n_prompt
        return stream(0, RNG_DECODE, self.index, self.model.calls, max(at, 0))

    def rand_like(self, x, dtype):
        return torch.tensor(np.array([[uniforms(self.of(i)[0]) for i in range(x.shape[1])]]), dtype=dtype)

    def rand(self, shape, device):
        return torch.tensor([[(self.of(i)[1] >> 11) * 2.0**-53 for i in range(shape[1])]], dtype=torch.float64)

    def topk(self, x, k):
        values, places = torch.sort(x, dim=-1, descending=True, stable=True)
        return values[..., :k], places[..., :k]

    def multinomial(self, p, num_samples):
        return p.argmax(-1, keepdim=True)


def load(path, noise, replace=()):
    """The functions of a source file."""
    names = ("AutoTokenizer", "AutoModel", "AutoModelForCausalLM", "GenerationConfig")
    sys.modules["transformers"] = types.SimpleNamespace(**dict.fromkeys(names))
    sys.modules["transformers.cache_utils"] = types.SimpleNamespace(DynamicCache=Cache)
    sys.modules["model"] = types.ModuleType("model")
    sys.modules["model.modeling_llada"] = types.SimpleNamespace(LLaDAModelLM=None)
    source = open(path).read()
    for old, new in replace:
        assert old in source
        source = source.replace(old, new)
    module = {"__name__": "released"}
    exec(compile(source, path, "exec"), module)
    module["torch"] = noise
    return module


def cases(seed):
    """Numbers of cases, with a prompt each."""
    g = torch.Generator().manual_seed(seed)
    for index in itertools.count():
        n = 1 + int(torch.randint(6, (1,), generator=g))
        yield index, torch.randint(0, 256, (n,), generator=g)


def case(source, model, noise, index, prompt, decode, run, objective=None):
    """Runs one and describes it."""
    model.calls = 0
    noise.model, noise.n_prompt, noise.index = model, len(prompt), index
    tokens = run(prompt[None])[0, len(prompt) :].tolist()
    return {"from": source, "prompt": prompt.tolist(), "index": index, "decode": decode,
            "objective": objective or {}, "tokens": tokens}


def llada_cases(folder, model):
    noise = Noise()
    generate = load(os.path.join(folder, "generate.py"), noise,
                    [("126081", str(EOS)), ("126348", str(EOS))])["generate"]
    prompts = cases(1)
    lengths = [(24, 8, 24), (24, 8, 9), (18, 6, 12), (16, 16, 5), (20, 4, 5)]
    for (length, block, steps), temperature, cfg, remasking, rule in itertools.product(
        lengths, (0, 0.8), (0, 0.7), ("low_confidence", "random"), ("none", "logits", "late")
    ):
        index, prompt = next(prompts)
        if rule != "none" and (remasking == "random" or cfg > 0):
            continue

        def run(p):
            return generate(model, p, torch.ones_like(p), steps, length, block, temperature, cfg, remasking,
                            MASK, rule == "logits", rule == "late")

        decode = {"kind": "mdm", "gen_length": length, "block_length": block, "steps": steps, "cfg": cfg,
                  "temperature": temperature, "remasking": remasking, "eos_rule": rule}
        yield case("LLaDA", model, noise, index, prompt, decode, run)


def fast_cases(folder, model):
    noise = Noise()
    released = load(os.path.join(folder, "llada/generate.py"), noise)
    functions = {"none": "generate", "prefix": "generate_with_prefix_cache", "dual": "generate_with_dual_cache"}
    prompts = cases(2)
    for (length, block, steps), cache, threshold, temperature in itertools.product(
        [(24, 8, 24), (24, 8, 9), (20, 5, 8)], functions, (None, 0.3, 0.6, 0.9), (0, 0.8)
    ):
        index, prompt = next(prompts)

        def run(p):
            return released[functions[cache]](model, p, steps, length, block, temperature, "low_confidence",
                                              MASK, threshold)[0]

        decode = {"kind": "fast-dllm", "gen_length": length, "block_length": block, "cache": cache,
                  "temperature": temperature}
        decode |= {"rule": "quota", "steps": steps} if threshold is None else {"rule": "threshold",
                                                                              "threshold": threshold}
        yield case("Fast-dLLM", model, noise, index, prompt, decode, run)


def sdar_cases(folder, model):
    """Its blocks begin at the first token of the prompt: prompts of one block, which sees itself."""
    noise = Noise()
    generate = load(os.path.join(folder, "generate.py"), noise)["block_diffusion_generate"]
    g = torch.Generator().manual_seed(3)
    settings = [("low_confidence_static", steps, 1) for steps in (1, 2, 3, 4, 6)]
    settings += [("low_confidence_dynamic", None, threshold) for threshold in (0.2, 0.4, 0.6, 0.9)]
    for index, (size, (strategy, steps, threshold)) in enumerate(itertools.product((4, 6), settings)):
        n = steps or size  # fewer steps than places overwrite what is filled, in the released code
        if n > size:
            continue
        prompt, length = torch.randint(0, 256, (size,), generator=g), 4 * size

        def run(p):
            return generate(model, {"input_ids": p}, MASK, length, size, n, 1.0, 0, 1.0, strategy, threshold)

        decode = {"kind": "block", "gen_length": length, "block_length": size, "steps": 4 * n,
                  "rule": "quota" if steps else "sdar", "threshold": threshold}
        yield case("SDAR", model, noise, index, prompt, decode, run, {"block_prompt": "bidirectional"})


# --- Files ---------------------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": V, "hidden_size": D,
    "intermediate_size": F, "num_hidden_layers": L, "num_attention_heads": H, "num_key_value_heads": G,
    "head_dim": K, "max_position_embeddings": POSITIONS, "rms_norm_eps": EPS, "rope_theta": THETA,
    "tie_word_embeddings": False, "hidden_act": "silu", "attention_bias": False,
}  # fmt: skip


def main(llada, fast, sdar, out):
    weights = make_weights(11, 0.6)
    model = Model(weights)
    with h5py.File(os.path.join(out, "masked.h5"), "w") as f:
        f.attrs["config"] = json.dumps(CONFIG)
        for name, value in weights.items():
            f[f"params/{name}"] = value.to(torch.float32).numpy()
    found = [*llada_cases(llada, model), *fast_cases(fast, model), *sdar_cases(sdar, model)]
    with open(os.path.join(out, "masked_vectors.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in found) + "\n]\n")
    ends = [c["tokens"].index(EOS) if EOS in c["tokens"] else -1 for c in found]
    print(len(found), "cases,", sum(e >= 0 for e in ends), "with an end of text, at", sorted({e for e in ends if e >= 0}))


if __name__ == "__main__":
    main(*sys.argv[1:])
