"""Whose maps does the head of `mini` change? Its figures and those of its start, for names in groups.

    python recipes/mini/by_name.py --data DATA --runs RUNS

Expect: the table of docs/eclip.md, in six minutes on one core. DATA has the packs voc2012seg, coco80seg and camvid. A
name is "trained" if a loss of the recipe has it: a class of COCO, a word of the trunk's classifier (`names.py`), or a
plain word that captions mention. The gain is that of the head over its start, with its 95 % interval over images.
Results in RUNS are not measured again.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import names
import numpy as np

import eclip

PACKS = ("voc2012seg", "coco80seg", "camvid")
VIDEOS = ("camvid",)
"""Packs of few videos, whose frames are not independent: they have no interval."""
METHODS = ("maskclip", "eclip")


def trained() -> set[str]:
    """Every name that a loss has."""
    plain = [*names.COCO, *names.MENTIONED, *names.GENERAL]
    return {word for words in plain for word in words.split("|")}


def interval(values: np.ndarray, images: np.ndarray) -> str:
    """The mean over pairs with its 95 % bootstrap interval over images, in percent."""
    _, place = np.unique(images, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    drawn = np.random.default_rng(0).integers(len(sums), size=(1000, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (0.025, 0.975))
    return f"{100 * values.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--model", default="mini", help="any name that eclip.load knows")
    args = parser.parse_args()
    known = trained()
    print(f"| mSC / mIoU | names | pairs | {' | '.join(METHODS)} | mSC, gain |\n|---|---|---|---|---|---|")
    for pack in PACKS:
        out = args.runs / f"{pack}-names"
        asked: dict[str, Any] = {"methods": ",".join(METHODS), "models": args.model, "examples": 0}
        eclip.evaluate(pack, root=args.data / pack, out=out, **asked)
        with (out / "pairs.csv").open(encoding="utf-8", newline="") as file:
            pairs = list(csv.DictReader(file))
        groups = {
            "person": lambda name: name == "person",
            "other trained names": lambda name: name != "person" and name in known,
            "untrained names": lambda name: name not in known,
        }
        for label, belongs in groups.items():
            some = [[one for one in pairs if one["method"] == method and belongs(one["name"])] for method in METHODS]
            if not some[0]:
                continue
            values = [{key: np.array([float(one[key]) for one in own]) for key in ("msc", "iou")} for own in some]
            cells = [" / ".join(f"{100 * own[key].mean():.1f}" for key in ("msc", "iou")) for own in values]
            images = np.array([one["image"] for one in some[0]])
            gain = values[1]["msc"] - values[0]["msc"]
            cells.append(f"{100 * gain.mean():+.1f}" if pack in VIDEOS else interval(gain, images))
            count = len({one["name"] for one in some[0]})
            print(f"| {pack}, {label} | {count} | {len(some[0])} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
