"""Do word-patch pairs find the object that a word names, and how exact is their integral?

    python benchmarks/pairs.py ../shared/data/coco80seg --limit 60

For captions that name a COCO class of the image's mask (the class name or its plural): is the class word's map higher
inside the mask than outside? The map of another word of the same caption and MaskCLIP's map of the class name are
baselines. Contrast is the difference of the two means divided by the map's standard deviation; AUC is the probability
that a pixel inside is higher than one outside.
"""

from __future__ import annotations

import argparse
import csv
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from scipy.stats import rankdata

import eclip
from eclip import heatmap
from eclip.backbones.view import View
from eclip.images import open_image
from eclip.words.interactions import PairQuery
from eclip.words.query import WordQuery

POINTS = (1, 2, 5, 10, 20, 50, 100)


def plurals(name: str) -> list[str]:
    return [name, f"{name}s", f"{name}es", re.sub("y$", "ies", name), re.sub("fe?$", "ves", name)]


def cases(folder: Path) -> Iterator[tuple[Path, str, str, np.ndarray]]:
    """Yield image, caption, the words that name a class, and the mask of that class; void pixels are NaN."""
    rows = csv.reader((folder / "classes.txt").open(encoding="utf-8"), delimiter="\t")
    classes = {int(row[0]): row[1] for row in rows if row[0].isdigit()}
    for row in csv.DictReader(
        (folder / "captions.tsv").open(encoding="utf-8"), ["path", "caption"], delimiter="\t", quoting=csv.QUOTE_NONE
    ):
        image = folder / row["path"] if (folder / row["path"]).is_file() else folder / "images" / Path(row["path"]).name
        mask = np.array(Image.open(folder / "masks" / f"{image.stem}.png"))
        for number in sorted(set(np.unique(mask)) - {0, 255}):
            said = " ".join(row["caption"].lower().split())
            named = [form for form in plurals(classes[number]) if re.search(rf"(?<![\w'-]){form}(?![\w'-])", said)]
            if named:
                inside = np.where(mask == 255, np.nan, mask == number).astype(float)
                if 0 < np.nansum(inside) < np.sum(~np.isnan(inside)):
                    yield image, row["caption"].strip(), named[0], inside


def judge(values: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Contrast and AUC of a map against a mask."""
    full = heatmap.resize(torch.from_numpy(np.ascontiguousarray(values)), inside.shape).numpy()
    full, kept = full[~np.isnan(inside)], inside[~np.isnan(inside)] > 0
    contrast = (full[kept].mean() - full[~kept].mean()) / max(full.std(), 1e-12)
    ranks = rankdata(full)
    count = kept.sum()
    auc = (ranks[kept].sum() - count * (count + 1) / 2) / (count * (~kept).sum())
    return float(contrast), float(auc)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--image-depth", type=int, default=1)
    parser.add_argument("--text-depth", type=int, help="default: all blocks")
    parser.add_argument("--limit", type=int, default=0, help="images; 0 = all")
    parser.add_argument("--skip", type=int, default=0, help="number of images to skip")
    parser.add_argument("--completeness", action="store_true", help="report the error by number of points")
    given = parser.parse_args()
    backbone = eclip.load(given.model)
    found = list(cases(given.folder))
    names = sorted({image for image, *_ in found})[given.skip :]
    names = names[: given.limit or None]
    found = [case for case in found if case[0] in set(names)]
    depths = given.image_depth, given.text_depth
    if given.completeness:
        return completeness(backbone, found, depths)
    random = np.random.default_rng(0)
    results: dict[str, list[tuple[float, float]]] = {"pairs": [], "another word": [], "maskclip": []}
    start = time.perf_counter()
    for image in track(names, transient=True):
        mine = [case for case in found if case[0] == image]
        captions = list(dict.fromkeys(caption for _, caption, *_ in mine))
        query = WordQuery(captions, model=backbone, view=View())
        question = PairQuery(query, image_depth=depths[0], text_depth=depths[1])
        answers = dict(zip(captions, question.answer(open_image(image), str(image)), strict=True))
        words = list(dict.fromkeys(named for *_, named, _ in mine))
        maskclip = eclip.explain(image, words, model=backbone, method="maskclip")
        for _, caption, named, inside in mine:
            answer = answers[caption]
            results["pairs"].append(judge(answer.map(named), inside))
            others = sorted(set(range(len(answer.words))) - set(answer.find(named)))
            if others:
                results["another word"].append(judge(answer.map(int(random.choice(others))), inside))
            results["maskclip"].append(judge(maskclip.maps[0, words.index(named)], inside))
    print(f"{given.model}, depths {depths}: {len(found)} captions of {len(names)} images")
    print(f"{time.perf_counter() - start:.0f} s")
    for name, scores in results.items():
        contrast, auc = np.array(scores).T
        print(
            f"{name:13} higher inside {np.mean(contrast > 0):.1%}  contrast {contrast.mean():+.3f} "
            f"(median {np.median(contrast):+.3f})  AUC {auc.mean():.3f}"
        )


def completeness(
    backbone: eclip.Backbone, found: list[tuple[Path, str, str, np.ndarray]], depths: tuple[int, int]
) -> None:
    once = {image: caption for image, caption, *_ in found}
    errors: dict[int, list[float]] = {points: [] for points in POINTS}
    goals = []
    for image, caption in track(once.items(), transient=True):
        query = WordQuery([caption], model=backbone, view=View())
        for points in POINTS:
            question = PairQuery(query, image_depth=depths[0], text_depth=depths[1], points=points)
            [answer] = question.answer(open_image(image), str(image))
            errors[points].append(abs(answer.total - answer.goal))
        goals.append(abs(answer.goal))
    print(f"{len(once)} captions; mean |goal| {np.mean(goals):.4f}")
    for points in POINTS:
        print(f"{points:4} points: mean |total - goal| {np.mean(errors[points]):.5f}")


if __name__ == "__main__":
    main()
