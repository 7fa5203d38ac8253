#!/usr/bin/env python3
"""Writes sampling_vectors.json: what Transformers' logits processors leave of random logits.

    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.24.0
    venv/bin/python tests/golden/make_sampling_golden.py tests/golden

The processors and their order are those that generate() makes of the settings. A case is
{"logits", "seen", "penalty", "temperature", "top_k", "top_p", "min_p", "kept", "p"}: logits are whole
numbers, times 1/64; kept are the ids left, ascending, with their probabilities. Computed in f64. Cases
that rounding to f32 or the order of a sort could decide are left out: shares within 1e-5 of an edge, unequal
logits closer than 1e-5, and equals of which top-p keeps some.
"""

import json
import os
import random
import sys
import types

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import torch  # noqa: E402
from transformers import GenerationConfig  # noqa: E402
from transformers.generation.utils import GenerationMixin  # noqa: E402

N_CASES, SCALE, CLOSE = 400, 64, 1e-5


class Model(GenerationMixin):
    """As much of a model as the list of processors asks for."""

    config = types.SimpleNamespace(is_encoder_decoder=False)


def processors(case):
    """The processors that generate() runs one after the other."""
    config = GenerationConfig(
        do_sample=True,
        repetition_penalty=case["penalty"],
        temperature=case["temperature"],
        top_k=case["top_k"],
        top_p=case["top_p"],
        min_p=case["min_p"],
    )
    return Model()._get_logits_processor(config, input_ids_seq_length=len(case["seen"]))


def is_close(case, steps):
    """Could rounding, or the order in which equals are sorted, change what is kept?"""
    for before, after in zip(steps, steps[1:]):
        left = before[before > -torch.inf]
        gaps = left.sort().values.diff()
        if ((gaps > 0) & (gaps < CLOSE)).any():
            return True
        dropped = (before > -torch.inf) & (after == -torch.inf)
        kept = after > -torch.inf
        if dropped.any() and before[dropped].max() >= before[kept].min():
            return True
        p = before.softmax(-1)
        shares = p.sort().values.cumsum(-1)
        if 0 < case["top_p"] < 1 and (shares - (1 - case["top_p"])).abs().min() < CLOSE:
            return True
        ratios = p[p < p.max()] / p.max()
        if case["min_p"] > 0 and ((ratios - case["min_p"]).abs() < CLOSE).any():
            return True
    return False


def draw_case(rng):
    n = rng.choice((1, 2, 3, 9, 24, 24, 40, 40))
    width = rng.choice((0.3, 0.6, 1, 3))
    case = {"logits": [round(rng.gauss(0, width) * SCALE) for _ in range(n)]}
    if rng.random() < 0.25:  # equals
        case["logits"] = [x // 40 * 40 for x in case["logits"]]
    case["seen"] = [rng.randrange(n) for _ in range(rng.choice((1, 3, 12)))]
    case["penalty"] = rng.choice((1.0, 1.0, 0.8, 1.1, 1.3, 2.0))
    case["temperature"] = rng.choice((1.0, 0.3, 0.7, 1.5, 4.0))
    case["top_k"] = rng.choice((0, 0, 0, 1, 3, 8, 8, 20, 20, 1000))
    case["top_p"] = rng.choice((1.0, 1.0, 0.0, 0.2, 0.5, 0.8, 0.9, 0.95, 0.95, 0.999))
    case["min_p"] = rng.choice((0.0, 0.0, 0.0, 0.0, 0.01, 0.05, 0.05, 0.2, 0.4, 1.0))
    return case


def main():
    rng, cases = random.Random(12), []
    while len(cases) < N_CASES:
        case = draw_case(rng)
        seen = torch.tensor([case["seen"]])
        steps = [torch.tensor(case["logits"], dtype=torch.float64) / SCALE]
        for process in processors(case):
            steps.append(process(seen, steps[-1][None])[0])
        if is_close(case, steps):
            continue
        p = steps[-1].softmax(-1)
        case["kept"] = [i for i in range(len(p)) if steps[-1][i] > -torch.inf]
        case["p"] = [float(f"{p[i]:.9g}") for i in case["kept"]]
        cases.append(case)
    with open(os.path.join(sys.argv[1], "sampling_vectors.json"), "w", encoding="utf-8") as out:
        out.write("[" + ",\n ".join(json.dumps(case) for case in cases) + "]\n")


if __name__ == "__main__":
    main()
