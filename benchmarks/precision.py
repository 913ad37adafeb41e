"""What bfloat16 changes: maps, ranks of scores, contrast and overlap on images with masks, against float32.

    python benchmarks/precision.py --data DATA --every 9

DATA contains the pack voc2012seg; the model is `mini` or `--model`. Of each image, the names of all classes are
explained in both precisions. Printed: the share of images whose best class is another one, and for each method the
largest difference of two maps as a share of the float32 map's range (median and 99th percentile over maps), the mean
rank correlation of two maps of classes that are present, and mSC and mIoU of both. Two minutes with `--every 12`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

import eclip
from eclip.datasets.masks import VOID, read_masks
from eclip.heatmap import normalize, resize
from eclip.images import open_image

PROMPT, LEAST_AREA, THRESHOLDS = "a photo of a {}", 0.01, np.arange(20) / 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--methods", default="eclip,maskclip,gem,surgery,gradcam")
    args = parser.parse_args()
    masks, methods = read_masks(args.data / "voc2012seg"), args.methods.split(",")
    both = [eclip.load(args.model, precision=name) for name in ("float32", "bfloat16")]
    names = list(masks.classes.values())
    text = [eclip.encode_texts(backbone, names, PROMPT) for backbone in both]
    apart: dict[str, list[float]] = {name: [] for name in methods}
    ranks: dict[str, list[float]] = {name: [] for name in methods}
    quality: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in methods}
    best, cosines = [], []
    for item in masks.items[:: args.every]:
        image, mask = open_image(item.image), item.read()
        known = mask != VOID
        shown = [c for c, number in enumerate(masks.classes) if (mask == number).sum() >= LEAST_AREA * known.sum()]
        seen = [eclip.encode(backbone, backbone.preprocess(image)[None]) for backbone in both]
        scores = [
            torch.nn.functional.normalize(one.feature.float(), dim=-1) @ own.float().T
            for one, own in zip(seen, text, strict=True)
        ]
        best.append(float(scores[0].argmax() != scores[1].argmax()))
        cosines.append(float((scores[0] - scores[1]).abs().max()))
        for name in methods:
            maps = [eclip.METHODS[name](one, own)[0].float() for one, own in zip(seen, text, strict=True)]
            span = (maps[0].amax((1, 2)) - maps[0].amin((1, 2))).clamp_min(1e-12)
            apart[name] += ((maps[0] - maps[1]).abs().amax((1, 2)) / span).tolist()
            ranks[name] += [float(spearmanr(*(one[c].flatten() for one in maps)).statistic) for c in shown]
            for column in shown:
                inside = (mask == list(masks.classes)[column]) & known
                heats = [resize(normalize(one[column]), mask.shape).numpy() for one in maps]
                quality[name].append((*(_scores(heat, inside, known) for heat in heats),))  # type: ignore[arg-type]
    print(f"{args.model}, {len(best)} images; scores differ by up to {max(cosines):.4f}")
    print(f"the best of {len(names)} classes is another one on {100 * np.mean(best):.1f} % of the images")
    for name in methods:
        found = np.array(quality[name])  # pair precision (contrast, IoU of each threshold)
        contrast, overlap = 100 * found[..., 0].mean(0), 100 * found[..., 1:].mean(0).max(-1)
        median, most = (100 * np.quantile(apart[name], share) for share in (0.5, 0.99))
        print(
            f"{name:<9} apart {median:.1f} % of the range (99th {most:.1f}), "
            f"rank correlation {np.mean(ranks[name]):.4f}, mSC {contrast[0]:.2f} and {contrast[1]:.2f}, "
            f"mIoU {overlap[0]:.2f} and {overlap[1]:.2f}"
        )


def _scores(heat: np.ndarray, inside: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean heat inside minus outside, and the IoU at each threshold."""
    outside = known & ~inside
    contrast = heat[inside].mean() - (heat[outside].mean() if outside.any() else 0)
    ious = [((on := (heat >= at) & known) & inside).sum() / (on | inside).sum() for at in THRESHOLDS]
    return np.array([contrast, *ious])


if __name__ == "__main__":
    main()
