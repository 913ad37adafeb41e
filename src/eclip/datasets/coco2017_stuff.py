"""COCO-Stuff: 80 things and 91 kinds of stuff on the images of COCO 2017 (Caesar et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from eclip.datasets.coco_annotations import Annotated, Objects, images_of, prepared, write_masks
from eclip.datasets.layout import either
from eclip.datasets.mask_files import VOID, Numbers, indexed
from eclip.datasets.masks import MaskSet, beside
from eclip.errors import DataError

# fmt: off
_THINGS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "", "backpack", "umbrella", "", "", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "",
    "dining table", "", "", "toilet", "", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave",
    "oven", "toaster", "sink", "refrigerator", "", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush", "",
)
_STUFF = (
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff",
    "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower",
    "fog", "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves",
    "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow",
    "plant-other", "plastic", "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug",
    "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw",
    "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick", "wall-concrete",
    "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind",
    "window-other", "wood",
)
# fmt: on
_USED = [one for one, name in enumerate(_THINGS + _STUFF, 1) if name]
_NUMBERS = {one: number for number, one in enumerate(_USED, 1)}
"""Class number of each COCO-Stuff id; ids run to 182, and 11 thing ids occur in no image."""
CLASSES = {number: (_THINGS + _STUFF)[one - 1] for one, number in _NUMBERS.items()}
"""Names as published (nightrome/cocostuff, labels.txt), 1 to 80 things and 81 to 171 stuff."""
_TRAIN_IDS = (*((number - 1, number) for number in CLASSES), (255, VOID))
_PIXEL_MAPS = ((0, VOID), *((one, _NUMBERS[one]) for one in _USED if one > 91), (183, VOID))
_END = "_labelTrainIds.png"


def coco2017_stuff(root: Path, split: str) -> MaskSet:
    """171 classes, from whichever of two layouts is present.

    Either `annotations/SPLIT/*_labelTrainIds.png`, as mmsegmentation converts COCO-Stuff 164k: the value is the class
    number minus 1, 255 is void. Or the output of `prepare` from the files of cocodataset.org.
    """
    images = images_of(root, split)
    trained = root / "annotations" / split
    if names := sorted(f"{path.name.removesuffix(_END)}.jpg" for path in trained.glob(f"*{_END}")):
        decode = partial(indexed, table=_TRAIN_IDS)
        return MaskSet("coco2017_stuff", CLASSES, beside(names, images, trained, CLASSES, decode, _END))
    return MaskSet("coco2017_stuff", *prepared(root, f"stuff_{split}", images))


def prepare(root: Path, split: str, progress: Callable[[int, int], None]) -> Path:
    """Write the label map of each image into eclip_masks/stuff_SPLIT.

    In `stuff_SPLIT_pixelmaps/*.png` all things share one value; the objects of `instances_SPLIT.json` are painted over
    it, from large to small: the thing pixels that no object covers, and unlabeled pixels, are void.
    """
    maps = either(root, f"stuff_{split}_pixelmaps", f"annotations/stuff_{split}_pixelmaps")

    def plan(found: Annotated) -> tuple[dict[int, str], Callable[[Objects], Numbers]]:
        for one, name in found.categories.items():
            if dict(enumerate(_THINGS, 1)).get(one) != name:
                raise DataError(f"category {one} of {found.file} is {name!r}, which is not COCO's name for it.")
        return CLASSES, lambda one: one.painted(_NUMBERS, _ground(maps / f"{Path(one.name).stem}.png", one.shape))

    return write_masks(root, f"stuff_{split}", split, plan, progress)


def _ground(file: Path, shape: tuple[int, int]) -> Numbers:
    ground = indexed(file, _PIXEL_MAPS)
    if ground.shape != shape:
        raise DataError(f"{file} has (height, width) = {ground.shape}, but its annotations say {shape}.")
    return ground
