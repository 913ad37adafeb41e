"""The task "faithful": does the unaltered model need the high-scoring pixels? Insertion and deletion, with baselines.

Scores are the model's own: cosine of image and name, and whether that name is the best of all (zero-shot accuracy).
Maps are resized to the pixels that the model sees. The baseline "random" is noise on the patches, so pixels come in a
random order of smooth spots, as large as those of a map. The baseline "ones" is left out: it has no order, and single
pixels in random order make holes all over an image, which destroy it as fast as one in the right place.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclip.backbones.blocks import cosine
from eclip.backbones.encoding import Encoding, encode
from eclip.evaluation.baselines import NAMES
from eclip.evaluation.checks import check_baselines
from eclip.evaluation.pair_task import PairTask, Scores, ShownClass
from eclip.evaluation.query import EvaluationQuery, joined
from eclip.evaluation.row import Row, mean_rows
from eclip.evaluation.rules import Faithful
from eclip.evaluation.store import BatchResult
from eclip.heatmap import normalize, resize
from eclip.metrics.fills import fill
from eclip.metrics.steps import Curve, area, deletion, insertion

WAYS = {"deletion": deletion, "insertion": insertion}
SCORES = ("score", "accuracy")


class FaithfulTask(PairTask[Faithful]):
    """Scores pairs of an image and a class that it shows, under rules of class `Faithful`."""

    baselines = tuple(name for name in NAMES if name != "ones")

    def __init__(self, asked: EvaluationQuery) -> None:
        super().__init__(asked)
        colors = (asked.backbone.mean, asked.backbone.std)
        mean, std = (torch.tensor(one, dtype=torch.float32, device="cpu") for one in colors)
        self.black, self.white = -mean / std, (1 - mean) / std
        self.kinds = [(way, name) for name in self.rules.fills for way in WAYS]

    def score_class(self, shown: ShownClass, encoding: Encoding) -> Scores:
        """Score a class that an image shows."""
        filled, seen = not shown.outside.any(), (encoding, shown.place, shown.column, shown.image.place)
        return {name: {"curves": self._walks(raw, *seen), "filled": filled} for name, raw in shown.maps.items()}

    def _walks(self, raw: Tensor, encoding: Encoding, image: int, column: int, seed: int) -> NDArray[np.float64]:
        """Deletion and insertion curves (kind, step, score) of one map."""
        pixels = encoding.pixels[image]
        heat = resize(normalize(raw), (pixels.shape[1], pixels.shape[2])).numpy()

        def asked(pictures: Tensor) -> Tensor:
            seen = encode(self.asked.backbone, pictures, 0, self.asked.protocol.positions)
            scores = cosine(seen.feature, self.text).float()
            return torch.stack([scores[:, column], (scores.argmax(dim=1) == column).float()], dim=1)

        curves, steps, share = [], self.rules.steps, self.rules.share
        for way, name in self.kinds:
            other = fill(name, pixels, black=self.black, white=self.white, seed=seed)
            curves.append(WAYS[way](asked, pixels, heat, other, steps=steps, up_to=share, seed=seed).scores)
        return np.stack(curves)

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each method and baseline, see `Task`."""
        whole, names = joined(results, self.asked.data)
        curves = whole["curves"]  # pair name kind step score
        shares = np.linspace(0, self.rules.share, self.rules.steps + 1)
        keys = [f"{way}_{name}_{score}" for way, name in self.kinds for score in SCORES]
        pairs = np.array([[area(Curve(shares, each.swapaxes(0, 1))).ravel() for each in pair] for pair in curves])
        check_baselines(self.asked.data, {}, float(whole["filled"].mean()))
        rows = mean_rows(names, self.baselines, keys, pairs, whole)
        for column, row in enumerate(rows):
            means = curves[:, column].mean(axis=0).round(6).swapaxes(1, 2)  # kind score step
            row.facts["shares"] = shares.round(6).tolist()
            row.facts["curves"] = dict(zip(keys, means.reshape(len(keys), -1).tolist(), strict=True))
        return rows
