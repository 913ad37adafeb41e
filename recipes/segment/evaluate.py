"""Segmentation from class names on two mask packs: mIoU from one confusion matrix over all images.

    python recipes/segment/evaluate.py --data DATA --methods maskclip,eclip --refine none,pamr

Expect: the rows of docs/segment.md; about 0.15 seconds per image and row on one core, 0.8 with pamr or windows.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np

import eclip
from eclip.datasets.masks import BACKGROUND, VOC_NAMES, VOID, MaskSet, read_masks
from eclip.evaluation.protocols import STUFF

TASKS = {
    "voc20": ("voc2012seg", VOC_NAMES, ""),
    "voc21": ("voc2012seg", VOC_NAMES, ", ".join(STUFF)),
    "camvid": ("camvid", {}, ""),
}


def confusion(masks: MaskSet, background: str, backbone: eclip.Backbone, **settings: Any) -> np.ndarray:
    """Pixel counts (true label, predicted label) over all images, without void, and background if it has no words."""
    numbers = np.array([BACKGROUND, *masks.classes])
    size = int(numbers.max()) + 1
    counts = np.zeros((size, size), np.int64)
    images, classes = [item.image for item in masks.items], list(masks.classes.values())
    found = eclip.segment_each(images, classes, model=backbone, background=background, **settings)
    for item, one in zip(masks.items, found, strict=True):
        truth = item.read()
        asked = (truth != VOID) & ((truth != BACKGROUND) | bool(background))
        pairs = truth[asked].astype(np.int64) * size + numbers[one.labels[0][asked]]
        counts += np.bincount(pairs, minlength=size * size).reshape(size, size)
    return counts


def ious(counts: np.ndarray) -> dict[int, float]:
    """Intersection over union of each label that the masks show."""
    hits = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return {int(label): float(hits[label] / union[label]) for label in np.flatnonzero(counts.sum(axis=1))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default="eclip,maskclip,surgery,gem,sclip,clearclip,naclip")
    parser.add_argument("--refine", default="none")
    parser.add_argument("--templates", default="imagenet80")
    parser.add_argument(
        "--views", default="squash", help="squash, keep:480, or windows as SIDE:WINDOW:STRIDE; comma-separated"
    )
    parser.add_argument("--prob-threshold", type=float)
    parser.add_argument("--every", type=int, default=1, help="use every N-th image")
    parser.add_argument("--per-class", action="store_true")
    args = parser.parse_args()
    backbone = eclip.load(args.model)
    for task, *asked in itertools.product(
        *(given.split(",") for given in (args.tasks, args.methods, args.refine, args.templates, args.views))
    ):
        method, refine, templates, view = asked
        pack, names, background = TASKS[task]
        masks = read_masks(args.data / pack, classes=names or None, every=args.every)
        settings: dict[str, Any] = {"method": method, "refine": None if refine == "none" else refine}
        settings |= {"templates": templates, "prob_threshold": args.prob_threshold}
        parts = view.split(":")
        if parts[0].isdecimal():
            settings |= dict(zip(("image_size", "window", "stride"), map(int, parts), strict=True))
        else:
            settings |= {"resize": parts[0], "image_size": int(parts[1]) if len(parts) > 1 else None}
        counts = confusion(masks, background, backbone, **settings)
        scores = ious(counts)
        right = np.diag(counts).sum() / counts.sum()
        print(
            f"{task:7} {method:9} {refine:5} {templates:10} {view:12} mIoU {100 * np.mean(list(scores.values())):5.1f}"
            f"  pixels right {100 * right:5.1f}  ({len(scores)} classes, {len(masks.items)} images)",
            flush=True,
        )
        if args.per_class:
            called = {BACKGROUND: "background", **masks.classes}
            print("  " + ", ".join(f"{called[label]} {100 * score:.0f}" for label, score in scores.items()))


if __name__ == "__main__":
    main()
