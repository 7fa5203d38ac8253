#!/usr/bin/env python3
"""Writes hf_*/: folders as Transformers saves them, for tests/data/convert/test_convert.c.

    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.23.0 h5py==3.16.0
    venv/bin/python tests/golden/make_convert_golden.py tests/golden

hf_llama3   Llama with rope scaling llama3, untied, f32, in shards; the weights of model_llama3.h5
            (make_model_golden.py)
hf_qwen3    Qwen3, tied, bf16, one file
"""

import os
import sys

import h5py
import make_model_golden as golden
import torch


def save(parent, folder, name, dtype, **options):
    model_class, config_class, extra = golden.MODELS[name]
    config = config_class(**{**golden.SIZES, **extra}, architectures=[model_class.__name__])
    model = model_class(config)
    with h5py.File(os.path.join(parent, f"model_{name}.h5")) as file, torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(torch.from_numpy(file[f"params/{key}"][()]))
    path = os.path.join(parent, folder)
    model.to(dtype).save_pretrained(path, **options)
    os.remove(os.path.join(path, "generation_config.json"))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_convert_golden.py FOLDER")
    save(sys.argv[1], "hf_llama3", "llama3", torch.float32, max_shard_size="5KB")
    save(sys.argv[1], "hf_qwen3", "qwen3_tied", torch.bfloat16)


if __name__ == "__main__":
    main()
