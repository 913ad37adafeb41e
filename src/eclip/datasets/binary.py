"""Masks that say where and not what: 0 and 255, 0 and 1, black and white, transparency.

In a mask of class numbers 255 is void. Where a set names one class, and no mask of it shows that class and 255, 255 is
the object: masks are looked at before, and what they were taken for is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from eclip.datasets.layout import some
from eclip.datasets.mask_files import BACKGROUND, VOID, Numbers, Table, plane, refuse_smooth, short, shown, smooth
from eclip.datasets.masked import Decode, Masked
from eclip.errors import DataError, ImageError
from eclip.images import Place

LOOKED_AT = 200
"""Masks that are looked at, spread evenly; of most sets the first ones decide."""
TOP = -1
"""Stands for the greatest value of a mask, 255 or 65535."""
FEWEST = 5
"""Of fewer masks it is no wonder that they show one class alone."""
EXAMPLE = "with the columns image, text and mask, and the text of each object"


def taken(
    items: Sequence[Masked], classes: Mapping[int, str], table: Table | None, declared: bool
) -> tuple[Decode | None, str]:
    """How the masks of a set must be read, if not as class numbers, and what is to be told of it.

    Args:
        items: of the set.
        classes: all that it names.
        table: class numbers of values; None: values are class numbers.
        declared: 255 is named as void.

    Returns:
        (decode, note); (None, "") where masks hold class numbers.

    Raises:
        DataError: masks show 0 and 255 alone, and several classes are named.
    """
    if len(classes) == 1:
        [(number, name)] = classes.items()
        own = next((value for value, one in table or () if one == number), number)
        seen = None if declared else object_values(items, own)
        if not seen:
            return None, ""
        told = " or ".join(str(one) for one in sorted(seen))
        return partial(lit, number=number, own=own), (
            f"the masks show where and not what: {told} is taken for {name!r} (255 not for void), 0 for background."
        )
    every: set[int] = set()
    count = 0
    for values, smoothed in _looked(items):
        count += 1
        every |= {BACKGROUND, TOP} if smoothed else values
        if not every <= {BACKGROUND, 1, TOP}:
            return None, ""
    if TOP in every and 1 not in every:
        raise DataError(
            f"masks such as {items[0].mask} show 0 and 255 alone, which says where something is and not which of the "
            f"{len(classes)} classes ({some(classes.values())}): write class numbers, or use the data set `table` "
            f"{EXAMPLE}."
        )
    values_of = {one: value for value, one in table or ()}
    if count >= FEWEST and 1 in every and any(values_of.get(one, one) not in (BACKGROUND, 1) for one in classes):
        name = next((name for one, name in classes.items() if values_of.get(one, one) == 1), "1")
        return None, (
            f"the {count} masks looked at show 0 and 1 alone, so all of them are {name!r}, and of the "
            f"{len(classes)} classes no other is shown. If they are masks of 0 and 1 for objects of several classes, "
            f"use the data set `table` {EXAMPLE}."
        )
    return None, ""


def object_values(items: Sequence[Masked], own: int) -> set[int]:
    """The values that mark the one object of a set; none where its masks hold the number of its class.

    Args:
        items: of the set.
        own: value of the class.
    """
    seen: set[int] = set()
    for values, smoothed in _looked(items):
        if smoothed:
            values = {BACKGROUND, TOP}
        if not values <= {BACKGROUND, 1, own, TOP} or (TOP in values and values & {1, own} - {BACKGROUND}):
            return set()
        seen |= values - {BACKGROUND}
    marks = {255 if one == TOP else one for one in seen}
    return marks if TOP in seen or (1 in seen and own != 1) else set()


def lit(file: Path | Place, number: int, own: int = 1) -> Numbers:
    """A mask of background, 0, and one object: 1, 255 (of 16 bits 65535), or the class's own value.

    Args:
        file: the mask, of any mode that has no colors; the transparency counts where it has the shape.
        number: of the class.
        own: value of the class.

    Raises:
        DataError: it has other values, or is a JPEG or smoothed.
        ImageError: it cannot be read.
    """
    values = plane(file)
    refuse_smooth(values, str(file))
    top = VOID if values.dtype.itemsize > 1 else 255
    found = set(shown(values))
    if other := found - {BACKGROUND, 1, own, top}:
        raise DataError(f"{file} shows {short(other)}, but in this set a mask is 0 and {top}, background and object.")
    if top in found and found & {1, own} - {BACKGROUND, top}:
        raise DataError(
            f"{file} shows {short(found)}, but other masks show 0 and {top} alone, so that nobody knows whether {top} "
            "is void or the object: write all masks in one way."
        )
    return np.where(values != 0, np.uint16(number), np.uint16(BACKGROUND))


def _looked(items: Sequence[Masked]) -> Iterator[tuple[set[int], bool]]:
    """The values of some masks, the greatest as `TOP`, and whether they are smoothed; broken ones are left out."""
    count = len(items)
    for place in np.linspace(0, count - 1, min(LOOKED_AT, count)).round().astype(int).tolist():
        try:
            values = plane(items[place].mask)
        except (DataError, ImageError):
            continue
        top = VOID if values.dtype.itemsize > 1 else 255
        if values.min() < 0 or values.max() > VOID:
            continue
        yield {TOP if one == top else one for one in shown(values)}, smooth(values)
