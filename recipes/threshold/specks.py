"""How small may a region be to get a box? The choice of `min_area` for boxes, with `mini` and its own thresholds.

    python recipes/threshold/specks.py --data DATA

DATA contains the packs voc2012seg and coco80seg; the prompt is "a photo of a {}", and every class that covers 1 % of an
image is one pair. Its true boxes are those around the connected regions of its mask, except for regions below 0.1 % of
the image. A box is right if its IoU with a true box that no larger box has taken is at least 0.5. F1 is of all boxes of
a pack. Regions are dropped by their share of the image, or of the largest region. The share is chosen on images at even
positions and reported on those at odd ones. Takes five minutes on one core.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import islice
from pathlib import Path

import numpy as np
from torch import from_numpy
from torchvision.ops import box_iou

import eclip
from eclip.datasets.masks import VOID, read_masks
from eclip.heatmap import boxes, normalize, otsu, regions, resize
from eclip.methods import METHODS
from eclip.training.validation import encoded

PROMPT, LEAST_AREA, LEAST_TRUE, LEAST_IOU = "a photo of a {}", 0.01, 0.001, 0.5
RULES = [("image", share) for share in (0.0, 0.001, 0.005, 0.01, 0.02, 0.05)]
RULES += [("largest", share) for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)]
PACKS = ("voc2012seg", "coco80seg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", default="eclip,gem,surgery")
    args = parser.parse_args()
    backbone = eclip.load("mini")
    for pack in PACKS:
        for method, counts in count(backbone, args.data / pack, args.methods.split(",")).items():
            for half, name in enumerate(("even", "odd")):
                right, found, true = counts[half].T
                f1 = 2 * right / (found + true)
                for (of, share), *one in zip(RULES, f1, right / found, right / true, found / true, strict=True):
                    numbers = "  ".join(f"{100 * value:5.1f}" for value in one)
                    rule = f"{100 * share:4.1f} % of the {of:<7}"
                    print(f"{pack:<11} {method:<8} {name:<5} {rule}  F1 precision recall ratio {numbers}")


def count(backbone: eclip.Backbone, root: Path, methods: list[str]) -> dict[str, np.ndarray]:
    """Right boxes, boxes and true boxes by half and share, (half, rule, 3), of each method."""
    masks = read_masks(root)
    text = eclip.encode_texts(backbone, list(masks.classes.values()), PROMPT)
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((2, len(RULES), 3)))
    position = -1
    for items, encoding in encoded(masks, backbone, batch_size=8):
        for index, item in enumerate(items):
            position += 1
            mask, one = item.read(), encoding.only(index)
            known = max(1, int((mask != VOID).sum()))
            shown = [c for c, number in enumerate(masks.classes) if (mask == number).sum() >= LEAST_AREA * known]
            for name in methods if shown else ():
                method = METHODS[name]
                maps = method(one, text)[0, shown] if method.compares_texts else method(one, text[shown])[0]
                level = (backbone.levels or {}).get(name)
                for heat, column in zip(resize(normalize(maps), mask.shape).numpy(), shown, strict=True):
                    inside = mask == list(masks.classes)[column]
                    true = boxes(inside, min_area=LEAST_TRUE)
                    on = heat >= (otsu(heat) if level is None else level)
                    largest = max((float(one.mean()) for one in islice(regions(on), 1)), default=0.0)
                    for row, (of, share) in enumerate(RULES):
                        found = boxes(on, min_area=share if of == "image" else share * largest)
                        counts[name][position % 2, row] += (matched(found, true), len(found), len(true))
    return counts


def matched(found: np.ndarray, true: np.ndarray) -> int:
    """How many boxes are right, each true box taken once, by the largest region first."""
    if not (len(found) and len(true)):
        return 0
    iou = box_iou(from_numpy(found).double(), from_numpy(true).double()).numpy()
    right = 0
    for row in iou:
        best = int(row.argmax())
        if row[best] >= LEAST_IOU:
            right, iou[:, best] = right + 1, -1.0
    return right


if __name__ == "__main__":
    main()
