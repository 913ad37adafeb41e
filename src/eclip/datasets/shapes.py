"""The shape of an object in COCO's annotations: polygons, or run lengths column by column, plain or encoded as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

Size = tuple[int, int]
"""(height, width)."""
Polygon = Float[np.ndarray, " number"]


def inside(segmentation: Any, size: Size) -> Bool[np.ndarray, "height width"]:
    """The pixels of a segmentation, as far as it is valid; see `wrong_with`."""
    found = np.zeros(size, dtype=bool)
    if isinstance(segmentation, Mapping):
        runs = _runs(segmentation, size)
        if isinstance(runs, str):
            return found
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T
    if polygons := [one.tolist() for one in _polygons(segmentation, size) if not isinstance(one, str)]:
        from pycocotools import mask as coco

        found |= coco.decode(coco.merge(coco.frPyObjects(polygons, *size))).astype(bool)
    return found


def wrong_with(segmentation: Any, size: Size) -> tuple[str, bool]:
    """What is wrong with a segmentation, and whether some of it can be painted; ("", True) if it is valid."""
    if isinstance(segmentation, Mapping):
        parts: Sequence[object] = [_runs(segmentation, size)]
    else:
        parts = _polygons(segmentation, size)
    whys = [one for one in parts if isinstance(one, str)]
    return "; ".join(dict.fromkeys(whys)), len(whys) < len(parts)


def _polygons(segmentation: Any, size: Size) -> list[Polygon | str]:
    """Each polygon, or what is wrong with it."""
    if not isinstance(segmentation, list | tuple) or not segmentation:
        return ["it has neither polygons nor run lengths"]
    if all(isinstance(one, int | float) for one in segmentation):  # one polygon, not in a list
        segmentation = [segmentation]
    return [_polygon(one, size) for one in segmentation]


def _polygon(given: Any, size: Size) -> Polygon | str:
    try:
        numbers = np.array(given if isinstance(given, list | tuple) else None)
    except ValueError:  # lists of different lengths
        numbers = np.array(None)
    if numbers.ndim == 2 and numbers.shape[1] == 2:  # corners as pairs
        numbers = numbers.ravel()
    if isinstance(given, list | tuple) and len(given) == 0:
        return "a polygon is empty"
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        return "a polygon is not a list of numbers"
    if len(numbers) < 6:
        return f"a polygon has {len(numbers)} numbers, but three corners need 6"
    if len(numbers) % 2:
        return f"a polygon has {len(numbers)} numbers, so an x has no y"
    if not np.isfinite(numbers).all():
        return "a polygon contains NaN or infinity"
    (height, width), (x, y) = size, (numbers[0::2], numbers[1::2])
    if x.max() <= 0 or y.max() <= 0 or x.min() >= width or y.min() >= height:
        return f"a polygon is outside of its {width} x {height} image"
    return numbers.astype(float)


def _runs(given: Mapping[str, Any], size: Size) -> NDArray[np.int64] | str:
    """Run lengths, alternately of outside and inside, or what is wrong with them."""
    stated, counts = given.get("size"), given.get("counts")
    if not isinstance(stated, list | tuple) or tuple(stated) != size:
        return f"its run lengths are for (height, width) = {stated}, but its image has {list(size)}"
    try:
        runs = np.array(unpacked(counts) if isinstance(counts, str | bytes) else counts)
    except ValueError:
        return "its run lengths are damaged"
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        return f"its run lengths do not sum to the {size[0] * size[1]} pixels of its image"
    return runs.astype(np.int64)


def unpacked(text: str | bytes) -> list[int]:
    """Decode COCO's text encoding of run lengths.

    A character, minus "0", is six bits: five of a number, and one that is set if more follow. From the fourth number
    on, a number is the difference to the one two positions before.

    Raises:
        ValueError: the text is not in this encoding.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode() if isinstance(text, str) else text:
        bits = letter - 48
        if not 0 <= bits < 64:
            raise ValueError("invalid character in run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("truncated run lengths")
    return runs
