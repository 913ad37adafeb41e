"""The task "gaze": does the map of a text predict where people look? The numbers of the saliency field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from eclip.datasets.phrases import Phrase, Phrased
from eclip.evaluation.baselines import NAMES, Map
from eclip.evaluation.phrase_task import PhraseTask
from eclip.evaluation.query import joined
from eclip.evaluation.row import Row, mean_rows, with_difference
from eclip.evaluation.rules import GAZED, Gaze
from eclip.evaluation.store import BatchResult
from eclip.metrics import saliency
from eclip.metrics.localization import Heat


class GazeTask(PhraseTask[Gaze]):
    """Scores images with fixations; each is asked for the text of the rules."""

    def score(self, items: Sequence[Phrased], start: int) -> BatchResult:
        """Score a batch of images; the points off a phrase stand for the fixations of other images."""
        count = len(self.items)
        given = []
        for place, item in enumerate(items, start):
            strangers = np.random.default_rng(place).permutation(count)
            strangers = strangers[strangers != place][: self.rules.others].tolist()
            others = tuple(point for other in strangers for point in self.items[other].phrases[0].yes)
            phrase = replace(item.phrases[0], text=self.rules.text, no=others)
            given.append(replace(item, phrases=(phrase,)))
        return super().score(given, start)

    def bound(self, phrase: Phrase, size: tuple[int, int], grid: tuple[int, int]) -> Map:
        """See `PhraseTask`; the density of the fixations, averaged over patches."""
        wanted = saliency.density(np.array(phrase.yes), size, self.rules.sigma)
        shares = ndimage.zoom(wanted, [16 * rows / side for rows, side in zip(grid, size, strict=True)], order=1)
        patches: Map = shares.reshape(grid[0], 16, grid[1], 16).mean(axis=(1, 3))
        return patches / patches.max()

    def numbers(self, heat: Heat, phrase: Phrase) -> Float[np.ndarray, " key"]:
        """The numbers in `GAZED` of one map; see `PhraseTask`."""
        own, others, sigma = np.array(phrase.yes), np.array(phrase.no).reshape(-1, 2), self.rules.sigma
        shuffled = saliency.shuffled_auc(heat, own, others) if len(others) else np.nan
        blurred = [
            metric(heat, own, sigma=sigma)
            for metric in (saliency.density_correlation, saliency.density_intersection, saliency.density_divergence)
        ]
        return np.array([shuffled, saliency.nss(heat, own), *blurred, saliency.auc_judd(heat, own)])

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each method and baseline, see `Task`."""
        whole, names = joined(results, self.asked.data)
        rows = mean_rows(names, NAMES, GAZED, whole["values"], whole)
        return with_difference(rows, whole["values"][:, :, 0], whole["groups"])
