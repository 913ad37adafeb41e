"""Whether heat lies on the thing: the contrast of Li et al. (mSC) and the overlap at the best threshold (mIoU).

Li et al. 2022 (ECLIP), https://arxiv.org/abs/2209.07046; Li et al. 2023 (CLIP Surgery),
https://arxiv.org/abs/2304.05653. Each class that an image shows is a pair, scored alone against the rest of the image
at a threshold found by search (the authors, in issue 17 of xmed-lab/CLIP_Surgery); void pixels are in neither part.
What they average over is not known to us, so both readings of mIoU are given, over pairs and over classes. One
threshold serves all pairs, and it is chosen on the same pairs that are scored at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from eclip.errors import DataError, EclipError, OptionError, ShapeError

THRESHOLDS = np.arange(20) * 0.05
Mask = Bool[np.ndarray, "height width"]
Heat = Float[np.ndarray, "height width"]


def contrast(heat: Heat, inside: Mask, outside: Mask) -> float:
    """Mean heat inside minus mean heat outside, the term of mSC; 0 where nothing is outside.

    Args:
        heat: in [0, 1].
        inside: pixels of the thing, at least one.
        outside: pixels of anything else, those of void left out.

    Returns:
        A share in [-1, 1]; of `1 - heat` it is the opposite.

    Raises:
        EclipError: heat is outside [0, 1] or NaN, or nothing is inside.
    """
    inner, outer = parts(heat, inside, outside)
    return float(inner.mean(dtype=np.float64) - outer.mean(dtype=np.float64)) if outer.size else 0.0


def overlaps(
    heat: Heat, inside: Mask, outside: Mask, thresholds: Float[np.ndarray, " threshold"] = THRESHOLDS
) -> tuple[Int[np.ndarray, " threshold"], Int[np.ndarray, " threshold"]]:
    """Pixels in the intersection and in the union of `heat >= threshold` with the thing.

    Args:
        heat: as in `contrast`.
        inside: as in `contrast`.
        outside: as in `contrast`.
        thresholds: each above the one before.

    Raises:
        EclipError: heat is outside [0, 1] or NaN, or nothing is inside.
        OptionError: thresholds do not ascend.
    """
    check_thresholds(thresholds)
    inner, outer = parts(heat, inside, outside)
    return _reaching(inner, thresholds), inner.size + _reaching(outer, thresholds)


def ious(
    heat: Heat, inside: Mask, outside: Mask, thresholds: Float[np.ndarray, " threshold"] = THRESHOLDS
) -> Float[np.ndarray, " threshold"]:
    """Intersection over union of `heat >= threshold` with the thing, in [0, 1]; arguments as of `overlaps`."""
    intersection, union = overlaps(heat, inside, outside, thresholds)
    return intersection / union


def iou(heat: Heat, inside: Mask, outside: Mask, *, threshold: float = 0.5) -> float:
    """Intersection over union of `heat >= threshold` with the thing, in [0, 1]; arguments as of `contrast`.

    Args:
        heat: as in `contrast`.
        inside: as in `contrast`.
        outside: as in `contrast`.
        threshold: from here on heat counts as found.

    Raises:
        EclipError: heat is outside [0, 1] or NaN, or nothing is inside.
    """
    return float(ious(heat, inside, outside, np.array([threshold]))[0])


@dataclass(frozen=True)
class ClassRecord:
    """One class of a `Record`.

    Attributes:
        pairs: images that show it.
        msc: mean contrast of its pairs.
        iou: sum of its intersections over sum of its unions, at the record's `class_threshold`.
    """

    pairs: int
    msc: float
    iou: float


@dataclass(frozen=True)
class Record:
    """How well heat lies on things. All values are shares: contrasts in [-1, 1], the rest in [0, 1].

    Attributes:
        pairs: how many were scored.
        msc: mean contrast over pairs.
        class_msc: mean over classes of the mean over the pairs of each.
        miou: mean IoU over pairs, at `threshold`.
        threshold: the one at which that mean is largest.
        curve: mean IoU over pairs at each threshold.
        class_miou: mean over classes of sum of intersections over sum of unions, at `class_threshold`.
        class_threshold: the one at which that mean is largest.
        class_curve: the same at each of `THRESHOLDS`.
        classes: each class by its number.
    """

    pairs: int
    msc: float
    class_msc: float
    miou: float
    threshold: float
    curve: tuple[float, ...]
    class_miou: float
    class_threshold: float
    class_curve: tuple[float, ...]
    classes: dict[int, ClassRecord]


class Localization:
    """Pairs scored one by one; of each only its numbers are held.

    Attributes:
        numbers: class number of each pair.
        contrasts: contrast of each pair.
        hits: pixels in the intersection of each pair at each of `THRESHOLDS`.
        unions: pixels in its union.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.contrasts: list[float] = []
        self.hits: list[Int[np.ndarray, " threshold"]] = []
        self.unions: list[Int[np.ndarray, " threshold"]] = []

    def add(self, number: int, heat: Heat, inside: Mask, outside: Mask) -> None:
        """Score one pair.

        Args:
            number: its class.
            heat: as in `contrast`.
            inside: as in `contrast`.
            outside: as in `contrast`.

        Raises:
            EclipError: heat is outside [0, 1] or NaN, or nothing is inside.
        """
        intersection, union = overlaps(heat, inside, outside)
        self.numbers.append(number)
        self.contrasts.append(contrast(heat, inside, outside))
        self.hits.append(intersection)
        self.unions.append(union)

    def record(self) -> Record:
        """What the pairs so far give.

        Raises:
            DataError: there is none.
        """
        if not self.numbers:
            raise DataError("no pair was scored: no mask shows a class on enough of its area.")
        return record_of(*map(np.array, (self.numbers, self.contrasts, self.hits, self.unions)))


