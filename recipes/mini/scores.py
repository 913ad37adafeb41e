"""Scores on the validation splits, from cached tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from images import load
from model import Model
from phrases import Phrase, read_phrases
from texts import caltech_names
from torch import Tensor

POINTED = 300
"""Phrases are asked of this many images."""


def recall(image: Tensor, text: Tensor, owner: Tensor) -> tuple[float, float]:
    """Text-to-image recall at 1 and 10 in percent."""
    score = text @ image.T
    rank = (score > score.gather(1, owner[:, None])).sum(1)
    return 100 * (rank < 1).float().mean().item(), 100 * (rank < 10).float().mean().item()


def pointing(value: Tensor, text: Tensor, phrases: list[Phrase]) -> float:
    """How often the token most similar to a phrase has its center in one of the phrase's boxes, in percent.

    Args:
        value: of each token (image, token, feature).
        text: of each phrase (phrase, feature).
        phrases: of these images.
    """
    side = math.isqrt(value.shape[1])
    hits = 0
    for phrase, feature in zip(phrases, text, strict=True):
        row, col = divmod(int((value[phrase.image] @ feature).argmax()), side)
        x, y = (col + 0.5) / side, (row + 0.5) / side
        hits += any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in phrase.boxes)
    return 100 * hits / len(phrases)


class Validation:
    """Validation images and texts, to score models with as they are trained.

    Args:
        data: folder of the packs.
        work: folder of the cached tokens.
        size: side of the images in pixels.
        kind: of the tokens, see `load`.
    """

    def __init__(self, data: Path, work: Path, size: int, kind: str) -> None:
        self.flickr, captions = load(work, size, "flickr8k-val", kind)
        self.captions = [text for own in captions for text in own]
        self.owner = torch.tensor([i for i, own in enumerate(captions) for _ in own])
        self.caltech, own = load(work, size, "caltech101-val", kind)
        self.names = caltech_names(data)
        self.name_of = torch.tensor([self.names.index(name[0]) for name in own])
        self.phrases = [phrase for phrase in read_phrases(data, "val") if phrase.image < POINTED]

    @torch.no_grad()
    def __call__(self, model: Model, encode: Callable[[list[str]], Tensor]) -> tuple[float, str]:
        """Recall at 1, to choose by, and a line of figures.

        Args:
            model: its image side, in evaluation mode.
            encode: unit features (text, feature) of texts.
        """

        def features(tokens: Tensor) -> Tensor:
            parts = [model.image(model.last(part.float())) for part in tokens.split(100)]
            return F.normalize(torch.cat(parts), dim=-1)

        at1, at10 = recall(features(self.flickr), encode(self.captions), self.owner)
        parts = self.flickr[:POINTED].split(100)
        value = torch.cat([F.normalize(model.image.value(model.last(part.float())), dim=-1) for part in parts])
        points = pointing(value, encode([phrase.text for phrase in self.phrases]), self.phrases)
        names = encode([f"a photo of a {name}." for name in self.names])
        right = (features(self.caltech) @ names.T).argmax(1) == self.name_of
        named = f"caltech {100 * right.float().mean():.1f}"
        return at1, f"validation: R@1 {at1:.1f} R@10 {at10:.1f} pointing {points:.1f} {named}"
