"""table.py: runs/bench/bench.jsonl as Markdown tables, one for each machine; the last line of a name counts.

Usage: python3 tests/bench/table.py [part of a name] [--file FILE]
"""

import argparse
import json
import os
import sys


def number(value):
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("filter", nargs="?", default="")
    parser.add_argument("--file", default="runs/bench/bench.jsonl")
    arguments = parser.parse_args()
    if not os.path.exists(arguments.file):
        sys.exit(f"table.py: there is no {arguments.file}: make bench writes runs/bench/bench.jsonl")
    machines = {}
    with open(arguments.file, encoding="utf-8") as lines:
        for line in lines:
            figure = json.loads(line)
            if arguments.filter in figure["name"]:
                figures = machines.setdefault(figure["machine"], {})
                figures.pop(figure["name"], None)
                figures[figure["name"]] = figure
    for machine, figures in machines.items():
        print(f"{machine}\n\n| what | value | unit | limit | share | peer | ratio |\n|---|---:|---|---:|---:|---:|---:|")
        for f in figures.values():
            share = "" if f["share"] is None else f"{f['share']:.0%}"
            print(f"| {f['name']} | {number(f['value'])} | {f['unit']} | {number(f['limit'])} | {share} "
                  f"| {number(f['peer'])} | {number(f['ratio'])} |")
        print()


if __name__ == "__main__":
    main()
