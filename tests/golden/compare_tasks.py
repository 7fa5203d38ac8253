#!/usr/bin/env python3
"""How tasks judge answers, beside the functions of lm-evaluation-harness and hendrycks/math.

    git clone https://github.com/EleutherAI/lm-evaluation-harness
    git clone https://github.com/hendrycks/math
    make build/release/tests/golden/judge
    python3 tests/golden/compare_tasks.py lm-evaluation-harness math build/release \
        gsm8k=train.jsonl humaneval=HumanEval.jsonl.gz ...

- math: pairs of answers made by rewriting seeds with the spellings that the normalisations know, and
  pairs of unrelated ones: right here exactly where is_equiv of hendrycks/math says so or Minerva's
  normal forms are equal (without line ends, at which its patterns stop).
- gsm8k: answers made around numbers in many spellings: strict and flexible as the harness's filters
  and metric judge them. Where we differ on purpose (18.00 is 18, -0 is 0, "18..." ends in dots; "####18" and
  "#### $18" count; the last number is one with a digit) the harness must be the one that says no.
- mmlu-pro: the letter of the harness's filter, wherever that finds one; else of MMLU-Pro's own second pattern, behind "Answer:".
  Where both find none a letter counts on purpose behind "answer is" and "Answer:" in bold, in a box or behind "option", in the last
  box that has no formula, and at the beginning where it does not begin a sentence ("A planet", "I think"): there ours must be the
  one of INTENDED. The letter that begins a word ("answer is Apple") counts there and not here.
- every official answer of the files is right (those of HumanEval and MBPP are run, isolated).
Prints counts and ends with status 1 on a disagreement that is not of a kind named here.
"""

import ast
import gzip
import json
import random
import re
import subprocess
import sys
import types


