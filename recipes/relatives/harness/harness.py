"""Find a worn thing by its words inside a person's box: the table and the picture of docs/relatives/harness.md.

    python recipes/relatives/harness/harness.py --data DATA --out FOLDER [--limit IMAGES]

Needs the packs flickr8k and flickr8k-entities in DATA, and for the picture docs/images and the pack demos. A thing is a
phrase of the type clothing whose box lies in a person's box and fills at most half of it. Three minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import eclip
from eclip.datasets.packs import flickr8k_entities
from eclip.datasets.phrases import Box, Phrased
from eclip.render.figure import Cell, Line, figure

LEAST_INSIDE, MOST, SMALL, DRAWS, GRID = 0.9, 0.5, 0.25, 2000, 24
NAMES = ("words on the whole image", "words on the crop", "mean of both", '"a person" on the crop (control)')
NAMES += ("center of the box (control)", "mean place in other boxes (control)")
MORE = ("*crop minus whole image*", "*both minus whole image*")
SHOWN = (
    (Path(__file__).parents[3] / "docs/images/elephant.jpg", (170, 14, 384, 244), "a green shirt"),
    ("demos/images/000000565248.jpg", (104, 95, 205, 250), "a backpack"),
    ("demos/images/000000005001.jpg", (150, 148, 214, 285), "a white helmet"),
)  # in the picture, with boxes by hand


class Worn(NamedTuple):
    """A thing that somebody wears: the number of the image, the words, and both boxes."""

    image: int
    text: str
    box: Box
    person: Box


def area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def worn(items: list[Phrased]) -> list[Worn]:
    """All things with one box, each with the smallest box of a person around it; those named twice count once."""
    found: dict[tuple[int, Box], Worn] = {}
    for number, item in enumerate(items):
        people = sorted({box for one in item.phrases if "people" in one.types for box in one.boxes}, key=area)
        for phrase in item.phrases:
            if "clothing" in phrase.types and len(phrase.boxes) == 1:
                [own] = phrase.boxes
                for box in people:
                    shared = (*np.maximum(own[:2], box[:2]), *np.minimum(own[2:], box[2:]))
                    if area(shared) >= LEAST_INSIDE * area(own) and area(own) <= MOST * area(box):
                        found.setdefault((number, own), Worn(number, phrase.text, own, box))
                        break
    return list(found.values())


def in_pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box in pixels, at least one wide and high."""
    left, top = (min(int(box[axis] * size[axis]), size[axis] - 1) for axis in (0, 1))
    right, bottom = (max(int(np.ceil(box[axis + 2] * size[axis])), (left, top)[axis] + 1) for axis in (0, 1))
    return left, top, min(right, size[0]), min(bottom, size[1])


def stretched(heat: np.ndarray) -> np.ndarray:
    """From 0 to 1."""
    return (heat - heat.min()) / max(float(heat.max() - heat.min()), 1e-9)


def center(height: int, width: int) -> np.ndarray:
    rows, cols = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    return np.exp(-2 * (rows[:, None] ** 2 + cols**2))


def maps_of(image: Image.Image, text: str, person: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Maps of the first four of `NAMES` on the pixels of the person's box, each from 0 to 1."""
    left, top, right, bottom = person
    whole = eclip.explain(image, text, health=False).heatmap()[top:bottom, left:right]
    crop = eclip.explain(image.crop(person), [text, "a person"], health=False)
    own, other = (crop.heatmap(0, place) for place in (0, 1))
    return [stretched(one) for one in (whole, own, stretched(whole) + own, other)]


def measure(items: list[Phrased]) -> tuple[list[Worn], np.ndarray]:
    """The things, and pointing game and IoU of boxes of each of `NAMES`: (thing, name, 2)."""
    things, rows, drawn = worn(items), [], []
    for one in things:
        image = items[one.image].open()
        person = in_pixels(one.person, image.size)
        left, top, right, bottom = in_pixels(one.box, image.size)
        inside = np.zeros((person[3] - person[1], person[2] - person[0]), dtype=bool)
        inside[max(0, top - person[1]) : bottom - person[1], max(0, left - person[0]) : right - person[0]] = True
        drawn.append((inside, maps_of(image, one.text, person)))
    places = [np.asarray(Image.fromarray(inside).resize((GRID, GRID)), float) for inside, _ in drawn]
    for place, (inside, maps) in enumerate(drawn):
        rest = sum(one for number, one in enumerate(places) if things[number].image != things[place].image)
        prior = np.asarray(Image.fromarray(stretched(rest).astype(np.float32)).resize(inside.shape[::-1]))
        every = [*maps, center(*inside.shape), prior.clip(0, 1)]
        metrics = [eclip.METRICS[name] for name in ("pointing_game", "box_iou")]
        rows.append([[metric(heat, inside, ~inside) for metric in metrics] for heat in every])
    return things, np.array(rows)


def interval(values: np.ndarray, images: np.ndarray) -> str:
    """The mean with half of the width of its 95 % interval, by bootstrap over images."""
    numbers, place = np.unique(images, return_inverse=True)
    counts = np.random.default_rng(0).multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), DRAWS)
    weights = counts[:, place]
    low, high = np.quantile((weights @ values) / weights.sum(axis=1), (0.025, 0.975))
    return f"{100 * values.mean():.1f} ± {50 * (high - low):.1f}"


def table(things: list[Worn], scores: np.ndarray) -> str:
    images, small = np.array([one.image for one in things]), np.array([area(one.person) <= SMALL for one in things])
    kinds = {f"all {len(things)} things": small | True}
    kinds |= {f"{small.sum()} on small people": small} if small.any() else {}
    heads = [f"{kind}: {metric}" for kind in kinds for metric in ("pointing", "IoU of boxes")]
    lines = [f"| map, within the person's box | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    scores = np.concatenate([scores, scores[:, 1:3] - scores[:, :1]], axis=1)
    for place, name in enumerate(NAMES + MORE):
        cells = [interval(scores[kind, place, metric], images[kind]) for kind in kinds.values() for metric in (0, 1)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="images of flickr8k-entities")
    args, lines = parser.parse_args(), []
    items = flickr8k_entities(args.data / "flickr8k-entities", "test").items[: args.limit]
    print(table(*measure(list(items))))
    for path, box, text in SHOWN:
        image = Image.open(args.data / path).convert("RGB")  # an absolute path stays as it is
        (whole, crop, *_), part = maps_of(image, text, box), image.crop(box).resize((150, 200))
        heat = eclip.explain(image, text, health=False).heatmap()
        cells = [Cell(image, heat, title=f"{text}, whole image"), Cell(part, title="the person's box")]
        lines.append(Line([*cells, Cell(part, whole, title="map of the image"), Cell(part, crop, title="of the crop")]))
    args.out.mkdir(parents=True, exist_ok=True)
    figure(lines, width=6, dpi=150).savefig(args.out / "harness.jpg")


if __name__ == "__main__":
    main()
