"""Whose maps does the head of `mini` change? Its figures and those of its start, for names in groups.

    python recipes/mini/by_name.py --data DATA --runs RUNS

Expect: the table of docs/eclip.md, in six minutes on one core. DATA has the packs voc2012seg, coco80seg and camvid. A
name is "trained" if a loss of the recipe has it: a class of COCO, a word of the trunk's classifier (`names.py`), or a
plain word that captions mention. Results in RUNS are not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import names

import eclip

PACKS = ("voc2012seg", "coco80seg", "camvid")
METHODS = ("maskclip", "eclip")


def trained() -> set[str]:
    """Every name that a loss has."""
    plain = [*names.COCO, *names.MENTIONED, *names.GENERAL]
    return {word for words in plain for word in words.split("|")}


def scores(classes: list[dict[str, Any]]) -> str:
    """Mean over pairs of mSC and IoU, as cells."""
    pairs = sum(one["pairs"] for one in classes)
    means = [100 * sum(one["pairs"] * one[key] for one in classes) / pairs for key in ("msc", "iou")]
    return " / ".join(f"{mean:.1f}" for mean in means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--model", default="mini", help="any name that eclip.load knows")
    args = parser.parse_args()
    known = trained()
    print(f"| mSC / mIoU | names | pairs | {' | '.join(METHODS)} |\n|---|---|---|{'---|' * len(METHODS)}")
    for pack in PACKS:
        asked: dict[str, Any] = {"methods": ",".join(METHODS), "models": args.model, "examples": 0}
        found = eclip.evaluate(pack, root=args.data / pack, out=args.runs / f"{pack}-names", **asked)
        by_method = {row["method"]: list(row["classes"].values()) for row in found.results["rows"]}
        groups = {
            "person": lambda one: one["name"] == "person",
            "other trained names": lambda one: one["name"] != "person" and one["name"] in known,
            "untrained names": lambda one: one["name"] not in known,
        }
        for label, belongs in groups.items():
            chosen = {method: [one for one in by_method[method] if belongs(one)] for method in METHODS}
            first = chosen[METHODS[0]]
            if first:
                cells = " | ".join(scores(chosen[method]) for method in METHODS)
                pairs = sum(one["pairs"] for one in first)
                print(f"| {pack}, {label} | {len(first)} | {pairs} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
