"""ADE20K, the 150 classes of the scene parsing challenge (Zhou et al. 2017)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from eclip.datasets.layout import lines, top
from eclip.datasets.mask_files import VOID, indexed
from eclip.datasets.masks import MaskSet, beside
from eclip.errors import DataError

_TABLE = ((0, VOID), *((number, number) for number in range(1, 151)))
"""0, pixels of no class, is void, so there is no background."""


def ade20k(root: Path, split: str) -> MaskSet:
    """Value k is class k; a class is named by the first of its synonyms."""
    needed = ("objectInfo150.txt", f"images/{split}", f"annotations/{split}")
    folder = top(root, needed, ("", "ADEChallengeData2016"))
    info = folder / "objectInfo150.txt"
    rows = [row.split("\t") for row in lines(info)[1:]]
    classes = {int(row[0]): row[-1].split(",")[0].strip() for row in rows if row[0].strip().isdecimal()}
    if sorted(classes) != list(range(1, 151)) or not all(classes.values()):
        raise DataError(f"{info} must have a header, then one line 'number<TAB>...<TAB>names' for each of 1 to 150.")
    masks = folder / "annotations" / split
    names = sorted(f"{path.stem}.jpg" for path in masks.glob("*.png"))
    items = beside(names, folder / "images" / split, masks, classes, partial(indexed, table=_TABLE))
    return MaskSet("ade20k", classes, items)
