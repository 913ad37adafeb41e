"""Raw maps to heat maps, masks, boxes and points: the only module that resizes and normalizes maps.

Maps are torch tensors on the patch grid (row col), with any leading axes. Results for people and other tools, such as
heat maps and masks (height width), boxes and points, are NumPy arrays.

The order is always: normalize on the grid, then resize, as CLIP Surgery does (Li et al. 2023,
https://arxiv.org/abs/2304.05653, code xmed-lab/CLIP_Surgery at d4696d4, described in words and rewritten).
"""

import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch.nn import functional as F

from eclip.errors import EclipError, OptionError

OTSU_BINS = 256
LEAST_SHARE = 0.1
"""Regions below this share of the largest one are specks: without their boxes, recall on voc2012seg and coco80seg falls
by at most 0.3 points, and precision grows by 4 to 10 (docs/metrics.md)."""
ROUNDING = 2.0**-21
"""Four roundings of float32. Cosines of 5,000 equal texts, subtracted, leave a span of up to 3.6e-7. A real map
that spans less than this has lost its order in float32: its correlation with float64 falls from 0.98 to 0.05."""


def flat(maps: Float[torch.Tensor, "*batch row col"], scale: float = 0.0) -> Bool[torch.Tensor, "*batch"]:
    """Whether the values of a map differ only by rounding, so that they do not localize anything.

    Their span is compared with the largest of them and with `scale`: where a map is a difference, as of cosines that
    cancel, its own values no longer show how large the rounding is, but the values that were subtracted do.

    Args:
        maps: raw.
        scale: magnitude of the values whose difference the map is, see `Method.scale`; 0 if nothing was subtracted,
            so that gradients count however small they are.

    Raises:
        EclipError: a value is NaN or infinite, or a map has no cells.
    """
    _require_finite(maps)
    low, high = maps.amin((-2, -1)), maps.amax((-2, -1))
    return high - low <= ROUNDING * torch.maximum(low.abs(), high.abs()).clamp_min(scale)


def normalize(maps: Float[torch.Tensor, "*batch row col"]) -> Float[torch.Tensor, "*batch row col"]:
    """Min-max of each map over its own grid: the smallest value becomes 0, the largest 1, a `flat` map zeros.

    Raises:
        EclipError: a value is NaN or infinite, or a map has no cells.
    """
    level = flat(maps)[..., None, None]
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(level, 0, maps - low) / torch.where(level, 1, high - low)


def signed(maps: Float[torch.Tensor, "*batch row col"]) -> Float[torch.Tensor, "*batch row col"]:
    """Each map divided by its largest absolute value: in [-1, 1], signs and zeros kept; a map of zeros is unchanged.

    Raises:
        EclipError: a value is NaN or infinite, or a map has no cells.
    """
    _require_finite(maps)
    peak = maps.abs().amax((-2, -1), keepdim=True)
    return maps / torch.where(peak > 0, peak, 1)


def interpolate(
    maps: Float[torch.Tensor, "map channel row col"], size: tuple[int, int] | None = None, **options: Any
) -> Float[torch.Tensor, "map channel height width"]:
    """`torch.nn.functional.interpolate`, corners not aligned, but correct for results one column wide too.

    There torch's antialiased CPU kernel resizes rows incorrectly (2.14.1 does, by as much as the values themselves).
    The transposed result is one row high and correct: the kernel resizes rows first, then columns.

    Args:
        maps: of any strides.
        size: (height, width) of the result; None with a scale_factor.
        options: mode, antialias and scale_factor, as torch's.
    """
    if size is not None and size[1] == 1:
        return F.interpolate(maps.mT, (1, size[0]), align_corners=False, **options).mT
    return F.interpolate(maps, size, align_corners=False, **options)


