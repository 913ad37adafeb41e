"""Images for the detection of defects: normal ones to learn from, and test images with masks of their defects.

Two published layouts, of one category each:

    MVTec AD    CATEGORY/{train/good, test/good, test/DEFECT}/*.png, ground_truth/DEFECT/NAME_mask.png
    VisA        split_csv/1cls.csv with the columns object, split, label, image and mask, and the files it names

Bergmann et al. 2019 (https://doi.org/10.1109/CVPR.2019.00982); Zou et al. 2022 (https://arxiv.org/abs/2207.14315).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from eclip.datasets.mask_files import thing
from eclip.datasets.masked import Masked
from eclip.errors import DataError, LayoutError, OptionError
from eclip.images import EXTENSIONS, open_image

TABLE = Path("split_csv", "1cls.csv")
GOOD, NORMAL = "good", "normal"
"""What MVTec AD and VisA call images without a defect."""


@dataclass(frozen=True)
class Test:
    """A test image with the mask of its defects and their kind; None and "good" if it is normal."""

    image: Path
    mask: Path | None
    defect: str

    def open(self) -> Image.Image:
        """The image, upright and RGB; errors as in `open_image`."""
        return open_image(self.image)

    def read(self) -> Bool[np.ndarray, "height width"]:
        """Pixels of the defect: those of the mask that are not black, see `eclip.datasets.mask_files.thing`.

        Raises:
            DataError: the mask cannot be read, does not have the image's size, or shows nothing.
            ImageError: the image cannot be read.
        """
        if self.mask is None:
            return np.zeros(self.open().size[::-1], dtype=bool)
        decode = partial(thing, number=1)
        found: Bool[np.ndarray, "height width"] = (
            Masked(self.image.name, self.image, self.mask, frozenset({1}), decode).read() == 1
        )
        if not found.any():
            raise DataError(f"{self.mask}, the mask of the defect in {self.image}, shows nothing.")
        return found


@dataclass(frozen=True)
class Anomalies:
    """A category: its name, normal images to learn from, and test images."""

    category: str
    normal: tuple[Path, ...]
    test: tuple[Test, ...]


def read_anomalies(root: str | Path, category: str) -> Anomalies:
    """Read a category of a folder in either layout.

    Raises:
        LayoutError: files are missing.
        OptionError: there is no such category.
    """
    root = Path(root)
    return _from_table(root, category) if (root / TABLE).is_file() else _from_folders(root, category)


def _from_folders(root: Path, category: str) -> Anomalies:
    base = root / category
    if not base.is_dir():
        known = sorted(one.parent.parent.name for one in root.glob("*/train/good"))
        if known:
            raise OptionError(f"{root} has the categories {', '.join(known)}; got {category!r}.")
        raise LayoutError(f"{root} has neither CATEGORY/train/good, as MVTec AD, nor {TABLE}, as VisA.")
    found = []
    for image in _images(base / "test"):
        defect = image.parent.name
        mask = None if defect == GOOD else base / "ground_truth" / defect / f"{image.stem}_mask.png"
        if mask is not None and not mask.is_file():
            raise LayoutError(f"{mask}: no such file; it should be the mask of {image}.")
        found.append(Test(image, mask, defect))
    return _checked(Anomalies(category, tuple(_images(base / "train" / GOOD)), tuple(found)), base)


def _from_table(root: Path, category: str) -> Anomalies:
    try:
        with (root / TABLE).open(encoding="utf-8-sig", newline="") as stream:
            every = list(csv.DictReader(stream))
    except UnicodeDecodeError as error:
        raise DataError(f"{root / TABLE} is not UTF-8 ({error.reason}): save it as UTF-8.") from error
    if not every or not {"object", "split", "label", "image", "mask"} <= every[0].keys():
        raise LayoutError(f"{root / TABLE} must have the columns object, split, label, image and mask.")
    rows = [row for row in every if row["object"] == category]
    if not rows:
        known = ", ".join(sorted({row["object"] for row in every}))
        raise OptionError(f"{root / TABLE} has the categories {known}; got {category!r}.")
    normal: list[Path] = []
    test = []
    for row in rows:
        if not row["image"] or not (image := root / row["image"]).is_file():
            raise LayoutError(f"{root / TABLE} lists {row['image']!r}: no such file.")
        mask = root / row["mask"] if row["mask"] else None
        if (row["label"] == NORMAL) != (mask is None) or (row["split"] == "train" and mask is not None):
            raise LayoutError(
                f"{root / TABLE}: {row['image']} is labeled {row['label']!r}, split {row['split']!r}, with the mask "
                f"{row['mask']!r}. Images of defects have a mask and are for testing; {NORMAL!r} ones have none."
            )
        if mask is not None and not mask.is_file():
            raise LayoutError(f"{mask}: no such file; it should be the mask of {image}.")
        if row["split"] == "train":
            normal.append(image)
        elif row["split"] == "test":
            test.append(Test(image, mask, GOOD if mask is None else "anomaly"))
    return _checked(Anomalies(category, tuple(normal), tuple(test)), root)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("[!.]*") if path.suffix.lower() in EXTENSIONS)


def _checked(found: Anomalies, where: Path) -> Anomalies:
    if not found.normal or not found.test:
        raise LayoutError(f"{where} has no normal images to learn from, or no test images.")
    return found
