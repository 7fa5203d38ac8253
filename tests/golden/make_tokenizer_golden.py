#!/usr/bin/env python3
"""Makes tokenizer_small.json, tokenizer_vectors.json and chat_vectors.json, beside this file.

    pip install tokenizers==0.23.3 jinja2==3.1.6
    python3 make_tokenizer_golden.py

chat_templates.json is input: templates as they stand in the tokenizer_config.json of Qwen3 (Apache
2.0; two spellings), Qwen2.5 (Apache 2.0), Llama-3 and of plain ChatML; those of Llama-3.1 (which 3.3 has,
too) and 3.2 are spelled anew, with the same output expressions.
"""
import json
import os

import jinja2.sandbox
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+")
CORPUS = ["The mask tokens of a slot are predicted together, the slots in any order.",
          "def the_slots(tokens):\n    return [token for token in tokens if token]\n",
          "Été à l'école : des élèves, des étés. 日本語の文。日本語。 Привет, привет!"] * 3
TEXTS = [
    "", " ", "a", "the slots", "  the  slots\n\n\tthe\r\n", "I'LL we've 'S it's 'ſ", "1234567 3.14",
    "été e\u0301te\u0301 \u1112\u1161\u11ab \ub02b\ub920\u11a7 \u0344", "日本語の文。", "Привет мир",
    "a\u0085b\u180ec\u2028d\u3000e\ufefff", "\u1c89\U0001e4d0\U000323af x\U00010d40",
    "👩‍👩‍👧 \U0001f600", "<|end|>", "a<|end|>b", "  <strip>  a <strip>", "a\u3000<strip>\u2003\n b",
    "e\u0301<norm\u00e9>", "<norme\u0301>", "<|end|><|endless|>", "\u0000\u0001\u007f",
    "tokens" * 30, " " * 100 + "\n" + "=" * 77, "return [token for token in tokens]\n" * 3,
]
MESSAGES = [
    [{"role": "user", "content": "Hello!"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " \u00a0x\u3000\n"},
     {"role": "assistant", "content": "\x1f y\n"}, {"role": "user", "content": ""}],
    [{"role": "user", "content": "a"},
     {"role": "assistant", "content": "<think>\nx\n</think>\n\ny"},
     {"role": "system", "content": "late"}],
    [{"role": "user", "content": "a"},
     {"role": "assistant", "content": "\n\ny", "reasoning_content": "\nwhy\n"}],
]
CALLS = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": "well", "tool_calls": [
        {"type": "function", "function": {"name": "get", "arguments": {"a": [1, -2.5, "é\n"]}}},
        {"name": "put", "arguments": "{\"raw\": 1}"}]},
    {"role": "tool", "content": "21"}, {"role": "tool", "content": "22"},
    {"role": "assistant", "content": "done"}]
ONE_CALL = [
    {"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": " weather?\n"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "get", "arguments": {"a": [1, -2.5, "é\n"], "b": {}}}}]},
    {"role": "tool", "content": "21 \"°C\"\n"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "put", "arguments": "{\"raw\": 1}"}}]},
    {"role": "tool", "content": ""},
    {"role": "assistant", "content": "\u3000done "}]
TOOLS = [{"type": "function", "function": {
    "name": "get", "numbers": [0, 1.0, 0.1, 1e-7, 1e20, 1e16, 123456.75, -0.0, True, False, None],
    "text": "é\u0007\"\\\n\u2028\u007f/", "empty": [{}, []]}}]


def small():
    """A tokenizer with all that the big ones have, and added tokens with every flag."""
    t = tokenizers.Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=400, show_progress=False, special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens(["<|end|>", "<|endless|>"])
    t.add_tokens([AddedToken("<strip>", lstrip=True, rstrip=True, normalized=False),
                  AddedToken("<norm\u00e9>", normalized=True)])
    return t


def render(source, messages, tools, prompt, thinking, date):
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    known = {} if thinking is None else {"enable_thinking": thinking}
    known |= {} if date is None else {"date_string": date}
    return env.from_string(source).render(messages=messages, tools=tools, bos_token="<|begin_of_text|>",
                                          add_generation_prompt=prompt, **known)


def write(name, value):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=False, indent=0)
        out.write("\n")


def main():
    t = small()
    write("tokenizer_small.json", json.loads(t.to_str()))
    cases = []
    for text in TEXTS:
        ids = t.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "decoded": t.decode(ids, skip_special_tokens=False),
                      "skipped": t.decode(ids, skip_special_tokens=True)})
    write("tokenizer_vectors.json", cases)
    with open(os.path.join(HERE, "chat_templates.json"), encoding="utf-8") as file:
        templates = json.load(file)
    cases = []
    for name, source in templates.items():
        qwen, llama31 = name.startswith("qwen"), name.startswith("llama3.")
        calls = [CALLS] if qwen else [ONE_CALL] if llama31 else []
        for messages in MESSAGES + calls:
            has_tools = (qwen or llama31) and messages in [MESSAGES[1]] + calls
            for tools in [None] + ([TOOLS] if has_tools else []):
                for prompt, thinking in (True, None), (True, False), (False, True):
                    if thinking is not None and not name.startswith("qwen3"):
                        continue
                    for date in [None] + (["05 May 2025"] if llama31 and messages is MESSAGES[1] else []):
                        case = {"template": name, "messages": messages, "tools": tools,
                                "add_generation_prompt": prompt, "enable_thinking": thinking}
                        case |= {} if date is None else {"date_string": date}
                        case["text"] = render(source, messages, tools, prompt, thinking, date)
                        if name != "qwen3_strings" or messages == CALLS:
                            cases.append(case)
    write("chat_vectors.json", cases)


if __name__ == "__main__":
    main()
