"""Semantic segmentation: mIoU and pixel accuracy from a confusion matrix, which adds up over images.

As in mmsegmentation's IoUMetric (`mIoU` and `aAcc`; Everingham et al. 2010 for VOC): the IoU of a class is its correct
pixels divided by all pixels that have or are predicted as this class, summed over all images.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Integer

from eclip.errors import DataError, OptionError, ShapeError

Confusion = Int[np.ndarray, "true predicted"]


def confusion(
    predicted: Integer[np.ndarray, "*axes"], truth: Integer[np.ndarray, "*axes"], classes: int, *, void: int = 255
) -> Confusion:
    """Number of pixels of each class that are predicted as each class; matrices of images add up.

    Args:
        predicted: a class for each pixel, 0 to classes - 1.
        truth: of the same shape, 0 to classes - 1, or void.
        classes: number of classes.
        void: the label of pixels whose class is unknown; they are left out, whatever is predicted there.

    Raises:
        OptionError: classes is less than 1, or void is one of the classes.
        ShapeError: predicted and truth differ in shape.
        DataError: a label that is not a class, or labels that are not whole numbers.
    """
    if classes < 1:
        raise OptionError(f"classes must be at least 1, got {classes}.")
    if 0 <= void < classes:
        raise OptionError(f"void {void} is one of the {classes} classes: use a number that is no class, such as -1.")
    if predicted.shape != truth.shape:
        raise ShapeError(f"predicted must have the shape of truth, {truth.shape}, got {predicted.shape}: resize it.")
    for what, labels in (("truth", truth), ("predicted", predicted)):
        if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
            raise DataError(
                f"{what} must be whole numbers, got {labels.dtype}: take the argmax over classes, and resize labels to "
                "the nearest pixel."
            )
    known = truth != void
    true, called = truth[known].astype(np.int64), predicted[known].astype(np.int64)
    for what, numbers in (("truth", true), ("predicted", called)):
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < classes:
            low, high = numbers.min(), numbers.max()
            raise DataError(f"{what} must be 0 to {classes - 1} outside void {void}, got {low} to {high}.")
    return np.bincount(true * classes + called, minlength=classes**2).reshape(classes, classes)


def class_ious(confusion: Confusion, *, ignore_background: bool = False) -> Float[np.ndarray, " true"]:
    """IoU of each class in [0, 1]; NaN if a class is neither in the truth nor in the prediction.

    Args:
        confusion: summed over images.
        ignore_background: pixels of class 0 in the truth count as void, and its IoU is NaN, like mmsegmentation's
            `reduce_zero_label` for VOC20 and Context59. An object pixel predicted as background is a miss.
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
    """Mean IoU over the classes that occur in the truth or the prediction, in [0, 1].

    A class that is predicted but absent from the truth counts with 0; a class in neither is left out of the mean, as in
    mmsegmentation, so that means over few images are means over few classes.

    Args:
        confusion: summed over images.
        ignore_background: see `class_ious`.

    Raises:
        DataError: no pixel was counted, because the truth is all void.
    """
    ious = class_ious(confusion, ignore_background=ignore_background)
    if np.isnan(ious).all():
        raise DataError(f"there is nothing to score: the truth is all void{' or background' * ignore_background}.")
    return float(np.nanmean(ious))


def pixel_accuracy(confusion: Confusion) -> float:
    """The share of pixels that are classified correctly, in [0, 1].

    Args:
        confusion: summed over images.

    Raises:
        DataError: no pixel was counted, because the truth is all void.
    """
    if not confusion.any():
        raise DataError("there is nothing to score: the truth is all void.")
    return float(confusion.trace() / confusion.sum())
