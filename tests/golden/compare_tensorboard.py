#!/usr/bin/env python3
"""Event files of refusion-train, read by TensorBoard, beside metrics.jsonl.

    python3 -m venv venv
    venv/bin/pip install tensorboard==2.21.0
    make
    venv/bin/python tests/golden/compare_tensorboard.py [build/release]

A tiny run of 8 steps goes on from its checkpoint of step 4, as after a kill: its last record is torn, and
steps 5 to 8 come twice. Then every curve that the reader has, with steps and values (in f32), must be that
of metrics.jsonl, and no other curve be there. Prints a line for each and ends with status 1 when one fails.
"""

import glob
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

FIELDS = {"step": ("loss", "grad_norm", "lr", "tokens_per_second"), "valid": ("loss",)}
GROUPS = {"step": "train", "valid": "valid"}


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")


def train(build, folder, *settings):
    run(
        f"{build}/refusion-train", f"{folder}/empty.yaml", f"data.train={folder}/sums.h5",
        f"data.valid={folder}/sums.h5", f"log.dir={folder}/run", "log.tensorboard=true", "log.valid_every=2",
        "data.row_length=64", "model.hidden_size=32", "model.num_hidden_layers=1", "train.batch_rows=2",
        "train.threads=1", "objective.slot_sizes=[2,4]", "checkpoint.every=4", "checkpoint.best=false",
        "optim.schedule=constant", *settings,
    )  # fmt: skip


def interrupted_run(build, folder):
    with open(f"{folder}/sums.jsonl", "w") as out:
        for i in range(60):
            print(json.dumps({"query": f"{i}+{2 * i}=", "response": f"{3 * i}, that is the sum"}), file=out)
    open(f"{folder}/empty.yaml", "w").close()
    run(f"{build}/refusion-data", "build", "--out", f"{folder}/sums.h5", f"{folder}/sums.jsonl")
    train(build, folder, "train.steps=8")
    (events,) = glob.glob(f"{folder}/run/*tfevents*")
    os.truncate(events, os.path.getsize(events) - 5)
    os.remove(f"{folder}/run/step-000000008.h5")
    train(build, folder, "train.steps=12", "--resume", "auto")


def curves_of_metrics(path):
    """{tag: [(step, value), ...]}"""
    curves = {}
    for line in map(json.loads, open(path)):
        for name, value in line.items():
            fields = FIELDS.get(line["event"], ())
            if name in fields or fields and name.startswith("loss_"):
                number = math.nan if value is None else struct.unpack("f", struct.pack("f", value))[0]
                curves.setdefault(f"{GROUPS[line['event']]}/{name}", []).append((line["step"], number))
    return curves


def curves_of_reader(folder):
    reader = EventAccumulator(folder, size_guidance={SCALARS: 0})
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()[SCALARS]}


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else "build/release"
    with tempfile.TemporaryDirectory() as folder:
        interrupted_run(build, folder)
        expected = curves_of_metrics(f"{folder}/run/metrics.jsonl")
        got = curves_of_reader(f"{folder}/run")
    failures = 0
    for tag in sorted({*expected, *got}):
        same = got.get(tag) == expected.get(tag)
        failures += not same
        print(f"{tag:24} {len(got.get(tag, [])):3} values  {'ok' if same else 'DIFFERS'}")
    if len(expected) < 9 or len(expected["train/loss"]) != 12 or len(expected["valid/loss"]) != 6:
        sys.exit("the run has not written what it should have")
    print("all agree" if failures == 0 else f"{failures} failed")
    sys.exit(failures != 0)


if __name__ == "__main__":
    main()
