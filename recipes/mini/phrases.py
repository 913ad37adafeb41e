"""Phrases of Flickr8k's captions with the boxes of what they describe, and the tokens inside those boxes."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from features import crop_box
from torch import Tensor


@dataclass(frozen=True)
class Phrase:
    """A phrase, the position of its image in the split, and boxes: left, top, right, bottom, as shares of the sides."""

    text: str
    image: int
    boxes: tuple[tuple[float, ...], ...]


def read_phrases(data: Path, split: str) -> list[Phrase]:
    """Different phrases with boxes of each image of a split of `flickr8k`, in the order of its images."""
    rows = (data / "flickr8k" / "index.tsv").read_text(encoding="utf-8").splitlines()[1:]
    keys = sorted(tuple(row.split("\t")[1:3]) for row in rows if row.startswith(f"{split}\t"))
    place = {key: number for number, key in enumerate(keys)}
    found: dict[Phrase, None] = {}
    with gzip.open(data / "flickr8k-entities" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        for record in map(json.loads, file):
            for caption in record["captions"]:
                for one in caption["phrases"]:
                    if one["boxes"]:
                        boxes = tuple(tuple(box) for box in one["boxes"])
                        found[Phrase(one["text"].lower(), place[record["shard"], record["key"]], boxes)] = None
    return sorted(found, key=lambda phrase: phrase.image)


def seen_in(boxes: tuple[tuple[float, ...], ...], view: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Boxes as shares of the sides of a view of the image (see `features.crop_box`): those of which half is in it."""
    left, top, right, bottom = view
    found = []
    for box in boxes:
        x = sorted(((box[0] - left) / (right - left), (box[2] - left) / (right - left)))
        y = ((box[1] - top) / (bottom - top), (box[3] - top) / (bottom - top))
        inside = tuple(min(max(edge, 0.0), 1.0) for edge in (x[0], y[0], x[1], y[1]))
        area = (inside[2] - inside[0]) * (inside[3] - inside[1])
        if area >= (x[1] - x[0]) * (y[1] - y[0]) / 2:
            found.append(inside)
    return tuple(found)


def tokens_inside(boxes: tuple[tuple[float, ...], ...], side: int) -> np.ndarray:
    """Which tokens (row * col) of a square grid lie in any of the boxes: those at least half covered.

    Of boxes too small for that, the tokens that are covered most; without a box, none.
    """
    edges = np.arange(side + 1) / side
    covered = np.zeros((side, side))
    for left, top, right, bottom in boxes:
        rows = (np.minimum(edges[1:], bottom) - np.maximum(edges[:-1], top)).clip(0) * side
        cols = (np.minimum(edges[1:], right) - np.maximum(edges[:-1], left)).clip(0) * side
        covered = np.maximum(covered, np.outer(rows, cols))
    return ((covered >= min(0.5, 0.8 * covered.max())) & (covered > 0)).ravel()


@dataclass(frozen=True)
class Drawn:
    """Phrases of some images, equally many of each.

    Attributes:
        view: which view of the images is looked at.
        images: positions of these images in the batch from which they were drawn.
        texts: the phrases, those of one image after another.
        inside: (image, phrase, token), the tokens inside the boxes of each.
    """

    view: int
    images: Tensor
    texts: list[str]
    inside: Tensor


class Phrases:
    """Phrases of training images, to draw from.

    Args:
        phrases: in the order of their images.
        place: of each image of the split that is trained on, its position among all training images.
        side: tokens a side of the grid.
        views: of each image, how many are drawn from.
    """

    def __init__(self, phrases: list[Phrase], place: dict[int, int], side: int, views: int = 1) -> None:
        kept = [phrase for phrase in phrases if phrase.image in place]
        self.texts = [phrase.text for phrase in kept]
        inside = [
            [tokens_inside(seen_in(one.boxes, crop_box(view, one.image)), side) for one in kept]
            for view in range(views)
        ]
        self.inside = torch.from_numpy(np.array(inside))  # view phrase token
        self.of_image: dict[int, list[int]] = {}
        for number, phrase in enumerate(kept):
            self.of_image.setdefault(place[phrase.image], []).append(number)

    def draw(self, index: Tensor, each: int) -> Drawn:
        """Some phrases of each of these images that has any, with repetition if it has few; all in one random view."""
        images = [i for i, image in enumerate(index.tolist()) if image in self.of_image]
        numbers = []
        for i in images:
            own = self.of_image[int(index[i])]
            order = torch.randperm(len(own)).tolist() * each
            numbers.append([own[place] for place in order[:each]])
        texts = [self.texts[number] for own in numbers for number in own]
        view = random.randrange(len(self.inside))
        return Drawn(view, torch.tensor(images), texts, self.inside[view][torch.tensor(numbers)])
