"""Whether a map is high where people look: the metrics of saliency benchmarks.

Bylinskii et al. 2019 (https://arxiv.org/abs/1604.03605) define all six; `TINY` is the constant of their code. The
shuffled AUC (Zhang et al. 2008; Tatler et al. 2005) takes the fixations of other images as negatives, which removes the
bias of viewers toward the center. Ours are exact: no jitter, no random sampling, and ties count half.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from eclip.errors import EclipError, OptionError
from eclip.metrics.localization import Heat, check_array, parts
from eclip.metrics.separation import greater

Fixations = Float[np.ndarray, "fixation 2"]
Others = Float[np.ndarray, "other 2"]
"""Distances from the left and from the top, as shares of the image's width and height, 0 to 1; repeated ones count."""
SIGMA = 0.03
"""Of the density, as a share of the width: about a degree of visual angle in OSIE."""
TINY = 2.2204e-16


def nss(heat: Heat, fixations: Fixations) -> float:
    """Normalized scanpath saliency: mean of the standardized map at fixations; 0 is chance, and of a flat map."""
    _check(heat, fixations)
    if heat.min() == heat.max():  # the spread of its values would be what rounding left
        return 0.0
    above = at(heat, fixations).mean(dtype=np.float64) - heat.mean(dtype=np.float64)
    return float(above / heat.std(dtype=np.float64))


def density_correlation(heat: Heat, fixations: Fixations, *, sigma: float = SIGMA) -> float:
    """CC: Pearson correlation of the map and the density of fixations, in [-1, 1]; 0 for a flat map."""
    _check(heat, fixations)
    if heat.min() == heat.max():
        return 0.0
    one, other = (part - part.mean() for part in (heat.astype(float), density(fixations, heat.shape, sigma)))
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    return float(np.clip((one * other).sum() / scale, -1, 1)) if scale > 0 else 0.0


def density_intersection(heat: Heat, fixations: Fixations, *, sigma: float = SIGMA) -> float:
    """SIM: the sum of the smaller of map and density at each pixel, if each sums to 1; in [0, 1]."""
    _check(heat, fixations)
    return float(np.minimum(_share(heat), density(fixations, heat.shape, sigma)).sum())


def density_divergence(heat: Heat, fixations: Fixations, *, sigma: float = SIGMA) -> float:
    """KL: what is lost if the map stands for the density of fixations, in nats; 0 is best. Zeros are expensive."""
    _check(heat, fixations)
    wanted = density(fixations, heat.shape, sigma)
    return float((wanted * np.log(TINY + wanted / (TINY + _share(heat)))).sum())


def auc_judd(heat: Heat, fixations: Fixations) -> float:
    """Probability that a fixation has more heat than a pixel without one (Judd et al. 2009), in [0, 1]."""
    _check(heat, fixations)
    free = np.ones(heat.shape, dtype=bool)
    free[pixels_of(heat.shape, fixations)] = False
    return greater(at(heat, fixations), heat[free]) if free.any() else 0.5


def shuffled_auc(heat: Heat, fixations: Fixations, others: Others) -> float:
    """Probability that a fixation has more heat than one of other images at its place here, in [0, 1]."""
    _check(heat, fixations)
    _check(heat, others)
    return greater(at(heat, fixations), at(heat, others))


def at(heat: Heat, fixations: np.ndarray) -> np.ndarray:
    """The heat of the pixels that contain the fixations."""
    return heat[pixels_of(heat.shape, fixations)]


def density(fixations: Fixations, size: tuple[int, int], sigma: float = SIGMA) -> Float[np.ndarray, "height width"]:
    """Fixations blurred by a Gaussian, which sums to 1.

    Args:
        fixations: at least one.
        size: height and width in pixels.
        sigma: of the Gaussian, as a share of the width, above 0 and at most 1.

    Raises:
        OptionError: sigma is out of range.
    """
    if not 0 < sigma <= 1:
        raise OptionError(f"sigma must be above 0 and at most 1, a share of the width, got {sigma}.")
    counts = np.zeros(size)
    np.add.at(counts, pixels_of(size, fixations), 1.0)
    blurred = gaussian_filter(counts, sigma * size[1], mode="constant")
    return blurred / blurred.sum()


def pixels_of(size: tuple[int, ...], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row and the column of the pixel that contains each point, in an image or grid of this height and width."""
    height, width = size
    across, down = np.asarray(points).T
    return (down * height).astype(int).clip(0, height - 1), (across * width).astype(int).clip(0, width - 1)


def _share(heat: Heat) -> Float[np.ndarray, "height width"]:
    total = heat.sum(dtype=np.float64)
    return heat.astype(np.float64) / total if total > 0 else np.full(heat.shape, 1 / heat.size)


def _check(heat: Heat, fixations: np.ndarray) -> None:
    """Raise EclipError if there is no fixation, one is outside the image, or heat is not in [0, 1]."""
    check_array("heat", heat)
    points = np.asarray(fixations)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not ((points >= 0) & (points <= 1)).all():
        raise EclipError("fixations must be (fixation, 2), at least one, as shares of width and height in [0, 1].")
    parts(heat, np.ones(heat.shape, dtype=bool), np.zeros(heat.shape, dtype=bool))
