"""A custom folder in the plain layout of `eclip.datasets.masks`."""

from __future__ import annotations

from pathlib import Path

from eclip.datasets.layout import top
from eclip.datasets.masked import MaskSet
from eclip.datasets.masks import listed_masks


def folder(root: Path, _: str) -> MaskSet:
    """Custom `images/`, `masks/` and `classes.txt`."""
    top(root, ("images", "masks", "classes.txt"))
    return listed_masks(root, {})
