"""The task "ground": does the map of a phrase lie in its boxes? Pointing, by type of phrase, energy and boxes.

Each phrase of each caption counts, also if several captions have the same phrase.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from eclip import heatmap
from eclip.datasets.phrases import Box, Phrase
from eclip.evaluation.baselines import NAMES, Map
from eclip.evaluation.checks import check_baselines
from eclip.evaluation.phrase_task import PhraseTask
from eclip.evaluation.query import joined
from eclip.evaluation.row import Row, mean_rows, with_difference
from eclip.evaluation.rules import GROUNDED, Ground
from eclip.evaluation.store import BatchResult
from eclip.metrics.bound import grid_bound
from eclip.metrics.boxes import best_iou
from eclip.metrics.localization import Heat
from eclip.metrics.pointing import energy, pointing_game

SPECKS = 0.001
"""Smaller regions, as a share of the image, make no box; as in `Explanation.boxes`."""


class GroundTask(PhraseTask[Ground]):
    """Scores pairs of an image and a phrase that describes a part of it, with boxes."""

    def bound(self, phrase: Phrase, size: tuple[int, int], grid: tuple[int, int]) -> Map:
        """See `PhraseTask`."""
        inside = covered(phrase.boxes, size)
        return grid_bound(inside, ~inside, grid)

    def numbers(self, heat: Heat, phrase: Phrase) -> Float[np.ndarray, " key"]:
        """The numbers in `GROUNDED` of one map; see `PhraseTask`."""
        inside = covered(phrase.boxes, heat.shape)
        found = heatmap.boxes(heat >= heatmap.otsu(heat), min_area=SPECKS)
        shares = found[0] / np.tile(inside.shape[::-1], 2) if len(found) else None
        recalled = shares is not None and best_iou(shares, np.array(phrase.boxes)) >= self.rules.iou
        return np.array([pointing_game(heat, inside, ~inside), energy(heat, inside, ~inside), float(recalled)])

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each method and baseline, see `Task`."""
        whole, names = joined(results, self.asked.data)
        values = whole["values"]  # phrase name key
        pointing = values[:, :, 0]
        phrases = [self.items[item].phrases[one] for item, one in zip(whole["items"], whole["numbers"], strict=True)]
        types = sorted({kind for phrase in phrases for kind in phrase.types})
        own = np.array([[kind in phrase.types for kind in types] for phrase in phrases]).reshape(len(phrases), -1)
        by_type = np.where(own[:, None], pointing[..., None], np.nan)  # phrase name type
        keys = [*GROUNDED, *(f"pointing_{kind}" for kind in types)]
        means = dict(zip(names, pointing.mean(axis=0).tolist(), strict=True))
        filled = np.mean([(0, 0, 1, 1) in phrase.boxes for phrase in phrases])
        check_baselines(self.asked.data, {name: means[name] for name in NAMES}, float(filled))
        counts = dict(zip(types, own.sum(axis=0).tolist(), strict=True))
        rows = mean_rows(names, NAMES, keys, np.concatenate([values, by_type], axis=2), whole, listed=len(GROUNDED))
        for row in rows:
            row.facts["types"] = counts
            for pair, phrase in zip(row.each, phrases, strict=True):
                pair["types"] = " ".join(phrase.types)
        return with_difference(rows, pointing, whole["groups"])


def covered(boxes: Sequence[Box], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The pixels inside any of the boxes; a box thinner than a pixel covers the one that it touches.

    Boxes are in shares of the image, whose height and width in pixels are its size.
    """
    mask = np.zeros(size, dtype=bool)
    for box in boxes:
        ends = [
            (min(round(low * side), side - 1), max(round(high * side), round(low * side) + 1))
            for low, high, side in ((box[1], box[3], size[0]), (box[0], box[2], size[1]))
        ]
        mask[tuple(slice(*one) for one in ends)] = True
    return mask
