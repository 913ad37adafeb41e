"""ImageNet-S: masks of ImageNet images with 50, 300 or 919 classes (Gao et al. 2022, LUSSeg/ImageNet-S)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from eclip.datasets.layout import lines, top
from eclip.datasets.mask_files import red_green
from eclip.datasets.masks import MaskSet, beside
from eclip.errors import DataError

_VOID = 1000
_NAMES = ("classes.txt", "LOC_synset_mapping.txt")


def imagenet_s50(root: Path, split: str) -> MaskSet:
    """50 classes."""
    return _read(50, root, split)


def imagenet_s300(root: Path, split: str) -> MaskSet:
    """300 classes."""
    return _read(300, root, split)


def imagenet_s919(root: Path, split: str) -> MaskSet:
    """919 classes.

    The authors merged five pairs of ImageNet classes, such as laptop into notebook; the remaining class gives the name.
    """
    return _read(919, root, split)


def _read(count: int, root: Path, split: str) -> MaskSet:
    """A mask is R + 256 G: 0 other, 1000 void, else the position of the class folder in sorted order, from 1."""
    folder = top(root, (f"{split}-segmentation", split), ("", f"ImageNetS{count}"))
    masks = folder / f"{split}-segmentation"
    wnids = sorted(path.name for path in masks.iterdir() if path.is_dir())
    if len(wnids) != count:
        raise DataError(
            f"{masks} has {len(wnids)} class folders instead of {count}. All must be present, because class numbers "
            "are positions in their sorted list."
        )
    names = [f"{wnid}/{path.stem}.JPEG" for wnid in wnids for path in sorted((masks / wnid).glob("*.png"))]
    known = _names(folder)
    if unknown := [wnid for wnid in wnids if wnid not in known]:
        raise DataError(f"{masks / unknown[0]}: the name of this class is unknown; add a line to {_NAMES[0]}.")
    classes = {number: known[wnid] for number, wnid in enumerate(wnids, 1)}
    items = beside(names, folder / split, masks, classes, partial(red_green, void=_VOID))
    return MaskSet(f"imagenet_s{count}", classes, items)


def _names(folder: Path) -> dict[str, str]:
    """Names by WordNet id, from a file in the folder (wnid, blank, synonyms joined by commas), else open_clip's."""
    for name in _NAMES:
        if (folder / name).exists():
            rows = [re.fullmatch(r"(n\d{8})\s+([^,]+).*", row) for row in lines(folder / name)]
            if not all(rows):
                place = rows.index(None) + 1
                raise DataError(f"line {place} of {folder / name} must be a WordNet id, a tab and a name.")
            return {row[1]: row[2].strip() for row in rows if row}
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))
