"""Which threshold turns a heat map into a mask? The table of docs/metrics.md, and the thresholds that ship with `mini`.

    python recipes/threshold/evaluate.py --data DATA
    python recipes/threshold/evaluate.py --data DATA --write src/eclip/backbones/assets/mini \
        --methods eclip,maskclip,sclip,clearclip,naclip,gem,surgery

DATA contains the packs voc2012seg and coco80seg; the model is `mini` or `--model`, the prompt is "a photo of a {}", and
every class that covers 1 % of an image is one pair. Each rule turns its heat map into a mask, whose IoU with the class
is averaged over pairs. Constants are chosen on images at even positions of both packs and all rules reported on those
at odd ones, with the 95 % interval, over images, of the difference to Otsu's threshold. With `--write`, constants that
are better than Otsu's beyond the interval on both packs are written to eclip_levels.json in that folder. Expect half an
hour on one core, mostly for gradients; `--methods eclip,gem` takes four minutes.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

import eclip
from eclip.backbones.catalog import LEVELS, LEVELS_SCHEMA
from eclip.datasets.masks import VOID, MaskSet, read_masks
from eclip.errors import NotApplicableError
from eclip.heatmap import boxes, normalize, otsu, resize
from eclip.methods import METHODS
from eclip.training.validation import encoded

PROMPT, LEAST_AREA, BINS = "a photo of a {}", 0.01, 200
PACKS = ("voc2012seg", "coco80seg")
CONSTANTS = np.arange(20, 161, 4)
"""Constant thresholds that are tried, in bins: 0.1 to 0.8."""
SPREADS = np.arange(-2, 9) / 4
"""Thresholds that are tried as the mean plus so many standard deviations."""
LEAST_BOX = 0.001
"""Smaller regions, as a share of the image, have no box."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(n for n, m in METHODS.items() if m.kind != "perturbation"))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="also write the scores of each pair to this npz file")
    parser.add_argument("--write", type=Path, help="the model's folder, for constants that are better than Otsu's")
    parser.add_argument("--model", default="mini", help="any name that eclip.load knows")
    args = parser.parse_args()
    backbone = eclip.load(args.model)
    found: dict[str, list[dict[str, np.ndarray]]] = defaultdict(list)
    for pack in PACKS:
        masks = read_masks(args.data / pack)
        for name, one in scores(backbone, masks, args.methods.split(","), args.every).items():
            found[name].append(one)
    if args.keep:
        flat = {
            f"{name}/{pack}/{key}": values
            for name, packs in found.items()
            for pack, one in zip(PACKS, packs, strict=True)
            for key, values in one.items()
        }
        np.savez(args.keep, **flat)
    print("method      rule                     " + "  ".join(f"{pack:>34}" for pack in PACKS))
    chosen = {name: level for name, packs in found.items() if (level := report(name, packs)) is not None}
    if args.write:
        levels = {"schema": LEVELS_SCHEMA, "levels": chosen, "recipe": "recipes/threshold/evaluate.py"}
        (args.write / LEVELS).write_text(json.dumps(levels, indent=2) + "\n", encoding="utf-8")


def scores(
    backbone: eclip.Backbone, masks: MaskSet, methods: list[str], every: int
) -> dict[str, dict[str, np.ndarray]]:
    """By method, for each pair: its image, IoU of each constant and each spread, and of Otsu; IoU of their best box."""
    text = eclip.encode_texts(backbone, list(masks.classes.values()), PROMPT)
    found: dict[str, dict[str, list[object]]] = defaultdict(lambda: defaultdict(list))
    image, lacking = -1, set()
    for items, encoding in encoded(masks, backbone, batch_size=8):
        truths = [item.read() for item in items]
        for index, mask in enumerate(truths):
            image += 1
            known = max(1, int((mask != VOID).sum()))
            shown = [
                (column, number)
                for column, number in enumerate(masks.classes)
                if (mask == number).sum() >= LEAST_AREA * known
            ]
            if not shown or image % every:
                continue
            one, columns = encoding.only(index), [column for column, _ in shown]
            for name in methods:
                method, options = METHODS[name], {}
                if name in lacking:
                    continue
                try:
                    maps = (
                        method(one, text, **options)[0, columns]
                        if method.compares_texts
                        else method(one, text[columns])[0]
                    )
                except NotApplicableError as error:
                    print(f"{name}: {error.why}")
                    lacking.add(name)
                    continue
                for heat, (_, number) in zip(resize(normalize(maps), mask.shape).numpy(), shown, strict=True):
                    for key, value in score(heat, mask == number, mask != VOID).items():
                        found[name][key].append(value)
                    found[name]["image"].append(image)
    return {name: {key: np.array(values) for key, values in one.items()} for name, one in found.items()}


