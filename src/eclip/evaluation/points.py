"""The task "points": is the map of a label high at points on what it names, and low at points off it?

After the test of LeGrad on Open Images V7 (Bousselham et al. 2024, https://arxiv.org/abs/2404.03214): one map for each
label that the image is known to show, thresholded at 0.5 of its range, and the IoU over annotated points (p-mIoU). With
H the points on the label that the map contains, M those on it that the map misses, and F those off it that the map
contains, the IoU is H / (H + M + F). The authors' evaluation is not public. Not known to us is what they average over,
pairs of an image and a label or labels with the points of each summed, of which both are computed here; and whether the
IoU of the rest of the image counts too, which is not computed.

The headline needs no threshold: the probability that a point on the label has more heat than one off it, in the pairs
that have both. At 0.5, the map of all ones can exceed every method, since it contains every point that is on the label.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from eclip.datasets.pair import numbered
from eclip.datasets.phrases import Phrase
from eclip.evaluation.baselines import NAMES, Map
from eclip.evaluation.bootstrap import Weights, number
from eclip.evaluation.checks import check_baselines
from eclip.evaluation.phrase_task import PhraseTask
from eclip.evaluation.query import joined
from eclip.evaluation.row import Row, mean_rows, with_difference
from eclip.evaluation.rules import POINTED, Points
from eclip.evaluation.store import BatchResult
from eclip.metrics import saliency
from eclip.metrics.localization import Heat, overlaps
from eclip.metrics.separation import auroc


class PointsTask(PhraseTask[Points]):
    """Scores pairs of an image and a label that has points."""

    def bound(self, phrase: Phrase, size: tuple[int, int], grid: tuple[int, int]) -> Map:
        """See `PhraseTask`; the points do not depend on the size of the image."""
        return grid_answers(phrase, grid)

    def numbers(self, heat: Heat, phrase: Phrase) -> Float[np.ndarray, " key"]:
        """Points in the intersection, in the union, and the AUROC, which is NaN if no point is off the label."""
        values = at_points(heat, phrase)
        inside = np.arange(values.shape[1])[None] < len(phrase.yes)
        [hits], [union] = overlaps(values, inside, ~inside, np.array([self.rules.threshold]))
        return np.array([hits, union, auroc(values, inside, ~inside) if phrase.no else np.nan])

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each method and baseline, see `Task`."""
        whole, names = joined(results, self.asked.data)
        hits, unions, aurocs = np.moveaxis(whole["values"], 2, 0)  # pair name
        ious = hits / unions
        phrases = [self.items[item].phrases[one] for item, one in zip(whole["items"], whole["numbers"], strict=True)]
        means = dict(zip(names, np.where(np.isnan(aurocs), 0.5, aurocs).mean(axis=0).tolist(), strict=True))
        few = " Too few points are off their label, or the images are too few."
        check_baselines(self.asked.data, {name: means[name] for name in NAMES}, 0.0, few)
        labels = np.array(numbered((one.text, *one.types) for one in phrases))
        sums = [np.stack([np.bincount(labels, column) for column in each.T], axis=1) for each in (hits, unions)]
        by_label = (sums[0] / sums[1]).mean(axis=0)
        replicates = Weights(whole["groups"]).class_ratios(hits, unions, labels)
        rows = mean_rows(names, NAMES, POINTED[:2], np.stack([aurocs, ious], axis=2), whole)
        rows = with_difference(rows, aurocs, whole["groups"])
        for column, row in enumerate(rows):
            row.numbers[POINTED[2]] = number(by_label[column], replicates[:, column])
            row.facts["labels"] = int(labels.max()) + 1
            row.facts["points"] = {
                "yes": sum(len(one.yes) for one in phrases),
                "no": sum(len(one.no) for one in phrases),
            }
            for pair, phrase in zip(row.each, phrases, strict=True):
                pair |= {"yes": len(phrase.yes), "no": len(phrase.no), "types": " ".join(phrase.types)}
                if not phrase.no:
                    pair["point_auroc"] = ""
        return rows


def at_points(heat: Heat, phrase: Phrase) -> Float[np.ndarray, "1 point"]:
    """The heat of the pixels that contain the points of a phrase, those on it first."""
    return saliency.at(heat, np.array([*phrase.yes, *phrase.no]))[None]


def grid_answers(phrase: Phrase, grid: tuple[int, int]) -> Map:
    """The share of points on the phrase among the points of each patch, which is what a map on this grid can reach.

    A patch without points has the share of the nearest patch with points. As with `grid_bound`, another map may do
    slightly better, since maps are interpolated between patches.
    """
    places = saliency.pixels_of(grid, np.array([*phrase.yes, *phrase.no]))
    counts = np.zeros((2, *grid))
    np.add.at(counts[0], places, np.arange(len(places[0])) < len(phrase.yes))
    np.add.at(counts[1], places, 1)
    shares = np.divide(counts[0], counts[1], out=np.zeros(grid), where=counts[1] > 0)
    nearest = ndimage.distance_transform_edt(counts[1] == 0, return_distances=False, return_indices=True)
    found: Map = shares[tuple(nearest)]
    return found
