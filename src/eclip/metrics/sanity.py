"""Does a map change when the model does? Adebayo et al. 2018, https://arxiv.org/abs/1810.03292."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from eclip.errors import EclipError, ShapeError

Map = Float[np.ndarray, "row col"]


def rank_correlation(first: Map, second: Map) -> float:
    """Spearman's rank correlation of two maps on one grid, in [-1, 1]; equal values share the mean of their ranks.

    Between the maps of a trained model and of one whose weights were drawn anew it should be near 0; near 1, or -1, the
    map does not come from what the model learned. Of many pairs take the mean of its size too: opposite signs cancel.

    Args:
        first: raw or normalized.
        second: on the same grid.

    Returns:
        In [-1, 1]; NaN where a map is flat, since it orders nothing.

    Raises:
        ShapeError: the grids differ.
        EclipError: a value is NaN or infinite.
    """
    if first.shape != second.shape:
        raise ShapeError(f"two maps must be on one grid, got {first.shape} and {second.shape}.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise EclipError("a map has values that are NaN or infinite, which have no rank.")
    one, other = (ranks - ranks.mean() for ranks in (rankdata(first), rankdata(second)))
    scale = np.sqrt(np.square(one).sum() * np.square(other).sum())
    return float(np.clip(one @ other / scale, -1, 1)) if scale > 0 else np.nan
