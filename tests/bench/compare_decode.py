"""compare_decode.py: a prompt and one token at a time behind it, beside PyTorch, by turns in one run.

Usage: python3 compare_decode.py path/to/bench_decode path/to/refusion-convert
           [--types f32,bf16] [--weights int8] [--modes transformers,loop,compile] [--rounds 3] [--tokens 16] [--layers 28]

Transformers (from PyPI) makes a Qwen3-0.6B of random weights; refusion-convert imports it. Sides, each
in a process of its own: ours (bench_decode --turns); Transformers' generate; a plain loop over the
same weights with keys and values in one buffer; that loop compiled. The next token's probability behind
the prompt must agree. A turn is a prompt of 512 tokens, then --tokens greedy ones.

Our side packs its weights in the peer's type, or in --weights f32|bf16|int8. Threads and clock: OMP_NUM_THREADS and
BENCH_CLOCK (bench.h). JSON lines are appended to runs/bench/bench.jsonl.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

import turns

PROMPT, MORE = 512, 256
TOLERANCE = {"f32": 1e-3, "bf16": 0.2}


# --- PyTorch's side, in a process of its own ---------------------------------------------------------


def make_folder(folder, layers):
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    config = Qwen3Config(vocab_size=151936, hidden_size=1024, intermediate_size=3072,
                         num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=8,
                         head_dim=128, max_position_embeddings=4096, rope_theta=1e6,
                         tie_word_embeddings=True, eos_token_id=None, bos_token_id=None)
    Qwen3ForCausalLM(config).save_pretrained(folder)


class Generate:
    """Transformers' generate, which begins with the prompt each time: its time is taken off."""

    def __init__(self, model):
        self.model = model

    def prompt(self, ids):
        self.ids = ids
        return self.decode(0)

    def decode(self, n):
        import torch

        begin = turns.clock()
        out = self.model.generate(self.ids, attention_mask=torch.ones_like(self.ids), max_new_tokens=n + 1,
                                  min_new_tokens=n + 1, do_sample=False, return_dict_in_generate=True,
                                  output_logits=True, use_cache=True)
        seconds = turns.clock() - begin
        if n == 0:
            self.prompt_seconds = seconds
        else:
            seconds -= self.prompt_seconds
        return seconds, int(out.sequences[0, -1]), float(out.logits[-1][0].float().softmax(0).max())


class Loop:
    """A plain forward pass; keys and values in one buffer for each layer."""

    def __init__(self, model, compiled):
        import torch

        self.model, config = model, model.config
        self.h, self.g, self.k = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        kind, length = model.dtype, PROMPT + MORE
        shape = (config.num_hidden_layers, 1, self.g, length, self.k)
        self.keys, self.values = torch.zeros(shape, dtype=kind), torch.zeros(shape, dtype=kind)
        angle = torch.outer(torch.arange(length).float(),
                            1e6 ** (-torch.arange(0, self.k, 2).float() / self.k))
        self.cos, self.sin = (torch.cat([f(angle)] * 2, 1).to(kind) for f in (torch.cos, torch.sin))
        self.one = torch.compile(self.forward, dynamic=True) if compiled else self.forward

    def rotate(self, x, at):
        import torch

        first, second = x.chunk(2, -1)
        return x * self.cos[at] + torch.cat([-second, first], -1) * self.sin[at]

    def forward(self, ids, at, mask):
        """Probability of the likeliest token behind `ids`, which lie at the places `at`; and it."""
        from torch.nn import functional as F

        def norm(x, module):
            return F.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)

        body = self.model.model
        x = F.embedding(ids, body.embed_tokens.weight)
        for i, layer in enumerate(body.layers):
            a, m = layer.self_attn, layer.mlp
            y = norm(x, layer.input_layernorm)
            q, k, v = (F.linear(y, p.weight).unflatten(-1, (-1, self.k)).transpose(1, 2)
                       for p in (a.q_proj, a.k_proj, a.v_proj))
            q, k = self.rotate(norm(q, a.q_norm), at), self.rotate(norm(k, a.k_norm), at)
            self.keys[i][:, :, at], self.values[i][:, :, at] = k, v
            end = mask.shape[-1]
            o = F.scaled_dot_product_attention(q, self.keys[i][:, :, :end], self.values[i][:, :, :end],
                                               mask, enable_gqa=True)
            x = x + F.linear(o.transpose(1, 2).flatten(2), a.o_proj.weight)
            y = norm(x, layer.post_attention_layernorm)
            x = x + F.linear(F.silu(F.linear(y, m.gate_proj.weight)) * F.linear(y, m.up_proj.weight),
                             m.down_proj.weight)
        logits = F.linear(norm(x[:, -1], body.norm), self.model.lm_head.weight).float()
        return logits.softmax(-1).max(-1)

    def run(self, ids, begin, one):
        import torch

        end = begin + ids.shape[1]
        at = torch.arange(begin, end)
        mask = (torch.arange(end)[None] <= at[:, None])[None, None]
        with torch.inference_mode():
            score, token = one(ids, at, mask)
        self.n, self.token = end, token.view(1, 1)
        return float(score), int(token)

    def prompt(self, ids):
        begin = turns.clock()
        score, token = self.run(ids, 0, self.one)
        return turns.clock() - begin, token, score

    def decode(self, n):
        begin = turns.clock()
        for _ in range(n):
            score, token = self.run(self.token, self.n, self.one)
        return turns.clock() - begin, token, score


