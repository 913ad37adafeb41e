"""Masks as COCO annotations: run lengths, box and area."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int


def coco_mask(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """The fields "segmentation", "bbox" and "area" of a COCO annotation, for a mask with at least one pixel."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(cols[0]), int(rows[0])
    return {
        "segmentation": {"counts": runs(mask), "size": list(mask.shape)},
        "bbox": [left, top, int(cols[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(mask.sum()),
    }


def runs(mask: Bool[np.ndarray, "height width"]) -> list[int]:
    """Run lengths of a mask in column order, as in COCO: outside, inside, outside, ...; the first may be 0."""
    flat = mask.ravel(order="F")
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    lengths: list[int] = np.diff(edges).tolist()
    return [0, *lengths] if flat[0] else lengths


def filled(counts: Int[np.ndarray, " run"], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The mask of run lengths, of this (height, width): the reverse of `runs`."""
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(size, order="F")


def compressed(counts: Sequence[int]) -> str:
    """Run lengths as COCO's compressed string, which pycocotools reads.

    From the fourth on, the difference to the run two before counts. Each number is written in groups of five bits, the
    lowest first, with a sixth bit if more follow; 48 is added to each group to make it a character.
    """
    written = []
    for place, count in enumerate(counts):
        left = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            group, left = left & 31, left >> 5
            more = left != (-1 if group & 16 else 0)
            written.append(chr(48 + (group | 32 if more else group)))
    return "".join(written)
