"""Photos whose pixels have class numbers: the record of each, the set, and one plain layout.

    images/NAME.jpg or .png    the photo
    masks/NAME.png             palette or gray, of the photo's size; a value is a class number
    classes.txt                number, tab, name; or one class a line, which stands for its value (`read_classes`)
    index.tsv                  optional: a header with a column `name`, a row a photo

In a mask of this layout 0 is background, which is no class, and 255 (of 16 bits, 65535) is void: nobody knows, and no
score counts it. Other layouts of `eclip.DATASETS` make the same records.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from eclip.datasets.decoders import BACKGROUND, VOID, indexed, short, shown
from eclip.datasets.layout import read_classes, rows_of
from eclip.errors import DataError, DataWarning, ImageError, OptionError
from eclip.photos import EXTENSIONS, Place, open_photo, stored_size

__all__ = [
    "BACKGROUND",
    "VOC_NAMES",
    "VOID",
    "Lazy",
    "MaskSet",
    "Masked",
    "listed_masks",
    "plain_items",
    "present",
    "read_masks",
]

Decode = Callable[[Path | Place], UInt16[np.ndarray, "height width"]]
"""From the file of a mask to class numbers: `eclip.datasets.decoders` has those of pictures."""
# fmt: off
VOC_NAMES = dict(enumerate((
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
), start=1))
# fmt: on
"""PASCAL VOC's classes as MaskCLIP names them (Zhou et al. 2022, https://arxiv.org/abs/2112.01071); names alone move
results. For `read_masks(..., classes=VOC_NAMES)`."""


@dataclass(frozen=True, slots=True)
class Masked:
    """A photo and its mask.

    Attributes:
        name: tells it from the others of its set.
        photo: the photo's file, or its place in a tar.
        mask: where the mask is read from, likewise.
        numbers: classes that the mask may show, 1 to 65534.
        decode: what reads it.
    """

    name: str
    photo: Path | Place
    mask: Path | Place
    numbers: frozenset[int] = field(repr=False)
    decode: Decode = indexed

    def open(self) -> Image.Image:
        """The photo, upright and RGB.

        Raises:
            ImageError: it cannot be read.
        """
        return open_photo(self.photo)

    def read(self) -> UInt16[np.ndarray, "height width"]:
        """The mask's class numbers, 0 where there is background and 65535 where there is void.

        Raises:
            DataError: it cannot be read, is of no form that its data set has, is not of the photo's size, or shows a
                number without a name.
            ImageError: the photo cannot be read.
        """
        try:
            mask = self.decode(self.mask)
        except ImageError as error:
            raise DataError(f"the mask of {self.name!r} cannot be read: {error}") from error
        width, height, turn = stored_size(self.photo)
        if turn > 1 and mask.shape == (height, width):
            raise DataError(
                f"{self.photo} is turned by its EXIF orientation {turn}, and {self.mask} may be drawn on the pixels as "
                "they are stored: save the photo upright (PIL.ImageOps.exif_transpose), and the mask as it then lies."
            )
        size = (height, width) if turn > 4 else (width, height)
        if mask.shape != size[::-1]:
            raise DataError(
                f"{self.mask} has {mask.shape[1]} x {mask.shape[0]} pixels, its photo {size[0]} x {size[1]}: resize "
                "the mask to the photo, by nearest neighbor."
            )
        unnamed = set(shown(mask)) - self.numbers - {BACKGROUND, VOID}
        if unnamed:
            raise DataError(
                f"{self.mask} shows {sorted(unnamed)}, but the classes with a name are {short(self.numbers)}."
            )
        return mask

    def missing(self) -> str:
        """What is wrong with its files as far as a look at the folder tells; nothing if they are there."""
        for what, file in (("photo", self.photo), ("mask", self.mask)):
            path = file.file if isinstance(file, Place) else file
            try:
                if not os.stat(path).st_size:
                    return f"{path} is empty (0 bytes)."
            except OSError as error:
                why = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
                mask = f", whose mask is {self.mask}" if what == "photo" else ""
                return f"{path}: {why}, but it is the {what} of {self.name!r}{mask}."
        return ""


@dataclass(frozen=True, eq=False)
class Lazy(Sequence[Masked]):
    """Records that are made when they are asked for, so that a large set costs no more than its names.

    Attributes:
        names: one of each record, of any kind.
        make: the record of a name.
    """

    names: Sequence[Any]
    make: Callable[[Any], Masked]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, place: int) -> Masked: ...
    @overload
    def __getitem__(self, place: slice) -> Lazy: ...
    def __getitem__(self, place: int | slice) -> Masked | Lazy:
        return Lazy(self.names[place], self.make) if isinstance(place, slice) else self.make(self.names[place])

    def __iter__(self) -> Iterator[Masked]:
        return map(self.make, self.names)


@dataclass(frozen=True)
class MaskSet:
    """Photos with masks.

    Attributes:
        name: of the data set and its split, or of the folder.
        classes: name of each number, background and void left out.
        items: the photos; `Lazy` where a data set is large.
    """

    name: str
    classes: dict[int, str]
    items: Sequence[Masked]

    def photo_numbers(self) -> list[int]:
        """The number of each item's photo, from 0, in the order in which photos first come.

        A `table` has an item for each text, so that several may share a photo: scores of one photo are then not taken
        for scores of several. Where each item has a photo of its own, 0, 1, 2 and so on.
        """
        numbers: dict[Path | Place, int] = {}
        return [numbers.setdefault(item.photo, len(numbers)) for item in self.items]

    def digest(self) -> str:
        """16 hexadecimal digits that follow from the classes, and from the name and the files' sizes of each photo.

        What is in the files is not read: a data set may be large.

        Raises:
            DataError: a file is not there.
        """
        whole = hashlib.sha256(json.dumps([*self.classes.items()]).encode())
        for item in self.items:
            whole.update(json.dumps([item.name, _bytes(item.photo), _bytes(item.mask)]).encode())
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
        classes: other names than those of `classes.txt`, such as `VOC_NAMES`; keys are class numbers, 1 to 65534.

    Returns:
        Photos in the order of `index.tsv`; without one, by name.

    Raises:
        DataError: a folder or file is missing or not as it must be, or no photo is left.
        OptionError: every, first or classes is outside its range.

    Warns:
        DataWarning: there is no `index.tsv`, and photos have no mask of their name.
    """
    if every < 1 or first < 0:
        raise OptionError(f"every must be at least 1 and first at least 0, got {every} and {first}.")
    found = listed_masks(Path(folder), where or {}, classes)
    chosen = tuple(found.items[first::every])
    if not chosen:
        count = len(found.items)
        raise DataError(f"{folder} has {count} photos where {where or 'any'}; none is left from place {first} on.")
    for item in chosen:
        if why := item.missing():
            raise DataError(why)
    return replace(found, items=chosen)


