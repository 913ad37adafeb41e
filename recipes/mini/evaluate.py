"""Every figure of the model card, computed by the package itself.

    python recipes/mini/evaluate.py --data DATA

Expect: the table of MODEL_CARD.md, in about ten minutes on two cores; `--only voc` (or flickr8k, caltech101) for a
part of it.
Nothing is fitted here: test splits of flickr8k and caltech101, and all of voc2012seg, none of which was trained on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from features import read_pack
from PIL import Image
from torch import Tensor

import eclip
from eclip.methods import check_methods
from eclip.refinements import check_refinement

VOC_NAMES = [
    "airplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv monitor",
]
CARD = "surgery,maskclip,itsm,rclip"
SLOW = [name for name, method in eclip.METHODS.items() if method.kind == "perturbation"]
"""Asked for the names that are present alone: their maps of one text do not depend on the others."""
THRESHOLDS = np.arange(20) * 0.05


def encode_photos(backbone: eclip.Backbone, photos: list[Image.Image]) -> eclip.Encoding:
    return eclip.encode(backbone, torch.stack([backbone.preprocess(photo) for photo in photos]))


def image_features(backbone: eclip.Backbone, pack: Path, split: str) -> tuple[Tensor, list[list[str]]]:
    """Unit features of a split's photos, and their texts."""
    features, texts, batch = [], [], []
    for photo, own in read_pack(pack, split):
        batch.append(photo.convert("RGB"))
        texts.append(own)
        if len(batch) == 16:
            features.append(encode_photos(backbone, batch).feature)
            batch = []
    if batch:
        features.append(encode_photos(backbone, batch).feature)
    return F.normalize(torch.cat(features), dim=-1), texts


def flickr8k(backbone: eclip.Backbone, data: Path) -> dict[str, float]:
    """Text-to-image recall: how often the caption's own photo is among the first 1 and 10 of 1,000."""
    image, captions = image_features(backbone, data / "flickr8k", "test")
    text = eclip.encode_texts(backbone, [caption for own in captions for caption in own], templates="none")
    owner = torch.tensor([photo for photo, own in enumerate(captions) for _ in own])
    score = text @ image.T
    rank = (score > score.gather(1, owner[:, None])).sum(1)
    return {f"recall at {k}": 100 * (rank < k).float().mean().item() for k in (1, 10)}


def caltech101(backbone: eclip.Backbone, data: Path) -> dict[str, float]:
    """Zero-shot classification among the 100 names."""
    image, own = image_features(backbone, data / "caltech101", "test")
    rows = (data / "caltech101" / "classes.txt").read_text().splitlines()
    names = [row.split("\t")[1] for row in rows]
    text = eclip.encode_texts(backbone, [f"a photo of a {name}." for name in names], templates="none")
    right = [names[answer] == texts[0] for answer, texts in zip((image @ text.T).argmax(1).tolist(), own, strict=True)]
    return {"top-1": 100 * float(np.mean(right))}


def present_classes(mask: np.ndarray) -> list[int]:
    """Class numbers with at least 1 % of the area that is not void."""
    area = np.bincount(mask[mask != 255], minlength=21)
    return [number for number in range(1, 21) if area[number] >= 0.01 * area.sum()]


