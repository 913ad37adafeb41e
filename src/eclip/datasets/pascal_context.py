"""PASCAL Context: the images of VOC 2010 with every pixel labeled (Mottaghi et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from eclip.datasets.layout import either, names_in, top
from eclip.datasets.mask_files import Numbers, write_indexed
from eclip.datasets.masks import MaskSet, beside
from eclip.errors import DataError, LayoutError, ResultError

# fmt: off
_IDS = {
    2: "aeroplane", 9: "bag", 18: "bed", 19: "bedclothes", 22: "bench", 23: "bicycle", 25: "bird", 31: "boat",
    33: "book", 34: "bottle", 44: "building", 45: "bus", 46: "cabinet", 59: "car", 65: "cat", 68: "ceiling",
    72: "chair", 80: "cloth", 85: "computer", 98: "cow", 104: "cup", 105: "curtain", 113: "dog", 115: "door",
    144: "fence", 158: "floor", 159: "flower", 162: "food", 187: "grass", 189: "ground", 207: "horse",
    220: "keyboard", 232: "light", 258: "motorbike", 259: "mountain", 260: "mouse", 284: "person", 295: "plate",
    296: "platform", 308: "potted plant", 324: "road", 326: "rock", 347: "sheep", 349: "shelves", 354: "sidewalk",
    355: "sign", 360: "sky", 366: "snow", 368: "sofa", 397: "table", 415: "track", 416: "train", 420: "tree",
    424: "truck", 427: "tv monitor", 440: "wall", 445: "water", 454: "window", 458: "wood",
}
# fmt: on
"""The 59 classes in use among the 459 of `labels.txt`, in the order of mmsegmentation's PNGs."""
CLASSES = dict(enumerate(_IDS.values(), 1))
_BELOW = ("", "VOC2010", "VOCdevkit/VOC2010")
_MASKS = "SegmentationClassContext"


def pascal_context(root: Path, split: str) -> MaskSet:
    """59 classes; the other 400 are background, 0."""
    folder = top(root, ("JPEGImages", _MASKS), _BELOW)
    listed = either(folder, f"ImageSets/SegmentationContext/{split}.txt", f"ImageSets/Main/{split}.txt")
    names = [f"{name}.jpg" for name in names_in(listed)]
    return MaskSet("pascal_context", CLASSES, beside(names, folder / "JPEGImages", folder / _MASKS, CLASSES))


def prepare(root: Path, _: str, progress: Callable[[int, int], None]) -> Path:
    """Write the PNGs of all splits from `trainval/*.mat`; existing ones are kept."""
    folder = top(root, ("JPEGImages",), _BELOW)
    source = next((one for one in (folder / "trainval", root / "trainval") if one.is_dir()), folder / "trainval")
    mats = sorted(source.glob("*.mat"))
    if not mats:
        raise LayoutError(f"{source / '*.mat'}: no such file.")
    try:
        (folder / _MASKS).mkdir(exist_ok=True)
    except OSError as error:
        raise ResultError(f"{folder / _MASKS} cannot be created: {error.strerror}.") from error
    for done, mat in enumerate(mats, 1):
        if not (file := folder / _MASKS / f"{mat.stem}.png").exists():
            write_indexed(file, _of_mat(mat))
        progress(done, len(mats))
    return folder / _MASKS


def _of_mat(mat: Path) -> Numbers:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        ids = np.asarray(loadmat(mat)["LabelMap"])
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MatReadError) as error:
        raise DataError(f"{mat} has no readable LabelMap: {error}. Extract it from the archive again.") from error
    if ids.ndim != 2 or ids.dtype.kind not in "ui" or not 0 <= ids.min() <= ids.max() <= 459:
        raise DataError(f"{mat}: LabelMap must be (height, width) with values 0 to 459, got {ids.dtype} {ids.shape}.")
    table = np.zeros(460, dtype=np.uint16)
    table[list(_IDS)] = list(CLASSES)
    numbers: Numbers = table[ids]
    return numbers