def run_peer(folder, kind, mode):
    """Answers "prompt" and "decode N" by "seconds token probability"."""
    import torch
    from transformers import Qwen3ForCausalLM

    turns.set_threads()
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if kind == "bf16" else torch.float32)
    model.eval()
    side = Generate(model) if mode == "transformers" else Loop(model, mode == "compile")
    ids = torch.tensor([[(i * 7919 + 13) % model.config.vocab_size for i in range(PROMPT)]])
    for line in sys.stdin:
        words = line.split()
        seconds, token, score = side.prompt(ids) if words[0] == "prompt" else side.decode(int(words[1]))
        print(seconds, token, score, flush=True)


# --- The comparison ----------------------------------------------------------------------------------


class Decoder(turns.Side):
    """A side that decodes."""

    def __init__(self, label, command, environment):
        super().__init__(label, command, environment)
        self.prompts, self.tokens = [], []

    def turn(self, n, limit, timed):
        prompt, _, score = self.ask("prompt", limit)
        tokens, _, _ = self.ask(f"decode {n}", limit)
        if timed:
            self.prompts.append(prompt)
            self.tokens.append(tokens / n)
        return score

    def prompt_speed(self):
        return PROMPT / statistics.median(self.prompts)

    def speed(self):
        return 1.0 / statistics.median(self.tokens)


def name_of(arguments):
    return "decode 0.6B" if arguments.layers == 28 else f"decode {arguments.layers} layers"


def open_peers(arguments, kind, folder, own_score):
    peers = []
    for mode in arguments.modes.split(","):
        side = Decoder(f"{name_of(arguments)} {kind} PyTorch {mode}",
                       [sys.executable, os.path.abspath(__file__), "--peer", folder, kind, mode],
                       turns.peer_environment())
        try:
            score = side.turn(arguments.tokens, arguments.warm_up, False)
        except RuntimeError as error:
            print(f"{side.label}: left out: {error}", flush=True)
            side.close()
            continue
        peers.append(side)
        if not abs(score - own_score) <= TOLERANCE[kind] * own_score:
            sys.exit(f"{side.label}: the next token has probability {score}, ours {own_score}")
    return peers


def compare(arguments, kind, folder, checkpoint):
    own = Decoder(f"{name_of(arguments)} {arguments.weights or kind}",
                  [arguments.program, "--weights", arguments.weights or kind, "--turns", checkpoint],
                  os.environ)
    sides = [own]
    try:
        machine = own.line(arguments.warm_up)
        peak, read, weights, flop = (float(own.line(60)) for _ in range(4))
        score = own.turn(arguments.tokens, arguments.warm_up, False)
        peers = open_peers(arguments, kind, folder, score)
        sides += peers
        for _ in range(arguments.rounds):
            for side in sides:
                side.turn(arguments.tokens, arguments.warm_up, True)
    finally:
        for side in sides:
            side.close()
    best_prompt = max((p.prompt_speed() for p in peers), default=None)
    best = max((p.speed() for p in peers), default=None)
    for side in peers + [own]:
        ours = side is own
        print(f"{side.label:40s} prompt {side.prompt_speed():7.1f} tokens/s, one at a time {side.speed():6.2f}"
              + (f" ({side.speed() * weights * 1e-9:.1f} of {read:.1f} GB/s); prompt {flop / PROMPT * 1e-9 * side.prompt_speed():.0f}"
                 f" of {peak:.0f} GFLOP/s" if ours else "")
              + (f"; {side.prompt_speed() / best_prompt:.2f} and {side.speed() / best:.2f} times the best"
                 if ours and best else ""), flush=True)
        turns.write_line(machine, f"{side.label} prompt speed", side.prompt_speed(), "tokens/s", None,
                         best_prompt if ours else None)
        turns.write_line(machine, f"{side.label} one sequence speed", side.speed(), "tokens/s", None,
                         best if ours else None)
    turns.write_line(machine, f"{own.label} one sequence", own.speed() * weights * 1e-9, "GB/s", read)
    turns.write_line(machine, f"{own.label} prompt", own.prompt_speed() * flop / PROMPT * 1e-9, "GFLOP/s", peak)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("convert")
    parser.add_argument("--types", default="f32,bf16")
    parser.add_argument("--weights", choices=("f32", "bf16", "int8"))
    parser.add_argument("--modes", default="transformers,loop,compile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--warm-up", type=float, default=600.0, help="seconds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, os.path.abspath(__file__), "--make", folder, str(arguments.layers)],
                       check=True)
        checkpoint = os.path.join(folder, "model.h5")
        subprocess.run([arguments.convert, "import", folder, checkpoint, "--tokenizer", "byte", "--quiet"],
                       check=True)
        for kind in arguments.types.split(","):
            compare(arguments, kind, folder, checkpoint)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        run_peer(*sys.argv[2:5])
    elif sys.argv[1:2] == ["--make"]:
        make_folder(sys.argv[2], int(sys.argv[3]))
    else:
        main()