def score(heat: np.ndarray, inside: np.ndarray, known: np.ndarray) -> dict[str, object]:
    """IoU of the masks of all rules with a class."""
    binned = np.minimum((heat * BINS).astype(np.int64), BINS - 1)
    counts = [np.bincount(binned[where], minlength=BINS)[::-1].cumsum()[::-1] for where in (inside & known, known)]
    both, marked = counts
    every = both / (inside.sum() + marked - both)  # at each bin's lower edge
    automatic, mean, spread = otsu(heat), heat.mean(), heat.std()

    def iou(threshold: float) -> float:
        on = (heat >= threshold) & known
        return float((on & inside).sum() / (on | (inside & known)).sum())

    return {
        "constant": every[CONSTANTS],
        "spread": np.array([iou(mean + times * spread) for times in SPREADS]),
        "otsu": iou(automatic),
        "otsu value": automatic,
        "box half": best_box(heat >= 0.5, inside),
        "box otsu": best_box(heat >= automatic, inside),
    }


def best_box(mask: np.ndarray, inside: np.ndarray) -> float:
    """IoU of the first box of a mask with the box around the class."""
    first, [truth] = boxes(mask, min_area=LEAST_BOX)[:1], boxes_around(inside)
    if not len(first):
        return 0.0
    left, top = np.maximum(first[0][:2], truth[:2])
    right, bottom = np.minimum(first[0][2:], truth[2:])
    both = max(0, right - left) * max(0, bottom - top)
    areas = [int((box[2] - box[0]) * (box[3] - box[1])) for box in (first[0], truth)]
    return float(both / (sum(areas) - both))


def boxes_around(inside: np.ndarray) -> np.ndarray:
    rows, cols = np.nonzero(inside)
    return np.array([[cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]])


def report(name: str, packs: list[dict[str, np.ndarray]]) -> float | None:
    """Choose a constant and a spread on even images of both packs, and print all rules on odd ones.

    Returns:
        The constant, if it is better than Otsu's threshold beyond the interval on both packs.
    """
    even, odd = ([one["image"] % 2 == part for one in packs] for part in (0, 1))
    mean = {
        key: np.mean([one[key][on].mean(axis=0) for one, on in zip(packs, even, strict=True)], axis=0)
        for key in ("constant", "spread")
    }
    best = {key: int(values.argmax()) for key, values in mean.items()}
    constant, gains = float(CONSTANTS[best["constant"]] / BINS), []
    rules = {
        "0.5": lambda one: one["constant"][:, list(CONSTANTS).index(BINS // 2)],
        f"constant {constant:.2f}": lambda one: one["constant"][:, best["constant"]],
        f"mean + {SPREADS[best['spread']]:.2f} std": lambda one: one["spread"][:, best["spread"]],
        "otsu": lambda one: one["otsu"],
    }
    for label, rule in rules.items():
        cells = []
        for one, on in zip(packs, odd, strict=True):
            values, against, images = rule(one)[on], one["otsu"][on], one["image"][on]
            low, high = interval(values - against, images)
            gains += [low] if label.startswith("constant") else []
            cells.append(f"{100 * values.mean():6.1f} ({100 * low:+5.1f} to {100 * high:+5.1f} against Otsu)")
        print(f"{name:10s}  {label:22s}  {'  '.join(cells)}", flush=True)
    return constant if min(gains) > 0 else None


def interval(values: np.ndarray, images: np.ndarray, draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over pairs, drawing images."""
    numbers, place = np.unique(images, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    drawn = np.random.default_rng(0).integers(len(numbers), size=(draws, len(numbers)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main()
