"""Can these data tell a good map from none? If not, the evaluation stops, and says what is likely wrong with the masks.

Masks that are read wrongly give numbers that look like others: where a mask of 0 and 255 is taken for one class with
void around it, every map is right everywhere, the controls too.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping

import numpy as np

from eclip.datasets.masks import BACKGROUND, VOID, MaskSet
from eclip.datasets.pair import PairSet
from eclip.errors import DataError, DataWarning, ImageError
from eclip.evaluation.baselines import BASELINES, BOUND
from eclip.evaluation.report.text import FEW

LOOKED_AT = 20
"""Masks that are read again to name the cause, spread evenly."""
MOSTLY = 0.5
"""A larger share of maps that cannot be wrong is told."""
_NEAR = 1e-9


def check_groups(data: MaskSet | PairSet) -> None:
    """Say so where images come in few groups: their intervals are guesses, however many images there are.

    Warns:
        DataWarning: there are less than `FEW` groups, and more images.
    """
    groups, count = len(set(data.group_numbers())), len(data.items)
    count = len(set(data.image_numbers())) if isinstance(data, MaskSet) else count
    if groups < min(FEW, count):
        warnings.warn(
            f"the {count} images of {data.name} come in {groups} group{'s' * (groups > 1)} (such as videos), within "
            f"which they are not independent: of fewer than {FEW} groups, 95 % intervals are rough guesses"
            f"{' and cannot be known of one' if groups == 1 else ''}.",
            DataWarning,
            stacklevel=4,
        )


def nothing_shown(data: MaskSet | PairSet) -> str:
    """Why no image shows a class, as a sentence, as far as some masks tell."""
    shown, few = _shown(data)
    if not shown:
        return ""
    seen = set().union(*shown)
    if seen <= {BACKGROUND}:
        return f" The {len(shown)} masks looked at are background alone (all of their pixels are 0)."
    if seen <= {BACKGROUND, VOID}:
        return (
            f" The {len(shown)} masks looked at show background and void alone. If 255 marks the object and not what "
            "nobody knows, write its class number in place of 255."
        )
    return f" The {len(shown)} masks looked at show classes, each on {100 * few:.2g} % of its image at most."


def check_baselines(data: MaskSet | PairSet, values: Mapping[str, float], filled: float, why: str = "") -> None:
    """A map that knows neither text nor model must not be as good as the mask itself.

    Args:
        data: what was scored.
        values: the main number of each baseline, and of the bound, by name.
        filled: share of the maps for which nothing is outside of the class, so that no map can be wrong.
        why: the cause, where it is known.

    Raises:
        DataError: a baseline is as good as the bound, or no map can be wrong.

    Warns:
        DataWarning: most maps cannot be wrong.
    """
    if filled == 1:
        raise DataError(
            f"{data.name} cannot tell maps apart: no image has a pixel outside of the class that is asked for, so that "
            f"every map is right, those of controls too.{_filled(data)}"
        )
    known = {name: one for name, one in values.items() if not np.isnan(one)}
    best = max((name for name in BASELINES if name in known), key=lambda name: known[name], default=None)
    if best is not None and BOUND in known and known[best] >= known[BOUND] - _NEAR:
        raise DataError(
            f"{data.name} cannot tell maps apart: the control {best!r}, which knows neither text nor model, scores "
            f"{100 * known[best]:.1f}, and so does the true mask on the patch grid ({100 * known[BOUND]:.1f})."
            f"{why or ' The objects may be too small for the grid, or the images too few.'}"
        )
    if filled > MOSTLY:
        warnings.warn(
            f"of {data.name}, {filled:.0%} of the pairs have no pixel outside of their class, so that no map of them "
            "can be wrong: are these masks read as they were meant? `eclip datasets verify` looks at them.",
            DataWarning,
            stacklevel=4,
        )


def _filled(data: MaskSet | PairSet) -> str:
    """Why one class takes all of each image, as a sentence."""
    shown, _ = _shown(data)
    void = any(VOID in each for each in shown)
    names = Counter(data.classes[one] for each in shown for one in each if one in data.classes)  # type: ignore[index,operator]
    told = ", ".join(repr(name) for name, _ in names.most_common(2))
    cause = (
        f"Each image has a single class ({told}) wherever its mask is not void: masks of 0 and 255 are often meant as "
        "background and object, but 255 is void here"
        if void
        else f"Each mask is filled by a single class ({told})"
    )
    return (
        f" {cause}. Write background as 0 and the object as its class number, with a classes.txt such as "
        '"1<TAB>dog", and look with `eclip datasets verify`.'
    )


def _shown(data: MaskSet | PairSet) -> tuple[list[set[int]], float]:
    """What some masks show, and the largest share of an image that a class has."""
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
