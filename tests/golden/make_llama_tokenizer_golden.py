#!/usr/bin/env python3
"""Makes tokenizer_llama3.json and tokenizer_llama3_vectors.json, beside this file.

    pip install tokenizers==0.23.3
    python3 make_llama_tokenizer_golden.py

A small tokenizer of the shape of Llama-3's: its Split pattern, no normalizer, ignore_merges with words that
no merge makes, its special tokens behind the others, and a post-processor, which is not ours to run.
"""
import json
import os
import random

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
           r"\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>",
            "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
CORPUS = [
    "The model reads the tokens of a text and writes the next ones; they're in the order that we've chosen.",
    "def add(numbers):\n    total = 0\n    for number in numbers:\n        total += number\n    return total\n",
    "In 1998 and 2024 there were 365 days, 12 months, 1234567 numbers, 3.14159 and 100,000 words.",
    "L'été, les élèves lisent; Größe und Straße; mañana; naïve café.", "Привет, мир! Это слова и числа: 42.",
    "日本語の文章です。中文也有词语。한국어 문장도 있습니다.", "{\"name\": \"value\", \"list\": [1, 2, 3]}\n",
    "I'll say it's John's; don't, WE'VE, I'M, they'd.", "\t\ttabs   and    spaces\n\n\nlines\r\n",
] * 4
# In the vocabulary, but no merge makes them: found only because merges are ignored for whole words.
WORDS = [" unmergeable", " zebra", "Quark", "ünïcödé", " 日本", "987", " ==>", "\n\n\n\n", "    ", "'RE"]
POOLS = {
    "words": ["the", " tokens", " Model", "zebra", " unmergeable", "Quark", "ünïcödé", " café", "reads", "  the"],
    "numbers": ["1", "12", "123", "1234", "987", "98765", " 2024", "3.14", "1,000,000", "१२३", "Ⅻ", "½²"],
    "contractions": ["I'm", "we've", "'s", "'RE", "don't", "'LL", "John's", "o'clock", "''d", "'ſ", "’s"],
    "cjk": ["日本語", " 日本", "中文。", "한국어", "ｶﾀｶﾅ", "、", "「文」", "　"],
    "emoji": ["😀", "👩‍👩‍👧", "🇫🇷", "☕️", "1️⃣", "👍🏽"],
    "spaces": [" ", "  ", "    ", "\t", "\n", "\n\n\n\n", "\r\n", " \n ", "\u00a0", "\u2003", "\u3000", "\u0085"],
    "signs": ["==>", " ==>", "!?", "...", "$%^", "{}[]", "--\n", "/*", "*/\r\n", "_", "<|", "|>"],
    "marks": ["e\u0301", "\u0301", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0928\u092e\u0938\u094d\u0924\u0947",
              "\u05e9\u05c1\u05dc\u05d5\u05dd", "\u0645\u064e\u0631\u062d\u064e\u0628\u0627", "\u1e9e", "\u01c5"],
    "control": ["\u0000", "\u0001", "\u007f", "\u200b", "\ufeff", "\ufffd", "\u2028"],
    "specials": ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id", "|eom_id|>"],
}


def byte_level(text):
    """A word as it stands in the vocabulary."""
    return "".join(piece for piece, _ in pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
                   .pre_tokenize_str(text))


def make():
    t = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.pre_tokenizer = split
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    model = json.loads(t.to_str())["model"]
    for word in WORDS:
        model["vocab"].setdefault(byte_level(word), len(model["vocab"]))
    t = tokenizers.Tokenizer(models.BPE(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]],
                                        ignore_merges=True))
    t.pre_tokenizer = split
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(SPECIALS)
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                      special_tokens=[(SPECIALS[0], t.token_to_id(SPECIALS[0]))])])
    return t


def texts():
    random.seed(2024)
    everything = [piece for pool in POOLS.values() for piece in pool]
    for name, pool in POOLS.items():
        for i in range(25):
            yield name, "".join(random.choices(pool, k=1 + i % 6))
        for i in range(15):
            pieces = random.choices(pool, k=3) + random.choices(everything, k=4)
            random.shuffle(pieces)
            yield name + "_mixed", "".join(pieces)
    for text in CORPUS[:9] + WORDS:
        yield "corpus", text


def write(name, value):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")


def main():
    t = make()
    write("tokenizer_llama3.json", json.loads(t.to_str()))
    cases = []
    for category, text in texts():
        ids = t.encode(text, add_special_tokens=False).ids
        cases.append({"cat": category, "text": text, "ids": ids,
                      "decoded": t.decode(ids, skip_special_tokens=False),
                      "skipped": t.decode(ids, skip_special_tokens=True)})
    write("tokenizer_llama3_vectors.json", cases)


if __name__ == "__main__":
    main()
