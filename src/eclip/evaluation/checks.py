"""Can these data distinguish maps? If not, the evaluation stops and names the likely error in the masks.

Misread masks yield numbers that look normal: if a mask of 0 and 255 is read as one class surrounded by void, every map
is right everywhere, including the baselines.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping

import numpy as np

from eclip.datasets.masks import BACKGROUND, VOID, MaskSet
from eclip.datasets.sets import AnySet
from eclip.errors import DataError, DataWarning, ImageError
from eclip.evaluation.baselines import BASELINES
from eclip.evaluation.report.numbers import BOUND, FEW

LOOKED_AT = 20
"""Number of masks that are read again to find the cause, spread evenly."""
MOSTLY = 0.5
"""A larger share of maps that cannot be wrong causes a warning."""
_NEAR = 1e-9


def check_groups(name: str, count: int, groups: int) -> None:
    """Warn if the images of a data set form few groups: intervals are rough, however many images there are.

    Warns:
        DataWarning: there are fewer than `FEW` groups, and more images.
    """
    if groups < min(FEW, count):
        warnings.warn(
            f"the {count} images of {name} form only {groups} group{'s' * (groups > 1)} (such as videos), within "
            f"which they are not independent: with fewer than {FEW} groups, 95 % intervals are rough guesses"
            f"{', and with one group there are none' if groups == 1 else ''}.",
            DataWarning,
            stacklevel=4,
        )


def nothing_shown(data: AnySet) -> str:
    """Why no image shows a class, as a sentence, judging by a sample of masks."""
    shown, few = _shown(data)
    if not shown:
        return ""
    seen = set().union(*shown)
    if seen <= {BACKGROUND}:
        return f" The {len(shown)} masks inspected contain only background (all pixels are 0)."
    if seen <= {BACKGROUND, VOID}:
        return (
            f" The {len(shown)} masks inspected contain only background and void. If 255 marks the object, not void, "
            "replace 255 with its class number."
        )
    return f" The {len(shown)} masks inspected contain classes, but none covers over {100 * few:.2g} % of its image."


def check_baselines(data: AnySet, values: Mapping[str, float], filled: float, why: str = "") -> None:
    """Check that no baseline is as good as the true mask.

    Args:
        data: the data that were scored.
        values: the main number of each baseline, and of the bound, by name.
        filled: share of the maps for which nothing is outside of the class, so that no map can be wrong.
        why: the cause, if it is known.

    Raises:
        DataError: a baseline is as good as the bound, or no map can be wrong.

    Warns:
        DataWarning: most maps cannot be wrong.
    """
    if filled == 1:
        raise DataError(
            f"{data.name} cannot distinguish maps: no image has a pixel outside of its class, so every map is right, "
            f"including those of baselines.{_filled(data)}"
        )
    known = {name: one for name, one in values.items() if not np.isnan(one)}
    best = max((name for name in BASELINES if name in known), key=lambda name: known[name], default=None)
    if best is not None and BOUND in known and known[best] >= known[BOUND] - _NEAR:
        raise DataError(
            f"{data.name} cannot distinguish maps: the baseline {best!r}, which sees neither image nor text, scores "
            f"{100 * known[best]:.1f}, as high as the true mask on the patch grid ({100 * known[BOUND]:.1f})."
            f"{why or ' The objects may be too small for the grid, or the images too few.'}"
        )
    if filled > MOSTLY:
        warnings.warn(
            f"{filled:.0%} of the pairs of {data.name} have no pixel outside of their class, so no map of them can be "
            "wrong. Check with `eclip datasets verify` that the masks are read as intended.",
            DataWarning,
            stacklevel=4,
        )


def _filled(data: AnySet) -> str:
    """Why one class fills each image, as a sentence."""
    if not isinstance(data, MaskSet):
        return " The boxes of each phrase cover the whole image."
    shown, _ = _shown(data)
    void = any(VOID in each for each in shown)
    names = Counter(data.classes[one] for each in shown for one in each if one in data.classes)
    told = ", ".join(repr(name) for name, _ in names.most_common(2))
    cause = (
        f"Each image has a single class ({told}) in all pixels that are not void: masks of 0 and 255 often mean "
        "background and object, but here 255 is void"
        if void
        else f"Each mask is filled by a single class ({told})"
    )
    return (
        f" {cause}. Write background as 0 and the object as its class number, with a classes.txt such as "
        '"1<TAB>dog", and check with `eclip datasets verify`.'
    )


def _shown(data: AnySet) -> tuple[list[set[int]], float]:
    """The values of some masks, and the largest share of an image that a class covers."""
    if not isinstance(data, MaskSet):
        return [], 0.0
    count, most, found = len(data.items), 0.0, []
    for place in np.linspace(0, count - 1, min(LOOKED_AT, count)).round().astype(int).tolist():
        try:
            mask = data.items[place].read()
        except (DataError, ImageError):
            continue
        numbers, areas = np.unique(mask[mask != VOID], return_counts=True)
        shares = [area / areas.sum() for number, area in zip(numbers, areas, strict=True) if number != BACKGROUND]
        most = max([most, *shares])
        found.append(set(numbers.tolist()) | ({VOID} if (mask == VOID).any() else set()))
    return found, most