def listed_masks(folder: Path, where: dict[str, str], classes: dict[int, str] | None = None) -> MaskSet:
    """As `read_masks`, but no photo's files are looked for."""
    if classes is not None and (not classes or min(classes) <= BACKGROUND or max(classes) >= VOID):
        raise OptionError(f"classes needs names of numbers from 1 to {VOID - 1}, got {classes}.")
    for needed in (folder, folder / "images", folder / "masks"):
        if not needed.is_dir():
            raise DataError(f"{needed}: no such folder. Photos with masks have images/, masks/ and classes.txt in one.")
    named, table = (classes, None) if classes is not None else read_classes(folder / "classes.txt")
    decode = indexed if table is None else partial(indexed, table=table)
    return MaskSet(folder.resolve().name, dict(named), plain_items(folder, _names(folder, where), named, decode))


def plain_items(folder: Path, names: Sequence[str], classes: Iterable[int], decode: Decode) -> Lazy:
    """Records of `images/NAME.jpg or .png` and `masks/NAME.png`.

    Raises:
        DataError: a name has both photos.
    """
    there = {entry.name for entry in os.scandir(folder / "images")}
    twice = next((name for name in names if {f"{name}.jpg", f"{name}.png"} <= there), None)
    if twice is not None:
        raise DataError(f"{folder / 'images'} must have one of {twice}.jpg and {twice}.png, got both.")
    photos = [f"{name}.png" if f"{name}.png" in there else f"{name}.jpg" for name in names]
    return beside(photos, folder / "images", folder / "masks", classes, decode)


def beside(
    names: Sequence[str], photos: Path, masks: Path, classes: Iterable[int], decode: Decode = indexed, end: str = ".png"
) -> Lazy:
    """Records of photos in one folder and their masks in another, under the same names.

    Args:
        names: of the photos, with folders below `photos` and ending.
        photos: the folder of photos.
        masks: the folder of masks.
        classes: numbers that masks may show.
        decode: what reads a mask.
        end: what stands in the name of a mask for the photo's ending.
    """
    return Lazy(names, partial(_beside, photos, masks, frozenset(classes), decode, end))


def _beside(photos: Path, masks: Path, numbers: frozenset[int], decode: Decode, end: str, photo: str) -> Masked:
    name = os.path.splitext(photo)[0]
    return Masked(name, photos / photo, masks / f"{name}{end}", numbers, decode)


def present(mask: UInt16[np.ndarray, "height width"], least: float = 0.01) -> list[int]:
    """Class numbers with at least a share `least` of the area that is not void, ascending; background is none."""
    area = np.bincount(mask[mask != VOID])
    needed = max(least * area.sum(), 1)
    return [int(number) for number in np.flatnonzero(area >= needed) if number != BACKGROUND]


def _names(folder: Path, where: dict[str, str]) -> list[str]:
    index = folder / "index.tsv"
    if not index.exists() and not where:
        names = sorted(path.stem for path in (folder / "masks").glob("*.png"))
        photos = {path.stem for path in (folder / "images").iterdir() if path.suffix.lower() in EXTENSIONS}
        if left := sorted(photos.difference(names)):
            told = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
            warnings.warn(
                f"{len(left)} of {len(photos)} photos in {folder / 'images'} have no mask of their name and are left "
                f"out: {told}.",
                DataWarning,
                stacklevel=2,
            )
        return names
    return [row["name"] for row in rows_of(index, {"name", *where}) if all(row[key] == where[key] for key in where)]


def _bytes(file: Path | Place) -> int:
    if isinstance(file, Place):
        return file.size
    try:
        return file.stat().st_size
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
