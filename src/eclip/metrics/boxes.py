"""Overlap of the box around the largest region of heat with the object, as in MaxBoxAcc, with boxes from masks.

Choe et al. 2020, https://arxiv.org/abs/2001.07437: the tight box of the largest connected region of `heat >= threshold`
is compared with the boxes of the object, the best of which counts. They report whether this IoU reaches a minimum (0.5;
in MaxBoxAccV2 0.3, 0.5 and 0.7). Here the IoU itself is returned; `box_ious(...) >= minimum`, averaged over pairs, is
their accuracy at each threshold, and its maximum is MaxBoxAcc. An object has one box per connected region of its mask.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from eclip import heatmap
from eclip.metrics.localization import THRESHOLDS, Heat, Mask, check_thresholds, parts

Box = Int[np.ndarray, " 4"]


def box_iou(heat: Heat, inside: Mask, outside: Mask, *, threshold: float = 0.5) -> float:
    """`box_ious` at one threshold, the smallest heat that counts as detected; arguments and errors as there."""
    return float(box_ious(heat, inside, outside, np.array([threshold]))[0])


def box_ious(
    heat: Heat, inside: Mask, outside: Mask, thresholds: Float[np.ndarray, " threshold"] = THRESHOLDS
) -> Float[np.ndarray, " threshold"]:
    """IoU of the box around the largest region of heat with the object's best-matching box.

    Pixels that touch at a corner are connected. Heat on void connects regions, which a ring of void would otherwise cut
    along the outline, but adds no area and does not enlarge boxes. Ties in area go to the first in reading order.

    Args:
        heat: in [0, 1].
        inside: pixels of the object, at least one.
        outside: all other pixels except void.
        thresholds: strictly ascending.

    Returns:
        IoU at each threshold, in [0, 1]; 0 if no heat reaches it.
    """
    check_thresholds(thresholds)
    parts(heat, inside, outside)
    things = heatmap.boxes(inside)
    heat = heat if np.issubdtype(heat.dtype, np.floating) else heat.astype(float)
    boxes = _largest(heat, inside | outside, thresholds)
    return np.array([0.0 if box is None else best_iou(box, things) for box in boxes])


def _largest(heat: Heat, known: Mask, thresholds: Float[np.ndarray, " threshold"]) -> list[Box | None]:
    """The box around the known pixels of the region with most of them, at each threshold.

    All thresholds are processed at once: masks are split into runs along rows, and runs that touch are connected. Heat
    maps resized from a patch grid have few runs, so this takes a third of the time of labeling each mask.
    """
    height, width = heat.shape
    row, page = width + 1, (width + 1) * (height + 1)  # an empty column and row keep rows and thresholds apart
    least = thresholds.astype(heat.dtype)  # rounded up: the same pixels, faster
    least = np.where(least < thresholds, np.nextafter(least, np.inf, dtype=heat.dtype), least)
    masks = np.zeros((len(thresholds), height + 1, row), dtype=bool)
    for mask, threshold in zip(masks, least, strict=True):
        np.greater_equal(heat, threshold, out=mask[:height, :width])
    edges = np.flatnonzero(np.diff(masks.ravel(), prepend=False))
    starts, stops = edges[::2], edges[1::2]
    # the runs of the next row that a run touches, including at corners, are consecutive in the list
    low, high = np.searchsorted(stops, starts + row), np.searchsorted(starts, stops + row, side="right")
    touching = high - low
    upper = np.repeat(np.arange(len(starts)), touching)
    lower = np.arange(len(upper)) + np.repeat(low - (touching.cumsum() - touching), touching)
    links = coo_array((np.ones(len(upper), dtype=bool), (upper, lower)), shape=(len(starts), len(starts)))
    region = connected_components(links, directed=False)[1]

    seen = np.zeros((height + 1, row), dtype=bool)
    seen[:height, :width] = known
    pixels, before = np.flatnonzero(seen), np.concatenate([[0], seen.ravel().cumsum()])
    first, last = before[starts % page], before[(stops - 1) % page + 1]  # known pixels of a run, as places in `pixels`
    found: list[Box | None] = []
    for index in range(len(thresholds)):
        own = slice(*np.searchsorted(starts, [index * page, (index + 1) * page]))
        filled = np.flatnonzero(last[own] > first[own]) + own.start
        if not filled.size:
            found.append(None)
            continue
        names = region[filled] - region[filled].min()
        mine = filled[names == np.bincount(names, last[filled] - first[filled]).argmax()]
        left, right = pixels[first[mine]], pixels[last[mine] - 1]  # of each run
        top, bottom = left.min() // row, right.max() // row
        found.append(np.array([(left % row).min(), top, (right % row).max() + 1, bottom + 1]))
    return found


def best_iou(box: Shaped[np.ndarray, " 4"], others: Shaped[np.ndarray, "box 4"]) -> float:
    """The largest IoU of a box (left, top, right, bottom) with one of several."""
    low, high = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
    shared = (high - low).clip(0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return float((shared / (areas - shared)).max())