def load(path, names):
    """Functions and constants of a module, without what it imports."""
    tree = ast.parse(open(path).read())
    keep = [
        node
        for node in tree.body
        if getattr(node, "name", None) in names
        or isinstance(node, ast.Assign)
        and node.targets[0].id in names
    ]
    module = types.ModuleType(path)
    module.re = re
    module.Optional = object
    source = "\n".join(re.sub(r"Optional\[.*?\]", "object", ast.unparse(node)) for node in keep)
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def judge(build, cases):
    text = "".join(json.dumps(case) + "\n" for case in cases)
    out = subprocess.run([f"{build}/tests/golden/judge"], input=text, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


# --- math ------------------------------------------------------------------------------------------

SEEDS = r"""
5|-3|0|0.5|.5|12.25|1,234|100,000|\frac{1}{2}|\frac12|\frac1{72}|\frac{72}1|1/2|-1/2|3/4|a/b|2/3/4|007/2
\sqrt{2}|\sqrt2|2\sqrt{3}|\sqrt[3]{5}|10\sqrt3 + \sqrt4|\dfrac{\sqrt{3}}{2}|\frac\pi4|\frac{\pi}{4}|\tfrac83
x^2+2x+1|(x-2)(x+2)|\left(x-2\right)\left(x+2\right)|[2,5)|(-\infty, 3]\cup[5,\infty)|x=5|y = 5|k=5|abc=5|x=y=5
30^\circ|30^{\circ}|30|10\text{ units}|10|10\%|\$10|10 \text{ cm}^2|5\text{ a}5\text{ b}|\text{Monday}|\mbox{Monday}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}|\begin{pmatrix}1\\2\end{pmatrix}|1,2,3|1, 2, 3|1\!,234|0.333\ldots|3\dots
\text{(A)}|\textbf{A}|A|(A)|\overline{AB}|AB|\boxed{7}|7|12 square feet|12|an apple|apple|a|5 dollars|5.
\frac|\sqrt|\frac{|\frac1|\sqrt\sqrt2|\frac\frac12 3|\text{ }| .5|{.5}|{0.5}|=|==|x=|=5|.||$|$5$|it is $5$ now|$$
\frac{a}{b}c|\fracabc|\frac{ab}c|frac12|sqrt3|1{,}000|1000|11_2|2+3i|2 + 3i|\text{m}|3\text{m}|9^{\mathrm{th}}|é=5
"""


def rewrite(rng, text):
    rules = [
        ("frac", "dfrac"), ("frac", "tfrac"), ("{1}", "1"), ("{2}", "2"), (" ", ""), ("+", " + "), (",", ", "),
        ("(", "\\left("), (")", "\\right)"), ("0.", "."), ("\\", "\\\\"), ("5", "5\\%"), ("5", "\\$5"),
        ("1", "1\\!"), ("0", "0^\\circ"), ("3", "3\\text{ cm}"), ("A", "\\text{A}"), ("=", " = "), ("x", "k = x"),
        ("", "\n"), ("", " "), ("{", "{ "), ("1,", "1{,}"), ("2", "2 units"), ("\\frac{", "\\frac {"),
    ]
    for _ in range(rng.randrange(4)):
        old, new = rng.choice(rules)
        if rng.random() < 0.3:
            old, new = new, old
        text = text.replace(old, new) if old else text + new
    return text


def compare_math(build, harness, math):
    benchmark = load(f"{math}/modeling/math_equivalence.py",
                     ["_fix_fracs", "_fix_a_slash_b", "_remove_right_units", "_fix_sqrt", "_strip_string", "is_equiv"])
    minerva = load(f"{harness}/lm_eval/tasks/minerva_math/utils.py",
                   ["SUBSTITUTIONS", "REMOVED_EXPRESSIONS", "normalize_final_answer",
                    "last_boxed_only_string", "remove_boxed"])
    rng = random.Random(0)
    seeds = [seed for line in SEEDS.split("\n") for seed in line.split("|") if line]
    pairs = []
    for _ in range(40000):
        a = rng.choice(seeds)
        b = a if rng.random() < 0.7 else rng.choice(seeds)
        pairs.append((rewrite(rng, a), rewrite(rng, b)))
    cases = []
    for a, b in pairs:
        cases.append({"task": "math", "expected": f"so \\boxed{{{a}}}", "answer": f"\\boxed{{{b}}}$ it is"})
    counts = {"right": 0, "wrong": 0}
    bad = 0
    for (a, b), case, (ours, _, _) in zip(pairs, cases, judge(build, cases)):
        try:  # what the harness finds in the box: braces may not balance
            x, y = (minerva.remove_boxed(minerva.last_boxed_only_string(case[k])) for k in ("expected", "answer"))
        except (AssertionError, TypeError):
            continue
        if "\\boxed " in case["expected"] + case["answer"]:
            continue
        m = [minerva.normalize_final_answer(t.replace("\n", "")) for t in (x, y)]
        theirs = bool(benchmark.is_equiv(x, y)) or (m[0] == m[1] != "")
        counts["right" if theirs else "wrong"] += 1
        if ours != theirs:
            bad += 1
            if bad <= 20:
                print("math differs:", repr(x), repr(y), "ours", ours, "theirs", theirs, m)
    print(f"math: {counts['right']} right and {counts['wrong']} wrong pairs, {bad} judged otherwise")
    return bad


# --- gsm8k -----------------------------------------------------------------------------------------


def harness_number(text, pattern, select):
    found = re.findall(pattern, text)
    if not found:
        return "[invalid]"
    found = found[select]
    if isinstance(found, tuple):
        found = [part for part in found if part]
        found = found[0] if found else "[invalid]"
    return found.strip()


def metric(a, b):
    for ignored in (",", r"\$", r"(?s).*#### ", r"\.$"):
        a, b = re.sub(ignored, "", a), re.sub(ignored, "", b)
    return a.lower() == b.lower()


def same_value(number, expected):
    value = [float(re.sub(r"[$,]", "", t).strip(".")) for t in (number, expected.split("####")[1])]
    return value[0] == value[1]


def compare_gsm8k(build):
    rng = random.Random(1)
    spell = [lambda v: str(v), lambda v: f"{v:,}", lambda v: f"${v:,}", lambda v: f"{v}.", lambda v: f"{v}.00",
             lambda v: f"{v}%", lambda v: f"-{v}", lambda v: f"-${v}", lambda v: f"{v}.5", lambda v: f"{v} dollars",
             lambda v: f"${v}."]
    before = ["#### ", "####", "The answer is ", "so 16-3=13 and 10 - 5 = ", "", "#### $", "first #### 7\n#### ",
              "... ", "(", "a) 1, 2, and "]
    behind = ["", ".", " eggs", "\n", "...", " in all, e.g. so", ")", "\nQuestion"]
    cases = []
    for _ in range(20000):
        value = rng.choice([0, 5, 7, 18, 72, 1234, 100000])
        other = value if rng.random() < 0.6 else rng.choice([5, 18, 1234])
        answer = rng.choice(before) + rng.choice(spell)(other) + rng.choice(behind)
        cases.append({"task": "gsm8k", "expected": f"it is <<1+1=2>>2\n#### {rng.choice(spell[:2])(value)}", "answer": answer})
    same, laxer, bad = 0, 0, 0
    for case, (strict, flexible, _) in zip(cases, judge(build, cases)):
        for ours, pattern, select in ((strict, r"#### (\-?[0-9\.\,]+)", 0), (flexible, r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1)):
            number = harness_number(case["answer"], pattern, select)
            theirs = metric(number, case["expected"])
            if ours == theirs:
                same += 1
            elif ours and (not re.search(r"\d", number) or same_value(number, case["expected"])):
                laxer += 1
            else:
                bad += 1
                if bad <= 20:
                    print("gsm8k differs:", repr(case), "ours", ours, "theirs", theirs, repr(number))
    print(f"gsm8k: {same} judged alike, {laxer} right only here (as described), {bad} otherwise")
    return bad


MARKS = r"(?:[ \t\r\n:*($]|\\boxed\{|\\text\{|[oO]ption|[cC]hoice)*"
INTENDED = [  # the pattern, and which of its matches counts
    (rf"nswer is{MARKS}([A-Z])(?![\w'])", 0),
    (rf"nswer:{MARKS}([A-Z])(?![\w'])", 0),
    (rf"\\boxed\{{{MARKS}([A-Z])(?![\w'])[ \t\r*$]*(?:[}}).:,\n]|\Z)", -1),
    (rf"\A{MARKS}([B-HJ-Z])(?![\w'])", 0),
    (rf"\A[ \t\r\n:$]*(?![ \t\r\n:$AI]){MARKS}([AI])(?![\w'])", 0),  # marked
    (rf"\A[ \t\r\n:$]*([AI])[*$]*(?:[\t.):,;!?<]| - |[ \r]*(?:\n|\Z))", 0),
]


def first_found(patterns, text):
    """The letter that the first pattern which matches finds; None: none matches."""
    found = [letters[select] for letters, select in ((re.findall(p, text), select) for p, select in patterns) if letters]
    return found[0] if found else None


def compare_letters(build):
    rng = random.Random(2)
    begin = ["", "", "Let us think. A planet turns. ", "A planet turns. ", "I think so. ", "A. I. may say: "]
    before = ["The answer is ", "the answer is: ", "Thus the best answer is ", "answer is (", "Answer: ", "so the answer is **", "",
              "The answer is option ", "**Answer:** ", "Answer: Option (", "so $\\boxed{", "The answer is $\\boxed{\\text{", "(", "**"]
    behind = ["", ")", ").", ". dry palms", " because", "**", "\n", "}", "}}$.", ", as", ": ice", "'s", "pple", "** ice", " \nfor",
              " - ice", "; ice", "?", "\tice", "</s>", " = ma}$."]
    harness = [(r"answer is \(?([ABCDEFGHIJ])\)?", 0), (r"[aA]nswer:\s*([A-J])", 0)]
    cases = []
    for _ in range(8000):
        text = rng.choice(begin) + rng.choice(before) + rng.choice("ABCDEFGHIJ") + rng.choice(behind)
        cases.append({"task": "mmlu-pro", "expected": "C", "answer": text})
    found, words, intended, none, bad = 0, 0, 0, 0, 0
    for case, (_, _, ours) in zip(cases, judge(build, cases)):
        theirs = first_found(harness, case["answer"])
        wanted = first_found(INTENDED, case["answer"])
        if theirs and re.search(r"nswer(?: is \(?|:\s*)[A-J](?:pple|'s)", case["answer"]):
            words += 1  # the harness takes the first letter of a word
            theirs = None
        found += theirs is not None
        intended += theirs is None and wanted is not None
        none += theirs is None and wanted is None
        if ours != (theirs or wanted):
            bad += 1
            if bad <= 20:
                print("letters differ:", repr(case["answer"]), "ours", ours, "theirs", theirs, "wanted", wanted)
    print(f"mmlu-pro: {found} letters that the harness finds, {intended} found only here and {none} not found, as described "
          f"({words} letters of words among them), {bad} otherwise")
    return bad


def check_official(build, task, path):
    open_file = gzip.open if path.endswith(".gz") else open
    with open_file(path, "rt") as file:
        text = file.read()
    records = json.loads(text) if text[0] == "[" else [json.loads(line) for line in text.split("\n") if line]
    results = judge(build, [{"task": task, "record": record} for record in records])
    wrong = [i for i, (right, _, _) in enumerate(results) if not right]
    print(f"{path}: {len(records) - len(wrong)} of {len(records)} official answers are right, not", wrong[:20])
    return len(wrong)


def main():
    harness, math = sys.argv[1:3]
    build, official = sys.argv[3], [argument.split("=", 1) for argument in sys.argv[4:]]
    bad = compare_math(build, harness, math) + compare_gsm8k(build) + compare_letters(build)
    bad += sum(check_official(build, task, path) for task, path in official)
    sys.exit(bad > 0)


main()
