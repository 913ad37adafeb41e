"""What an example is worth in place of a class name: the table of docs/like.md.

    python recipes/like/pairs.py --data DATA

Needs the pack voc2012seg in DATA. For each of twenty classes, up to four images are asked, with the name as text and
with examples: the box of an object of that class, cut out of one or three other images. The control is an example of
another class. The queries are the same for all methods. Expect two minutes on one core.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import eclip
from eclip.datasets.masks import Masked, read_masks, sides
from eclip.metrics.localization import contrast
from eclip.metrics.separation import average_precision

METHOD_NAMES = ("maskclip", "eclip", "gem", "surgery")
LEAST, MOST = 0.04, 0.5
"""Share of the image that an object covers."""
ASKED, SHOWN = 4, 3
"""Images of a class that are asked, and examples of each."""
KINDS = {
    "name": "the name, as *a photo of a NAME*",
    "one": "one example",
    "one, gap kept": "one example, not moved across the gap",
    "three": "three examples",
    "three and name": "three examples + the name",
    "other": "one example of another class (control)",
}
DIFFERENCES = {
    "one example, minus the name": ("one", "name"),
    "three examples, minus the name": ("three", "name"),
    "three examples + the name, minus the name": ("three and name", "name"),
    "moved across the gap, minus not moved": ("one", "one, gap kept"),
    "one example, minus one of another class": ("one", "other"),
}
"""Of kinds, on the same images."""
Found = dict[tuple[str, str], list[tuple[float, float]]]
"""By method and kind of query: mSC and AP of each pair."""


def candidates(items: tuple[Masked, ...], names: dict[int, str]) -> dict[int, list[Masked]]:
    """The images of each class, in a fixed random order."""
    found: dict[int, list[Masked]] = {number: [] for number in names}
    for item in items:
        mask = item.read()
        for number in found:
            if LEAST < (mask == number).mean() < MOST:
                found[number].append(item)
    for listed in found.values():
        random.Random(0).shuffle(listed)
    return {number: listed for number, listed in found.items() if len(listed) > SHOWN}


def box_of(mask: NDArray[Any]) -> tuple[int, int, int, int]:
    rows, cols = np.nonzero(mask)
    return int(cols.min()), int(rows.min()), int(cols.max()) + 1, int(rows.max()) + 1


def queries(text: str, crops: list[Image.Image], other: Image.Image, feature: Tensor) -> list[str | eclip.Like]:
    """One for each of `KINDS`."""
    one, *more = [eclip.like(crop) for crop in crops]
    three = (one + more[0] + more[1]) * (1 / SHOWN)
    return [text, one, eclip.like(feature), three, three + text, eclip.like(other)]


def measure(root: Path) -> tuple[Found, int]:
    data, backbone, count = read_masks(root), eclip.load("mini"), 0
    by_class, found = candidates(data.items, data.classes), Found()
    numbers = sorted(by_class)
    for before, number in zip(numbers[-1:] + numbers, numbers, strict=False):
        listed, stranger = by_class[number], by_class[before][0]
        other = stranger.open().crop(box_of(stranger.read() == before))
        for place in range(min(ASKED, len(listed) - SHOWN)):
            item, shown = listed[place], listed[place + 1 : place + 1 + SHOWN]
            crops = [one.open().crop(box_of(one.read() == number)) for one in shown]
            feature = eclip.encode(backbone, backbone.preprocess(crops[0])[None], 0).feature[0]
            asked = queries(f"a photo of a {data.classes[number]}", crops, other, feature)
            inside, outside = sides(item.read(), number)
            for kind, query in zip(KINDS, asked, strict=True):  # each alone, because surgery compares texts
                answers = eclip.explain(item.open(), query, method=list(METHOD_NAMES), health=False)
                for method, answer in answers.items():
                    heat = answer.heatmap()
                    scores = contrast(heat, inside, outside), average_precision(heat, inside, outside)
                    found.setdefault((method, kind), []).append(scores)
            count += 1
    return found, count


def table(found: Found) -> str:
    """Means and paired differences, with the half width of the 95 % interval over pairs, by bootstrap."""
    generator = np.random.default_rng(0)
    lines = ["| query | " + " | ".join(f"`{name}` mSC | AP" for name in METHOD_NAMES) + " |", "|---" * 9 + "|"]

    def row(said: str, scores: list[NDArray[Any]]) -> None:
        cells = []
        for values in scores:
            drawn = values[generator.integers(0, len(values), (2000, len(values)))].mean(axis=1)
            half = (np.quantile(drawn, 0.975, axis=0) - np.quantile(drawn, 0.025, axis=0)) / 2
            cells += [f"{mean:.1f} ± {one:.1f}" for mean, one in zip(values.mean(axis=0), half, strict=True)]
        lines.append(f"| {said} | " + " | ".join(cells) + " |")

    values = {key: 100 * np.array(scores) for key, scores in found.items()}
    for kind, said in KINDS.items():
        row(said, [values[method, kind] for method in METHOD_NAMES])
    for said, (one, other) in DIFFERENCES.items():
        row(f"*{said}*", [values[method, one] - values[method, other] for method in METHOD_NAMES])
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder of the pack voc2012seg")
    found, count = measure(parser.parse_args().data / "voc2012seg")
    print(table(found))
    print(f"\n{count} pairs of image and class.")


if __name__ == "__main__":
    main()
