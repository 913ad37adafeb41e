"""Binary masks, which mark an object but not its class: 0 and 255, 0 and 1, black and white, transparency.

In a mask of class numbers, 255 is void. If a set names one class and no mask shows both that class and 255, then 255 is
the object: masks are inspected first, and their interpretation is reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from eclip.datasets.layout import some
from eclip.datasets.mask_files import BACKGROUND, VOID, Table, indexed, lit, plane, shown, smooth
from eclip.datasets.masked import Decode, Masked
from eclip.errors import DataError, ImageError

LOOKED_AT = 200
"""Number of masks that are inspected, spread evenly; in most sets the first ones decide."""
TOP = -1
"""Stands for the largest value of a mask, 255 or 65535."""
FEWEST = 5
"""Fewer masks than this may well show only one class."""
EXAMPLE = "with the columns image, text and mask, and the text of each object"


def taken(
    items: Sequence[Masked], classes: Mapping[int, str], table: Table | None, declared: bool
) -> tuple[Decode, tuple[str, ...]]:
    """How to decode the masks of a set, and notes to report, such as that masks are binary.

    Args:
        items: of the set.
        classes: all its classes.
        table: (value, class number) of each value; None: values are class numbers.
        declared: whether `classes.txt` declares 255 as void.

    Raises:
        DataError: masks show only 0 and 255, but several classes are named.
    """
    plain: Decode = indexed if table is None else partial(indexed, table=table)
    if len(classes) == 1:
        [(number, name)] = classes.items()
        own = next((value for value, one in table or () if one == number), number)
        if declared or not (seen := object_values(items, own)):
            return plain, ()
        told = " or ".join(map(str, sorted(seen)))
        note = f"the masks are binary: {told} is interpreted as {name!r} (255 is not void), 0 as background."
        return partial(lit, number=number, own=own), (note,)
    every: set[int] = set()
    count = 0
    for values in _looked(items):
        count += 1
        every |= values
        if not every <= {BACKGROUND, 1, TOP}:
            return plain, ()
    if TOP in every and 1 not in every:
        raise DataError(
            f"masks such as {items[0].mask} show only 0 and 255, which does not tell which of the {len(classes)} "
            f"classes ({some(classes.values())}) an object is: write class numbers, or use the data set `table` "
            f"{EXAMPLE}."
        )
    values_of = {one: value for value, one in table or ()}
    if count >= FEWEST and 1 in every and any(values_of.get(one, one) not in (BACKGROUND, 1) for one in classes):
        name = next((name for one, name in classes.items() if values_of.get(one, one) == 1), "1")
        note = (
            f"the {count} masks inspected show only 0 and 1, so all objects are {name!r} and none of the other "
            f"{len(classes)} classes occurs. If these are binary masks of objects of several classes, "
            f"use the data set `table` {EXAMPLE}."
        )
        return plain, (note,)
    return plain, ()


def meaning(decode: Decode) -> str:
    """The decision of `taken`, for the digest of the set; "" if values are class numbers, and 255 is void."""
    told = dict(decode.keywords) if isinstance(decode, partial) else {}
    table = [pair for pair in told.get("table", ()) if pair[0] != pair[1] and pair != (255, VOID)]
    return json.dumps(table or told) if table or "own" in told else ""


def object_values(items: Sequence[Masked], own: int) -> set[int]:
    """The values that mark the object in a set of binary masks; empty if masks contain the class's own value."""
    seen: set[int] = set()
    for values in _looked(items):
        if not values <= {BACKGROUND, 1, own, TOP} or (TOP in values and values & {1, own} - {BACKGROUND}):
            return set()
        seen |= values - {BACKGROUND}
    marks = {255 if one == TOP else one for one in seen}
    return marks if TOP in seen or (1 in seen and own != 1) else set()


def _looked(items: Sequence[Masked]) -> Iterator[set[int]]:
    """Yield the values of some masks, the largest as `TOP`; only 0 and `TOP` if edges are blended; skip broken ones."""
    count = len(items)
    for place in np.linspace(0, count - 1, min(LOOKED_AT, count)).round().astype(int).tolist():
        try:
            values = plane(items[place].mask)
        except (DataError, ImageError):
            continue
        top = VOID if values.dtype.itemsize > 1 else 255
        if values.min() < 0 or values.max() > VOID:
            continue
        yield {BACKGROUND, TOP} if smooth(values) else {TOP if one == top else one for one in shown(values)}
