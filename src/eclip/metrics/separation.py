"""How well heat separates the pixels of the object from all others, over all thresholds: pixel AP and AUROC.

Average precision as in scikit-learn, without interpolation (Zhu 2004; `average_precision_score`); the area under the
ROC curve as the probability that a pixel inside has more heat than one outside (Hanley and McNeil 1982,
https://doi.org/10.1148/radiology.143.1.7063747). Both depend only on the order of the heat.
"""

from __future__ import annotations

import numpy as np

from eclip.metrics.localization import Heat, Mask, parts


def separation(heat: Heat, inside: Mask, outside: Mask) -> tuple[float, float]:
    """Average precision and AUROC of one pair, from one sort.

    Args:
        heat: in [0, 1].
        inside: pixels of the object, at least one.
        outside: all other pixels except void.

    Returns:
        Average precision: the mean, over the pixels inside, of the precision of `heat >= that pixel's heat`; pixels of
        equal heat are retrieved together. In (0, 1]; for a flat map, the share of the area that is inside.
        AUROC: the share of pairs of a pixel inside and one outside in which the inner has more heat; ties count half.
        In [0, 1]; 0.5 for a flat map, and if nothing is outside.
    """
    inner, outer = (np.sort(values) for values in parts(heat, inside, outside))
    below = np.searchsorted(outer, inner)  # pixels outside with less heat than each one inside
    found = inner.size - np.searchsorted(inner, inner)  # pixels inside with at least its heat
    precision = float(np.mean(found / (found + outer.size - below)))
    if not outer.size:
        return precision, 0.5
    ties = (np.searchsorted(outer, inner, side="right") - below).sum()
    return precision, float((below.sum() + ties / 2) / (inner.size * outer.size))


def greater(values: np.ndarray, others: np.ndarray) -> float:
    """The share of pairs of a value and another in which the value is larger; ties count half."""
    ordered = np.sort(others)
    below, upto = np.searchsorted(ordered, values).sum(), np.searchsorted(ordered, values, side="right").sum()
    return float((below + upto) / 2 / (values.size * others.size))


def average_precision(heat: Heat, inside: Mask, outside: Mask) -> float:
    """Pixel AP; arguments and errors as in `separation`."""
    return separation(heat, inside, outside)[0]


def auroc(heat: Heat, inside: Mask, outside: Mask) -> float:
    """Pixel AUROC; arguments and errors as in `separation`."""
    return separation(heat, inside, outside)[1]
