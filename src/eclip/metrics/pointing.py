"""Whether a map points at the object, with its maximum (pointing game) and with all of its heat (energy).

Pointing game: Zhang et al. 2018 (excitation backprop), https://doi.org/10.1007/s11263-017-1059-x, with the tolerance of
TorchRay (Fong et al. 2019). Energy: Wang et al. 2020 (Score-CAM), https://arxiv.org/abs/1910.01279.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from eclip.errors import OptionError
from eclip.metrics.localization import Heat, Mask, parts


def pointing_game(heat: Heat, inside: Mask, outside: Mask, *, tolerance: int = 0) -> float:
    """Whether the maximum of the heat lies inside, 1 or 0; if several pixels are maximal, the share that does.

    Differs from the papers, which use the first maximum in reading order: here a flat map scores the share of the area.

    Args:
        heat: in [0, 1].
        inside: pixels of the object, at least one.
        outside: all other pixels except void; the maximum is taken over these two.
        tolerance: Euclidean distance in pixels at which a pixel still counts as inside; TorchRay uses 15.

    Raises:
        EclipError: heat is outside [0, 1] or NaN, or inside is empty.
        OptionError: tolerance is negative.
    """
    if tolerance < 0:
        raise OptionError(f"tolerance must be at least 0 pixels, got {tolerance}.")
    inner, outer = parts(heat, inside, outside)
    peak = max(inner.max(), outer.max(initial=0))
    peaks = (heat == peak) & (inside | outside)
    if not tolerance:
        return float(inside[peaks].mean())
    rows, cols = (np.flatnonzero(peaks.any(axis)) for axis in (1, 0))
    near = tuple(slice(max(0, at[0] - tolerance), at[-1] + tolerance + 1) for at in (rows, cols))
    if not inside[near].any():
        return 0.0
    distance = ndimage.distance_transform_edt(~inside[near])
    return float((distance[peaks[near]] <= tolerance).mean())


def energy(heat: Heat, inside: Mask, outside: Mask) -> float:
    """The share of the heat that lies inside, in [0, 1]; a flat map, even of zeros, scores the share of the area.

    Arguments and errors are as in `contrast`.
    """
    inner, outer = parts(heat, inside, outside)
    hot, cold = inner.sum(dtype=np.float64), outer.sum(dtype=np.float64)
    return float(hot / (hot + cold)) if hot + cold > 0 else inner.size / (inner.size + outer.size)
