#!/usr/bin/env python3
"""Runs lm-evaluation-harness against refusion-serve and holds its figures against this project's own.

    harness.py URL QUESTIONS.jsonl EVAL.jsonl RAW CHAT END

QUESTIONS: {"query", "response"} a line. EVAL: answers of refusion-eval --raw decode.slot_size=1, with the
log-likelihood of each response and the end of text, token END. RAW-i, CHAT-i: what refusion-infer prints
for query i, with and without --raw. Fails where a digit or a letter differs. Needs lm_eval.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

STOP, LENGTH = "c", 12

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
doc_to_text: "{{{{query}}}}"
doc_to_target: " {{{{response}}}}"
"""
LIKELIHOOD = TASK + "output_type: loglikelihood\nmetric_list: [{{metric: acc}}]\n"
WRITTEN = TASK + """output_type: generate_until
generation_kwargs: {{until: ["%s"], max_gen_toks: %d, temperature: 0}}
metric_list: [{{metric: exact_match}}]
""" % (STOP, LENGTH)


def lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def run(folder, model, url, tasks):
    """What the harness got for each question of each task."""
    subprocess.run(
        [sys.executable, "-m", "lm_eval", "--model", model, "--tasks", ",".join(tasks), "--include_path",
         folder, "--output_path", f"{folder}/{model}", "--log_samples", "--model_args",
         f"base_url={url},model=model,tokenizer_backend=remote,num_concurrent=2"]
        + (["--apply_chat_template"] if "chat" in model else []),
        check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": folder})
    for task in tasks:
        found, = pathlib.Path(folder, model).rglob(f"samples_{task}_*.jsonl")
        yield [one["resps"][0][0] for one in sorted(lines(found), key=lambda one: one["doc_id"])]


def ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def end_logprob(url, text, end):
    """Of the end of text behind this text."""
    ids = ask(url + "/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
    reply = ask(url + "/v1/completions", {"prompt": ids + [end], "max_tokens": 0, "echo": True, "logprobs": 1})
    return reply["choices"][0]["logprobs"]["token_logprobs"][-1]


def same(what, own, theirs):
    if own != theirs:
        sys.exit(f"harness: {what}: {own!r} here, {theirs!r} by lm-evaluation-harness")


def main(url, questions, evaluated, raw, chat, end):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("likelihood", LIKELIHOOD), ("written", WRITTEN)):
            pathlib.Path(folder, name + ".yaml").write_text(
                text.format(name=name, questions=os.path.abspath(questions)))
        likelihoods, written = run(folder, "local-completions", url + "/v1/completions", ["likelihood", "written"])
        said, = run(folder, "local-chat-completions", url + "/v1/chat/completions", ["written"])
        for one, own, theirs in zip(lines(questions), lines(evaluated), likelihoods, strict=True):
            behind = end_logprob(url, one["query"] + " " + one["response"], int(end))
            same("log-likelihood of " + one["response"], f"{own['loglikelihood']:.9g}",
                 f"{float(theirs[0]) + behind:.9g}")
        for name, answers in ((raw, written), (chat, said)):
            for i, theirs in enumerate(answers):
                own = pathlib.Path(f"{name}-{i}").read_text().removesuffix("\n")
                same(f"{name}-{i}", own.split(STOP)[0], theirs)


main(*sys.argv[1:])
