"""How well heat separates the pixels of the object from all others, over all thresholds: pixel AP and AUROC.

Average precision as in scikit-learn, without interpolation (Zhu 2004; `average_precision_score`); the area under the
ROC curve as the probability that a pixel inside has more heat than one outside (Hanley and McNeil 1982,
https://doi.org/10.1148/radiology.143.1.7063747). Both depend only on the order of the heat.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from eclip.metrics.localization import Heat, Mask, parts

Inner = Float[np.ndarray, " inside"]
Outer = Float[np.ndarray, " outside"]
Counts = Int[np.ndarray, " inside"]


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

    Raises:
        EclipError: heat is outside [0, 1] or NaN, or inside is empty.
    """
    inner, outer = (np.sort(values) for values in parts(heat, inside, outside))
    below = _below(inner, outer)
    first = _first(inner)
    found = inner.size - first  # pixels inside with at least this heat
    precision = float(np.mean(found / (found + outer.size - below)))
    if not outer.size:
        return precision, 0.5
    ties = _equal(inner, outer, below)
    return precision, float((below.sum() + ties / 2) / (inner.size * outer.size))


def average_precision(heat: Heat, inside: Mask, outside: Mask) -> float:
    """Pixel AP; arguments and errors as in `separation`."""
    return separation(heat, inside, outside)[0]


def auroc(heat: Heat, inside: Mask, outside: Mask) -> float:
    """Pixel AUROC; arguments and errors as in `separation`."""
    return separation(heat, inside, outside)[1]


def _below(inner: Inner, outer: Outer) -> Counts:
    """How many outer values are less than each inner value; the shorter array is searched in the longer one."""
    if inner.size <= outer.size:
        return np.searchsorted(outer, inner, side="left")
    reached = np.searchsorted(inner, outer, side="right")  # the first inner value above each outer value
    return np.bincount(reached, minlength=inner.size + 1)[:-1].cumsum()


def _first(values: Inner) -> Counts:
    """The start of the run of equal values that contains each value."""
    starts = np.zeros(values.size, dtype=np.int64)
    fresh = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts[fresh] = fresh
    return np.maximum.accumulate(starts)


def _equal(inner: Inner, outer: Outer, below: Counts) -> int:
    """The number of pairs of equal inner and outer values."""
    met = np.flatnonzero(outer[np.minimum(below, outer.size - 1)] == inner)
    met = met[below[met] < outer.size]
    if not met.size:
        return 0
    starts = below[met]  # each is the first of a run of equal outer values
    ends = np.append(np.flatnonzero(outer[1:] != outer[:-1]) + 1, outer.size)
    return int((ends[np.searchsorted(ends, starts, side="right")] - starts).sum())
