"""Binary masks, which mark an object but not its class: 0 and 255, 0 and 1, black and white, transparency.

In a mask of class numbers, 255 is void. If a set names one class and no mask shows both that class and 255, then 255 is
the object: masks are inspected first, and their interpretation is reported.
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
"""Number of masks that are inspected, spread evenly; in most sets the first ones decide."""
TOP = -1
"""Stands for the largest value of a mask, 255 or 65535."""
FEWEST = 5
"""Fewer masks than this may well show only one class."""
EXAMPLE = "with the columns image, text and mask, and the text of each object"


def taken(
    items: Sequence[Masked], classes: Mapping[int, str], table: Table | None, declared: bool
) -> tuple[Decode | None, str]:
    """How to decode the masks of a set if they do not contain class numbers, and the note to report about it.

    Args:
        items: of the set.
        classes: all its classes.
        table: (value, class number) of each value; None: values are class numbers.
        declared: whether `classes.txt` declares 255 as void.

    Returns:
        (decode, note); (None, "") if masks contain class numbers.

    Raises:
        DataError: masks show only 0 and 255, but several classes are named.
    """
    if len(classes) == 1:
        [(number, name)] = classes.items()
        own = next((value for value, one in table or () if one == number), number)
        seen = None if declared else object_values(items, own)
        if not seen:
            return None, ""
        told = " or ".join(str(one) for one in sorted(seen))
        return partial(lit, number=number, own=own), (
            f"the masks are binary: {told} is interpreted as {name!r} (255 is not void), 0 as background."
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
            f"masks such as {items[0].mask} show only 0 and 255, which does not tell which of the {len(classes)} "
            f"classes ({some(classes.values())}) an object is: write class numbers, or use the data set `table` "
            f"{EXAMPLE}."
        )
    values_of = {one: value for value, one in table or ()}
    if count >= FEWEST and 1 in every and any(values_of.get(one, one) not in (BACKGROUND, 1) for one in classes):
        name = next((name for one, name in classes.items() if values_of.get(one, one) == 1), "1")
        return None, (
            f"the {count} masks inspected show only 0 and 1, so all objects are {name!r} and none of the other "
            f"{len(classes)} classes occurs. If these are binary masks of objects of several classes, "
            f"use the data set `table` {EXAMPLE}."
        )
    return None, ""


def object_values(items: Sequence[Masked], own: int) -> set[int]:
    """The values that mark the object in a set of binary masks; empty if its masks contain the class number.

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
    """Decode a binary mask: 0 is background; 1, 255 (65535 with 16 bits) or the class's own value is the object.

    Args:
        file: the mask, of any mode without colors; transparency counts if it has the shape.
        number: of the class.
        own: value of the class.

    Raises:
        DataError: it has other values, is a JPEG, or has blended edges.
        ImageError: it cannot be read.
    """
    values = plane(file)
    refuse_smooth(values, str(file))
    top = VOID if values.dtype.itemsize > 1 else 255
    found = set(shown(values))
    if other := found - {BACKGROUND, 1, own, top}:
        raise DataError(f"{file} shows {short(other)}, but masks of this set have 0 for background, {top} for objects.")
    if top in found and found & {1, own} - {BACKGROUND, top}:
        raise DataError(
            f"{file} shows {short(found)}, but other masks show only 0 and {top}, so {top} could be void or the "
            "object: encode all masks in the same way."
        )
    return np.where(values != 0, np.uint16(number), np.uint16(BACKGROUND))


def _looked(items: Sequence[Masked]) -> Iterator[tuple[set[int], bool]]:
    """Yield the values of some masks, the largest as `TOP`, and whether edges are blended; skip broken masks."""
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
