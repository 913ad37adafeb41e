"""Whether an anomaly map finds defects of any size: the per-region overlap of MVTec AD.

Bergmann et al. 2020 (https://doi.org/10.1007/s11263-020-01400-4): at each threshold, the share of each connected region
of a defect that is found, averaged over regions, against the false positive rate over all normal pixels; the area under
that curve up to a rate of 0.3, divided by 0.3. Ours takes every value of the maps as a threshold, so it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import label

from eclip.errors import EclipError, ShapeError
from eclip.metrics.localization import check_boolean

LIMIT = 0.3


def region_overlap(
    maps: Sequence[Float[np.ndarray, "height width"]],
    masks: Sequence[Bool[np.ndarray, "height width"]],
    *,
    limit: float = LIMIT,
) -> float:
    """PRO over images, in [0, 1]; regions are connected by eight neighbors.

    Args:
        maps: anomaly scores, higher where something is wrong; comparable between images.
        masks: defects; images without one count by their false positives.
        limit: largest false positive rate, above 0 and at most 1.

    Raises:
        ShapeError: a mask is not (height, width), or does not have the shape of its map.
        EclipError: there is no defect or no normal pixel, a map is not finite, or a mask is not boolean.
    """
    if not 0 < limit <= 1 or len(maps) != len(masks) or not len(maps):
        raise EclipError("there must be as many maps as masks, at least one, and a limit in (0, 1].")
    for number, (heat, mask) in enumerate(zip(maps, masks, strict=True)):
        check_boolean(f"masks[{number}]", mask)
        if mask.ndim != 2:
            raise ShapeError(
                f"masks[{number}] must be (height, width), got {mask.shape}: pass lists of maps and masks."
            )
        if mask.shape != heat.shape:
            raise ShapeError(f"masks[{number}] must have the shape of its map, {heat.shape}, got {mask.shape}.")
    values = np.concatenate([one.ravel() for one in maps]).astype(float)
    weights, normal = [], []
    for one in masks:
        regions, _ = label(one, np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())
        weights.append(np.where(one, 1 / sizes[regions], 0.0).ravel())  # each region sums to 1
        normal.append(~one.ravel())
    weight, free = np.concatenate(weights), np.concatenate(normal).astype(float)
    if not weight.any() or not free.any() or not np.isfinite(values).all():
        raise EclipError("there must be a defect and a normal pixel, and maps must be finite.")
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order], append=-np.inf))  # pixels of equal value are found together
    overlap = np.concatenate([[0.0], np.cumsum(weight[order])[ends] / weight.sum()])
    rate = np.concatenate([[0.0], np.cumsum(free[order])[ends] / free.sum()])
    last = np.searchsorted(rate, limit, side="right")
    if last < len(rate):  # the point at the limit, on the line to the next one
        share = (limit - rate[last - 1]) / (rate[last] - rate[last - 1])
        overlap = np.append(overlap[:last], overlap[last - 1] + share * (overlap[last] - overlap[last - 1]))
        rate = np.append(rate[:last], limit)
    return float(((overlap[1:] + overlap[:-1]) / 2 * np.diff(rate)).sum() / limit)
