"""Do word-patch pairs find the object that a word names, and how exact is their integral?

    python benchmarks/pairs.py ../shared/data/coco80seg --limit 60

For captions that name a COCO class of the image's mask (the class name or its plural): is the class word's map higher
inside the mask than outside? Baselines are the maps of another word or punctuation mark of the same caption, drawn at
random, and of another content word, and MaskCLIP's map of the class name. Contrast is the difference of the two means
divided by the map's standard deviation; AUC is the probability that a pixel inside is higher than one outside.
Intervals are 95 %, by bootstrap over images.
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
FUNCTION_WORDS = """
a an the this that these those some any all both each every another other one no not and or but while as so than
then if when where who which what there here it its they them their he him his she her we our you your i my is are
was were be been being has have had do does did can will would of in on at to by for with from into onto over under
up down out off near next around through between behind above below beside along across against about after before
during without very
"""


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


def is_content(word: str) -> bool:
    return word.isalpha() and word.lower() not in FUNCTION_WORDS.split()


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
    random, content = np.random.default_rng(0), np.random.default_rng(1)
    results: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("pairs", "any other word or mark", "another content word", "maskclip")
    }
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
            words_only = [place for place in others if is_content(answer.words[place])]
            for kind, places, source in zip(list(results)[1:3], (others, words_only), (random, content), strict=True):
                drawn = judge(answer.map(int(source.choice(places))), inside) if places else (np.nan, np.nan)
                results[kind].append(drawn)
            results["maskclip"].append(judge(maskclip.maps[0, words.index(named)], inside))
    said = len({case[:2] for case in found})
    print(f"{given.model}, depths {depths}: {len(found)} pairs of {said} captions and a class, {len(names)} images")
    print(f"{time.perf_counter() - start:.0f} s")
    owners = np.array([names.index(image) for image in names for case in found if case[0] == image])
    for name, scores in results.items():
        print(f"{name:22} {line(np.array(scores), owners)}")


def line(scores: np.ndarray, owners: np.ndarray) -> str:
    """Means with 95 % intervals over images; rows without a score are left out."""
    kept = ~np.isnan(scores[:, 0])
    values = np.column_stack([scores[kept, 0] > 0, scores[kept]])
    sums = np.stack([np.bincount(owners[kept], column) for column in [*values.T, np.ones(len(values))]], axis=1)
    drawn = sums[np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))].sum(axis=1)
    low, high = np.quantile(drawn[:, :3] / drawn[:, 3:], (0.025, 0.975), axis=0)
    inside, contrast, auc = zip(values.mean(axis=0), low, high, strict=True)
    return (
        "higher inside {:.1%} [{:.1%}, {:.1%}]  ".format(*inside)
        + "contrast {:+.3f} [{:+.3f}, {:+.3f}]  ".format(*contrast)
        + "AUC {:.3f} [{:.3f}, {:.3f}]".format(*auc)
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