def record_of(
    numbers: Int[np.ndarray, " pair"],
    contrasts: Float[np.ndarray, " pair"],
    hits: Shaped[np.ndarray, "pair threshold"],
    unions: Shaped[np.ndarray, "pair threshold"],
    thresholds: Float[np.ndarray, " threshold"] = THRESHOLDS,
) -> Record:
    """The record of scored pairs, of which there is at least one.

    Args:
        numbers: class of each pair.
        contrasts: `contrast` of each.
        hits: pixels in its intersection at each threshold, see `overlaps`.
        unions: pixels in its union.
        thresholds: of both.
    """
    curve = (hits / unions).mean(axis=0)
    own = {int(one): numbers == one for one in np.unique(numbers)}
    ious = {one: hits[rows].sum(axis=0) / unions[rows].sum(axis=0) for one, rows in own.items()}
    class_curve = np.mean(list(ious.values()), axis=0)
    best, class_best = int(curve.argmax()), int(class_curve.argmax())
    classes = {
        one: ClassRecord(int(rows.sum()), float(contrasts[rows].mean()), float(ious[one][class_best]))
        for one, rows in own.items()
    }
    return Record(
        pairs=len(numbers),
        msc=float(contrasts.mean()),
        class_msc=float(np.mean([one.msc for one in classes.values()])),
        miou=float(curve[best]),
        threshold=float(thresholds[best]),
        curve=tuple(curve.tolist()),
        class_miou=float(class_curve[class_best]),
        class_threshold=float(thresholds[class_best]),
        class_curve=tuple(class_curve.tolist()),
        classes=classes,
    )


def _reaching(
    values: Float[np.ndarray, " pixel"], thresholds: Float[np.ndarray, " threshold"]
) -> Int[np.ndarray, " threshold"]:
    """How many values are at least each threshold."""
    reached = np.searchsorted(thresholds, values, side="right")  # thresholds that each value reaches
    counts = np.bincount(reached, minlength=len(thresholds) + 1)
    return counts[::-1].cumsum()[::-1][1:]


def check_thresholds(thresholds: Float[np.ndarray, " threshold"]) -> None:
    """Each is above the one before.

    Raises:
        OptionError: one is not, or is NaN.
    """
    if np.isnan(thresholds).any() or not (np.diff(thresholds) > 0).all():
        raise OptionError(f"thresholds must ascend, each above the one before, got {thresholds.tolist()}: sort them.")


def parts(
    heat: Heat, inside: Mask, outside: Mask
) -> tuple[Float[np.ndarray, " inside"], Float[np.ndarray, " outside"]]:
    """The heat of the thing and the heat of the rest, as two lists of pixels; every metric of a pair begins here.

    Raises:
        ShapeError: a mask is not of the shape of the heat.
        EclipError: heat is outside [0, 1] or NaN, or nothing is inside.
    """
    if not heat.shape == inside.shape == outside.shape:
        given = f"{inside.shape} and {outside.shape}"
        raise ShapeError(f"masks must be (height, width) = {heat.shape} as the heat, got {given}: use heatmap.resize.")
    if not (heat.min() >= 0 and heat.max() <= 1):
        raise EclipError(f"heat must be in [0, 1], got {heat.min()} to {heat.max()}: use heatmap.normalize first.")
    if not inside.any():
        raise EclipError("nothing is inside: a class that the image does not show cannot be scored.")
    return heat[inside], heat[outside]
