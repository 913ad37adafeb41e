"""Which methods and texts predict where people look: the tables of docs/relatives/gaze.md.

    python recipes/relatives/gaze/gaze.py --data DATA --out FOLDER

Needs the pack osie in DATA: images with fixations of fifteen people. Methods and texts are scored by `eclip.evaluate`
under `gaze-v1` and copies of it with another text; maps times a bias toward the center are scored here, by the same
metrics and with the same negatives. Expect seven minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

import eclip
from eclip import heatmap
from eclip.datasets import dataset
from eclip.datasets.phrases import PhraseSet
from eclip.evaluation.baselines import centre
from eclip.evaluation.bootstrap import Number, Weights, number
from eclip.files import slug
from eclip.metrics import saliency

METHOD_NAMES = ("gem", "eclip", "maskclip", "attention", "gradcam", "legrad", "itsm", "surgery")
ASKED = "gem"
"""The method of the texts and products: the first on masks of objects (docs/results.md)."""
TEXTS = ("a face", "a person", "an animal", "text", "food", "something interesting", "the background", "xqzvk wjrp")
"""The last is nonsense, a control."""
CENTER, PRIOR = "a Gaussian in the center", "the density of other images"
NAMES = (f"`{ASKED}`", CENTER, PRIOR, f"`{ASKED}` times the Gaussian", f"`{ASKED}` times the density")


class Line(NamedTuple):
    """A row of a table: shuffled AUC and NSS, and in the last table how far NSS is above that of the Gaussian."""

    name: str
    control: bool
    numbers: tuple[Number, ...]


def scored(data: PhraseSet, out: Path, backbone: eclip.Backbone, methods: Sequence[str], text: str) -> list[Line]:
    """Methods and baselines for one text, by `eclip.evaluate`."""
    rules = eclip.PROTOCOLS["gaze-v1"]
    if text != rules.rules.text:
        rules = replace(rules, name=f"gaze of {text}", rules=replace(rules.rules, text=text))
    done = eclip.evaluate(data, out=out, methods=list(methods), models=backbone, protocol=rules, overwrite=True)
    keys = ("shuffled_auc", "nss")
    return [
        Line(row["method"], row["control"], tuple(Number(**row["numbers"][key]) for key in keys))
        for row in done.results["rows"]
    ]


def maps_of(data: PhraseSet, place: int, hidden: list[int], backbone: eclip.Backbone, text: str) -> list[NDArray]:
    """The map of an image, two biases toward the center that do not see it, and the products, each in [0, 1]."""
    image = data.items[place].open()
    size = image.size[::-1]
    answer = eclip.explain(image, text, model=backbone, method=ASKED, health=False)
    patches = heatmap.normalize(answer.torch().maps[0, 0])
    center = torch.from_numpy(centre(tuple(patches.shape), (place, 0)))
    rest = [item.phrases[0].yes for other, item in enumerate(data.items) if other not in (place, *hidden)]
    density = saliency.density(np.concatenate(rest), size)
    heat, prior = heatmap.resize(patches, size).numpy(), (density / density.max()).astype(np.float32)
    blob, product = (heatmap.resize(one, size).numpy() for one in (center, patches * center))
    return [heat, blob, prior, product, heat * prior]


def combined(data: PhraseSet, backbone: eclip.Backbone, text: str, others: int) -> dict[str, NDArray[np.float64]]:
    """Shuffled AUC and NSS of each image, (image, 2), by name of the map; negatives as in `eclip.evaluate`."""
    points = [np.array(item.phrases[0].yes) for item in data.items]
    found: dict[str, list[tuple[float, float]]] = {}
    for place, own in enumerate(points):
        strangers = np.random.default_rng(place).permutation(len(points))
        strangers = strangers[strangers != place][:others].tolist()
        negatives = np.concatenate([points[other] for other in strangers])
        for name, heat in zip(NAMES, maps_of(data, place, strangers, backbone, text), strict=True):
            scores = saliency.shuffled_auc(heat, own, negatives), saliency.nss(heat, own)
            found.setdefault(name, []).append(scores)
    return {name: np.array(values) for name, values in found.items()}


def products(values: dict[str, NDArray[np.float64]]) -> list[Line]:
    found = []
    for name, own in values.items():
        whole = np.column_stack([own, own[:, 1] - values[CENTER][:, 1]])
        drawn = Weights(np.arange(len(whole))).means(whole)
        numbers = tuple(number(whole[:, i].mean(), drawn[:, i]) for i in range(3))
        found.append(Line(name, name in (CENTER, PRIOR), numbers))
    return found


def table(lines: Sequence[Line], head: str) -> str:
    """Values with 95 % intervals over images; controls in parentheses."""
    titles = ("shuffled AUC", "NSS", "NSS over the Gaussian")[: len(lines[0].numbers)]
    rows = [f"| {head} | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for one in lines:
        cells = [f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" for each in one.numbers]
        rows.append(f"| {f'({one.name})' if one.control else one.name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def chart(lines: Sequence[Line], file: Path) -> None:
    """Points with intervals, gray for controls."""
    axes = (figure := Figure(figsize=(8.6, 0.25 * len(lines) + 0.8))).subplots(1, 2, sharey=True)
    for axis, key, title, chance in zip(axes, (0, 1), ("shuffled AUC", "NSS"), (0.5, 0), strict=True):
        for place, line in enumerate(lines):
            one, color = line.numbers[key], "#999999" if line.control else "#1f5fa8"
            axis.plot([one.low, one.high], [place, place], color=color, lw=2)
            axis.plot(one.value, place, "o", color=color, ms=5)
        axis.axvline(chance, color="#bbbbbb", zorder=0)
        axis.set_xlabel(f"{title}; gray line: chance")
        axis.set_yticks(range(len(lines)), [line.name.replace("`", "") for line in lines])
        axis.grid(axis="x", alpha=0.2)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the pack osie")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="use this many images, at least 12")
    args = parser.parse_args()
    whole, rules = dataset("osie").read(args.data / "osie"), eclip.PROTOCOLS["gaze-v1"].rules
    data, backbone = replace(whole, items=whole.items[: args.limit]), eclip.load("mini")
    methods = scored(data, args.out / "methods", backbone, METHOD_NAMES, rules.text)
    texts = [Line(rules.text, False, methods[0].numbers)]
    for text in TEXTS:
        (found, *_) = scored(data, args.out / slug(text), backbone, [ASKED], text)
        texts.append(found._replace(name=text, control=text == TEXTS[-1]))
    both = products(combined(data, backbone, rules.text, rules.others))
    for head, lines in (("method", methods), (f"text, of `{ASKED}`", texts), ("map", both)):
        print(table(lines, head), end="\n\n")
    print(f"{len(data.items)} images; shuffled AUC and NSS with 95 % intervals over images.")
    shown = [line for line in methods if line.name not in ("ones", "bound")]
    shown += [line._replace(name=f'{ASKED}: "{line.name}"') for line in texts[1:]]
    chart([*shown, *both[2:]], args.out / "gaze.png")


if __name__ == "__main__":
    main()
