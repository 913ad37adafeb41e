"""Depth from words: is what CLIP calls "far" further up on the road, and farther than what stands lower in the image?

    python recipes/relatives/depth-words/depth_words.py --data DATA --out FOLDER

Needs the pack camvid in DATA: street scenes with masks, but no depth. Stand-ins for it are the rows of patches on the
road, and pairs of cars and pedestrians, of which the one that stands lower is nearer. Expect a minute on one core.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage, stats
from torch import Tensor

import eclip
from eclip.datasets import dataset
from eclip.evaluation.bootstrap import Weights, number
from eclip.images import open_image
from eclip.metrics.bound import grid_bound
from eclip.texts.vocabulary import words_of

BINS = {"giant": 1.0, "extremely close": 1.5, "close": 2.0, "not in distance": 2.25, "a little remote": 2.5}
BINS |= {"far": 2.75, "unseen": 3.0}
TEMPLATE, SCALE, SOFT = "This object is {}", 1000.0, 40.0
METHOD_NAMES, SETS = ("maskclip", "itsm"), 20
ROAD, STANDING = "road", ("car", "pedestrian")
LEAST_PATCHES, LEAST_AREA, LEAST_STEP = 8, 0.002, 0.05
OWN, OTHERS = "DepthCLIP's words", "(nouns at random)"


def depth(cosines: Tensor, bins: list[float], scale: float) -> Tensor:
    """Depth (row, col): bins averaged by the softmax of cosines (word, row, col) over the words."""
    return torch.einsum("wrc,w->rc", (scale * cosines).softmax(dim=0), torch.tensor(bins).to(cosines))


def predictions(cosines: Tensor) -> dict[str, list[Tensor]]:
    """Maps (row, col) by kind, from seven words, "close up", "far away", and seven nouns of each set, a control."""
    bins, own, pair, nouns = [*BINS.values()], cosines[:7], cosines[7:9], cosines[9:].split(7)
    rows = torch.arange(cosines.shape[1], 0, -1).to(cosines)[:, None].expand(cosines.shape[1:])
    return {
        OWN: [depth(own, bins, SCALE)],
        "the same, softer": [depth(own, bins, SOFT)],
        "(bins reversed)": [depth(own, bins[::-1], SCALE)],
        '"far away" against "close up"': [pair[1] - pair[0]],
        OTHERS: [depth(one, bins, SCALE) for one in nouns],
        "(row)": [rows],
    }


def ordered(heat: np.ndarray, road: np.ndarray) -> float:
    """Rank correlation of depth with height in the image over patches of the road; 0 if depth is constant."""
    return 0.0 if np.ptp(heat[road]) == 0 else float(stats.spearmanr(heat[road], -np.nonzero(road)[0]).statistic)


def standing(mask: np.ndarray, numbers: list[int]) -> list[tuple[float, np.ndarray]]:
    """Bottom, as a share of the height, and pixels of each connected region of these classes; no region is cut."""
    found = []
    for one in numbers:
        labels, count = ndimage.label(mask == one)
        for region in (labels == label for label in range(1, count + 1)):
            bottom = np.nonzero(region)[0].max() + 1
            if region.mean() >= LEAST_AREA and bottom < len(mask):
                found.append((bottom / len(mask), region))
    return found


def right(heat: np.ndarray, regions: list[tuple[float, np.ndarray]]) -> list[float]:
    """Of each pair with different bottoms: 1 if the lower region has less depth, 0 if more, 0.5 if equal."""
    scores = []
    for pair in combinations(sorted(regions, key=lambda each: -each[0]), 2):
        if pair[0][0] - pair[1][0] >= LEAST_STEP:
            shares = (grid_bound(region, ~region, heat.shape) for _, region in pair)
            near, far = (float((heat * one).sum() / one.sum()) for one in shares)
            scores.append(0.5 + 0.5 * float(np.sign(far - near)))
    return scores


def measure(root: Path, backbone: eclip.Backbone, every: int) -> dict[tuple[str, str], np.ndarray]:
    """By method and kind: (video, what, set, value) of each image on the road (what 0), and of each pair (what 1)."""
    data, text = dataset("camvid").read(root), texts(backbone)
    numbers, found = {name: number for number, name in data.classes.items()}, {}
    for item, video in list(zip(data.items, data.group_numbers(), strict=True))[::every]:
        encoding, mask = eclip.encode(backbone, backbone.preprocess(item.open())[None], 1), item.read()
        road = grid_bound(mask == numbers[ROAD], mask != numbers[ROAD], encoding.grid) > 0.5
        regions = standing(mask, [numbers[name] for name in STANDING])
        for method in METHOD_NAMES:
            for kind, maps in predictions(eclip.METHODS[method](encoding, text)[0]).items():
                rows = found.setdefault((method, kind), [])
                for place, heat in enumerate(one.double().numpy() for one in maps):
                    if road.sum() >= LEAST_PATCHES:
                        rows.append((video, 0, place, ordered(heat, road)))
                    rows += [(video, 1, place, one) for one in right(heat, regions)]
    return {key: np.array(rows) for key, rows in found.items()}


def texts(backbone: eclip.Backbone) -> Tensor:
    nouns = np.random.default_rng(0).choice(words_of(None), 7 * SETS, replace=False).tolist()
    own, others = ([TEMPLATE.format(word) for word in words] for words in (BINS, nouns))
    return eclip.encode_texts(backbone, [*own, "something close up", "something far away", *others])


def table(found: dict[tuple[str, str], np.ndarray]) -> str:
    """Means with intervals over videos; of the sets of nouns, the least and the most of the sets."""
    lines = [f"| method | depth from | rank correlation on the road | pairs in the right order |\n{'|---' * 4}|"]
    for (method, kind), rows in found.items():
        cells = []
        for what in (0, 1):
            own = rows[rows[:, 1] == what]
            each = [own[own[:, 2] == place, 3].mean() for place in np.unique(own[:, 2])]
            one = number(float(np.mean(each)), Weights(own[:, 0].astype(int)).means(own[:, 3:])[:, 0])
            ends = (min(each), max(each)) if kind == OTHERS else (one.low, one.high)
            cells.append(f"{one.value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]")
        lines.append(f"| `{method}` | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(images: list[Path], backbone: eclip.Backbone, file: Path) -> None:
    """Images above their depth by the paper's words, in meters."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes, text = figure.subplots(2, len(images), subplot_kw={"xticks": (), "yticks": ()}), texts(backbone)
    for (above, below), image in zip(axes.T, map(open_image, images), strict=True):
        cosines = eclip.METHODS[METHOD_NAMES[0]](eclip.encode(backbone, backbone.preprocess(image)[None], 1), text)[0]
        above.imshow(image)
        drawn = below.imshow(predictions(cosines)[OWN][0], extent=(0, *image.size, 0), vmin=1, vmax=3, cmap="viridis_r")
    figure.colorbar(drawn, ax=axes[1].tolist(), label="depth in m, light is near", shrink=0.8)
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder of the pack camvid")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take every N-th frame")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    backbone = eclip.load("mini")
    found = measure(args.data / "camvid", backbone, args.every)
    frames, pairs = np.bincount(found[METHOD_NAMES[0], OWN][:, 1].astype(int))
    print(f"{table(found)}\n\n{frames} frames with road, {pairs} pairs of cars and pedestrians; intervals over videos.")
    picture(sorted(Path(__file__).parents[3].glob("docs/images/*.jpg")), backbone, args.out / "depth-words.jpg")


if __name__ == "__main__":
    main()
