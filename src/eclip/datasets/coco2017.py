"""COCO 2017, 80 object classes, as class masks (Lin et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eclip.datasets.coco_annotations import Annotated, Objects, images_of, prepared, write_masks
from eclip.datasets.mask_files import Numbers
from eclip.datasets.masked import MaskSet


def coco2017(root: Path, split: str) -> MaskSet:
    """Objects of `instances_SPLIT.json`, numbered 1 to 80 in the order of COCO's ids, which run to 90.

    `prepare` paints them from large to small; a crowd is void where no object covers it; other pixels are background.
    """
    return MaskSet("coco2017", *prepared(root, split, images_of(root, split)))


def prepare(root: Path, split: str, progress: Callable[[int, int], None]) -> Path:
    """Write the label map of each image into eclip_masks/SPLIT, which appears when all are done."""

    def plan(found: Annotated) -> tuple[dict[int, str], Callable[[Objects], Numbers]]:
        numbers = {one: number for number, one in enumerate(found.categories, 1)}
        return dict(enumerate(found.categories.values(), 1)), lambda one: one.painted(numbers)

    return write_masks(root, split, split, plan, progress)
