"""Every pixel gets one class: mIoU and pixel accuracy from one confusion matrix, which adds up over images.

As mmsegmentation's IoUMetric does (`mIoU` and `aAcc`; Everingham et al. 2010 for VOC): IoU of a class is its hits over
the pixels that are it or are called it, summed over all images.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Integer

from eclip.errors import DataError, OptionError, ShapeError

Confusion = Int[np.ndarray, "true predicted"]


def confusion(
    predicted: Integer[np.ndarray, "*axes"], truth: Integer[np.ndarray, "*axes"], classes: int, *, void: int = 255
) -> Confusion:
    """Pixels of each class that are called each class; those of images add up.

    Args:
        predicted: a class for each pixel, 0 to classes - 1.
        truth: of the same shape, 0 to classes - 1, or void.
        classes: how many there are.
        void: the number of pixels whose class is not known; they are left out, whatever they are called.

    Raises:
        OptionError: classes is less than 1.
        ShapeError: the two are of unlike shape.
        DataError: a number that is no class.
    """
    if classes < 1:
        raise OptionError(f"classes must be at least 1, got {classes}.")
    if predicted.shape != truth.shape:
        raise ShapeError(f"predicted must be of the shape of truth, {truth.shape}, got {predicted.shape}: resize it.")
    known = truth != void
    true, called = truth[known].astype(np.int64), predicted[known].astype(np.int64)
    for what, numbers in (("truth", true), ("predicted", called)):
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < classes:
            low, high = numbers.min(), numbers.max()
            raise DataError(f"{what} must be 0 to {classes - 1} outside void {void}, got {low} to {high}.")
    return np.bincount(true * classes + called, minlength=classes**2).reshape(classes, classes)


def class_ious(confusion: Confusion, *, ignore_background: bool = False) -> Float[np.ndarray, " true"]:
    """IoU of each class in [0, 1]; NaN where a class is neither in the truth nor in what was predicted.

    Args:
        confusion: summed over images.
        ignore_background: pixels that are class 0 in the truth count as void, and its IoU is NaN; so mmsegmentation's
            `reduce_zero_label` does for VOC20 and Context59. A pixel of a thing that is called background is a miss.
    """
    counts = confusion.astype(np.float64)
    if ignore_background:
        counts[0] = 0
    hits = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hits
    ious = np.divide(hits, union, out=np.full(len(counts), np.nan), where=union > 0)
    if ignore_background:
        ious[0] = np.nan
    return ious


def segmentation_miou(confusion: Confusion, *, ignore_background: bool = False) -> float:
    """Mean IoU over the classes that occur in truth or prediction, in [0, 1].

    A class that is in no image but is predicted somewhere counts, with 0; one that is in neither is left out of the
    mean, as mmsegmentation does, so means over few images are means over few classes.

    Args:
        confusion: summed over images.
        ignore_background: see `class_ious`.

    Raises:
        DataError: no pixel was counted.
    """
    ious = class_ious(confusion, ignore_background=ignore_background)
    if np.isnan(ious).all():
        raise DataError(f"no pixel was counted: all of the truth is void{' or background' * ignore_background}.")
    return float(np.nanmean(ious))


def pixel_accuracy(confusion: Confusion) -> float:
    """The share of pixels that are called what they are, in [0, 1].

    Args:
        confusion: summed over images.

    Raises:
        DataError: no pixel was counted.
    """
    if not confusion.any():
        raise DataError("no pixel was counted: all of the truth is void.")
    return float(confusion.trace() / confusion.sum())
