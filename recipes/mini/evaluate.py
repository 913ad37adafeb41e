"""Compute every number of the model card with the package itself.

    python recipes/mini/evaluate.py --data DATA

Expect: the table of MODEL_CARD.md, in about half an hour on two cores; for a part, `--only voc` or another of `TASKS`.
Nothing is fitted here: test splits of flickr8k (with phrases: one half) and caltech101, and all images of voc2012seg
and coco80seg, none of which was trained on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from features import read_pack
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

import eclip
from eclip.datasets.masks import VOC_NAMES, MaskSet, present, read_masks
from eclip.explanation.checkup import Checkup, share_below
from eclip.methods import check_methods
from eclip.metrics.localization import Localization
from eclip.refinements import check_refinement
from eclip.training.validation import encoded, score_image

CARD = "eclip,surgery,maskclip,gem,itsm,rclip"
TASKS = ["flickr8k", "caltech101", "voc", "coco", "phrases", "presence"]
SLOW = [name for name, method in eclip.METHODS.items() if method.kind == "perturbation"]
"""Run only for the names that are present, since their maps of one text do not depend on the others."""


def encode_images(backbone: eclip.Backbone, images: list[Image.Image]) -> eclip.Encoding:
    return eclip.encode(backbone, torch.stack([backbone.preprocess(image) for image in images]))


def image_features(backbone: eclip.Backbone, pack: Path, split: str) -> tuple[Tensor, list[list[str]]]:
    """Unit features of a split's images, and their texts."""
    features, texts, batch = [], [], []
    for image, own in read_pack(pack, split):
        batch.append(image.convert("RGB"))
        texts.append(own)
        if len(batch) == 16:
            features.append(encode_images(backbone, batch).feature)
            batch = []
    if batch:
        features.append(encode_images(backbone, batch).feature)
    return F.normalize(torch.cat(features), dim=-1), texts


def flickr8k(backbone: eclip.Backbone, data: Path) -> dict[str, float]:
    """Text-to-image recall: how often the caption's image is among the top 1 and top 10 of 1,000."""
    image, captions = image_features(backbone, data / "flickr8k", "test")
    text = eclip.encode_texts(backbone, [caption for own in captions for caption in own], templates="none")
    owner = torch.tensor([number for number, own in enumerate(captions) for _ in own])
    score = text @ image.T
    rank = (score > score.gather(1, owner[:, None])).sum(1)
    return {f"recall at {k}": 100 * (rank < k).float().mean().item() for k in (1, 10)}


def caltech101(backbone: eclip.Backbone, data: Path) -> dict[str, float]:
    """Zero-shot classification among the 100 names."""
    image, own = image_features(backbone, data / "caltech101", "test")
    rows = (data / "caltech101" / "classes.txt").read_text(encoding="utf-8").splitlines()
    names = [row.split("\t")[1] for row in rows]
    text = eclip.encode_texts(backbone, [f"a photo of a {name}." for name in names], templates="none")
    right = [names[answer] == texts[0] for answer, texts in zip((image @ text.T).argmax(1).tolist(), own, strict=True)]
    return {"top-1": 100 * float(np.mean(right))}


def maps(
    backbone: eclip.Backbone,
    masks: MaskSet,
    prompt: str,
    methods: tuple[str, ...],
    refinements: dict[str, tuple[str | None, dict[str, Any]]],
) -> dict[str, float]:
    """Scores of maps and of the best name, with the names of all classes as texts."""
    text = eclip.encode_texts(backbone, list(masks.classes.values()), prompt)
    columns = {number: column for column, number in enumerate(masks.classes)}
    hits, scores = [], {method + label: Localization() for method in methods for label in refinements}
    for items, encoding in encoded(masks, backbone):
        answers = (F.normalize(encoding.feature, dim=-1) @ text.T).argmax(1)
        found_maps = {name: eclip.METHODS[name](encoding, text) for name in methods if name not in SLOW}
        for i, item in enumerate(items):
            mask, alone = item.read(), encoding.only(i)
            numbers = present(mask)
            asked = [columns[number] for number in numbers]
            if not asked:
                continue
            hits.append(int(answers[i]) in asked)
            raws = [
                eclip.METHODS[name](alone, text[asked])[0] if name in SLOW else found_maps[name][i, asked]
                for name in methods
            ]
            for label, (refine, options) in refinements.items():
                refined = torch.cat(raws)  # all methods together, so that a refinement processes the image once
                if refine is not None:
                    refined = eclip.REFINEMENTS[refine](refined[None], alone, **options)[0]
                for method, raw in zip(methods, refined.split(len(numbers)), strict=True):
                    score_image(scores[method + label], raw, numbers, mask)
    found = {"images": len(hits), "best name present": 100 * float(np.mean(hits))}
    person = next(number for number, name in masks.classes.items() if name == "person")
    for method, record in ((method, one.record()) for method, one in scores.items()):
        found |= {f"{method} mSC": 100 * record.msc, f"{method} mIoU": 100 * record.miou}
        found |= {f"{method} threshold": record.threshold, f"{method} person mSC": 100 * record.classes[person].msc}
    return found


