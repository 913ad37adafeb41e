"""The upper bound that a patch grid imposes: the true mask at the resolution of a map."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from eclip.errors import OptionError
from eclip.metrics.localization import Heat, Mask


def grid_bound(inside: Mask, outside: Mask, grid: tuple[int, int]) -> Float[np.ndarray, "row col"]:
    """The share of each patch that is inside; resized to the image, it is scored like any map.

    Patches divide the image evenly, and a pixel on an edge counts proportionally for each side. Its scores are what a
    map on this grid can be expected to reach at best; the bound is not strict, because another map on the grid may do
    slightly better in one metric. Values are already in [0, 1]: resize them without normalizing.

    Args:
        inside: pixels of the object.
        outside: all other pixels; void, in neither, is left out of the share.
        grid: patches down and across, at least 1 each.

    Returns:
        Shares in [0, 1]; 0 for patches that contain only void.

    Raises:
        OptionError: the grid is empty.
    """
    if min(grid) < 1:
        raise OptionError(f"grid must be (row, col) of at least 1 each, got {grid}.")
    down, across = (_overlap(pixels, cells) for pixels, cells in zip(inside.shape, grid, strict=True))
    things, known = (down @ mask.astype(np.float64) @ across.T for mask in (inside, inside | outside))
    shares: Heat = np.divide(things, known, out=np.zeros(grid), where=known > 0)
    return shares.clip(0, 1)  # rounding can exceed 1 slightly


def _overlap(pixels: int, cells: int) -> Float[np.ndarray, "cell pixel"]:
    """How much of each pixel lies in each cell if the cells divide the line of pixels evenly."""
    edges = np.arange(cells + 1) * (pixels / cells)
    start, stop = edges[:-1, None], edges[1:, None]  # cell 1
    pixel = np.arange(pixels)
    return (np.minimum(pixel + 1, stop) - np.maximum(pixel, start)).clip(0)
