"""PASCAL VOC 2012, semantic segmentation (Everingham et al. 2010)."""

from __future__ import annotations

from pathlib import Path

from eclip.datasets.layout import either, names_in, top
from eclip.datasets.masks import VOC_NAMES, MaskSet, beside

_BELOW = ("", "VOC2012", "VOCdevkit/VOC2012")


def voc2012(root: Path, split: str) -> MaskSet:
    """VOC's masks, with a void border (255) around objects; "trainaug" includes SBD's, which have no such border."""
    masks = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
    folder = top(root, ("ImageSets/Segmentation", "JPEGImages", masks), _BELOW)
    files = ("trainaug", "train_aug") if split == "trainaug" else (split,)
    lists = [f"ImageSets/Segmentation/{name}.txt" for name in files]
    names = [f"{Path(name).stem}.jpg" for name in names_in(either(folder, *lists))]
    return MaskSet("voc2012", VOC_NAMES, beside(names, folder / "JPEGImages", folder / masks, VOC_NAMES))