def phrases(backbone: eclip.Backbone, data: Path, methods: tuple[str, ...]) -> dict[str, float]:
    """How often the highest point of a phrase's map lies in one of its boxes, by type of phrase."""
    with tempfile.TemporaryDirectory() as folder:
        rows = eclip.evaluate(
            "flickr8k_entities", out=Path(folder) / "run", methods=methods, models=backbone, protocol="pointing-v1",
            root=data / "flickr8k-entities", split="test",
        ).results["rows"]  # fmt: skip
    return {
        f"{row['method']} {key}": 100 * number["value"]
        for row in rows
        for key, number in row["numbers"].items()
        if key.startswith("pointing")
    }


def presence(backbone: eclip.Backbone, data: Path) -> dict[str, float]:
    """Whether scores tell the classes that an image shows from the others: AUROC over all pairs of image and class."""
    masks = read_masks(data / "coco80seg")
    names = list(masks.classes.values())
    checkup = Checkup(backbone, names, eclip.encode_texts(backbone, names, "a photo of a {}"), "a photo of a {}")
    shares, there = [], []
    for items, encoding in encoded(masks, backbone, keep=0):
        shares.append(share_below(encoding.feature, checkup.alike, checkup.words).numpy())
        there += [np.isin(list(masks.classes), item.read()) for item in items]
    return {"AUROC": 100 * float(roc_auc_score(np.concatenate(there), np.concatenate(shares).ravel()))}


def given_refinements(joined: str) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """Parse comma-separated "none", "NAME" or "NAME:KEY=VALUE:..." to {label: (name, options)}."""
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
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--methods", default=CARD, help="for voc: comma-separated names of methods")
    parser.add_argument(
        "--refine", default="none", help='for voc, comma-separated: none, or a refinement such as "lposs:k=50"'
    )
    parser.add_argument("--every", type=int, default=1, help="for voc, use only every N-th image")
    parser.add_argument("--first", type=int, default=0, help="for voc, position of the first of these images")
    parser.add_argument("--once", action="store_true", help="for voc, only the first of its three rows")
    args = parser.parse_args()
    backbone = eclip.load(args.model)
    methods = tuple(args.methods.split(","))
    check_methods(methods)
    settings = (methods, given_refinements(args.refine))

    def voc_masks(where: dict[str, str] | None = None) -> MaskSet:
        folder = args.data / "voc2012seg"
        return read_masks(folder, where=where, every=args.every, first=args.first, classes=VOC_NAMES)

    val = {"origin": "voc2012_val"}
    coco = partial(read_masks, args.data / "coco80seg", every=args.every, first=args.first)
    tasks: dict[str, dict[str, Callable[[], dict[str, float]]]] = {
        "flickr8k": {"flickr8k test": lambda: flickr8k(backbone, args.data)},
        "caltech101": {"caltech101 test": lambda: caltech101(backbone, args.data)},
        "voc": {
            'voc2012seg, "a photo of a X"': lambda: maps(backbone, voc_masks(), "a photo of a {}", *settings),
            'voc2012seg, "a photo of a X."': lambda: maps(backbone, voc_masks(), "a photo of a {}.", *settings),
            'voc2012seg, voc2012_val only, "a photo of a X"': lambda: maps(
                backbone, voc_masks(val), "a photo of a {}", *settings
            ),
        },
        "coco": {'coco80seg, "a photo of a X"': lambda: maps(backbone, coco(), "a photo of a {}", *settings)},
        "phrases": {"flickr8k-entities test": lambda: phrases(backbone, args.data, methods)},
        "presence": {"coco80seg, presence": lambda: presence(backbone, args.data)},
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
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
