"""What the patch grid leaves of a perfect answer: the mask itself, as coarse as a map."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from eclip.errors import OptionError
from eclip.metrics.localization import Heat, Mask


def grid_bound(inside: Mask, outside: Mask, grid: tuple[int, int]) -> Float[np.ndarray, "row col"]:
    """The share of each patch that is inside; resized to the image, it is scored as any map is.

    Patches divide the image evenly, and a pixel on an edge counts for each side with its part. What it scores is what a
    map of this grid can be expected to reach at best; it is no strict bound, since some other map of the grid may do a
    little better at one metric. Already in [0, 1]: resize it without normalizing.

    Args:
        inside: pixels of the thing.
        outside: pixels of anything else; void, in neither, is left out of the share.
        grid: patches down and across, at least 1 each.

    Returns:
        Shares in [0, 1]; 0 where a patch shows only void.

    Raises:
        OptionError: the grid has no patch.
    """
    if min(grid) < 1:
        raise OptionError(f"grid must be (row, col) of at least 1 each, got {grid}.")
    down, across = (_overlap(pixels, cells) for pixels, cells in zip(inside.shape, grid, strict=True))
    things, known = (down @ mask.astype(np.float64) @ across.T for mask in (inside, inside | outside))
    shares: Heat = np.divide(things, known, out=np.zeros(grid), where=known > 0)
    return shares.clip(0, 1)  # sums of unlike order can leave 1 by a rounding


def _overlap(pixels: int, cells: int) -> Float[np.ndarray, "cell pixel"]:
    """How much of each pixel lies in each cell, when the cells divide the line of pixels evenly."""
    edges = np.arange(cells + 1) * (pixels / cells)
    start, stop = edges[:-1, None], edges[1:, None]  # cell 1
    pixel = np.arange(pixels)
    return (np.minimum(pixel + 1, stop) - np.maximum(pixel, start)).clip(0)
