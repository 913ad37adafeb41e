"""How well heat parts the pixels of the thing from the rest, at all thresholds at once: pixel AP and AUROC.

Average precision as scikit-learn defines it, without interpolation (Zhu 2004; `average_precision_score`); the area
under the ROC as the chance that a pixel inside is warmer than one outside (Hanley and McNeil 1982,
https://doi.org/10.1148/radiology.143.1.7063747). Both depend on the order of the heat alone.
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
        inside: pixels of the thing, at least one.
        outside: pixels of anything else, those of void left out.

    Returns:
        Average precision: the mean, over the pixels inside, of the precision of `heat >= that pixel's heat`; pixels of
        equal heat are found together. In (0, 1]; of a flat map the share of the area that is inside.
        AUROC: the share of pairs of one pixel inside and one outside in which the inner is warmer, ties half. In
        [0, 1]; 0.5 of a flat map, and where nothing is outside.

    Raises:
        EclipError: heat is outside [0, 1] or NaN, or nothing is inside.
    """
    inner, outer = (np.sort(values) for values in parts(heat, inside, outside))
    below = _below(inner, outer)
    first = _first(inner)
    found = inner.size - first  # pixels inside at least as warm as this one
    precision = float(np.mean(found / (found + outer.size - below)))
    if not outer.size:
        return precision, 0.5
    ties = _equal(inner, outer, below)
    return precision, float((below.sum() + ties / 2) / (inner.size * outer.size))


def average_precision(heat: Heat, inside: Mask, outside: Mask) -> float:
    """Pixel AP; arguments and errors as of `separation`."""
    return separation(heat, inside, outside)[0]


def auroc(heat: Heat, inside: Mask, outside: Mask) -> float:
    """Pixel AUROC; arguments and errors as of `separation`."""
    return separation(heat, inside, outside)[1]


def _below(inner: Inner, outer: Outer) -> Counts:
    """How many of the outer are less than each of the inner: the fewer are sought among the more."""
    if inner.size <= outer.size:
        return np.searchsorted(outer, inner, side="left")
    reached = np.searchsorted(inner, outer, side="right")  # the first of the inner that is above each of the outer
    return np.bincount(reached, minlength=inner.size + 1)[:-1].cumsum()


def _first(values: Inner) -> Counts:
    """Where the run of equal values begins that each value is in."""
    starts = np.zeros(values.size, dtype=np.int64)
    fresh = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts[fresh] = fresh
    return np.maximum.accumulate(starts)


def _equal(inner: Inner, outer: Outer, below: Counts) -> int:
    """Pairs of an inner and an outer value that are equal."""
    met = np.flatnonzero(outer[np.minimum(below, outer.size - 1)] == inner)
    met = met[below[met] < outer.size]
    if not met.size:
        return 0
    starts = below[met]  # each is the first of a run of equal outer values
    ends = np.append(np.flatnonzero(outer[1:] != outer[:-1]) + 1, outer.size)
    return int((ends[np.searchsorted(ends, starts, side="right")] - starts).sum())
