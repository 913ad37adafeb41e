"""Photos whose pixels have class numbers, in one plain layout.

    images/NAME.jpg or .png    the photo
    masks/NAME.png             palette or gray, of the photo's size; a value is a class number
    classes.txt                number, tab, name
    index.tsv                  optional: a header with a column `name`, a row a photo

In a mask 0 is background, which is no class, and 255 is void: nobody knows, and no score counts it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from eclip.errors import DataError, ImageError, OptionError
from eclip.photos import from_file, open_photo, size_of

BACKGROUND, VOID = 0, 255
# fmt: off
VOC_NAMES = dict(enumerate((
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
), start=1))
# fmt: on
"""PASCAL VOC's classes as MaskCLIP names them (Zhou et al. 2022, https://arxiv.org/abs/2112.01071); names alone move
results. For `read_masks(..., classes=VOC_NAMES)`."""


@dataclass(frozen=True)
class Masked:
    """A photo and its mask.

    Attributes:
        name: of both files, without ending.
        photo: the photo's file.
        mask: the mask's file.
        numbers: classes that the mask may show.
    """

    name: str
    photo: Path
    mask: Path
    numbers: frozenset[int] = field(repr=False)

    def open(self) -> Image.Image:
        """The photo, upright and RGB.

        Raises:
            ImageError: it cannot be read.
        """
        return open_photo(self.photo)

    def read(self) -> UInt8[np.ndarray, "height width"]:
        """The mask's class numbers, 0 where there is background and 255 where there is void.

        Raises:
            DataError: it cannot be read, is no palette or gray picture of 8 bits, is not of the photo's size, or shows
                a number without a name.
            ImageError: the photo cannot be read.
        """
        try:
            mode, mask = from_file(self.mask, lambda picture, _: (picture.mode, np.array(picture)))
        except ImageError as error:
            raise DataError(f"the mask of {self.name!r} cannot be read: {error}") from error
        if mode not in ("P", "L"):
            raise DataError(f"{self.mask} must be a palette or gray picture of 8 bits (P or L), got {mode}.")
        size = size_of(self.photo)
        if mask.shape != size[::-1]:
            raise DataError(
                f"{self.mask} has {mask.shape[1]} x {mask.shape[0]} pixels, its photo {size[0]} x {size[1]}: resize "
                "the mask to the photo, by nearest neighbor."
            )
        unnamed = set(np.unique(mask).tolist()) - self.numbers - {BACKGROUND, VOID}
        if unnamed:
            raise DataError(
                f"{self.mask} shows {sorted(unnamed)}, but the classes with a name are {_short(self.numbers)}."
            )
        return mask


@dataclass(frozen=True)
class MaskSet:
    """Photos with masks.

    Attributes:
        name: of the folder.
        classes: name of each number, background and void left out.
        items: the photos.
    """

    name: str
    classes: dict[int, str]
    items: tuple[Masked, ...]

    def digest(self) -> str:
        """16 hexadecimal digits that follow from the classes, and from the name and bytes of each photo and mask.

        Raises:
            DataError: a file cannot be read.
        """
        whole = hashlib.sha256(json.dumps([*self.classes.items()]).encode())
        for item in self.items:
            whole.update(hashlib.sha256(item.name.encode()).digest())
            for path in (item.photo, item.mask):
                try:
                    whole.update(hashlib.sha256(path.read_bytes()).digest())
                except OSError as error:
                    raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        return whole.hexdigest()[:16]


def read_masks(
    folder: str | Path,
    *,
    where: dict[str, str] | None = None,
    every: int = 1,
    first: int = 0,
    classes: dict[int, str] | None = None,
) -> MaskSet:
    """The photos of a folder in the layout above; pictures are opened later, one by one.

    Args:
        folder: with `images/`, `masks/` and `classes.txt`.
        where: columns of `index.tsv` and the value that each must have, such as {"origin": "voc2012_val"}.
        every: of these, every so many-th photo, at least 1.
        first: place of the first of them, from 0.
        classes: other names than those of `classes.txt`, such as `VOC_NAMES`; keys are class numbers, 1 to 254.

    Returns:
        Photos in the order of `index.tsv`; without one, by name.

    Raises:
        DataError: a folder or file is missing or not as it must be, or no photo is left.
        OptionError: every, first or classes is outside its range.
    """
    folder = Path(folder)
    if every < 1 or first < 0:
        raise OptionError(f"every must be at least 1 and first at least 0, got {every} and {first}.")
    if classes is not None and (not classes or min(classes) <= BACKGROUND or max(classes) >= VOID):
        raise OptionError(f"classes needs names of numbers from 1 to 254, got {classes}.")
    for needed in (folder, folder / "images", folder / "masks"):
        if not needed.is_dir():
            raise DataError(f"{needed}: no such folder. Photos with masks have images/, masks/ and classes.txt in one.")
    named = classes or _classes(folder / "classes.txt")
    names = _names(folder, where or {})
    chosen = names[first::every]
    if not chosen:
        raise DataError(f"{folder} has {len(names)} photos where {where or 'any'}; none is left from place {first} on.")
    numbers = frozenset(named)
    return MaskSet(folder.resolve().name, dict(named), tuple(_item(folder, name, numbers) for name in chosen))


def present(mask: UInt8[np.ndarray, "height width"], least: float = 0.01) -> list[int]:
    """Class numbers with at least a share `least` of the area that is not void, ascending; background is none."""
    area = np.bincount(mask[mask != VOID], minlength=VOID)
    needed = max(least * area.sum(), 1)
    return [number for number in range(BACKGROUND + 1, VOID) if area[number] >= needed]


def _item(folder: Path, name: str, numbers: frozenset[int]) -> Masked:
    found = [path for end in ("jpg", "png") if (path := folder / "images" / f"{name}.{end}").is_file()]
    if len(found) != 1:
        raise DataError(f"{folder / 'images'} must have one of {name}.jpg and {name}.png, got {len(found)} of them.")
    mask = folder / "masks" / f"{name}.png"
    if not mask.is_file():
        raise DataError(f"{mask}: no such file, but {found[0].name} needs its mask.")
    return Masked(name, found[0], mask, numbers)


def _classes(path: Path) -> dict[int, str]:
    classes = {}
    for place, line in enumerate(_lines(path), 1):
        number, tab, name = line.partition("\t")
        if not (number.isdecimal() and int(number) <= VOID and tab and name.strip()):
            raise DataError(f"line {place} of {path} must be a number from 0 to 255, a tab and a name, got {line!r}.")
        classes[int(number)] = name.strip()
    named = {number: name for number, name in classes.items() if number not in (BACKGROUND, VOID)}
    if not named:
        raise DataError(f"{path} names no class between 1 and 254.")
    return named


def _names(folder: Path, where: dict[str, str]) -> list[str]:
    index = folder / "index.tsv"
    if not index.exists() and not where:
        return sorted(path.stem for path in (folder / "masks").glob("*.png"))
    header, *rows = (line.split("\t") for line in _lines(index))
    missing = {"name", *where} - set(header)
    if missing:
        raise DataError(f"{index} has no column {', '.join(sorted(missing))}; it has {', '.join(header)}.")
    names = []
    for place, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise DataError(f"line {place} of {index} must have {len(header)} columns, got {len(row)}.")
        one = dict(zip(header, row, strict=True))
        if all(one[column] == value for column, value in where.items()):
            names.append(one["name"])
    return names


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is needed and cannot be read: {error}.") from error
    if not lines:
        raise DataError(f"{path} is empty.")
    return lines


def _short(numbers: frozenset[int]) -> str:
    listed = sorted(numbers)
    return (
        f"{listed[0]} to {listed[-1]}" if listed[-1] - listed[0] + 1 == len(listed) > 2 else ", ".join(map(str, listed))
    )