def resize(
    maps: Float[torch.Tensor, "*batch row col"], size: tuple[int, int]
) -> Float[torch.Tensor, "*batch height width"]:
    """Maps resized bilinearly, corners not aligned, without antialiasing when downscaling; float32.

    A resized map stays within its own range (rounding is clamped), but need not reach both ends of it.

    Args:
        maps: raw or normalized.
        size: (height, width) of the result in pixels, both at least 1.

    Raises:
        OptionError: the size is not positive.
        EclipError: a value is NaN or infinite, or a map has no cells.
    """
    _require_finite(maps)
    _check_size(size)
    maps = maps.float()
    stack = maps.flatten(0, -3)[:, None] if maps.ndim > 2 else maps[None, None]  # map 1 row col
    resized = interpolate(stack, size, mode="bilinear").reshape(*maps.shape[:-2], *size)
    return resized.clamp(maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True))


def mean_over_cells(
    maps: Float[torch.Tensor, "*batch row col"], grid: tuple[int, int]
) -> Float[torch.Tensor, "*batch fewer_rows fewer_cols"]:
    """The mean of a map over each cell of a coarser grid, such as over each patch of a map on pixels.

    Args:
        maps: raw or normalized.
        grid: cells down and across. A map already on that grid is unchanged.
    """
    stack = maps.flatten(0, -3) if maps.ndim > 2 else maps[None]
    return F.adaptive_avg_pool2d(stack, grid).reshape(*maps.shape[:-2], *grid)


def otsu(heat: Float[np.ndarray, "height width"]) -> float:
    """Threshold that splits a heat map into foreground and background: the mask is `heat >= threshold`.

    Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076: the split with the largest variance between the two
    classes, here over 256 equal bins of [0, 1]. If empty bins leave a choice, the middle of the gap.

    Returns:
        A threshold in (0, 1]; 1.0 if all values share one bin, so that the mask of a map of zeros is empty.

    Raises:
        EclipError: a value is outside [0, 1] or NaN, or the heat map is empty.
    """
    if not heat.size or not (heat.min() >= 0 and heat.max() <= 1):
        given = f"{heat.min()} to {heat.max()}" if heat.size else "no values"
        raise EclipError(f"otsu needs a heat map in [0, 1], got {given}: apply heatmap.normalize first.")
    scaled = heat.ravel() * heat.dtype.type(OTSU_BINS)  # exact, since it is a power of two
    counts = np.bincount(np.minimum(scaled, OTSU_BINS - 1).astype(np.uint8), minlength=OTSU_BINS)
    below = np.cumsum(counts)[:-1]  # values below each inner bin edge
    above = heat.size - below
    moment = np.cumsum(counts * (np.arange(OTSU_BINS) + 0.5))
    split = (below > 0) & (above > 0)
    if not split.any():
        return 1.0
    # the difference of the two class means, at the inner edges with values on both sides
    gap = (moment[-1] - moment[:-1])[split] / above[split] - moment[:-1][split] / below[split]
    variance = np.zeros(OTSU_BINS - 1)
    variance[split] = below[split] * (above[split] / heat.size) * gap**2
    first = int(variance.argmax())
    last = int(np.searchsorted(below, below[first], side="right")) - 1  # edges after empty bins split alike
    return float((first + last + 2) / (2 * OTSU_BINS))


def boxes(mask: Bool[np.ndarray, "height width"], *, min_area: float | None = 0.0) -> Int[np.ndarray, "box 4"]:
    """Boxes around the connected regions of a mask; pixels that touch at a corner are connected.

    Args:
        mask: True on the object.
        min_area: regions that cover a smaller share of the image than this, 0 to 1, are dropped; None = those smaller
            than `LEAST_SHARE` of the largest region.

    Returns:
        Left, top, right, bottom in pixels, right and bottom exclusive; largest region first, equal ones in reading
        order; (0, 4) for an empty mask.

    Raises:
        OptionError: min_area is outside its range.
    """
    numbered, kept = _regions(mask, min_area)
    slices = ndimage.find_objects(numbered)  # (rows, columns) of each
    edges = [(cols.start, rows.start, cols.stop, rows.stop) for rows, cols in (slices[i - 1] for i in kept)]
    return np.array(edges, dtype=np.int64).reshape(-1, 4)


def regions(
    mask: Bool[np.ndarray, "height width"], *, min_area: float | None = 0.0
) -> Iterator[Bool[np.ndarray, "height width"]]:
    """The connected regions of a mask, each as a mask, in the order of `boxes`, with its arguments."""
    numbered, kept = _regions(mask, min_area)
    for i in kept:
        yield numbered == i


