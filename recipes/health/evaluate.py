"""How often the health warnings of a map are right, on images with masks: the tables of docs/health.md.

    python recipes/health/evaluate.py --data DATA

DATA contains the packs voc2012seg and coco80seg; the model is `mini`, the prompt is "a photo of a {}", and a class is
present in an image if it covers 1 % of its area, unless "any pixel" is stated. Presence is computed for all images of
coco80seg, maps for every sixth image of both packs (--every), and hiding, which needs two forward passes per pair, for
every twenty-fourth (--hiding). Expect about six minutes on one core, mostly for gradients of eighty texts. Pairs with a
flat map have no numbers and no warnings.

True sign: mean of the map inside the mask minus its mean outside. "Flipped" inverts each map. "Implanted" sets three
random cells of each map, and of the map of nonsense, to twice its range.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import eclip
from eclip.backbones.blocks import cosine
from eclip.datasets.masks import VOID, MaskSet, read_masks
from eclip.discovery.image_mean import mean_for
from eclip.explanation.checkup import Checkup, artefacts, polarity_by_hiding, share_below
from eclip.explanation.health import (
    LEAST_POLARITY,
    LEAST_PRESENCE,
    LEAST_SENSITIVITY,
    MOST_ARTEFACTS,
)
from eclip.heatmap import normalize, resize
from eclip.methods import METHODS
from eclip.metrics.localization import contrast
from eclip.training.validation import encoded

PROMPT, LEAST_AREA = "a photo of a {}", 0.01
NAMES = ("eclip", "surgery", "maskclip", "gem", "sclip", "clearclip", "itsm", "rclip", "attention", "gradcam", "legrad")
HIDDEN = ("eclip", "surgery", "itsm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--hiding", type=int, default=24)
    args = parser.parse_args()
    backbone = eclip.load("mini")
    presence(backbone, read_masks(args.data / "coco80seg"))
    for pack in ("voc2012seg", "coco80seg"):
        masks = read_masks(args.data / pack)
        maps(pack, args.every, backbone, masks)
        hiding(pack, args.hiding, backbone, masks)


def presence(backbone: eclip.Backbone, masks: MaskSet) -> None:
    checkup = checkup_of(backbone, masks)
    features, areas = [], []
    for items, encoding in encoded(masks, backbone, keep=0):
        features.append(encoding.feature)
        areas += [area_of(item.read(), masks) for item in items]
    feature = torch.cat(features)
    shares = share_below(feature, checkup.alike, checkup.words).numpy()
    scores, words = cosine(feature, checkup.alike), cosine(feature, checkup.words)
    mean = mean_for(backbone, None, None, {})
    less, words_less = scores - checkup.alike @ mean, words - checkup.words @ mean
    less = (words_less[:, None] < less[:, :, None]).float().mean(dim=-1)
    area = np.array(areas)
    print(f"presence, coco80seg, {len(area)} images x {len(masks.classes)} classes, {len(checkup.words)} words")
    for name, there in (("any pixel", area > 0), ("1 % of area", area >= LEAST_AREA)):
        classes = [roc_auc_score(there[:, c], shares[:, c]) for c in range(there.shape[1]) if there[:, c].any()]
        images = [roc_auc_score(there[i], shares[i]) for i in range(len(there)) if there[i].any()]
        missed, caught = shares[there] < LEAST_PRESENCE, shares[area == 0] < LEAST_PRESENCE
        print(
            f"  {name}: AUROC pooled {roc_auc_score(there.ravel(), shares.ravel()):.3f}, mean of classes "
            f"{np.mean(classes):.3f}, of images {np.mean(images):.3f}; "
            f"warned of {missed.mean():.1%} of {there.sum()} present, {caught.mean():.1%} of those with no pixel"
        )
        others = (roc_auc_score(there.ravel(), one.numpy().ravel()) for one in (scores, less))
        print("    pooled, of the plain cosine {:.3f}; with the image mean subtracted {:.3f}".format(*others))


def maps(pack: str, every: int, backbone: eclip.Backbone, masks: MaskSet) -> None:
    checkup, generator = checkup_of(backbone, masks), torch.Generator().manual_seed(0)
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for encoding, mask, columns in pairs(backbone, masks, every):
        for name in NAMES:
            method = METHODS[name]
            ask = partial(method, encoding)
            raw = ask(checkup.text)
            health = checkup(method, encoding, raw, ask, {})
            nonsense = checkup.nonsense_map(method, encoding, ask, {})
            implanted = artefacts(*implant(raw, nonsense, generator))
            for number, column in columns.items():
                numbers = (one[0, column] for one in (health.sensitivity, health.polarity, health.artefacts))
                found[name].append((sign(raw[0, column], mask, number), *numbers, float(implanted[0, column])))
                words[name].update([masks.classes[number]] * bool(health.polarity[0, column] < LEAST_POLARITY))
    print(f"\nmaps, {pack}, every {every}th image, {len(found['itsm'])} pairs")
    print(
        "method      mSC  inverted | warned: all  upright  inverted  flipped | sensitivity  warned | artifacts"
        "  implanted"
    )
    for name, rows in found.items():
        true, sensitivity, polarity, spots, implants = np.array(rows).T
        warned, flipped, inverted = polarity < LEAST_POLARITY, -polarity < LEAST_POLARITY, true < 0
        print(
            f"{name:10s} {100 * true.mean():5.1f} {inverted.mean():8.1%} | {warned.mean():10.1%} "
            f"{warned[~inverted].mean():8.1%} {warned[inverted].mean():9.1%} {flipped.mean():8.1%} "
            f"| {np.nanmedian(sensitivity):11.2f} {(sensitivity < LEAST_SENSITIVITY).mean():7.1%} | "
            f"{(spots > MOST_ARTEFACTS).mean():9.1%} {(implants > MOST_ARTEFACTS).mean():10.1%}"
        )
    print("warned of, of eclip:", dict(words["eclip"]))


def hiding(pack: str, every: int, backbone: eclip.Backbone, masks: MaskSet) -> None:
    checkup = checkup_of(backbone, masks)
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for encoding, mask, columns in pairs(backbone, masks, every):
        for name in HIDDEN:
            ask = partial(METHODS[name], encoding)
            raw = ask(checkup.text)
            polarity = checkup(METHODS[name], encoding, raw, ask, {}).polarity[0]
            chosen = list(columns.values())
            by_hiding = polarity_by_hiding(encoding, checkup.text[chosen], raw[:, chosen])[0].tolist()
            for (number, column), hidden in zip(columns.items(), by_hiding, strict=True):
                found[name].append((sign(raw[0, column], mask, number), float(polarity[column]), hidden))
    print(f"\nhiding half of the patches, {pack}, every {every}th image, {len(found['itsm'])} pairs, share below 0")
    for name, rows in found.items():
        true, polarity, hidden = np.array(rows).T
        parts = [
            f"{label} all {(one < 0).mean():.1%}, upright {(one[true > 0] < 0).mean():.1%}"
            + (f", inverted {(one[true < 0] < 0).mean():.1%}" if (true < 0).any() else ", none inverted")
            for label, one in (("hiding", hidden), ("polarity", polarity))
        ]
        print(f"  {name:8s} {'; '.join(parts)}; same sign {((hidden < 0) == (polarity < 0)).mean():.1%}")


def pairs(
    backbone: eclip.Backbone, masks: MaskSet, every: int
) -> Iterator[tuple[eclip.Encoding, np.ndarray, dict[int, int]]]:
    """Yield the encoding and mask of each image, and the column of each class that it shows."""
    some = replace(masks, items=masks.items[::every])
    for items, encoding in encoded(some, backbone, batch_size=8):
        for index, item in enumerate(items):
            mask = item.read()
            area = area_of(mask, masks)
            columns = {number: c for c, number in enumerate(masks.classes) if area[c] >= LEAST_AREA}
            if columns:
                yield encoding.only(index), mask, columns


def checkup_of(backbone: eclip.Backbone, masks: MaskSet) -> Checkup:
    names = list(masks.classes.values())
    return Checkup(backbone, names, eclip.encode_texts(backbone, names, PROMPT), PROMPT)


def area_of(mask: np.ndarray, masks: MaskSet) -> list[float]:
    known = max(1, int((mask != VOID).sum()))
    return [float((mask == number).sum()) / known for number in masks.classes]


def sign(raw: torch.Tensor, mask: np.ndarray, number: int) -> float:
    inside = mask == number
    return contrast(resize(normalize(raw), mask.shape).numpy(), inside, ~inside & (mask != VOID))


def implant(raw: torch.Tensor, nonsense: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    cells = torch.randperm(raw.shape[-2] * raw.shape[-1], generator=generator)[:3]
    both = []
    for one in (raw, nonsense):
        flat = one.flatten(2).clone()
        low, high = flat.amin(-1, keepdim=True), flat.amax(-1, keepdim=True)
        flat[..., cells] = (high + (high - low)).expand(-1, -1, 3)
        both.append(flat.view_as(one))
    return both[0], both[1]


if __name__ == "__main__":
    main()
