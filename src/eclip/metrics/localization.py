"""Whether heat lies on the object: the contrast of Li et al. (mSC) and the IoU at the best threshold (mIoU).

Li et al. 2022 (ECLIP), https://arxiv.org/abs/2209.07046; Li et al. 2023 (CLIP Surgery),
https://arxiv.org/abs/2304.05653. Each class that an image shows is a pair, scored separately against the rest of the
image at a threshold found by search (the authors, in issue 17 of xmed-lab/CLIP_Surgery); void pixels are in neither.
We do not know what they average over, so mIoU is computed both over pairs and over classes. A single threshold is used
for all pairs, and it is selected on the same pairs that it scores.
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
    """Mean heat inside minus mean heat outside, which mSC averages; 0 if nothing is outside.

    Args:
        heat: in [0, 1].
        inside: pixels of the object, at least one.
        outside: all other pixels except void.

    Returns:
        A value in [-1, 1]; `1 - heat` has its negative.

    Raises:
        EclipError: heat is outside [0, 1] or NaN, or inside is empty.
    """
    inner, outer = parts(heat, inside, outside)
    return float(inner.mean(dtype=np.float64) - outer.mean(dtype=np.float64)) if outer.size else 0.0


def overlaps(
    heat: Heat, inside: Mask, outside: Mask, thresholds: Float[np.ndarray, " threshold"] = THRESHOLDS
) -> tuple[Int[np.ndarray, " threshold"], Int[np.ndarray, " threshold"]]:
    """Number of pixels in the intersection and the union of `heat >= threshold` with the object.

    Heat and masks are as in `contrast`, thresholds strictly ascending.

    Raises:
        EclipError: heat is outside [0, 1] or NaN, or inside is empty.
        OptionError: thresholds are not strictly ascending.
    """
    check_thresholds(thresholds)
    inner, outer = parts(heat, inside, outside)
    return _reaching(inner, thresholds), inner.size + _reaching(outer, thresholds)


def ious(
    heat: Heat, inside: Mask, outside: Mask, thresholds: Float[np.ndarray, " threshold"] = THRESHOLDS
) -> Float[np.ndarray, " threshold"]:
    """IoU of `heat >= threshold` with the object, in [0, 1]; arguments and errors as in `overlaps`."""
    intersection, union = overlaps(heat, inside, outside, thresholds)
    return intersection / union


def iou(heat: Heat, inside: Mask, outside: Mask, *, threshold: float = 0.5) -> float:
    """`ious` at one threshold, the smallest heat that counts as detected; arguments and errors as there."""
    return float(ious(heat, inside, outside, np.array([threshold]))[0])


@dataclass(frozen=True)
class ClassRecord:
    """Results of one class in a `Record`.

    Attributes:
        pairs: number of images that show it.
        msc: mean contrast of its pairs.
        iou: its summed intersections divided by its summed unions, at the record's `class_threshold`.
    """

    pairs: int
    msc: float
    iou: float


@dataclass(frozen=True)
class Record:
    """Localization results over pairs. Contrasts are in [-1, 1], all other scores in [0, 1].

    Attributes:
        pairs: number of pairs.
        msc: mean contrast over pairs.
        class_msc: mean over classes of the mean contrast of their pairs.
        miou: mean IoU over pairs, at `threshold`.
        threshold: where `curve` is largest.
        curve: mean IoU over pairs at each threshold.
        class_miou: mean over classes of summed intersections divided by summed unions, at `class_threshold`.
        class_threshold: where `class_curve` is largest.
        class_curve: the same mean at each of `THRESHOLDS`.
        classes: results of each class by its number.
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
    """Accumulates pairs one at a time and stores only their numbers.

    Attributes:
        numbers: class number of each pair.
        contrasts: contrast of each pair.
        hits: number of pixels in the intersection of each pair at each of `THRESHOLDS`.
        unions: number of pixels in its union.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.contrasts: list[float] = []
        self.hits: list[Int[np.ndarray, " threshold"]] = []
        self.unions: list[Int[np.ndarray, " threshold"]] = []

    def add(self, number: int, heat: Heat, inside: Mask, outside: Mask) -> None:
        """Score one pair; `number` is its class, other arguments and errors are as in `contrast`."""
        intersection, union = overlaps(heat, inside, outside)
        self.numbers.append(number)
        self.contrasts.append(contrast(heat, inside, outside))
        self.hits.append(intersection)
        self.unions.append(union)

    def record(self) -> Record:
        """The results of all pairs so far.

        Raises:
            DataError: no pair was added.
        """
        if not self.numbers:
            raise DataError("there is nothing to score: no class covers enough of the area of any mask.")
        return record_of(*map(np.array, (self.numbers, self.contrasts, self.hits, self.unions)))


def record_of(
    numbers: Int[np.ndarray, " pair"],
    contrasts: Float[np.ndarray, " pair"],
    hits: Shaped[np.ndarray, "pair threshold"],
    unions: Shaped[np.ndarray, "pair threshold"],
    thresholds: Float[np.ndarray, " threshold"] = THRESHOLDS,
) -> Record:
    """The results of scored pairs, at least one; see `Localization` for the arrays."""
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
    reached = np.searchsorted(thresholds, values, side="right")  # how many thresholds each value reaches
    counts = np.bincount(reached, minlength=len(thresholds) + 1)
    return counts[::-1].cumsum()[::-1][1:]


def check_thresholds(thresholds: Float[np.ndarray, " threshold"]) -> None:
    """Check that thresholds are strictly ascending.

    Raises:
        OptionError: they are not, or one is NaN.
    """
    if np.isnan(thresholds).any() or not (np.diff(thresholds) > 0).all():
        raise OptionError(f"thresholds must be strictly ascending, got {thresholds.tolist()}: sort them.")


def check_array(name: str, array: object) -> None:
    """Raise EclipError if a heat map or mask is not an array."""
    if not isinstance(array, np.ndarray):
        raise EclipError(f"metrics take NumPy arrays, but {name} is a {type(array).__name__}: use np.asarray({name}).")


def check_boolean(name: str, mask: Bool[np.ndarray, "*axes"]) -> None:
    """Raise EclipError if a mask is not a boolean array."""
    check_array(name, mask)
    if mask.dtype != bool:
        raise EclipError(f"{name} must be boolean, got {mask.dtype}: compare it, as in mask == 15.")


def parts(
    heat: Heat, inside: Mask, outside: Mask
) -> tuple[Float[np.ndarray, " inside"], Float[np.ndarray, " outside"]]:
    """The heat inside and the heat outside, as two lists of pixels; every metric of pairs starts here.

    Raises:
        ShapeError: heat is not (height, width), or a mask does not have its shape.
        EclipError: heat is no array, outside [0, 1] or NaN, inside is empty, or masks are not boolean or overlap.
    """
    check_array("heat", heat)
    for name, mask in (("inside", inside), ("outside", outside)):
        check_boolean(name, mask)
    if heat.ndim != 2:
        raise ShapeError(f"heat must be (height, width), got {heat.shape}: score images one by one.")
    if not heat.shape == inside.shape == outside.shape:
        given = f"{inside.shape} and {outside.shape}"
        raise ShapeError(f"masks must be (height, width) = {heat.shape} as heat is, got {given}: use heatmap.resize.")
    if not heat.size:
        raise EclipError(f"heat has shape {heat.shape}, so there is no pixel to score.")
    if not (heat.min() >= 0 and heat.max() <= 1):
        raise EclipError(f"heat must be in [0, 1], got {heat.min()} to {heat.max()}: use heatmap.normalize first.")
    if not inside.any():
        raise EclipError("inside is empty: a class that the image does not show cannot be scored.")
    if (inside & outside).any():
        raise EclipError("inside and outside overlap: outside is what is neither the object nor void.")
    return heat[inside], heat[outside]