def _regions(mask: Bool[np.ndarray, "height width"], min_area: float | None) -> tuple[np.ndarray, list[int]]:
    """Each pixel's region, from 1, and the numbers of the regions to keep, the largest first."""
    if min_area is not None and not is_share(min_area):
        raise OptionError(f"min_area must be None or a share of the image, 0 to 1, got {min_area!r}.")
    numbered, count = ndimage.label(mask, structure=np.ones((3, 3)))
    areas = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    least = LEAST_SHARE * areas.max(initial=0) if min_area is None else min_area * mask.size
    return numbered, [int(i) + 1 for i in np.argsort(-areas, kind="stable") if areas[i] >= least]


def points(
    scores: Float[torch.Tensor, "row col"], size: tuple[int, int], *, k: int | None = None, threshold: float = 0.8
) -> tuple[Int[np.ndarray, "point 2"], Int[np.ndarray, " point"]]:
    """Point prompts for SAM: the strongest cells of a map as positives, and equally many of the weakest as negatives.

    The rule of CLIP Surgery (its `similarity_map_to_points`): halve the grid bilinearly, min-max, m = the
    number of cells at or above the threshold, but at most half of all; m largest, m smallest.
    Differs from it: grids need not be square, a flat map has no points (there: all of them, twice), and a pixel that
    would be of both labels, as in an image with fewer pixels than the grid has cells, is none.

    Args:
        scores: one map on the patch grid, raw or normalized (the points are the same).
        size: (height, width) of the image in pixels.
        k: at most this many positives, the strongest, and as many negatives, the weakest; None is no limit.
        threshold: share of the halved map's range that a positive must reach, as long as there is room.

    Returns:
        Coordinates x, y of cell centers in whole pixels of the image, and their labels, 1 positive, 0 negative;
        positives first, ascending by score inside each group. No points for a flat map, nor for a grid
        that halves to a single cell.

    Raises:
        OptionError: the size is not positive, or k is not a whole number of at least 0.
        EclipError: a value is NaN or infinite.
    """
    if k is not None and not (isinstance(k, numbers.Real) and k >= 0 and float(k).is_integer()):
        raise OptionError(f"points needs a whole number k >= 0 or None, got {k!r}.")
    _check_size(size)
    rows, cols = (max(1, side // 2) for side in scores.shape)
    halved = normalize(resize(scores, (rows, cols))).flatten()
    count = min(int((halved >= threshold).sum()), len(halved) // 2) if halved.any() else 0
    taken = count if k is None else min(int(k), count)
    ranked = halved.argsort(stable=True).cpu().numpy()
    cells = np.concatenate([ranked[len(ranked) - taken :], ranked[:taken]])
    centers = np.stack([(cells % cols + 0.5) * size[1] / cols, (cells // cols + 0.5) * size[0] / rows], axis=1)
    coordinates = centers.astype(np.int64).clip(max=(size[1] - 1, size[0] - 1))
    labels, pixels = np.repeat([1, 0], taken), coordinates[:, 1] * size[1] + coordinates[:, 0]
    told = ~np.isin(pixels, np.intersect1d(pixels[:taken], pixels[taken:]))
    return coordinates[told], labels[told]


def is_share(value: object) -> bool:
    """Whether it is a number in [0, 1]."""
    return isinstance(value, numbers.Real) and 0 <= float(value) <= 1


def _check_size(size: Any) -> None:
    if not (isinstance(size, tuple | list) and len(size) == 2 and all(_is_side(side) for side in size)):
        raise OptionError(f"size must be (height, width), whole numbers of at least 1, got {size!r}.")


def _is_side(side: object) -> bool:
    return isinstance(side, numbers.Integral) and int(side) >= 1


def _require_finite(maps: torch.Tensor) -> None:
    if 0 in maps.shape[-2:]:
        raise EclipError(f"a map needs at least one cell, got the shape {tuple(maps.shape)}.")
    if not maps.isfinite().all():
        count = int((~maps.isfinite()).sum())
        raise EclipError(
            f"{count} of {maps.numel()} map values are NaN or infinite: check the model's weights and the pixels."
        )
