"""Whether a map changes when the model does (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata

from eclip.errors import EclipError, ShapeError
from eclip.heatmap import flat

Map = Float[np.ndarray, "row col"]


def rank_correlation(first: Map, second: Map) -> float:
    """Spearman's rank correlation of two maps on the same grid, in [-1, 1]; ties have their average rank.

    Between the maps of a trained model and of a randomly initialized one, it should be near 0; near 1 or -1, the map
    does not depend on what the model learned. Average its absolute value over pairs too, because opposite signs cancel.

    Args:
        first: raw or normalized.
        second: on the same grid.

    Returns:
        A value in [-1, 1]; NaN if a map is flat (`eclip.heatmap.flat`) and therefore has no order.

    Raises:
        ShapeError: the grids differ.
        EclipError: a value is NaN or infinite.
    """
    if first.shape != second.shape:
        raise ShapeError(f"both maps must be on the same grid, got {first.shape} and {second.shape}.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise EclipError("a map has values that are NaN or infinite and cannot be ranked.")
    if flat(torch.from_numpy(np.stack([first, second]))).any():
        return np.nan
    one, other = (ranks - ranks.mean() for ranks in (rankdata(first), rankdata(second)))
    return float(np.clip(one @ other / np.sqrt(np.square(one).sum() * np.square(other).sum()), -1, 1))