def score_map(heat: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """[mean inside - mean outside, IoU at each threshold] of one heat map of the photo's size."""
    inner, outer = heat[inside], heat[outside]
    hits = np.array([(inner >= threshold).sum() for threshold in THRESHOLDS])
    false = np.array([(outer >= threshold).sum() for threshold in THRESHOLDS])
    contrast = inner.mean() - (outer.mean() if outer.size else 0.0)
    return np.concatenate([[contrast], hits / (inner.size + false)])


def voc(
    backbone: eclip.Backbone,
    data: Path,
    end: str,
    origin: str,
    methods: tuple[str, ...],
    refinements: dict[str, tuple[str | None, dict[str, Any]]],
    chosen: slice,
) -> dict[str, float]:
    """Maps and best names over the photos of one origin ("" for all), with all 20 names asked together."""
    folder = data / "voc2012seg"
    text = eclip.encode_texts(backbone, [f"a photo of a {name}{end}" for name in VOC_NAMES], templates="none")
    rows = [row.split("\t") for row in (folder / "index.tsv").read_text().splitlines()[1:]]
    names = [row[0] for row in rows if not origin or row[1] == origin][chosen]
    hits, scores = [], {method + label: [] for method in methods for label in refinements}
    for start in range(0, len(names), 16):
        part = names[start : start + 16]
        photos = [Image.open(folder / "images" / f"{name}.jpg").convert("RGB") for name in part]
        encoding = encode_photos(backbone, photos)
        answers = (F.normalize(encoding.feature, dim=-1) @ text.T).argmax(1)
        maps = {name: eclip.METHODS[name](encoding, text) for name in methods if name not in SLOW}
        for i, name in enumerate(part):
            mask = np.array(Image.open(folder / "masks" / f"{name}.png"))
            present, alone = present_classes(mask), None
            hits.append(int(answers[i]) + 1 in present)
            raws = []
            for method in methods:
                asked = [number - 1 for number in present]
                if method in SLOW:
                    alone = alone or encode_photos(backbone, photos[i : i + 1])
                    raws.append(eclip.METHODS[method](alone, text[asked])[0])
                else:
                    raws.append(maps[method][i, asked])
            for label, (refine, options) in refinements.items():
                refined = torch.cat(raws)  # of all methods, so that they share what a refinement knows of the photo
                if refine is not None:
                    alone = alone or encode_photos(backbone, photos[i : i + 1])
                    refined = eclip.REFINEMENTS[refine](refined[None], alone, **options)[0]
                for method, raw in zip(methods, refined.split(len(present)), strict=True):
                    low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
                    unit = ((raw - low) / (high - low).clamp(min=1e-12))[None]
                    heats = F.interpolate(unit, mask.shape, mode="bilinear", align_corners=False)[0].numpy()
                    for number, heat in zip(present, heats, strict=True):
                        inside = mask == number
                        scores[method + label].append(score_map(heat, inside, ~inside & (mask != 255)))
    found = {"photos": len(names), "best name present": 100 * float(np.mean(hits))}
    for method, pairs in scores.items():
        mean = 100 * np.mean(pairs, axis=0)
        found |= {f"{method} mSC": mean[0], f"{method} mIoU": mean[1:].max()}
        found[f"{method} threshold"] = float(THRESHOLDS[mean[1:].argmax()])
    return found


def given_refinements(joined: str) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """A label for each of "none", "NAME" or "NAME:KEY=VALUE:...", joined by commas, to its name and options."""
    found: dict[str, tuple[str | None, dict[str, Any]]] = {}
    for one in joined.split(","):
        name, *pairs = one.split(":")
        given = dict(pair.split("=") for pair in pairs)
        options = {key: value if key == "features" else json.loads(value) for key, value in given.items()}
        refine = None if name == "none" else name
        check_refinement(refine, options)
        found["" if refine is None else f" {one}"] = (refine, options)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini", help="any name that eclip.load knows")
    parser.add_argument("--only", choices=["flickr8k", "caltech101", "voc"])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--methods", default=CARD, help="for voc, joined by commas; any of eclip's")
    parser.add_argument(
        "--refine", default="none", help='for voc, joined by commas: none, or a refinement such as "lposs:k=50"'
    )
    parser.add_argument("--every", type=int, default=1, help="for voc, every N-th photo alone")
    parser.add_argument("--first", type=int, default=0, help="for voc, with the first at this place")
    parser.add_argument("--once", action="store_true", help="for voc, the first of its three rows alone")
    args = parser.parse_args()
    backbone = eclip.load(args.model)
    methods = tuple(args.methods.split(","))
    check_methods(methods)
    how = (methods, given_refinements(args.refine), slice(args.first, None, args.every))
    tasks = {
        "flickr8k": {"flickr8k test": lambda: flickr8k(backbone, args.data)},
        "caltech101": {"caltech101 test": lambda: caltech101(backbone, args.data)},
        "voc": {
            'voc2012seg, "a photo of a X"': lambda: voc(backbone, args.data, "", "", *how),
            'voc2012seg, "a photo of a X."': lambda: voc(backbone, args.data, ".", "", *how),
            'voc2012seg, voc2012_val only, "a photo of a X"': lambda: voc(backbone, args.data, "", "voc2012_val", *how),
        },
    }
    results = {}
    for group in [args.only] if args.only else tasks:
        for title, compute in list(tasks[group].items())[: 1 if args.once and group == "voc" else None]:
            results[title] = compute()
            print(
                title,
                *(f"{name} {value:.2f}" for name, value in results[title].items()),
                sep="\n  ",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
