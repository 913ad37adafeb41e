"""The task "faithful": does the unaltered model need what a map calls warm? Insertion and deletion, with controls.

Scores are the model's own: cosine of photo and name, and whether that name is the best of all (zero-shot accuracy).
Maps are laid on the pixels that the model sees. The control "ones" has no order, so its pixels come at random: the
baseline that every method must beat, for each fill anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclip.backbones.blocks import cosine
from eclip.backbones.encoding import Encoding, encode
from eclip.datasets.masks import VOID, Masked, present
from eclip.evaluation.baselines import NAMES, control_maps
from eclip.evaluation.checks import check_controls
from eclip.evaluation.protocols import Faithful
from eclip.evaluation.query import Asked, joined, opened
from eclip.evaluation.row import Row, mean_rows
from eclip.evaluation.store import Part
from eclip.heatmap import normalize, resize
from eclip.metrics.fills import fill
from eclip.metrics.steps import Curve, area, deletion, insertion

WAYS = {"deletion": deletion, "insertion": insertion}
SCORES = ("score", "accuracy")


class FaithfulTask:
    """Scores pairs of a photo and a class that it shows.

    Args:
        asked: the question; its protocol has rules of class `Faithful`.
    """

    def __init__(self, asked: Asked) -> None:
        assert isinstance(asked.protocol.rules, Faithful)
        self.asked, self.rules = asked, asked.protocol.rules
        self.columns = {number: column for column, number in enumerate(asked.classes)}
        self.text = asked.texts()
        backbone = asked.backbone
        mean, std = (torch.tensor(one, dtype=torch.float32, device="cpu") for one in (backbone.mean, backbone.std))
        self.black, self.white = -mean / std, (1 - mean) / std
        self.kinds = [(way, name) for name in self.rules.fills for way in WAYS]

    def score(self, items: Sequence[Masked], start: int) -> Part:
        """What a batch of photos gives; `start` is the place of the first in the data set."""
        found, failures = opened(items, start)
        gaps: dict[str, str] = {}
        seconds: dict[str, float] = {"forward": 0.0}
        photos, numbers, filled, curves = [], [], [], []
        for group, encoding, spent in self.asked.encoded(found):
            seconds["forward"] += spent
            own = [present(one.mask, self.rules.least) for one in group]
            shown = [[self.columns[number] for number in each] for each in own]
            maps = dict(self.asked.try_maps(encoding, self.text, shown, gaps, seconds))
            for image, one in enumerate(group):
                for place, number in enumerate(own[image]):
                    inside = one.mask == number
                    outside = ~inside & (one.mask != VOID)
                    raw = [each[image][place] for each in maps.values()]
                    raw += control_maps(encoding.grid, (one.place, number), inside, outside)
                    column = shown[image][place]
                    curves.append(np.stack([self._walks(each, encoding, image, column, one.place) for each in raw]))
                    photos.append(one.place)
                    numbers.append(number)
                    filled.append(not outside.any())
        names = [name for name in self.asked.methods if name not in gaps] + [*NAMES]
        arrays: dict[str, NDArray[Any]] = {"names": np.array(names)}
        if photos:
            arrays |= {"photos": np.array(photos), "numbers": np.array(numbers), "filled": np.array(filled)}
            arrays["curves"] = np.stack(curves)
        return Part(arrays, seconds, len(found), gaps, failures)

    def _walks(self, raw: Tensor, encoding: Encoding, image: int, column: int, seed: int) -> NDArray[np.float64]:
        """Curves (kind, step, score) of one map."""
        pixels = encoding.pixels[image]
        heat = resize(normalize(raw.float()), (pixels.shape[1], pixels.shape[2])).numpy()

        def asked(pictures: Tensor) -> Tensor:
            seen = encode(self.asked.backbone, pictures, 0, self.asked.protocol.positions)
            scores = cosine(seen.feature, self.text).float()
            return torch.stack([scores[:, column], (scores.argmax(dim=1) == column).float()], dim=1)

        curves = []
        for way, name in self.kinds:
            other = fill(name, pixels, black=self.black, white=self.white, seed=seed)
            steps, share = self.rules.steps, self.rules.share
            curves.append(WAYS[way](asked, pixels, heat, other, steps=steps, up_to=share, seed=seed).scores)
        return np.stack(curves)

    def record(self, parts: Iterable[Part]) -> list[Row]:
        """A row for each method and control.

        Raises:
            DataError: no photo shows a class.
        """
        whole, names = joined(parts, self.asked.data)
        curves = whole["curves"]  # pair name kind step score
        shares = np.linspace(0, self.rules.share, self.rules.steps + 1)
        keys = [f"{way}_{name}_{score}" for way, name in self.kinds for score in SCORES]
        pairs = np.array([[area(Curve(shares, each.swapaxes(0, 1))).ravel() for each in pair] for pair in curves])
        check_controls(self.asked.data, {}, float(whole["filled"].mean()))
        rows = mean_rows(names, NAMES, keys, pairs, whole)
        for column, row in enumerate(rows):
            means = curves[:, column].mean(axis=0).round(6)  # kind step score
            row.facts["shares"] = shares.round(6).tolist()
            row.facts["curves"] = {
                f"{way}_{name}_{score}": means[i, :, j].tolist()
                for i, (way, name) in enumerate(self.kinds)
                for j, score in enumerate(SCORES)
            }
        return rows
