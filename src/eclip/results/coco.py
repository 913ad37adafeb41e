"""Masks as COCO annotations: run lengths, box and area."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool


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
