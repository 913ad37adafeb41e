"""The plain layout of `eclip.datasets.masks`, a folder of one's own."""

from __future__ import annotations

from pathlib import Path

from eclip.datasets.layout import top
from eclip.datasets.masked import MaskSet
from eclip.datasets.masks import listed_masks


def folder(root: Path, _: str) -> MaskSet:
    """`images/`, `masks/` and `classes.txt` of one's own."""
    top(root, ("images", "masks", "classes.txt"))
    return listed_masks(root, {})
