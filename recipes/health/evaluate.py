"""How often the health warnings of a map are right, on images with masks: the tables of docs/health.md.

    python recipes/health/evaluate.py --data DATA

DATA contains the packs voc2012seg and coco80seg; the model is `mini`, the prompt is "a photo of a {}", and a class is
present in an image if it covers 1 % of its area, unless "any pixel" is stated. Presence is computed for all images of
coco80seg, emptiness all images of both packs and 24 made ones without content, maps every second image of both packs
(--every), and hiding, which needs two forward passes per pair, every twenty-fourth (--hiding). Expect half an hour on
one core, mostly for gradients of eighty texts. Pairs with a flat map have no numbers and no warnings.

True sign: mean of the map inside the mask minus its mean outside. "Flipped" inverts each map. "Implanted" sets three
random cells of each map, and of the map of nonsense, to twice its range.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import eclip
from eclip.backbones.blocks import cosine
from eclip.backbones.image_mean import mean_for
from eclip.datasets.masks import VOID, MaskSet, read_masks
from eclip.explanation.checkup import Checkup, artefacts, correlation, polarity_by_hiding, share_below
from eclip.explanation.emptiness import emptiness
from eclip.explanation.health import (
    LEAST_POLARITY,
    LEAST_PRESENCE,
    LEAST_SENSITIVITY,
    LEAST_SURE,
    MOST_ARTEFACTS,
    MOST_EMPTINESS,
)
from eclip.heatmap import normalize, resize
from eclip.methods import METHODS
from eclip.metrics.localization import contrast
from eclip.training.validation import encoded

PROMPT, LEAST_AREA = "a photo of a {}", 0.01
NAMES = tuple(name for name, method in METHODS.items() if method.kind != "perturbation" and name != "rollout")
HIDDEN = ("eclip", "surgery", "itsm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--hiding", type=int, default=24)
    args = parser.parse_args()
    backbone = eclip.load("mini")
    presence(backbone, read_masks(args.data / "coco80seg"))
    empty(backbone, {pack: read_masks(args.data / pack) for pack in ("voc2012seg", "coco80seg")})
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
        print(
            f"  {name}: AUROC pooled {roc_auc_score(there.ravel(), shares.ravel()):.3f}, mean of classes "
            f"{np.mean(classes):.3f}, of images {np.mean(images):.3f}"
        )
        for told, least in (("warned of", LEAST_PRESENCE), ("labelled or warned of", LEAST_SURE)):
            missed, caught = shares[there] < least, shares[area == 0] < least
            print(
                f"    {told}: {missed.mean():.1%} of {there.sum()} present, {caught.mean():.1%} of those with no pixel"
            )
        others = (roc_auc_score(there.ravel(), one.numpy().ravel()) for one in (scores, less))
        print("    pooled, of the plain cosine {:.3f}; with the image mean subtracted {:.3f}".format(*others))


def empty(backbone: eclip.Backbone, packs: dict[str, MaskSet]) -> None:
    """How empty images without content look, and real ones; and how many texts of the former are said to be absent."""
    checkup = checkup_of(backbone, packs["coco80seg"])
    made = [eclip.encode(backbone, backbone.preprocess(image)[None], keep=0) for image in without_content()]
    features = torch.cat([one.feature for one in made])
    values = emptiness(features, checkup.empty)
    warned = torch.cat([checkup.presence(one) for one in made]) < LEAST_PRESENCE
    ranked = share_below(features, checkup.alike, checkup.words) < LEAST_PRESENCE
    all_of_them, by_rank = (int(one.all(dim=1).sum()) for one in (warned, ranked))
    print(
        f"\nemptiness: of {len(made)} images without content, {values.min():.2f} to {values.max():.2f}; all "
        f"{warned.shape[1]} texts absent in {all_of_them}, by rank alone in {by_rank}"
    )
    for pack, masks in packs.items():
        feature = torch.cat([encoding.feature for _, encoding in encoded(masks, backbone, keep=0)])
        values = emptiness(feature, checkup.empty)
        high = torch.quantile(values, torch.tensor([0.5, 0.99]))
        print(
            f"  {pack}: median {high[0]:.2f}, 99 % below {high[1]:.2f}, largest {values.max():.2f}; "
            f"called empty {int((values > MOST_EMPTINESS).sum())} of {len(values)}"
        )


def without_content() -> list[Image.Image]:
    """Other images without content than those that the check compares with: colors, noise, blurs, ramps, patterns."""
    random, (down, across) = np.random.default_rng(1), np.mgrid[:240, :320]
    ramp = down[..., None] / 239
    names = ("gray", "black", "white", "red", "green", "navy", "tan", "skyblue", "#404040", "silver")
    noise = [random.normal(128, spread, (240, 320, 3)) for spread in (5, 20, 60, 120)]
    gray = [random.normal(128, spread, (240, 320, 1)) for spread in (10, 60)]
    blurs = [random.uniform(0, 255, (240 // cell + 1, 320 // cell + 1, 3)) for cell in (40, 10)]
    ramps = [255 * ramp, 90 + ramp * (130, 85, 25), 250 - (210, 160, 90) * (across[..., None] / 319)]
    stripes = [255 * (across // 8 % 2), 60 + 130 * (down // 30 % 2), 255 * ((down // 20 + across // 20) % 2)]
    made = [*noise, *gray, *ramps, *(one[..., None] for one in stripes)]
    pictures = [Image.new("RGB", (320, 240), name) for name in names]
    pictures += [_image(one).resize((320, 240), Image.Resampling.BILINEAR) for one in blurs]
    return pictures + [_image(one) for one in made]


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.broadcast_to(values, (*values.shape[:2], 3)).clip(0, 255).astype(np.uint8))


def maps(pack: str, every: int, backbone: eclip.Backbone, masks: MaskSet) -> None:
    checkup, generator = checkup_of(backbone, masks), torch.Generator().manual_seed(0)
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for encoding, mask, columns in pairs(backbone, masks, every):
        for name in NAMES:
            method = METHODS[name]
            ask = partial(method, encoding)
            raw = ask(checkup.text)
            health = checkup(method, encoding, raw, ask, {})
            nonsense = checkup.nonsense_map(method, encoding, ask, {})
            implanted = artefacts(*implant(raw, nonsense, generator))
            apart = METHODS["maskclip"](encoding, checkup.text - checkup.words.mean(dim=0))
            polarity = correlation(raw, apart).numpy()  # of all methods, also those that are not asked
            for number, column in columns.items():
                numbers = (one[0, column] for one in (health.sensitivity, polarity, health.artefacts))
                found[name].append((sign(raw[0, column], mask, number), *numbers, float(implanted[0, column])))
    print(
        f"\n| {pack}, {len(found['itsm'])} pairs | mSC | inverted | warned: upside down | warnings that are right "
        "| inverted or flipped maps warned of | sensitivity, median | warned: insensitive | warned: artifacts "
        "| of implanted |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, rows in found.items():
        true, sensitivity, polarity, spots, implants = np.array(rows).T
        warned, flipped, inverted = polarity < LEAST_POLARITY, -polarity < LEAST_POLARITY, true < 0
        known = sensitivity[np.isfinite(sensitivity)]
        cells = (
            f"`{name}`",
            f"{100 * true.mean():.1f}",
            percent(inverted),
            percent(warned),
            precision(warned, inverted),
            percent(np.concatenate([warned[inverted], flipped[~inverted]])),
            f"{np.median(known):.2f}" if len(known) else "-",
            percent(sensitivity < LEAST_SENSITIVITY),
            percent(spots > MOST_ARTEFACTS),
            percent(implants > MOST_ARTEFACTS),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def percent(those: np.ndarray) -> str:
    return f"{100 * those.mean():.1f} %"


def precision(warned: np.ndarray, inverted: np.ndarray) -> str:
    """The share of warnings that are right, of the maps as they are; of few, their numbers."""
    right, every = int((warned & inverted).sum()), int(warned.sum())
    few = f"{right} of {every}" if every else "-"
    return few if every < 20 else f"{100 * right / every:.1f} %"


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
